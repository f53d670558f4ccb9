/**
 * Who may have an identity that another connection has. A host that was cut off and comes back finds its old connection
 * still there, half open: it must not be locked out. But a name is what replies go to: nobody must take that of a peer that
 * lives.
 *
 * ```
 *   claim ─▶ the holder is asked (PING) ─┬─ it answers (PONG) ───────────────────────▶ lives, for 5 s
 *                                        ├─ 2 s pass, and other bytes came, or went ─▶ unclear, for 5 s
 *                                        └─ 2 s pass without, or it is gone ─────────▶ handed over
 * ```
 *
 * What a holder had sent before it died comes as that of one that lives does. So whose claim is refused while that is unclear
 * is not told: libzmq gives up for good when it reads an ERROR, and else comes again.
 */
import type { Cancel, Clock } from "../contracts/environment.ts";
import { IDENTITY_PROBE_MS, IDENTITY_VERDICT_MS } from "../limits.ts";

/** `always`: the later has it; `never`: the earlier, as libzmq does unless told otherwise. */
export type Takeover = "probe" | "never" | "always";

export type Verdict = "handed-over" | "lives" | "unclear";

/** A connection that has an identity. */
export interface Holder {
  /** Is it over? */
  readonly over: boolean;
  /** Held back by us, it cannot be heard; and a peer of ZMTP 3.0 cannot be asked: it counts as alive. */
  readonly mute: boolean;
  /** Grows with each read that brings something, and while it takes what is sent to it. */
  readonly signs: number;
  /** How often it has answered. */
  readonly answers: number;
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
  readonly answers: number;
  readonly decided: (verdict: Verdict) => void;
  /** Looks, and not time: a program that stood still has not listened. */
  looks: number;
}

export class Claims<H extends Holder, C extends Claimant> {
  readonly #clock: Clock;
  readonly #takeover: Takeover;
  readonly #claims = new Map<string, Claim<H, C>>();
  /** What was found of a holder last, and until when that holds. */
  readonly #found = new WeakMap<H, { verdict: Verdict; until: number }>();
  #cancel: Cancel | null = null;

  constructor(clock: Clock, takeover: Takeover) {
    this.#clock = clock;
    this.#takeover = takeover;
  }

  /**
   * A claimant of the name that a holder has.
   *
   * @param decided Called later, where this returns null.
   * @returns The verdict, where it is known at once.
   */
  claim(name: string, holder: H, claimant: C, decided: (verdict: Verdict) => void): Verdict | null {
    if (this.#takeover === "always" || holder.over) return "handed-over";
    const before = this.#claims.get(name);
    if (this.#takeover === "never" || holder.mute || (before !== undefined && !before.claimant.over)) {
      return "unclear";
    }
    const found = this.#found.get(holder);
    if (found !== undefined && found.until > this.#clock.now()) return found.verdict;
    const { signs, answers } = holder;
    this.#claims.set(name, { holder, claimant, signs, answers, decided, looks: 0 });
    this.#cancel ??= this.#clock.every(LOOK_MS, () => this.#look());
    // What is on its way to it goes before our question: whoever takes that lives.
    holder.ask();
    return null;
  }

  #look(): void {
    for (const [name, claim] of this.#claims) {
      const { holder, signs, answers } = claim;
      if (holder.over) this.#decide(name, claim, "handed-over");
      else if (holder.mute) this.#decide(name, claim, "unclear");
      else if (holder.answers !== answers) this.#decide(name, claim, this.#remember(holder, "lives"));
      else if (++claim.looks * LOOK_MS >= IDENTITY_PROBE_MS) {
        const silent = holder.signs === signs;
        this.#decide(name, claim, silent ? "handed-over" : this.#remember(holder, "unclear"));
      }
    }
    if (this.#claims.size === 0) this.close();
  }

  #decide(name: string, { claimant, decided }: Claim<H, C>, verdict: Verdict): void {
    this.#claims.delete(name);
    if (!claimant.over) decided(verdict);
  }

  #remember(holder: H, verdict: Verdict): Verdict {
    this.#found.set(holder, { verdict, until: this.#clock.now() + IDENTITY_VERDICT_MS });
    return verdict;
  }

  /** Nobody is asked any more. */
  close(): void {
    this.#cancel?.();
    this.#cancel = null;
    this.#claims.clear();
  }
}
