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
