/** Why a seal refuses a message. Codes are in `docs/errors.md`; who asked is only told `refused` where more would help an attacker. */
import { MessageError } from "../../message/errors.ts";

/** Codes of the seal. */
export type SealErrorCode =
  /** There is no signature, and cms-verify-ca wants one. */
  | "unsigned"
  /** It is not encrypted, and cms-decrypt wants that. */
  | "not-encrypted"
  /** The signature frame is no CMS message of the form that is read here. */
  | "bad-cms"
  /** The signature does not fit what was signed. */
  | "bad-signature"
  /** An algorithm, or the length of a key, is not allowed. */
  | "weak-algorithm"
  /** The signer's certificate is not under a CA of cms-verify-ca. */
  | "untrusted"
  /** A certificate on the way to the CA is not valid yet, or not any more. */
  | "expired"
  /** A certificate on the way to the CA has been revoked. */
  | "revoked"
  /** A certificate may not be used for that. */
  | "wrong-usage"
  /** The hash of the blob is missing, surplus or another. */
  | "blob-hash"
  /** Its time is farther from now than cms-time-window. */
  | "out-of-time"
  /** [cms-allow] does not let the signer send it, or cms-hostname names another host. */
  | "not-allowed"
  /** It cannot be decrypted: a wrong key, or other bytes than were encrypted. */
  | "undecryptable";

/** Refuses a message; `signer` is who claims to have signed it, where that is known. */
export class SealError extends MessageError {
  /** Which kind of error it is, in stacks. */
  override name = "SealError";
  override readonly discreet = true;
  /** A refusal with its code. */
  constructor(code: SealErrorCode, message: string) {
    super(code, message);
  }
}
