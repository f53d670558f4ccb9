/**
 * Buffers of large messages, used again: a new buffer is paid for page by page, as it is filled for the first time.
 *
 * Whoever needs a buffer beyond the call in which it got it says {@link hold}, and {@link release} when done; after the
 * last release it is free for the next message. Buffers of other origin may be given too: they are ignored.
 */

/** Bytes of free buffers that are kept: a full queue of large messages (`EGRESS_FULL_BYTES`) and some. */
const KEPT_MAX_BYTES = 10 * 1024 * 1024;
/** Free buffers that are kept; a search looks at no more. */
const KEPT_MAX = 1024;
/** Sizes are rounded up to eight steps an octave, at least to this, so that messages of about one size share buffers. */
const STEP_MIN_BYTES = 1024;
/** A free buffer more than so many times too large is left for larger messages. */
const SPARE_MAX = 4;

export class Pool {
  readonly #free: Uint8Array[] = [];
  #freeBytes = 0;
  /** Buffers in use, with the number of those who hold them. */
  readonly #holds = new Map<Uint8Array, number>();

  /** A buffer of at least `bytes`, held once. What is in it is of no meaning. */
  take(bytes: number): Uint8Array {
    const free = this.#free;
    let buf: Uint8Array | null = null;
    // The one given back last is still in the cache.
    for (let i = free.length - 1; i >= 0 && buf === null; i--) {
      const size = free[i].length;
      if (size < bytes || size > bytes * SPARE_MAX) continue;
      [buf] = free.splice(i, 1);
      this.#freeBytes -= size;
    }
    buf ??= new Uint8Array(roundUp(bytes));
    this.#holds.set(buf, 1);
    return buf;
  }

  hold(buf: Uint8Array): void {
    const holds = this.#holds.get(buf);
    if (holds !== undefined) this.#holds.set(buf, holds + 1);
  }

  release(buf: Uint8Array): void {
    const holds = this.#holds.get(buf);
    if (holds === undefined) return;
    if (holds > 1) {
      this.#holds.set(buf, holds - 1);
      return;
    }
    this.#holds.delete(buf);
    if (buf.length > KEPT_MAX_BYTES) {
      free(buf);
      return;
    }
    this.#free.push(buf);
    this.#freeBytes += buf.length;
    while (this.#freeBytes > KEPT_MAX_BYTES || this.#free.length > KEPT_MAX) {
      const oldest = this.#free.shift()!;
      this.#freeBytes -= oldest.length;
      free(oldest);
    }
  }

  /** Somebody keeps the buffer for good: it never comes back. */
  forget(buf: Uint8Array): void {
    this.#holds.delete(buf);
  }

  /** Bytes of free buffers. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  /** Buffers in use. */
  get used(): number {
    return this.#holds.size;
  }

  /** Gives the memory of all free buffers back to the system. */
  trim(): void {
    for (const buf of this.#free) free(buf);
    this.#free.length = 0;
    this.#freeBytes = 0;
  }
}

function roundUp(bytes: number): number {
  const step = Math.max(STEP_MIN_BYTES, (1 << (31 - Math.clz32(bytes))) / 8);
  return Math.ceil(bytes / step) * step;
}

/** Gives the memory back at once, where the runtime can; else the collector does. */
function free(buf: Uint8Array): void {
  (buf.buffer as { transfer?(bytes: number): void }).transfer?.(0);
}

/** The pool of this process. */
export const POOL: Pool = new Pool();
