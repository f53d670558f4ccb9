/** Buffers of large messages, used again: a new buffer is paid for page by page, as it is filled for the first time. */
import { Block, type BlockHome } from "./block.ts";

/** Bytes of free buffers that are kept: a full queue of large messages (`EGRESS_FULL_BYTES`) and some. */
const KEPT_MAX_BYTES = 10 * 1024 * 1024;
/** Free buffers that are kept; a search looks at no more. */
const KEPT_MAX = 1024;
/** Sizes are rounded up to eight steps an octave, at least to this, so that messages of about one size share buffers. */
const STEP_MIN_BYTES = 1024;
/** A free buffer more than so many times too large is left for larger messages. */
const SPARE_MAX = 4;

interface Watch {
  readonly limitBytes: number;
  readonly over: () => void;
}

export class Pool implements BlockHome {
  readonly #free: Block[] = [];
  #freeBytes = 0;
  #used = 0;
  #usedBytes = 0;
  readonly #watches = new Set<Watch>();
  /** The least of their bounds. */
  #limitBytes = Infinity;

  /** A block of at least `bytes` with a buffer of its own, held once. What is in it is of no meaning. */
  take(bytes: number): Block {
    const free = this.#free;
    let block: Block | null = null;
    // The one given back last is still in the cache.
    for (let i = free.length - 1; i >= 0 && block === null; i--) {
      const { size } = free[i];
      if (size < bytes || size > bytes * SPARE_MAX) continue;
      [block] = free.splice(i, 1);
      this.#freeBytes -= size;
    }
    if (block === null) {
      const size = roundUp(bytes);
      block = new Block(new Uint8Array(size), 0, size, this);
    }
    block.holders = 1;
    this.#used++;
    this.#usedBytes += block.size;
    if (this.#usedBytes > this.#limitBytes) {
      for (const { limitBytes, over } of this.#watches) if (this.#usedBytes > limitBytes) over();
    }
    return block;
  }

  /** Calls `over` whenever a buffer is taken while more bytes than that are in use; the returned function ends that. */
  watch(limitBytes: number, over: () => void): () => void {
    const watch = { limitBytes, over };
    const bound = () => this.#limitBytes = Math.min(Infinity, ...[...this.#watches].map((w) => w.limitBytes));
    this.#watches.add(watch);
    bound();
    return () => {
      this.#watches.delete(watch);
      bound();
    };
  }

  takeBack(block: Block): void {
    this.#used--;
    this.#usedBytes -= block.size;
    if (block.size > KEPT_MAX_BYTES) {
      free(block);
      return;
    }
    this.#free.push(block);
    this.#freeBytes += block.size;
    while (this.#freeBytes > KEPT_MAX_BYTES || this.#free.length > KEPT_MAX) {
      const oldest = this.#free.shift()!;
      this.#freeBytes -= oldest.size;
      free(oldest);
    }
  }

  lose(block: Block): void {
    this.#used--;
    this.#usedBytes -= block.size;
  }

  /** Bytes of buffers in use. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Bytes of free buffers. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  /** Blocks in use. */
  get used(): number {
    return this.#used;
  }

  /** Gives the memory of all free buffers back to the system. */
  trim(): void {
    for (const block of this.#free) free(block);
    this.#free.length = 0;
    this.#freeBytes = 0;
  }
}

function roundUp(bytes: number): number {
  const step = Math.max(STEP_MIN_BYTES, (1 << (31 - Math.clz32(bytes))) / 8);
  return Math.ceil(bytes / step) * step;
}

/** Gives the memory back at once, where the runtime can; else the collector does. */
function free({ buf }: Block): void {
  (buf.buffer as { transfer?(bytes: number): void }).transfer?.(0);
}

/** The pool of this process. */
export const POOL: Pool = new Pool();
