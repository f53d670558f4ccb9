/** Passes over one message that is larger than it may be, frame by frame, and keeps none of it: those behind it are read. */
import { checkFlags, LONG, longSize, MORE, ProtocolError } from "./frame.ts";

export class Skip {
  readonly #maxBytes: number;
  readonly #maxFrames: number;
  /** Of the frame that is being passed over, what is still to come. */
  #left = 0;
  #more = true;
  /** The next frame's header, as far as it has come. */
  readonly #head = new Uint8Array(9);
  #have = 0;
  #bytes = 0;
  #frames = 0;

  /** @param maxBytes A larger one is not passed over. */
  constructor(maxBytes: number, maxFrames: number) {
    this.#maxBytes = maxBytes;
    this.#maxFrames = maxFrames;
  }

  /** Has it come to the message's end? */
  get done(): boolean {
    return !this.#more && this.#left === 0;
  }

  /**
   * Takes the bytes `chunk[at, end)`, which go on where the last ones ended.
   *
   * @returns Where the message ends; `end` where it goes on.
   * @throws {ProtocolError}
   */
  push(chunk: Uint8Array, at: number, end: number): number {
    while (at < end && !this.done) {
      if (this.#left > 0) {
        const passed = Math.min(this.#left, end - at);
        this.#left -= passed;
        at += passed;
      } else {
        this.#head[this.#have++] = chunk[at++];
        if (this.#have === (this.#head[0] & LONG ? 9 : 2)) this.#frame();
      }
    }
    return at;
  }

  #frame(): void {
    const head = this.#head;
    checkFlags(head[0], this.#frames);
    this.#left = head[0] & LONG ? longSize(head, 0) : head[1];
    this.#more = (head[0] & MORE) !== 0;
    this.#bytes += this.#have + this.#left;
    this.#have = 0;
    if (this.#bytes > this.#maxBytes) {
      throw new ProtocolError("too-large", `message of more than ${this.#maxBytes} bytes`);
    }
    if (++this.#frames > this.#maxFrames) {
      throw new ProtocolError("too-many-frames", `message of more than ${this.#maxFrames} frames`);
    }
  }
}
