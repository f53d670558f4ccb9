/** Times, in steps of a tenth of themselves: as small after a day as after a minute. */
const STEP = Math.log(1.1);
const LEAST_MS = 0.01;
const STEPS = 200;

export class Times {
  readonly #counts = new Uint32Array(STEPS);
  count = 0;

  add(ms: number): void {
    const at = Math.ceil(Math.log(Math.max(ms, LEAST_MS) / LEAST_MS) / STEP);
    this.#counts[Math.min(at, STEPS - 1)]++;
    this.count++;
  }

  /** So many of them, 0.99 say, were shorter, in ms. */
  quantile(share: number): number {
    let left = Math.ceil(this.count * share);
    for (let at = 0; at < STEPS; at++) {
      left -= this.#counts[at];
      if (left <= 0) return LEAST_MS * Math.exp(at * STEP);
    }
    return NaN;
  }

  clear(): void {
    this.#counts.fill(0);
    this.count = 0;
  }
}
