/** The server's counters, and the line they are logged as. */
import { COUNTERS_MAX, LOG_TEXT_MAX_CHARS, TYPES_TRACKED } from "../limits.ts";

/** What became of a message. */
export type Outcome = "ok" | "dropped" | "crashed" | "invalid";
export const OUTCOMES: readonly Outcome[] = ["ok", "dropped", "crashed", "invalid"];

/** Messages, their bytes, and the seconds spent on them. */
export class Counter {
  count = 0;
  bytes = 0;
  seconds = 0;

  add(count: number, bytes: number, seconds: number): void {
    this.count += count;
    this.bytes += bytes;
    this.seconds += seconds;
  }
}

/** Counters of one message type; of all that are not tracked together, under `other`. */
export class TypeCounters {
  readonly name: string;
  readonly byOutcome: Record<Outcome, Counter> = counters();
  constructor(name: string) {
    this.name = name;
  }
}

function counters(): Record<Outcome, Counter> {
  return { ok: new Counter(), dropped: new Counter(), crashed: new Counter(), invalid: new Counter() };
}

/** Types whose last part is a request's own id: one counter for all of them. */
const WITH_UID = /^(task\.(?:send|reply))\..+$/;

/** Characters kept free at the end of a line, for how many counters it leaves out. */
const LINE_REST_CHARS = 40;

/**
 * Counts at level 0 nothing, at 1 totals, at 2 also by message type. Messages are added by runs of equal types, so
 * that a counter is touched once a run.
 */
export class Statistics {
  readonly level: number;
  readonly byOutcome: Readonly<Record<Outcome, Counter>> = counters();
  readonly #types = new Map<string, TypeCounters>();
  readonly #own = new Map<string, number>();

  constructor(level: number) {
    this.level = level;
  }

  /** The counters of a type; null below level 2. */
  type(type: string): TypeCounters | null {
    if (this.level < 2) return null;
    const name = type.replace(WITH_UID, "$1.<uid>");
    let found = this.#types.get(name);
    if (found === undefined) {
      const known = this.#types.size < TYPES_TRACKED ? name : "other";
      found = this.#types.get(known) ?? new TypeCounters(known);
      this.#types.set(known, found);
    }
    return found;
  }

  /** Adds a run of messages. */
  add(outcome: Outcome, count: number, bytes: number, seconds: number, type: TypeCounters | null): void {
    if (this.level === 0 || count === 0) return;
    this.byOutcome[outcome].add(count, bytes, seconds);
    type?.byOutcome[outcome].add(count, bytes, seconds);
  }

  /** Adds to a handler's counter. */
  count(name: string, by: number): void {
    if (this.level === 0) return;
    const known = this.#own.has(name) || this.#own.size < COUNTERS_MAX ? name : "other";
    this.#own.set(known, (this.#own.get(known) ?? 0) + by);
  }

  /** Counters by message type; empty below level 2. */
  get types(): ReadonlyMap<string, TypeCounters> {
    return this.#types;
  }

  /** The handlers' own counters. */
  get own(): ReadonlyMap<string, number> {
    return this.#own;
  }

  /** All messages, whatever became of them. */
  total(): Counter {
    const total = new Counter();
    for (const outcome of OUTCOMES) {
      const { count, bytes, seconds } = this.byOutcome[outcome];
      total.add(count, bytes, seconds);
    }
    return total;
  }

  /**
   * Every counter that is not zero, by its name: `count`, `bytes`, `seconds`, `count.ok`, …, the handlers' own, then
   * those of the types. Empty at level 0.
   */
  values(): Map<string, number> {
    const values = new Map<string, number>();
    if (this.level === 0) return values;
    const { count, bytes, seconds } = this.total();
    values.set("count", count).set("bytes", bytes).set("seconds", seconds);
    const put = (counter: Counter, suffix: string) => {
      if (counter.count === 0) return;
      values.set(`count.${suffix}`, counter.count).set(`bytes.${suffix}`, counter.bytes);
      values.set(`seconds.${suffix}`, counter.seconds);
    };
    for (const outcome of OUTCOMES) put(this.byOutcome[outcome], outcome);
    for (const [name, value] of this.#own) values.set(name, value);
    for (const { name, byOutcome } of this.#types.values()) {
      for (const outcome of OUTCOMES) put(byOutcome[outcome], `${outcome}.msg.${name}`);
    }
    return values;
  }

  /**
   * `{count: 14, bytes: 883, seconds: 0.0124, count.ok: 6, …}`. What would make it longer than a log line may be is
   * left out, and says how much that is: `…, 2971 more}`.
   */
  line(): string {
    const values = this.values();
    let text = "";
    let left = values.size;
    for (const [name, value] of values) {
      const part = `${text === "" ? "" : ", "}${name}: ${formatCounter(name, value)}`;
      if (text.length + part.length > LOG_TEXT_MAX_CHARS - LINE_REST_CHARS) break;
      text += part;
      left--;
    }
    return left > 0 ? `{${text}, ${left} more}` : `{${text}}`;
  }
}

/** A counter's value as text: seconds with four digits behind the point, all else whole. */
export function formatCounter(name: string, value: number): string {
  return /^seconds(?:\.|$)/.test(name) || !Number.isInteger(value) ? value.toFixed(4) : String(value);
}
