/**
 * A link to a peer of ZMTP 1.0: what is written to it are frames of 3.x, and it sends them as that peer reads them, piece by piece.
 * Large bodies are sent from where they lie.
 */
import type { Link } from "../contracts/links.ts";
import type { Block } from "../memory/block.ts";
import { POOL } from "../memory/pool.ts";
import { type Copy, gone10, To10 } from "../zmtp/frames_1_0.ts";

const PIECE_MAX_BYTES = 64 * 1024;

export class Link10 implements Link {
  readonly #link: Link;
  readonly #copy: Copy;
  /** Of the write in flight. */
  #frames: To10 | null = null;
  #start = 0;
  /** Where the piece began that was given to the link last, and whether it is a body as it lies. */
  #pieceAt = 0;
  #isBody = false;
  /** The piece lies here. */
  #block: Block | null = null;

  constructor(link: Link, copy: Copy) {
    this.#link = link;
    this.#copy = copy;
  }

  get remote(): string {
    return this.#link.remote;
  }

  /** Bytes that are held for the piece in flight. */
  get heldBytes(): number {
    return this.#block?.size ?? 0;
  }

  write(chunk: Uint8Array, start: number, end: number): boolean {
    this.#frames = new To10(chunk, start, end, this.#copy);
    this.#start = start;
    return this.#goOn(this.#frames);
  }

  /** The link has taken what was in flight: the next pieces go. Has all been taken? */
  written(): boolean {
    return this.#frames === null || this.#goOn(this.#frames);
  }

  #goOn(frames: To10): boolean {
    while (!frames.done) {
      this.#pieceAt = frames.at;
      this.#isBody = frames.passBody();
      if (
        !(this.#isBody ? this.#link.write(frames.buf, this.#pieceAt, frames.at) : this.#writePiece(frames))
      ) {
        return false;
      }
    }
    this.#frames = null;
    this.release();
    return true;
  }

  #writePiece(frames: To10): boolean {
    const bytes = Math.min(PIECE_MAX_BYTES, frames.end - frames.at);
    // A frame's head grows by a part in 32 of the frame at most.
    this.#block ??= POOL.take(bytes + (bytes >> 5) + 16);
    const { buf, start, end } = this.#block;
    return this.#link.write(buf, start, frames.fill(buf, start, end));
  }

  /** The link reads nothing of what was in flight any more. */
  release(): void {
    this.#block?.release();
    this.#block = null;
  }

  retry(): void {
    this.#link.retry?.();
  }

  writtenBytes(): number {
    const bytes = this.#link.writtenBytes();
    const frames = this.#frames;
    if (bytes < 0 || frames === null) return bytes;
    const gone = this.#isBody ? bytes : gone10(frames.buf, this.#pieceAt, frames.at, bytes);
    return this.#pieceAt - this.#start + gone;
  }

  /** By bytes as they were sent: a few more than those that it was given. */
  unacknowledgedBytes(): number {
    return this.#link.unacknowledgedBytes?.() ?? -1;
  }

  pause(): void {
    this.#link.pause();
  }

  resume(): void {
    this.#link.resume();
  }

  end(): void {
    this.#link.end();
  }

  destroy(): void {
    this.#link.destroy();
  }
}
