/** Why a message is refused. */
import { CCError } from "../errors.ts";

/** Codes of this program; a handler may throw others. */
export type MessageErrorCode =
  /** The body has more bytes than its reader takes. */
  | "too-large"
  /** The body nests deeper, or has more values, than is parsed. */
  | "too-complex"
  /** The body is `ENC1`, and nothing here decrypts. */
  | "encrypted"
  /** It is encrypted, and a proxy with verify = yes has no key for it. */
  | "cannot-verify"
  /** The body is not JSON in UTF-8. */
  | "not-json"
  /** The body is not an object of the shape that its type has. */
  | "bad-body"
  /** The body claims to be of another type. */
  | "hijacked"
  /** The way back is longer than is kept. */
  | "long-route"
  /** A draft that cannot be sealed: its type is none, or its fields are no JSON. */
  | "bad-draft"
  /** The message was used after its handlers had returned. */
  | "message-over";

/** A message cannot be read, or be made; `code` names why. A handler that throws one refuses the message. */
export class MessageError extends CCError {
  /** Which kind of error it is, in stacks. */
  override name = "MessageError";
  /** Whoever sent the message is not told why it is refused: that might help to forge one. */
  readonly discreet: boolean = false;
  /** A refusal with a code, this program's or a handler's own. */
  constructor(code: MessageErrorCode | (string & Record<never, never>), message: string) {
    super(code, message);
  }
}
