/** The messages that a handler has under way: it has returned a promise for each, and not yet settled it. */
import type { Cancel, Clock } from "../contracts/environment.ts";
import { PausedSources } from "../socket/paused.ts";
import type { Source } from "../socket/types.ts";

/** One of them. */
interface Entry {
  readonly bytes: number;
  /** When it has taken too long, by the monotonic clock. */
  readonly deadline: number;
  readonly end: (why: EndedEarly) => void;
}

/** Why a message is not under way any more before its handler has answered. */
export type EndedEarly = "late" | "closed";

/** The bounds of a handler. */
export interface InFlightLimits {
  readonly messages: number;
  readonly bytes: number;
  /** How long one may take; Infinity: as long as it likes. */
  readonly timeoutMs: number;
}

export class InFlight {
  readonly #clock: Clock;
  readonly #limits: InFlightLimits;
  /** In the order of their deadlines. */
  readonly #entries = new Set<Entry>();
  #bytes = 0;
  /** Senders that wait for room. */
  readonly #paused: PausedSources;
  #cancelTimer: Cancel | null = null;
  #onempty: (() => void) | null = null;

  constructor(clock: Clock, limits: InFlightLimits) {
    this.#clock = clock;
    this.#limits = limits;
    this.#paused = new PausedSources(() => !this.full, clock.soon);
  }

  get size(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Is there no room for another message? */
  get full(): boolean {
    return this.#entries.size >= this.#limits.messages || this.#bytes >= this.#limits.bytes;
  }

  /**
   * One more is under way.
   *
   * @param end Called once when it takes too long, or the handler ends first.
   * @returns To be called when it is done.
   */
  add(bytes: number, end: (why: EndedEarly) => void): () => void {
    const entry: Entry = { bytes, deadline: this.#clock.now() + this.#limits.timeoutMs, end };
    this.#entries.add(entry);
    this.#bytes += bytes;
    this.#watch();
    return () => this.#remove(entry);
  }

  #remove(entry: Entry): void {
    if (!this.#entries.delete(entry)) return;
    this.#bytes -= entry.bytes;
    if (!this.full) this.#paused.resume();
    if (this.#entries.size > 0) return;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#onempty?.();
  }

  /** Pauses a sender until there is room. */
  pause(source: Source): void {
    this.#paused.add(source);
  }

  /** Resolves when there is room for one that has no source to pause. */
  room(): Promise<void> {
    return new Promise((resolve) => this.#paused.add({ ...WAITER, resume: resolve }));
  }

  /** One timer for all: the one that came first is late first. */
  #watch(): void {
    if (this.#cancelTimer !== null || this.#limits.timeoutMs === Infinity) return;
    for (const { deadline } of this.#entries) {
      this.#cancelTimer = this.#clock.after(Math.max(0, deadline - this.#clock.now()), () => {
        this.#cancelTimer = null;
        this.#endLate();
        this.#watch();
      });
      return;
    }
  }

  #endLate(): void {
    const now = this.#clock.now();
    for (const entry of this.#entries) {
      if (entry.deadline > now) return;
      this.#remove(entry);
      entry.end("late");
    }
  }

  /** Resolves when none is under way any more. */
  empty(): Promise<void> {
    if (this.#entries.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#onempty = resolve);
  }

  /** None is waited for any more; those that wait go on. */
  close(): void {
    for (const entry of [...this.#entries]) {
      this.#remove(entry);
      entry.end("closed");
    }
    this.#paused.resumeAll();
  }
}

const WAITER: Omit<Source, "resume"> = { identityFrame: new Uint8Array(0), name: "", pause() {} };
