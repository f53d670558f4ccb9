/** Where in the stream of a link how many messages had been written: to tell how many lie among its last bytes. */

/** Marks are so far apart, at least: together they reach back further than any send buffer. */
const APART_BYTES = 32 * 1024;
const MARKS = 512;

export class SentMarks {
  readonly #positions = new Float64Array(MARKS);
  readonly #messages = new Float64Array(MARKS);
  /** Marks so far; the latest of them are kept. */
  #count = 0;
  #position = 0;
  #sent = 0;

  /** A link begins, at this position of the stream: what was written before was for others. */
  begin(position: number): void {
    this.#count = 0;
    this.#position = position;
    this.#mark();
  }

  /** So many messages more were written, up to this position. */
  add(position: number, messages: number): void {
    this.#position = position;
    this.#sent += messages;
    if (position - this.#positions[(this.#count - 1) % MARKS] >= APART_BYTES) this.#mark();
  }

  /** Messages that were written behind this position, or rather behind the last mark before it. */
  since(position: number): number {
    const oldest = Math.max(0, this.#count - MARKS);
    for (let i = this.#count - 1; i >= oldest; i--) {
      if (this.#positions[i % MARKS] <= position) return this.#sent - this.#messages[i % MARKS];
    }
    return this.#count === 0 ? 0 : this.#sent - this.#messages[oldest % MARKS];
  }

  #mark(): void {
    this.#positions[this.#count % MARKS] = this.#position;
    this.#messages[this.#count % MARKS] = this.#sent;
    this.#count++;
  }
}
