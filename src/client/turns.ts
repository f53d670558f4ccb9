/** Those who want to send, one after the other: each has its turn when there is room. */
import type { Clock } from "../contracts/environment.ts";
import { ClientError } from "./errors.ts";

/** How long somebody waits, and what ends it. */
export interface Wait {
  /** Milliseconds; missing: as long as it takes. */
  readonly timeoutMs?: number;
  /** Ends the waiting, when aborted. */
  readonly signal?: AbortSignal;
}

interface Waiter {
  start(): void;
  fail(error: ClientError): void;
}

export class Turns {
  readonly #clock: Clock;
  readonly #hasRoom: () => boolean;
  readonly #waiters = new Set<Waiter>();
  #taken = false;

  constructor(clock: Clock, hasRoom: () => boolean) {
    this.#clock = clock;
    this.#hasRoom = hasRoom;
  }

  /** Takes the turn at once, where nobody waits for it and there is room; to be followed by {@link end}. */
  tryBegin(): boolean {
    if (this.#taken || this.#waiters.size > 0 || !this.#hasRoom()) return false;
    return this.#taken = true;
  }

  /**
   * Waits for the turn; to be followed by {@link end}.
   *
   * @param what For the error: what could not be done.
   * @throws {ClientError} `timeout`, `aborted`, `closed`
   */
  begin(wait: Wait, what: string): Promise<void> {
    return waiting(this.#clock, wait, what, (done, fail) => {
      const waiter: Waiter = {
        start: () => {
          this.#waiters.delete(waiter);
          this.#taken = true;
          done();
        },
        fail: (error) => {
          this.#waiters.delete(waiter);
          fail(error);
        },
      };
      this.#waiters.add(waiter);
      return () => void this.#waiters.delete(waiter);
    });
  }

  end(): void {
    this.#taken = false;
    this.next();
  }

  /** There may be room now: whoever has waited longest has the turn. */
  next(): void {
    if (this.#taken || this.#waiters.size === 0 || !this.#hasRoom()) return;
    const [first] = this.#waiters;
    first.start();
  }

  /** Nobody has a turn any more. */
  close(error: ClientError): void {
    for (const waiter of [...this.#waiters]) waiter.fail(error);
  }
}

/**
 * A promise that ends in time, and when its signal is aborted.
 *
 * @param begin Begins to wait; what it returns is called when that has ended early.
 */
export function waiting<T = void>(
  clock: Clock,
  { timeoutMs, signal }: Wait,
  what: string,
  begin: (done: (value: T) => void, fail: (error: Error) => void) => () => void,
): Promise<T> {
  if (signal?.aborted) return Promise.reject(new ClientError("aborted", `${what}: aborted`));
  return new Promise((resolve, reject) => {
    let cancelTimer = () => {};
    const settle = () => {
      cancelTimer();
      signal?.removeEventListener("abort", abort);
    };
    const early = (error: ClientError) => {
      settle();
      stop();
      reject(error);
    };
    const abort = () => early(new ClientError("aborted", `${what}: aborted`));
    const stop = begin((value) => {
      settle();
      resolve(value);
    }, (error) => {
      settle();
      reject(error);
    });
    signal?.addEventListener("abort", abort);
    if (timeoutMs === undefined || timeoutMs === Infinity) return;
    cancelTimer = clock.after(timeoutMs, () => {
      early(new ClientError("timeout", `${what} within ${timeoutMs / 1000} s`));
    });
  });
}
