/** Starts one process a turn of the event loop, as each takes a millisecond or two. */
import type { Clock } from "../contracts/environment.ts";

export class Gate {
  readonly #clock: Clock;
  #last: Promise<void> = Promise.resolve();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Resolves in a turn of which nobody else has started a process. */
  enter(): Promise<void> {
    const turn = this.#last.then(() => new Promise<void>((resolve) => this.#clock.nextTurn(resolve)));
    this.#last = turn;
    return turn;
  }
}
