/** The time to live of a peer's PING (RFC 37): the peer has promised to send something within so long. */
import type { Cancel, Clock } from "../contracts/environment.ts";

/** A peer whose time is over is looked at again so much later: what it has sent may not have been read yet. */
const LAST_LOOK_MS = 100;

/** A peer that has promised. */
export interface Promising {
  /** Grows with each read that brings something. */
  readonly chunks: number;
  /** Do we not read from it? */
  readonly heldBack: boolean;
  /** It has sent nothing for so long. */
  silent(ms: number): void;
}

export class TimeToLive {
  readonly #clock: Clock;
  readonly #peer: Promising;
  /** Of the last PING, since when it counts, and how much had come by then. */
  #ms = 0;
  #since = 0;
  #chunks = 0;
  /** When it is looked for next; and was that time over when it was looked for before? */
  #looksAt = 0;
  #wasSilent = false;
  #cancel: Cancel | null = null;

  constructor(clock: Clock, peer: Promising) {
    this.#clock = clock;
    this.#peer = peer;
  }

  /** A PING came; 0: it promises nothing. */
  pinged(ms: number): void {
    const now = this.#clock.now();
    this.#ms = ms;
    this.#since = now;
    this.#chunks = this.#peer.chunks;
    this.#wasSilent = false;
    if (ms > 0) this.#lookAt(now + ms);
  }

  /** It is read from again: its time counts anew. */
  resumed(): void {
    this.#since = this.#clock.now();
  }

  /** Nobody is looked for any more. */
  close(): void {
    this.#ms = 0;
    this.#cancel?.();
    this.#cancel = null;
  }

  /** It is looked for then, or before. */
  #lookAt(at: number): void {
    if (this.#cancel !== null) {
      if (this.#looksAt <= at) return;
      this.#cancel();
    }
    this.#looksAt = at;
    this.#cancel = this.#clock.after(at - this.#clock.now(), () => this.#look());
  }

  #look(): void {
    this.#cancel = null;
    if (this.#ms === 0 || this.#peer.chunks !== this.#chunks) return;
    const now = this.#clock.now();
    // From one that is held back nothing is read.
    if (this.#peer.heldBack) this.#since = now;
    const until = this.#since + this.#ms;
    if (until > now) {
      this.#wasSilent = false;
      this.#lookAt(until);
    } else if (!this.#wasSilent) {
      // A program that stood still sees the time before what came.
      this.#wasSilent = true;
      this.#lookAt(now + LAST_LOOK_MS);
    } else {
      this.#peer.silent(this.#ms);
    }
  }
}
