/** The way back to a sender, kept. */
import type { ReturnPath } from "../contracts/message.ts";
import { RETURN_PATH_MAX_BYTES } from "../limits.ts";
import { latin1 } from "../text.ts";
import { MessageError } from "./errors.ts";

/** The bytes of the frames in front of the delimiter, the identity of the peer first. */
export let routeBytes: (path: ReturnPath) => Uint8Array;

/** Identity and route frames, copied. */
export class Route implements ReturnPath {
  readonly #bytes: Uint8Array;
  #key: string | null = null;

  /**
   * Copies `identityFrame`, then the route frames `buf[start, delimiter)`.
   *
   * @throws {MessageError} `long-route`
   */
  constructor(identityFrame: Uint8Array, buf: Uint8Array, start: number, delimiter: number) {
    const size = identityFrame.length + delimiter - start;
    if (size > RETURN_PATH_MAX_BYTES) {
      throw new MessageError(
        "long-route",
        `the way back takes ${size} bytes, at most ${RETURN_PATH_MAX_BYTES} are kept`,
      );
    }
    this.#bytes = new Uint8Array(size);
    this.#bytes.set(identityFrame, 0);
    this.#bytes.set(buf.subarray(start, delimiter), identityFrame.length);
  }

  get key(): string {
    return this.#key ??= latin1(this.#bytes);
  }

  static {
    routeBytes = (path) => {
      if (!(path instanceof Route)) {
        throw new TypeError("A return path is a message's `from`; one cannot be made up");
      }
      return path.#bytes;
    };
  }
}

const QUERY_ID_MIN_DIGITS = 6;

/** Is `buf[start, end)` the id of a query: `Q` and digits, as ours and the original's are? It stands last before the delimiter. */
export function isQueryId(buf: Uint8Array, start: number, end: number): boolean {
  if (end - start <= QUERY_ID_MIN_DIGITS || buf[start] !== 0x51) return false;
  for (let i = start + 1; i < end; i++) {
    const isDigit = buf[i] >= 0x30 && buf[i] <= 0x39 || buf[i] >= 0x61 && buf[i] <= 0x66;
    if (!isDigit) return false;
  }
  return true;
}
