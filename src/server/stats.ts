/** The server's counters, and the line they are logged as. */
import { TYPES_TRACKED } from "../limits.ts";

/** What became of a message. */
export type Outcome = "ok" | "dropped" | "crashed" | "invalid";
const OUTCOMES: readonly Outcome[] = ["ok", "dropped", "crashed", "invalid"];

class Counter {
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

/**
 * Counts at level 0 nothing, at 1 totals, at 2 also by message type. Messages are added by runs of equal types, so
 * that a counter is touched once a run.
 */
export class Statistics {
  readonly level: number;
  #byOutcome = counters();
  #types = new Map<string, TypeCounters>();
  #own = new Map<string, number>();

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
    this.#byOutcome[outcome].add(count, bytes, seconds);
    type?.byOutcome[outcome].add(count, bytes, seconds);
  }

  /** Adds to a handler's counter. */
  count(name: string, by: number): void {
    if (this.level > 0) this.#own.set(name, (this.#own.get(name) ?? 0) + by);
  }

  /** Every counter that is not zero, by its name: `count`, `bytes`, `seconds`, `count.ok`, …, then the handlers' own. */
  values(): Map<string, number> {
    const values = new Map<string, number>();
    const total = new Counter();
    for (const outcome of OUTCOMES) {
      const { count, bytes, seconds } = this.#byOutcome[outcome];
      total.add(count, bytes, seconds);
    }
    values.set("count", total.count).set("bytes", total.bytes).set("seconds", total.seconds);
    const put = (counter: Counter, suffix: string) => {
      if (counter.count === 0) return;
      values.set(`count.${suffix}`, counter.count).set(`bytes.${suffix}`, counter.bytes);
      values.set(`seconds.${suffix}`, counter.seconds);
    };
    for (const outcome of OUTCOMES) put(this.#byOutcome[outcome], outcome);
    for (const { name, byOutcome } of this.#types.values()) {
      for (const outcome of OUTCOMES) put(byOutcome[outcome], `${outcome}.msg.${name}`);
    }
    for (const [name, value] of this.#own) values.set(name, value);
    return values;
  }

  /** `{count: 14, bytes: 883, seconds: 0.0124, count.ok: 6, …}` */
  line(): string {
    const parts = [...this.values()].map(([name, value]) =>
      `${name}: ${/^(?:seconds\b|.*\.seconds)/.test(name) ? value.toFixed(4) : value}`
    );
    return `{${parts.join(", ")}}`;
  }
}
