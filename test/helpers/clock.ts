/** Clocks for tests that would otherwise have to wait. */
import type { Cancel, Clock, Environment } from "../../mod.ts";
import { MACHINE } from "../../src/runtime/machine.ts";

/** A clock that goes so many times as fast as the machine's. */
export class StretchedClock {
  readonly environment: Environment;

  constructor(times = 20) {
    const { clock } = MACHINE;
    this.environment = {
      ...MACHINE,
      clock: {
        ...clock,
        now: () => clock.now() * times,
        after: (ms, f) => clock.after(ms / times, f),
        every: (ms, f) => clock.every(ms / times, f),
      },
    };
  }
}

/** A clock whose time the test passes. */
export class TestClock implements Clock {
  #now = 1000;
  #timers: { at: number; every: number | null; f: () => void }[] = [];

  now = () => this.#now;
  time = () => 1_700_000_000_000 + this.#now;
  after = (ms: number, f: () => void) => this.#add(ms, null, f);
  every = (ms: number, f: () => void) => this.#add(ms, ms, f);
  soon = (f: () => void) => queueMicrotask(f);
  nextTurn = (f: () => void) => void this.#add(0, null, f);

  #add(ms: number, every: number | null, f: () => void): Cancel {
    const timer = { at: this.#now + ms, every, f };
    this.#timers.push(timer);
    return () => this.#timers = this.#timers.filter((other) => other !== timer);
  }

  /** So much time passes while the process is stopped. */
  sleep(ms: number): void {
    this.#now += ms;
  }

  /** Lets so much time pass, and does what comes due in it, in order. */
  pass(ms: number): void {
    const until = this.#now + ms;
    for (;;) {
      const [next] = this.#timers.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#now = Math.max(this.#now, next.at);
      if (next.every === null) this.#timers = this.#timers.filter((other) => other !== next);
      else next.at += next.every;
      next.f();
    }
    this.#now = until;
  }
}
