/** What a server counts; `observe/` tells it. */
import type { Counter, Meter } from "../contracts/handler.ts";
import { COUNTERS_MAX, GAUGES_MAX, REFUSED_CODES_MAX, TYPE_UNUSED_MS, TYPES_TRACKED } from "../limits.ts";

/** What became of a message, as the statistics have it. */
export type Result =
  /** Taken by its handlers. */
  | "ok"
  /** No handler took it: its type has no route, or a handler said that it cannot now. */
  | "dropped"
  /** A handler threw, or did not answer in time. */
  | "crashed"
  /** Not a CC message. */
  | "invalid"
  /** It could not be opened, or a handler would not have it; by code. */
  | "refused"
  /** It has been handled before: a copy of a signed message. */
  | "duplicate";
export const RESULTS: readonly Result[] = ["ok", "dropped", "crashed", "invalid", "refused", "duplicate"];

/** Messages, their bytes, and the seconds spent on them. */
export class Tally {
  count = 0;
  bytes = 0;
  seconds = 0;

  add(count: number, bytes: number, seconds: number): void {
    this.count += count;
    this.bytes += bytes;
    this.seconds += seconds;
  }
}

export type Tallies = Readonly<Record<Result, Tally>>;

function tallies(): Tallies {
  return {
    ok: new Tally(),
    dropped: new Tally(),
    crashed: new Tally(),
    invalid: new Tally(),
    refused: new Tally(),
    duplicate: new Tally(),
  };
}

/** Counters of one message type; of all that are not tracked together, under `other`. */
export class TypeCounters {
  readonly name: string;
  readonly byResult: Tallies = tallies();
  /** How many there were when it was looked at last, and when that had changed. */
  seen = 0;
  seenAt = -Infinity;

  constructor(name: string) {
    this.name = name;
  }

  get count(): number {
    return RESULTS.reduce((sum, result) => sum + this.byResult[result].count, 0);
  }
}

/** A counter of a handler. */
export class HandlerCounter implements Counter {
  /** `h:name` */
  readonly handler: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  value = 0;

  constructor(handler: string, name: string, labels: Readonly<Record<string, string>>) {
    this.handler = handler;
    this.name = name;
    this.labels = labels;
  }

  add(by = 1): void {
    this.value += by;
  }
}

/** A figure of a handler that is read when somebody asks. */
export interface HandlerGauge {
  readonly handler: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  read(): number | null;
}

/** A handler's meter; its gauges end with the handler. */
export interface OwnedMeter extends Meter {
  close(): void;
}

/** Types whose last part is a request's own id: one counter for all of them. */
const WITH_UID = /^(task\.(?:send|reply))\..+$/;

/**
 * Counts at level 0 nothing, at 1 totals, at 2 also by message type. Messages are added by runs of equal types, so
 * that a counter is touched once a run.
 */
export class Statistics {
  readonly level: number;
  readonly byResult: Tallies = tallies();
  /** Messages sent to clients: replies, and what handlers send along a way that was kept. */
  readonly replies = new Tally();
  /** What was lost, by `drops.REASON` and `unconfirmed`. */
  losses: () => ReadonlyMap<string, number> = () => new Map();
  readonly #types = new Map<string, TypeCounters>();
  #routed: ReadonlySet<string> = new Set();
  readonly #refused = new Map<string, number>();
  readonly #counters = new Map<string, HandlerCounter>();
  readonly #gauges = new Map<string, HandlerGauge>();

  constructor(level: number) {
    this.level = level;
  }

  /** The counters of a type; null below level 2. */
  type(type: string): TypeCounters | null {
    if (this.level < 2) return null;
    const name = type.replace(WITH_UID, "$1.<uid>");
    let found = this.#types.get(name);
    if (found === undefined) {
      const known = this.#routed.has(name) || this.#types.size < TYPES_TRACKED ? name : "other";
      found = this.#types.get(known) ?? new TypeCounters(known);
      this.#types.set(known, found);
    }
    return found;
  }

  /** Types that have counters of their own whatever others there are: those that the routes name. */
  route(types: Iterable<string>): void {
    this.#routed = new Set(types);
  }

  /**
   * Takes the counters of types that nobody sends any more, where there are none for others. What was counted stays in the
   * totals.
   *
   * @returns Whether some were taken: whoever keeps counters must ask for them anew.
   */
  expireTypes(now: number): boolean {
    for (const counters of this.#types.values()) {
      const { count } = counters;
      if (count !== counters.seen || counters.seenAt === -Infinity) counters.seenAt = now;
      counters.seen = count;
    }
    if (this.#types.size < TYPES_TRACKED) return false;
    const before = this.#types.size;
    for (const [name, { seenAt }] of this.#types) {
      if (now - seenAt >= TYPE_UNUSED_MS && !this.#routed.has(name) && name !== "other") {
        this.#types.delete(name);
      }
    }
    return this.#types.size < before;
  }

  /** Adds a run of messages. */
  add(result: Result, count: number, bytes: number, seconds: number, type: TypeCounters | null): void {
    if (this.level === 0) return;
    this.byResult[result].add(count, bytes, seconds);
    type?.byResult[result].add(count, bytes, seconds);
  }

  /** Says why a message was refused, which {@link add} has counted. */
  refuse(code: string): void {
    if (this.level === 0) return;
    const known = this.#refused.has(code) || this.#refused.size < REFUSED_CODES_MAX ? code : "other";
    this.#refused.set(known, (this.#refused.get(known) ?? 0) + 1);
  }

  /** A message was sent to a client. */
  reply(bytes: number): void {
    if (this.level > 0) this.replies.add(1, bytes, 0);
  }

  /** What a handler counts with; the counters of a name go on when another handler of that name comes. */
  meter(handler: string): OwnedMeter {
    const own = new Map<string, HandlerGauge>();
    return {
      counter: (name, labels = {}) => {
        const key = JSON.stringify([handler, name, labels]);
        const known = this.#counters.get(key);
        if (known !== undefined) return known;
        // Past the bound, and where nothing is counted, it counts for nobody.
        const counter = new HandlerCounter(handler, name, labels);
        if (this.level > 0 && this.#counters.size < COUNTERS_MAX) this.#counters.set(key, counter);
        return counter;
      },
      gauge: (name, read, labels = {}) => {
        const key = JSON.stringify([handler, name, labels]);
        if (!this.#gauges.has(key) && this.#gauges.size >= GAUGES_MAX) return;
        const gauge = { handler, name, labels, read };
        own.set(key, gauge);
        this.#gauges.set(key, gauge);
      },
      close: () => {
        for (const [key, gauge] of own) if (this.#gauges.get(key) === gauge) this.#gauges.delete(key);
      },
    };
  }

  /** Counters by message type; none below level 2. */
  get types(): Iterable<TypeCounters> {
    return this.#types.values();
  }

  /** Messages refused, by code. */
  get refused(): ReadonlyMap<string, number> {
    return this.#refused;
  }

  get counters(): Iterable<HandlerCounter> {
    return this.#counters.values();
  }

  get gauges(): Iterable<HandlerGauge> {
    return this.#gauges.values();
  }

  /** All messages, whatever became of them. */
  total(): Tally {
    const total = new Tally();
    for (const result of RESULTS) {
      const { count, bytes, seconds } = this.byResult[result];
      total.add(count, bytes, seconds);
    }
    return total;
  }
}
