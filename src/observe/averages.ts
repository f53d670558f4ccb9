/**
 * Moving averages of the counters, for level 3 of the infofile. Nothing is done by the message: every five seconds the
 * counters are read once, and a bucket takes down which of them changed, and by how much.
 *
 * ```
 *   oldest                                       latest
 *   [bucket][bucket] … 180 of them … [bucket][bucket]      a bucket: indexes [0, 7, 9], deltas [12, 1804, 0.002]
 *                            └──────── avg:60 ──────┘
 * ```
 */

import type { Work } from "./slices.ts";

/** Length of a bucket. */
export const BUCKET_SECONDS = 5;
/** The windows that averages are given for. */
export const WINDOWS_SECONDS: readonly number[] = [60, 300, 900];
const BUCKETS = Math.max(...WINDOWS_SECONDS) / BUCKET_SECONDS;

/**
 * Counters that changed, and by how much: most do not, so that a bucket of a server at rest is almost nothing. All
 * buckets take 6 MiB when 1000 types come within each.
 */
interface Bucket {
  readonly indexes: Uint32Array;
  readonly deltas: Float64Array;
}

/** A counter's course over a window. */
export interface Average {
  total: number;
  perBucket: number;
  perSecond: number;
}

export class Averages {
  readonly #names: string[] = [];
  readonly #indexes = new Map<string, number>();
  readonly #last: number[] = [];
  /** The sample that a counter was in last; and indexes of counters that are in no bucket any more. */
  readonly #seen: number[] = [];
  readonly #free: number[] = [];
  #samples = 0;
  readonly #buckets: Bucket[] = [];
  #at = 0;

  /** Ends a bucket. To be done every {@link BUCKET_SECONDS}, with the counters as they are now. */
  *sample(values: ReadonlyMap<string, number>): Work<void> {
    const indexes: number[] = [];
    const deltas: number[] = [];
    for (const [name, value] of values) {
      yield;
      const index = this.#indexOf(name);
      this.#seen[index] = this.#samples;
      // One that is less than it was is another of that name, and began at 0.
      const delta = value < this.#last[index] ? value : value - this.#last[index];
      if (delta === 0) continue;
      this.#last[index] = value;
      indexes.push(index);
      deltas.push(delta);
    }
    this.#buckets[this.#at] = { indexes: Uint32Array.from(indexes), deltas: Float64Array.from(deltas) };
    this.#at = (this.#at + 1) % BUCKETS;
    this.#samples++;
    if (this.#indexes.size > 2 * values.size) yield* this.#forget();
  }

  /** Types that nobody sends give up their counters; once they are in no bucket, their names too. */
  *#forget(): Work<void> {
    for (const [name, index] of this.#indexes) {
      yield;
      if (this.#samples - this.#seen[index] <= BUCKETS) continue;
      this.#indexes.delete(name);
      this.#free.push(index);
    }
  }

  /**
   * The counters that changed within the last `seconds`. Until the server has run for so long, averages are those of
   * the buckets there are.
   */
  *window(seconds: number): Work<Map<string, Average>> {
    const count = Math.min(seconds / BUCKET_SECONDS, this.#buckets.length);
    const totals = new Float64Array(this.#names.length);
    for (let i = 1; i <= count; i++) {
      yield;
      const { indexes, deltas } = this.#buckets[(this.#at - i + BUCKETS) % BUCKETS];
      for (let j = 0; j < indexes.length; j++) totals[indexes[j]] += deltas[j];
    }
    const averages = new Map<string, Average>();
    for (let i = 0; i < totals.length; i++) {
      const total = totals[i];
      if (total === 0) continue;
      yield;
      averages.set(this.#names[i], {
        total,
        perBucket: total / count,
        perSecond: total / (count * BUCKET_SECONDS),
      });
    }
    return averages;
  }

  #indexOf(name: string): number {
    let index = this.#indexes.get(name);
    if (index === undefined) {
      index = this.#free.pop() ?? this.#names.length;
      this.#names[index] = name;
      this.#indexes.set(name, index);
      this.#last[index] = 0;
    }
    return index;
  }
}
