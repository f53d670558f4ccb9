/** The block at the end of an egress queue, into which small messages and runs are copied. */
import type { Block } from "../memory/block.ts";
import { BLOCK_BYTES, type Blocks } from "../memory/blocks.ts";
import type { RunSpace } from "../relay/group.ts";
import { Segment } from "./segment.ts";

const LARGEST = BLOCK_BYTES.length - 1;

export class BlockWriter {
  readonly #blocks: Blocks;
  readonly #copy: (from: Uint8Array, start: number, end: number, to: Uint8Array, at: number) => void;
  /** The block being filled; null: none. */
  #block: Block | null = null;
  /** Where its next message goes. */
  #at = 0;
  /** Size class of the next one. */
  #sizeClass = 0;
  /** Messages in the block. */
  messages = 0;
  /** Where the next run may be put; see {@link space}. */
  readonly #space: RunSpace = { block: null, at: 0, bytes: 0 };

  constructor(
    blocks: Blocks,
    copy: (from: Uint8Array, start: number, end: number, to: Uint8Array, at: number) => void,
  ) {
    this.#blocks = blocks;
    this.#copy = copy;
  }

  /** Bytes in the block. */
  get bytes(): number {
    return this.#block === null ? 0 : this.#at - this.#block.start;
  }

  /** Bytes that the block has room for; 0 where there is none. */
  get room(): number {
    return this.#block === null ? 0 : this.#block.end - this.#at;
  }

  /** Puts `identityFrame`, then `buf[start, end)` at the end; there must be room. */
  append(identityFrame: Uint8Array, buf: Uint8Array, start: number, end: number): void {
    const to = this.#block!.buf;
    let at = this.#at;
    for (let i = 0; i < identityFrame.length; i++) to[at++] = identityFrame[i];
    if (to === buf) to.copyWithin(at, start, end);
    else this.#copy(buf, start, end, to, at);
    this.#at = at + end - start;
    this.messages++;
  }

  /** Where up to `bytes` of a run may be put; the same object each time. */
  space(bytes: number): RunSpace {
    const space = this.#space;
    space.block = this.#block;
    space.at = this.#at;
    space.bytes = this.#block === null ? 0 : Math.min(this.room, bytes);
    return space;
  }

  /** So many messages and bytes were put where {@link space} said. */
  commit(messages: number, bytes: number): void {
    this.#at += bytes;
    this.messages += messages;
  }

  /** Puts a copy of a run at the end that lies in another block of the same memory; there must be room. */
  appendRun(at: number, messages: number, bytes: number): void {
    this.#block!.buf.copyWithin(this.#at, at, at + bytes);
    this.commit(messages, bytes);
  }

  /** Does the block lie in this memory? */
  isIn(buf: Uint8Array): boolean {
    return this.#block !== null && this.#block.buf === buf;
  }

  /** The next block should be larger: this one was filled. */
  grow(): void {
    if (this.#sizeClass < LARGEST) this.#sizeClass++;
  }

  /** Begins a block with room for `size` bytes; false when none is large enough. The one before must be closed. */
  start(size: number): boolean {
    while (BLOCK_BYTES[this.#sizeClass] < size) {
      if (this.#sizeClass === LARGEST) return false;
      this.#sizeClass++;
    }
    this.#block = this.#blocks.take(this.#sizeClass);
    this.#at = this.#block.start;
    return true;
  }

  /** Ends the block: what is in it, for the queue; null when there is nothing. */
  close(): Segment | null {
    const block = this.#block;
    if (block === null) return null;
    this.#block = null;
    const { messages } = this;
    this.messages = 0;
    if (this.#at === block.start) {
      // Room was made for a run that did not come about.
      block.release();
      return null;
    }
    // One that a smaller would have done for: the next is smaller.
    if (this.#sizeClass > 0 && this.#at - block.start <= BLOCK_BYTES[this.#sizeClass - 1]) this.#sizeClass--;
    return new Segment(block.buf, block, block.start, this.#at, messages);
  }

  /** Throws away what is in the block. */
  clear(): void {
    this.#block?.release();
    this.#block = null;
    this.messages = 0;
  }
}
