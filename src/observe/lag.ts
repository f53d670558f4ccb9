/**
 * How late the event loop is: a timer is set, and looked at when it fires. `monitorEventLoopDelay` of `node:perf_hooks`
 * would do on one runtime, but it counts differently on each: Node adds its own period, Deno does not see a loop that is
 * blocked.
 */
import type { Clock } from "../contracts/environment.ts";

const PERIOD_MS = 100;
/** A loop that was blocked for long was late for every look that it missed; past so many they are not counted. */
const MISSED_MAX = 1000;

/** Bounds of the histogram's buckets grow by 2^(1/8): a quantile is at most 9 % too high. */
const STEPS = 8;
const LEAST_MS = 0.0625;
const BUCKETS = 1 + STEPS * 20;

/** The counts at one time; what came since is the difference. */
export interface LagSnapshot {
  readonly counts: Float64Array;
  /** Looks taken, and the sum of what was found. */
  readonly count: number;
  readonly sumMs: number;
}

/** A snapshot from before the first look. */
export const NO_LAG: LagSnapshot = { counts: new Float64Array(BUCKETS), count: 0, sumMs: 0 };

export class LagMeter {
  readonly #clock: Clock;
  readonly #counts = new Float64Array(BUCKETS);
  #count = 0;
  #sumMs = 0;
  #cancel: () => void = () => {};

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  start(): void {
    const due = this.#clock.now() + PERIOD_MS;
    this.#cancel = this.#clock.after(PERIOD_MS, () => {
      const late = Math.max(0, this.#clock.now() - due);
      for (let i = 0; i <= Math.min(late / PERIOD_MS, MISSED_MAX); i++) this.#add(late - i * PERIOD_MS);
      this.start();
    });
  }

  stop(): void {
    this.#cancel();
  }

  snapshot(): LagSnapshot {
    return { counts: this.#counts.slice(), count: this.#count, sumMs: this.#sumMs };
  }

  /** The lag that `share` of the looks since a snapshot stayed below, in milliseconds; 0 when there was none. */
  quantileMs(share: number, since: LagSnapshot): number {
    let rest = (this.#count - since.count) * share;
    if (rest === 0) return 0;
    for (let i = 0; i < BUCKETS; i++) {
      rest -= this.#counts[i] - since.counts[i];
      if (rest <= 0) return LEAST_MS * 2 ** (i / STEPS);
    }
    return LEAST_MS * 2 ** (BUCKETS / STEPS);
  }

  #add(ms: number): void {
    const index = ms <= LEAST_MS ? 0 : Math.ceil(Math.log2(ms / LEAST_MS) * STEPS);
    this.#counts[Math.min(index, BUCKETS - 1)]++;
    this.#count++;
    this.#sumMs += ms;
  }
}
