/** Clocks for tests that would otherwise have to wait. */
import type { Environment } from "../../mod.ts";
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
