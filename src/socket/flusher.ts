/**
 * When what is queued is written: once, at the end of the chunk that caused it, or of the turn where no chunk did. And what
 * may be written from where it lies: only bytes of the chunk being taken in, and only until its end.
 */

import type { Batch } from "../contracts/links.ts";

/** Something with bytes to send. */
export interface Flushable {
  flush(): void;
}

/** Something that holds parts of a chunk, without a copy, until the chunk's end. */
export interface Borrower {
  /** The chunk ends: what is still needed of it is copied. */
  copyBorrowed(): void;
}

export class Flusher implements Batch {
  readonly #soon: (f: () => void) => void;
  /** Chunks being taken in: one may cause another. */
  #depth = 0;
  /** More chunks follow at once, and what they cause to be sent is flushed behind the last. */
  #batched = false;
  /** What is being taken in, as far as it stays as it is until the end. */
  #chunk: Uint8Array | null = null;
  #chunkStart = 0;
  #chunkEnd = 0;
  readonly #borrowers: Borrower[] = [];
  #scheduled = false;
  #flushing = false;
  readonly #dirty: Flushable[] = [];

  /** @param soon Calls a function behind what runs now. */
  constructor(soon: (f: () => void) => void) {
    this.#soon = soon;
  }

  /**
   * A chunk is being taken in: what it causes to be sent is flushed once, by {@link endChunk}. Until then
   * `chunk[start, end)` stays as it is.
   */
  beginChunk(chunk: Uint8Array | null = null, start = 0, end = 0): void {
    if (this.#depth++ > 0) return;
    this.#chunk = chunk;
    this.#chunkStart = start;
    this.#chunkEnd = end;
  }

  endChunk(): void {
    if (--this.#depth > 0) return;
    try {
      if (!this.#batched || this.#borrowers.length > 0) this.flush();
    } finally {
      // Whatever failed: nothing of a chunk is kept beyond its end.
      this.#chunk = null;
      const borrowers = this.#borrowers;
      for (let i = 0; i < borrowers.length; i++) borrowers[i].copyBorrowed();
      borrowers.length = 0;
    }
  }

  begin(): void {
    this.#batched = true;
  }

  end(): void {
    this.#batched = false;
    this.flush();
  }

  /** Does `buf[start, end)` lie in the chunk that is being taken in? Who borrows it says so by {@link borrow}. */
  isInChunk(buf: Uint8Array, start: number, end: number): boolean {
    return buf === this.#chunk && start >= this.#chunkStart && end <= this.#chunkEnd;
  }

  borrow(borrower: Borrower): void {
    this.#borrowers.push(borrower);
  }

  /** Remembers who has something to send; it is flushed at the chunk's end, outside of one in this turn. */
  scheduleFlush(flushable: Flushable): void {
    this.#dirty.push(flushable);
    if (this.#depth === 0 && !this.#batched) this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#soon(this.#flushScheduled);
  }

  readonly #flushScheduled = (): void => {
    this.#scheduled = false;
    this.flush();
  };

  flush(): void {
    // A flush may schedule others, or come back here: they join the list that is being walked.
    if (this.#flushing) return;
    this.#flushing = true;
    const dirty = this.#dirty;
    let i = 0;
    try {
      for (; i < dirty.length; i++) dirty[i].flush();
      dirty.length = 0;
    } finally {
      this.#flushing = false;
      // One has failed: the others still have their turn.
      if (dirty.length > 0) {
        dirty.splice(0, i + 1);
        this.#schedule();
      }
    }
  }
}
