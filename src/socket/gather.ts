/** Lists what waits in a queue for `writev()`: many pieces, one system call. */
import type { Vectors } from "../memory/vectors.ts";
import type { SegmentQueue } from "./segment.ts";

export class Gather {
  readonly #vectors: Vectors;
  /** Bytes that the last {@link list} listed. */
  bytes = 0;

  constructor(vectors: Vectors) {
    this.#vectors = vectors;
  }

  /** Lists segments from the head on in the entries `[from, end)`, as far as they go; returns how many it took. */
  list(queue: SegmentQueue, from: number, end: number): number {
    const vectors = this.#vectors;
    let i = from;
    this.bytes = 0;
    for (let s = queue.head; s !== null && i + 2 <= end; s = s.next) {
      if (s.identityFrame !== null && s.identityFrame.length > 0) {
        vectors.set(i++, s.identityFrame, 0, s.identityFrame.length);
      }
      vectors.set(i++, s.buf, s.start, s.end);
      this.bytes += s.bytes;
    }
    return i - from;
  }

  /** Lists the queue right in front of a run that stands at entry `ahead`; returns how many entries that took. */
  listAhead(queue: SegmentQueue, ahead: number): number {
    const entries = this.list(queue, 0, ahead);
    this.#vectors.move(0, entries, ahead - entries);
    return entries;
  }
}
