/** Work that was interrupted, of all connections: in each turn of the event loop some of it is done, one after the other. */
import type { Clock } from "../contracts/environment.ts";

/** Of a turn, so long; what was begun then comes to its end. */
const TURN_MS = 5;

export class TurnSlices {
  readonly #clock: Clock;
  #waiting: (() => void)[] = [];
  #scheduled = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Calls it in a later turn. */
  add(goOn: () => void): void {
    this.#waiting.push(goOn);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#clock.nextTurn(this.#run);
  }

  readonly #run = (): void => {
    this.#scheduled = false;
    const { now } = this.#clock;
    const until = now() + TURN_MS;
    const waiting = this.#waiting;
    // What is interrupted again waits for the next turn.
    this.#waiting = [];
    let done = 0;
    do {
      waiting[done++]();
    } while (done < waiting.length && now() < until);
    if (done < waiting.length) this.#waiting = [...waiting.slice(done), ...this.#waiting];
    if (this.#waiting.length > 0) this.#schedule();
  };
}
