/** The messages of one type that came one after the other: added to the statistics together, the clock read twice. */
import type { Clock } from "../contracts/environment.ts";
import type { Result, Statistics, TypeCounters } from "./counts.ts";

/** What is counted of messages that ended alike. */
interface Part {
  messages: number;
  bytes: number;
}

export class RunTally {
  readonly #statistics: Statistics;
  readonly #clock: Clock;
  /** All messages of the run, and their bytes; what is still under way too. */
  messages = 0;
  bytes = 0;
  /** What became of the first one, and of most: of how many, and their bytes. */
  #result: Result = "ok";
  #alike = 0;
  #alikeBytes = 0;
  /** Those of which something else became; mostly there is none. */
  #others: Map<Result, Part> | null = null;
  /** When it began; -1: it has not. */
  #since = -1;

  constructor(statistics: Statistics, clock: Clock) {
    this.#statistics = statistics;
    this.#clock = clock;
  }

  get began(): boolean {
    return this.#since >= 0;
  }

  begin(): void {
    if (this.#since < 0) this.#since = this.#clock.now();
  }

  add(result: Result, bytes: number): void {
    this.begin();
    this.messages++;
    this.bytes += bytes;
    if (this.#alike === 0) this.#result = result;
    if (result !== this.#result) {
      this.#addOther(result, bytes);
      return;
    }
    this.#alike++;
    this.#alikeBytes += bytes;
  }

  /** One whose handlers answer later: who waits for them counts it then. */
  addLater(bytes: number): void {
    this.begin();
    this.messages++;
    this.bytes += bytes;
  }

  /**
   * Adds the run to the statistics.
   *
   * @param more Messages that took part in it and are counted elsewhere.
   * @returns The seconds of each message.
   */
  end(counters: TypeCounters | null, more: number): number {
    const seconds = (this.#clock.now() - this.#since) / 1000;
    const all = this.messages + more;
    const share = all === 0 ? 0 : seconds / all;
    // Time was spent on those that are still under way, too.
    let rest = this.messages - this.#alike;
    if (this.#others !== null) {
      for (const [result, { messages, bytes }] of this.#others) {
        this.#statistics.add(result, messages, bytes, share * messages, counters);
        rest -= messages;
      }
    }
    if (this.messages > 0) {
      const spent = share * (this.#alike + rest);
      this.#statistics.add(this.#result, this.#alike, this.#alikeBytes, spent, counters);
    }
    return share;
  }

  clear(): void {
    this.#since = -1;
    this.messages =
      this.bytes =
      this.#alike =
      this.#alikeBytes =
        0;
    this.#others = null;
  }

  #addOther(result: Result, bytes: number): void {
    const others = this.#others ??= new Map();
    const part = others.get(result);
    if (part === undefined) {
      others.set(result, { messages: 1, bytes });
      return;
    }
    part.messages++;
    part.bytes += bytes;
  }
}
