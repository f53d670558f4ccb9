/**
 * Where the parts of a CC message lie in the bytes of its frames.
 *
 * ```
 *   identity frame    buf: start      delimiter                                     end
 *   [identity]             [route] …  [empty]    [type] [body] [signature] [blob]
 *                                                 0      1      2           3
 * ```
 */
import type { SealedParts } from "../contracts/seal.ts";
import { latin1 } from "../text.ts";
import { bodyStart, frameEnd, MORE } from "../zmtp/frame.ts";
import { isType } from "./type.ts";

/** Frames from the type on: at least type and body, at most those and signature and blob. */
export const PARTS_MIN = 2;
export const PARTS_MAX = 4;

const EMPTY = new Uint8Array(0);

/** The type behind a delimiter; null where that is no CC message. */
export function typeBehind(buf: Uint8Array, delimiter: number, framesAfterDelimiter: number): string | null {
  if (delimiter < 0 || framesAfterDelimiter < PARTS_MIN || framesAfterDelimiter > PARTS_MAX) return null;
  const at = frameEnd(buf, delimiter);
  const type = latin1(buf, bodyStart(buf, at), frameEnd(buf, at));
  return isType(type) ? type : null;
}

/** The parts of a message as views of its bytes, each made when it is asked for. */
export class MessageParts implements SealedParts {
  readonly type: string;
  readonly #buf: Uint8Array;
  readonly #delimiter: number;

  constructor(type: string, buf: Uint8Array, delimiter: number) {
    this.type = type;
    this.#buf = buf;
    this.#delimiter = delimiter;
  }

  get body(): Uint8Array {
    return this.#part(1) ?? EMPTY;
  }

  get signature(): Uint8Array {
    return this.#part(2) ?? EMPTY;
  }

  get blob(): Uint8Array | null {
    return this.#part(3);
  }

  #part(index: number): Uint8Array | null {
    const buf = this.#buf;
    let at = frameEnd(buf, this.#delimiter);
    for (let i = 0; i < index; i++) {
      if ((buf[at] & MORE) === 0) return null;
      at = frameEnd(buf, at);
    }
    return buf.subarray(bodyStart(buf, at), frameEnd(buf, at));
  }
}
