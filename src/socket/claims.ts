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
  /** Held back by us, it cannot be heard; and a peer of ZMTP 3.0 cannot be asked: it counts as alive. */
  readonly mute: boolean;
  /** Grows with each read that brings something, and while it takes what is sent to it. */
  readonly signs: number;
  /** Asks it for a sign of life. */
  ask(): void;
}

/** A connection that wants it. */
interface Claimant {
  readonly over: boolean;
}

/** How often a holder that was asked is looked at. */
const LOOK_MS = 20;

interface Claim<H, C> {
  readonly holder: H;
  readonly claimant: C;
  readonly signs: number;
  readonly decided: (handedOver: boolean) => void;
  /** Looks, and not time: a program that stood still has not listened. */
  looks: number;
}

export class Claims<H extends Holder, C extends Claimant> {
  readonly #clock: Clock;
  readonly #takeover: Takeover;
  readonly #claims = new Map<string, Claim<H, C>>();
  /** Until when a holder is known to live. */
  readonly #alive = new Map<string, number>();
  #cancel: Cancel | null = null;

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
    const before = this.#claims.get(name);
    if (
      holder.mute || (this.#alive.get(name) ?? 0) > this.#clock.now() ||
      (before !== undefined && !before.claimant.over)
    ) return false;
    this.#claims.set(name, { holder, claimant, signs: holder.signs, decided, looks: 0 });
    this.#cancel ??= this.#clock.every(LOOK_MS, () => this.#look());
    // What is on its way to it goes before our question: whoever takes that lives.
    holder.ask();
    return null;
  }

  #look(): void {
    for (const [name, claim] of this.#claims) {
      const { holder, signs } = claim;
      if (holder.over) this.#decide(name, claim, true);
      else if (holder.signs !== signs || holder.mute) this.#decide(name, claim, false);
      else if (++claim.looks * LOOK_MS >= IDENTITY_PROBE_MS) this.#decide(name, claim, true);
    }
    if (this.#claims.size === 0) this.close();
  }

  #decide(name: string, { claimant, decided }: Claim<H, C>, handedOver: boolean): void {
    this.#claims.delete(name);
    if (!handedOver) this.#remember(name);
    if (!claimant.over) decided(handedOver);
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
    this.#cancel?.();
    this.#cancel = null;
    this.#claims.clear();
  }
}
