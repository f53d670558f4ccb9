/**
 * What keeps handler code from ending the server: whatever it throws, in a call of ours, a timer, an event or a promise, is
 * logged under the handler's name.
 */
import type { Cancel, Clock, Environment } from "../contracts/environment.ts";
import { errorStack, errorText } from "../errors.ts";
import type { Logger } from "../log.ts";

export class Guard {
  readonly #log: Logger;
  /** Timers and signals that end with the handler. */
  readonly #cancels = new Set<Cancel>();
  #closed = false;

  /** @param log The handler's. */
  constructor(log: Logger) {
    this.#log = log;
  }

  /** Calls what a handler gave us; what that throws, or its promise rejects with, is logged. */
  call(where: string, f: () => unknown): void {
    try {
      const result = f();
      if (isPromise(result)) result.then(undefined, (error) => this.failed(where, error));
    } catch (error) {
      this.failed(where, error);
    }
  }

  /** Logs what a handler threw, with its stack: it is a bug. */
  failed(where: string, error: unknown, on = ""): void {
    this.#log.warnRarely(where, `crashed${on}: ${errorText(error)}`, `crashed${on}: ${errorStack(error)}`);
  }

  /** The environment as the handler gets it: its timers are guarded, and end with it. */
  environment(environment: Environment): Environment {
    return {
      ...environment,
      // A method of a class may stand behind it.
      random: () => environment.random(),
      resolve: (host) => environment.resolve(host),
      clock: this.#clock(environment.clock),
      processes: {
        ...environment.processes,
        onSignal: (name, f) => this.#own(environment.processes.onSignal(name, () => this.call(name, f))),
      },
    };
  }

  #clock(clock: Clock): Clock {
    const timer = (f: () => void) => () => {
      if (!this.#closed) this.call("timer", f);
    };
    return {
      now: () => clock.now(),
      time: () => clock.time(),
      after: (ms, f) => {
        let cancel: Cancel = () => {};
        cancel = this.#own(clock.after(ms, () => {
          this.#cancels.delete(cancel);
          timer(f)();
        }));
        return cancel;
      },
      every: (ms, f) => this.#own(clock.every(ms, timer(f))),
      soon: (f) => clock.soon(timer(f)),
      nextTurn: (f) => clock.nextTurn(timer(f)),
    };
  }

  #own(end: Cancel): Cancel {
    const cancel = () => {
      this.#cancels.delete(cancel);
      end();
    };
    if (this.#closed) end();
    else this.#cancels.add(cancel);
    return cancel;
  }

  /** Cancels all timers; none can be set any more. */
  close(): void {
    this.#closed = true;
    for (const cancel of [...this.#cancels]) cancel();
  }
}

/** A promise, of whatever kind. */
export function isPromise(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === "function";
}
