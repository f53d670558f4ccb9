/**
 * Long work in slices, so that it holds no message up. What a thousand message types have to tell takes tens of
 * milliseconds: it is written as a generator that says where it may be interrupted, and others have their turn in between.
 */
import type { Clock } from "../contracts/environment.ts";
import { utf8 } from "../text.ts";

/** Work that may be interrupted at each `yield`. */
export type Work<T> = Generator<void, T, void>;

/** Milliseconds of a slice. */
const SLICE_MS = 0.5;

/** Does all of it at once. */
export function finish<T>(work: Work<T>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value as T;
  }
}

/** What is sorted at once. */
const SORT_AT_ONCE = 256;

/** Strings in the order of their code units, as `sort()` has them. */
export function* sorted(strings: Iterable<string>): Work<string[]> {
  const all = [...strings];
  let runs: string[][] = [];
  for (let i = 0; i < all.length; i += SORT_AT_ONCE) {
    yield;
    runs.push(all.slice(i, i + SORT_AT_ONCE).sort());
  }
  while (runs.length > 1) {
    const longer: string[][] = [];
    for (let i = 0; i < runs.length; i += 2) longer.push(yield* merged(runs[i], runs[i + 1] ?? []));
    runs = longer;
  }
  return runs[0] ?? [];
}

function* merged(a: readonly string[], b: readonly string[]): Work<string[]> {
  const both: string[] = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    yield;
    both.push(j === b.length || i < a.length && a[i] <= b[j] ? a[i++] : b[j++]);
  }
  return both;
}

/** Characters that are encoded at once. */
const ENCODE_AT_ONCE = 8 * 1024;

/** A long text, encoded as it is made. */
export class Utf8Text {
  #text = "";
  #bytes = new Uint8Array(2 * ENCODE_AT_ONCE);
  #size = 0;

  add(text: string): void {
    this.#text += text;
    if (this.#text.length >= ENCODE_AT_ONCE) this.#encode();
  }

  /** All of it. */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.#encode();
    return this.#bytes.subarray(0, this.#size);
  }

  #encode(): void {
    const more = utf8(this.#text);
    this.#text = "";
    if (this.#size + more.length > this.#bytes.length) {
      const grown = new Uint8Array(2 * (this.#size + more.length));
      grown.set(this.#bytes.subarray(0, this.#size));
      this.#bytes = grown;
    }
    this.#bytes.set(more, this.#size);
    this.#size += more.length;
  }
}

/** Does one work after the other: of all of them, one slice a turn of the event loop. */
export class Slices {
  readonly #clock: Clock;
  /** When this turn's slice is over, whoever began it. */
  #until = -Infinity;
  #latest: Promise<unknown> = Promise.resolve();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Rejects with what the work throws. */
  run<T>(work: () => Work<T>): Promise<T> {
    const result = this.#latest.then(() => this.#do(work()));
    this.#latest = result.catch(() => {});
    return result;
  }

  async #do<T>(work: Work<T>): Promise<T> {
    const clock = this.#clock;
    for (;;) {
      if (clock.now() >= this.#until) {
        await new Promise<void>((resolve) => clock.nextTurn(resolve));
        this.#until = clock.now() + SLICE_MS;
      }
      do {
        const { done, value } = work.next();
        if (done) return value as T;
      } while (clock.now() < this.#until);
    }
  }
}
