/** A piece of memory, and how many hold it. The one vocabulary for bytes that outlive a call: retain and release. */

/** Where a block goes when nobody holds it any more. */
export interface BlockHome {
  /** Called once, by the last {@link Block.release}. */
  takeBack(block: Block): void;
  /** Called once, by {@link Block.disown}: the block never comes back. */
  lose(block: Block): void;
}

/**
 * `buf[start, end)`. Whoever takes a block from an arena or a pool holds it; whoever needs it beyond the call in which it
 * got it says {@link retain}, and {@link release} when done. After the last release its memory is used for something else.
 */
export class Block {
  /** The memory it lies in. */
  readonly buf: Uint8Array;
  /** Its first byte. */
  readonly start: number;
  /** The byte behind its last. */
  readonly end: number;
  /** How many hold it; 0 while it is free. */
  holders = 0;
  #home: BlockHome | null;

  /**
   * A block that nobody holds yet.
   *
   * @param home Null: memory of its own, which the collector takes.
   */
  constructor(buf: Uint8Array, start: number, end: number, home: BlockHome | null) {
    this.buf = buf;
    this.start = start;
    this.end = end;
    this.#home = home;
  }

  /** Bytes of it. */
  get size(): number {
    return this.end - this.start;
  }

  /** One more holds it. */
  retain(): void {
    this.holders++;
  }

  /**
   * One less holds it; the last gives it back.
   *
   * @throws {Error} Nobody holds it.
   */
  release(): void {
    if (--this.holders > 0) return;
    if (this.holders < 0) {
      this.holders = 0;
      throw new Error("a block was released more often than it was retained");
    }
    this.#home?.takeBack(this);
  }

  /** Somebody keeps views of the memory for good: it is never used for anything else. Holders still release it. */
  disown(): void {
    this.#home?.lose(this);
    this.#home = null;
  }
}
