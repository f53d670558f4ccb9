/** Asks a CC server for an echo every second, and warns when none comes. Used by echo and proxy. */
import type { HandlerContext } from "../handler.ts";
import { type CCMessage, encodeMessage, MessageError } from "../message/message.ts";
import { EchoResponse } from "../message/schemas.ts";

const PERIOD_MS = 1000;
/** No pong for so long: warn. A pong that took longer is logged with its round trip. */
const LATE_MS = 5000;

export class Pinger {
  readonly #context: HandlerContext<unknown>;
  readonly #endpoint: string;
  readonly #send: (message: Uint8Array) => void;
  #cancel: () => void = () => {};
  #lastPong: number;
  #warned = false;

  /** @param send Sends a message to the server at `endpoint`. */
  constructor(context: HandlerContext<unknown>, endpoint: string, send: (message: Uint8Array) => void) {
    this.#context = context;
    this.#endpoint = endpoint;
    this.#send = send;
    this.#lastPong = context.clock.now();
  }

  start(): void {
    const { clock } = this.#context;
    this.#lastPong = clock.now();
    const tick = () => {
      this.#ping();
      this.#cancel = clock.after(PERIOD_MS, tick);
    };
    tick();
  }

  stop(): void {
    this.#cancel();
  }

  /** An `echo.response` came from the server. */
  pong(message: CCMessage): void {
    const { clock, log } = this.#context;
    let response: EchoResponse;
    try {
      response = message.read(EchoResponse);
    } catch (error) {
      if (!(error instanceof MessageError)) throw error;
      log.limited("pong", this.#endpoint, `unreadable pong from ${this.#endpoint}: ${error.message}`);
      return;
    }
    this.#lastPong = clock.now();
    const rttMs = response.orig_time == null ? 0 : Date.now() - response.orig_time * 1000;
    if (this.#warned || rttMs > LATE_MS) {
      log.info("pong", `${this.#endpoint} answers again, round trip ${(rttMs / 1000).toFixed(3)} s`);
    }
    this.#warned = false;
    // The time comes back from the other side, which may say anything.
    if (response.orig_time != null && rttMs >= 0 && Number.isFinite(rttMs)) {
      this.#context.roundTrip(this.#endpoint, rttMs / 1000);
    }
  }

  #ping(): void {
    const { clock, hostname, log } = this.#context;
    const silent = clock.now() - this.#lastPong;
    if (silent > LATE_MS) {
      log.limited(
        "ping",
        this.#endpoint,
        `no pong from ${this.#endpoint} for ${Math.round(silent / 1000)} s`,
      );
      this.#warned = true;
    }
    this.#send(encodeMessage([], "echo.request", { target: this.#endpoint }, { hostname }));
  }
}
