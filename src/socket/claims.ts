/**
 * Who may have an identity that another connection has. A host that was cut off and comes back finds its old connection
 * still there, half open: it must not be locked out. But a name is what replies go to: nobody must take that of a peer that
 * lives.
 *
 * ```
 *   claim ─▶ the holder is asked (PING) ─┬─ any byte comes, or goes ──▶ refused, and others for 5 s
 *                                        └─ 2 s pass, or it is gone ──▶ the name is handed over
 * ```
 */
import type { Cancel, Clock } from "../contracts/environment.ts";
import { IDENTITY_PROBE_MS, IDENTITY_VERDICT_MS, IDENTITY_VERDICTS_MAX } from "../limits.ts";

/** `always`: the later has it; `never`: the earlier, as libzmq does unless told otherwise. */
export type Takeover = "probe" | "never" | "always";

/** A connection that has an identity. */
export interface Holder {
  /** Is it over? */
  readonly over: boolean;
  /** Held back by us, it cannot be heard; and a peer of ZMTP 3.0 cannot be asked. */
  readonly mute: boolean;
  /** Grows with each read that brings something, and while it takes what is sent to it. */
  readonly signs: number;
  /** Asks it for a sign of life. */
  ask(): void;
}

/** A connection that wants it. */
export interface Claimant {
  readonly over: boolean;
}

/** How often a holder that was asked is looked at. */
const LOOK_MS = 20;

interface Claim<C> {
  readonly claimant: C;
  readonly cancel: Cancel;
}

export class Claims<H extends Holder, C extends Claimant> {
  readonly #clock: Clock;
  readonly #takeover: Takeover;
  readonly #asked = new Map<string, Claim<C>>();
  /** Until when a holder is known to live. */
  readonly #alive = new Map<string, number>();

  constructor(clock: Clock, takeover: Takeover) {
    this.#clock = clock;
    this.#takeover = takeover;
  }

  /**
   * A claimant of the name that a holder has.
   *
   * @param decided Called later, where this returns null: is the name handed over?
   * @returns Whether the name is handed over, where that is known at once.
   */
  claim(name: string, holder: H, claimant: C, decided: (handedOver: boolean) => void): boolean | null {
    if (this.#takeover !== "probe") return this.#takeover === "always";
    if (holder.over) return true;
    const now = this.#clock.now();
    const asked = this.#asked.get(name);
    if (holder.mute || (this.#alive.get(name) ?? 0) > now || (asked !== undefined && !asked.claimant.over)) {
      return false;
    }
    // One whose claimant has gone meanwhile goes on for this one.
    asked?.cancel();
    this.#ask(name, holder, claimant, now, decided);
    return null;
  }

  #ask(name: string, holder: H, claimant: C, now: number, decided: (handedOver: boolean) => void): void {
    const { signs } = holder;
    holder.ask();
    // What is on its way to it goes before our question: whoever takes that lives.
    const decide = (handedOver: boolean) => {
      cancel();
      this.#asked.delete(name);
      if (!handedOver) this.#remember(name);
      if (!claimant.over) decided(handedOver);
    };
    const cancel = this.#clock.every(LOOK_MS, () => {
      if (holder.over) decide(true);
      else if (holder.signs !== signs || holder.mute) decide(false);
      else if (this.#clock.now() - now >= IDENTITY_PROBE_MS) decide(true);
    });
    this.#asked.set(name, { claimant, cancel });
  }

  #remember(name: string): void {
    this.#alive.delete(name);
    this.#alive.set(name, this.#clock.now() + IDENTITY_VERDICT_MS);
    if (this.#alive.size <= IDENTITY_VERDICTS_MAX) return;
    const [oldest] = this.#alive.keys();
    this.#alive.delete(oldest);
  }

  /** Nobody is asked any more. */
  close(): void {
    for (const { cancel } of this.#asked.values()) cancel();
    this.#asked.clear();
  }
}
