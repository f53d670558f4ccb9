/** Bytes that came behind the message that made someone pause their source: they wait for it to go on. */
import type { Block } from "../memory/block.ts";
import { POOL } from "../memory/pool.ts";
import { countMessages } from "../zmtp/frame.ts";

export class Unread {
  #block: Block | null = null;
  #at = 0;
  #end = 0;

  get empty(): boolean {
    return this.#block === null;
  }

  /** Bytes that are held for them. */
  get bytes(): number {
    return this.#block?.size ?? 0;
  }

  /** Puts bytes behind those that wait already. */
  add(chunk: Uint8Array, start: number, end: number): void {
    const before = this.#block;
    const waiting = this.#end - this.#at;
    const block = POOL.take(waiting + end - start);
    if (before !== null) block.buf.set(before.buf.subarray(this.#at, this.#end), 0);
    block.buf.set(chunk.subarray(start, end), waiting);
    before?.release();
    this.#block = block;
    this.#at = 0;
    this.#end = waiting + end - start;
  }

  /**
   * Gives what waits to `take`, which returns how far it came; the rest waits on.
   *
   * @param over Asked behind that: is the rest of no use any more?
   */
  work(take: (chunk: Uint8Array, start: number, end: number) => number, over: () => boolean): void {
    const block = this.#block;
    if (block === null) return;
    const [at, end] = [this.#at, this.#end];
    // While it is being worked on it is not here: what comes meanwhile is not put behind it.
    this.#block = null;
    this.#at = this.#end = 0;
    const taken = take(block.buf, at, end);
    if (over() || taken >= end) {
      block.release();
      return;
    }
    this.#block = block;
    this.#at = taken;
    this.#end = end;
  }

  /** Throws it away; returns how many whole messages that were. */
  discard(): number {
    const block = this.#block;
    if (block === null) return 0;
    const messages = countMessages(block.buf, this.#at, this.#end);
    block.release();
    this.#block = null;
    this.#at = this.#end = 0;
    return messages;
  }
}
