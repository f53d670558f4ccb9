/** The seal of a server without `cms-` options: it neither signs nor checks, and does not read what is encrypted. */
import type { Signer } from "../contracts/message.ts";
import type { OpenedParts, Seal, SealedParts } from "../contracts/seal.ts";
import { bodyOf } from "../message/draft.ts";
import { MessageError } from "../message/errors.ts";

/** The body of a message that is encrypted: its signature frame has all of it. */
export const ENC1: Uint8Array = Uint8Array.of(0x45, 0x4e, 0x43, 0x31);
const NO_SIGNATURE = new Uint8Array(0);

export function isEncrypted(body: Uint8Array): boolean {
  return body.length === ENC1.length && ENC1.every((byte, i) => body[i] === byte);
}

/** The parts as they came; views are made when they are asked for. */
class Plain implements OpenedParts {
  readonly signer: Signer | null = null;
  readonly json: Uint8Array;
  readonly #parts: SealedParts;

  constructor(parts: SealedParts, json: Uint8Array) {
    this.#parts = parts;
    this.json = json;
  }

  get blob(): Uint8Array | null {
    return this.#parts.blob;
  }
}

export const IDENTITY: Seal = {
  asynchronous: false,
  open(parts) {
    const { body } = parts;
    if (isEncrypted(body)) {
      throw new MessageError("encrypted", "the body is encrypted, and nothing here decrypts");
    }
    return new Plain(parts, body);
  },
  seal: (draft) => ({
    type: draft.type,
    body: bodyOf(draft),
    signature: NO_SIGNATURE,
    blob: draft.blob ?? null,
  }),
  reload: () => Promise.resolve(),
};
