/**
 * A door that is shut while the process has no descriptor left: `accept` would fail at once, again and again, and take a
 * whole core. No runtime can pause a listener, so it is closed, and opened anew once there is a descriptor. Whoever is behind
 * it may shut it for a moment too.
 */
import type { Cancel, Clock, Host } from "../contracts/environment.ts";

/** How long it is shut at least. */
const REST_MS = 100;
/** How often it is looked whether there is a descriptor left, besides at those who come in; that is known for a moment. */
const LOOK_MS = 1000;
const KNOWN_MS = 20;

/** What is behind the door. */
export interface DoorParts {
  readonly clock: Clock;
  readonly host: Pick<Host, "descriptorsFree">;
  /** Listens no more; those who are in stay. Resolves to how many descriptors {@link open} will take. */
  shut(): Promise<number>;
  /** Listens again where it did. */
  open(): Promise<void>;
  /** Nobody is let in for a while: there is no descriptor (null), or what was said or failed. */
  rests(error: unknown): void;
}

export class Door {
  readonly #parts: DoorParts;
  readonly #cancel: Cancel;
  #lookedAt = -Infinity;
  #resting: Promise<void> | null = null;
  #over = false;

  constructor(parts: DoorParts) {
    this.#parts = parts;
    this.#cancel = parts.clock.every(LOOK_MS, () => void this.look());
  }

  /** Is nobody let in now? */
  get shut(): boolean {
    return this.#resting !== null;
  }

  /** Is there a descriptor left? If not, nobody is let in for a while. */
  look(): boolean {
    const { clock, host } = this.#parts;
    const now = clock.now();
    if (now - this.#lookedAt < KNOWN_MS) return true;
    this.#lookedAt = now;
    if (this.#over || host.descriptorsFree(1)) return true;
    this.rest(null);
    return false;
  }

  /** Nobody is let in for a moment; `why` is told. */
  rest(why: unknown): void {
    if (this.#over) return;
    this.#resting ??= this.#rest(why).catch(this.#parts.rests).finally(() => this.#resting = null);
  }

  async #rest(why: unknown): Promise<void> {
    const { clock, host, shut, open, rests } = this.#parts;
    rests(why);
    const taken = await shut();
    while (!this.#over) {
      await new Promise<void>((resolve) => void clock.after(REST_MS, resolve));
      // One for who comes in then: those that were freed by resting are none.
      if (this.#over || !host.descriptorsFree(taken + 1)) continue;
      try {
        return await open();
      } catch (error) {
        rests(error);
      }
    }
  }

  /** The end: it is not opened any more. */
  async close(): Promise<void> {
    this.#over = true;
    this.#cancel();
    await this.#resting;
  }
}
