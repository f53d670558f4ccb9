/** How a soak is judged: its accounts, the memory of its servers, their descriptors. */

/** Of a path, when it has come to rest. */
export interface Account {
  readonly name: string;
  readonly sent: number;
  readonly arrived: number;
  /** Counted by a server as lost, by reason. */
  readonly dropped: number;
  /** What links and programs that broke may have taken besides. */
  readonly allowed: number;
  readonly twice: number;
  readonly late: number;
  readonly strange: number;
}

export function missing({ sent, arrived, dropped }: Account): number {
  return sent - arrived - dropped;
}

/** What is wrong with it; nothing: it is right. */
export function judgeAccount(account: Account): string[] {
  const { name, allowed, twice, late, strange } = account;
  const faults: string[] = [];
  const lost = missing(account);
  if (lost < 0) faults.push(`${name}: ${-lost} messages arrived, and are counted as dropped too`);
  if (lost > allowed) {
    faults.push(`${name}: ${lost} messages are missing, and ${allowed} may be`);
  }
  if (twice > 0) faults.push(`${name}: ${twice} messages came twice`);
  if (late > 0) faults.push(`${name}: ${late} messages came out of order`);
  if (strange > 0) faults.push(`${name}: ${strange} messages came that nobody had sent`);
  return faults;
}

export interface Point {
  readonly hours: number;
  readonly value: number;
}

/** Least figures of equal spans; of a long run the spans become longer, so that they are never many. */
export class Minima {
  readonly #most: number;
  #spanSeconds: number;
  #values: number[] = [];

  /** @param spanSeconds Of one figure, at first. */
  constructor(spanSeconds: number, most = 2048) {
    this.#spanSeconds = spanSeconds;
    this.#most = most;
  }

  /** @param seconds Since the beginning; never less than before. */
  add(seconds: number, value: number): void {
    const at = Math.floor(seconds / this.#spanSeconds);
    this.#values[at] = Math.min(this.#values[at] ?? Infinity, value);
    if (at < this.#most) return;
    const least = (i: number) =>
      Math.min(this.#values[2 * i] ?? Infinity, this.#values[2 * i + 1] ?? Infinity);
    this.#values = Array.from({ length: Math.ceil(this.#values.length / 2) }, (_, i) => least(i));
    this.#spanSeconds *= 2;
  }

  /** What came after the warm-up; the last span is left out, as it may have just begun. */
  after(warmUpSeconds: number): Point[] {
    const points: Point[] = [];
    for (let i = 0; i < this.#values.length - 1; i++) {
      const value = this.#values[i];
      const seconds = i * this.#spanSeconds;
      if (value !== undefined && value !== Infinity && seconds >= warmUpSeconds) {
        points.push({ hours: (seconds + this.#spanSeconds / 2) / 3600, value });
      }
    }
    return points;
  }
}

export interface Slope {
  readonly perHour: number;
  /** It lies within so much of that, with a confidence of 95 %. */
  readonly within: number;
}

/** A line through points, by least squares. */
export function slope(points: readonly Point[]): Slope {
  const count = points.length;
  const mean = (of: (point: Point) => number) => points.reduce((sum, point) => sum + of(point), 0) / count;
  const hours = mean((point) => point.hours);
  const value = mean((point) => point.value);
  let xx = 0;
  let xy = 0;
  for (const point of points) {
    xx += (point.hours - hours) ** 2;
    xy += (point.hours - hours) * (point.value - value);
  }
  const perHour = xy / xx;
  const rests = points.map((point) => point.value - value - perHour * (point.hours - hours));
  const square = rests.reduce((sum, rest) => sum + rest * rest, 0);
  // Memory that is taken stays for a while, so that neighbours are alike, and tell less than as many that are not.
  const neighbours = rests.slice(1).reduce((sum, rest, i) => sum + rest * rests[i], 0);
  const alike = square === 0 ? 0 : Math.min(0.9, Math.max(0, neighbours / square));
  const error = Math.sqrt(square / (count - 2) / xx * (1 + alike) / (1 - alike));
  return { perHour, within: 2 * error };
}

export interface Verdict {
  readonly text: string;
  readonly fault: string | null;
}

/** What memory may grow by in an hour, in MB. */
const GROWTH_MAX = 1;
/** In a run of less than an hour, growth of less is not told from a server that settles, in MB. */
const SETTLES = 6;
const POINTS_LEAST = 12;

/**
 * @param points MB after the warm-up.
 * @param hours How long the run was.
 */
export function judgeMemory(name: string, points: readonly Point[], hours: number): Verdict {
  if (points.length < POINTS_LEAST) return { text: "too short to say", fault: null };
  const { perHour, within } = slope(points);
  const low = perHour - within;
  const text = `${signed(perHour)} ± ${within.toFixed(1)} MB/h`;
  const seen = points[points.length - 1].hours - points[0].hours;
  const grows = hours >= 1
    // What noise alone may give is no leak.
    ? perHour >= GROWTH_MAX && low > 0
    : low > GROWTH_MAX && perHour * seen > SETTLES;
  return { text, fault: grows ? `${name}: memory grows by ${text}` : null };
}

function signed(value: number): string {
  return `${value < 0 ? "-" : "+"}${Math.abs(value).toFixed(1)}`;
}

/** More than these in the last quarter than in the first is a leak: handlers and operators come and go. */
const DESCRIPTORS_MORE = 4;

/** @param points Descriptors that are no client's, after the warm-up. */
export function judgeDescriptors(name: string, points: readonly Point[]): Verdict {
  if (points.length < POINTS_LEAST) return { text: "too short to say", fault: null };
  const quarter = Math.floor(points.length / 4);
  const first = median(points.slice(0, quarter));
  const last = median(points.slice(-quarter));
  const text = `${first} → ${last}`;
  return {
    text,
    fault: last > first + DESCRIPTORS_MORE ? `${name}: descriptors that are no client's grow: ${text}` : null,
  };
}

function median(points: readonly Point[]): number {
  const values = points.map(({ value }) => value).sort((a, b) => a - b);
  return values[values.length >> 1];
}
