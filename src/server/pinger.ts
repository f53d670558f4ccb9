/** Asks an upstream for an echo every so often, and warns when none comes. */
import type { Cancel, Environment } from "../contracts/environment.ts";
import type { Logger } from "../log.ts";
import type { EchoResponse } from "../message/schemas.ts";

/** No pong for so long: warn. A pong that took longer is logged with its round trip. */
const LATE_MS = 5000;

export class Pinger {
  readonly #environment: Environment;
  readonly #log: Logger;
  readonly #endpoint: string;
  readonly #periodMs: number;
  readonly #cancel: Cancel;
  #lastPong: number;
  #lookedAt: number;
  /** Pings that were not answered. */
  #out = 0;
  #warned = false;
  /** The latest one in seconds; null: none yet. */
  roundTripSeconds: number | null = null;

  /** @param send Sends an `echo.request` to the server at `endpoint`. */
  constructor(environment: Environment, log: Logger, endpoint: string, periodMs: number, send: () => void) {
    this.#environment = environment;
    this.#log = log;
    this.#endpoint = endpoint;
    this.#periodMs = periodMs;
    this.#lastPong = this.#lookedAt = environment.clock.now();
    const ping = () => {
      this.#out++;
      send();
    };
    this.#cancel = environment.clock.every(periodMs, () => {
      this.#look();
      ping();
    });
    ping();
  }

  /** An `echo.response` came from the server. */
  pong(response: EchoResponse): void {
    // One that answers what was not asked is not listened to.
    if (this.#out === 0) return;
    this.#out--;
    const { clock } = this.#environment;
    this.#lastPong = clock.now();
    const roundTripMs = response.orig_time == null ? 0 : clock.time() - response.orig_time * 1000;
    if (this.#warned || roundTripMs > LATE_MS) {
      this.#log.info(
        "pong",
        `${this.#endpoint} answers again, round trip ${(roundTripMs / 1000).toFixed(3)} s`,
      );
    }
    this.#warned = false;
    // The time comes back from the other side, which may say anything.
    if (response.orig_time != null && roundTripMs >= 0 && Number.isFinite(roundTripMs)) {
      this.roundTripSeconds = roundTripMs / 1000;
    }
  }

  /** The upstream is there again: what was measured before is of another link. */
  up(): void {
    this.#lastPong = this.#environment.clock.now();
    this.roundTripSeconds = null;
    this.#out = 0;
  }

  close(): void {
    this.#cancel();
  }

  #look(): void {
    const now = this.#environment.clock.now();
    // A process that was stopped for a while has not asked meanwhile.
    const slept = now - this.#lookedAt > 2 * this.#periodMs + LATE_MS / 2;
    this.#lookedAt = now;
    if (slept) this.#lastPong = now;
    const silent = now - this.#lastPong;
    if (silent <= LATE_MS) return;
    const text = `no pong from ${this.#endpoint} for ${Math.round(silent / 1000)} s`;
    this.#log.warnRarely("ping", this.#endpoint, text);
    this.#warned = true;
  }
}
