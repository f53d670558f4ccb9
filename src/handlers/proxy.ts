/**
 * Forwards to another CC server: messages go out with their client's identity in front, else unchanged, and replies come
 * back along it. While the other server is slow, the clients that send to it are held back; while it is down, messages
 * wait up to the high water mark, and the newest after that are dropped and counted.
 */
import type { ProxyOptions } from "../config/schemas.ts";
import type { Handler, HandlerContext } from "../handler.ts";
import type { CCMessage } from "../message/message.ts";
import type { DealerSocket, MessageSink, Source } from "../socket/types.ts";
import { socketOptions } from "../config/socket_options.ts";
import { Pinger } from "./pinger.ts";
import { ResponseSink } from "./response_sink.ts";

const NO_PREFIX = new Uint8Array(0);

export function proxy(context: HandlerContext<ProxyOptions>): Handler {
  return new Proxy(context);
}

class Proxy implements Handler, MessageSink {
  readonly #context: HandlerContext<ProxyOptions>;
  readonly #endpoint: string;
  forwardsTo!: DealerSocket;
  #pinger: Pinger | null = null;
  /** For replies without a route of their own: pongs. */
  readonly #own = new ResponseSink(
    (message) => this.#unrouted(message),
    () => this.#dropped("not a CC message"),
  );

  constructor(context: HandlerContext<ProxyOptions>) {
    this.#context = context;
    this.#endpoint = context.options["remote-cc"];
  }

  start(): void {
    const { options, log } = this.#context;
    this.forwardsTo = this.#context.dealer(
      this.#endpoint,
      { ...socketOptions(options), stallMs: options["stall-timeout"] * 1000 },
      this,
      {
        up: () => log.info("connect", `${this.#endpoint} is up`),
        down: (why) => log.warn("connect", `${this.#endpoint} is down: ${why}`),
      },
    );
    if (!options.ping) return;
    this.#pinger = new Pinger(this.#context, this.#endpoint, (ping) => {
      if (this.forwardsTo.up) this.forwardsTo.send(NO_PREFIX, ping, 0, ping.length, true);
    });
    this.#pinger.start();
  }

  handle(message: CCMessage): void {
    const { prefix, buf, start, end, owned, source } = message;
    if (!this.forwardsTo.send(prefix, buf, start, end, owned) && source !== null) {
      this.forwardsTo.hold(source);
    }
  }

  /** A reply: its route tells the client. */
  message(
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    tail: number,
    owned: boolean,
  ): void {
    if (delimiter > start) this.#context.toClient(buf, start, end, owned);
    else this.#own.message(source, buf, start, end, delimiter, tail, owned);
  }

  chunkEnd(): void {}

  async stop(lingerMs: number): Promise<void> {
    this.#pinger?.stop();
    await this.forwardsTo?.close(Math.min(lingerMs, this.#context.options.zmq_linger));
  }

  #unrouted(message: CCMessage): void {
    if (message.type === "echo.response" && this.#pinger !== null) this.#pinger.pong(message);
    else this.#dropped(`"${message.type}" without a route`);
  }

  #dropped(what: string): void {
    this.#context.count("dropped_routes");
    this.#context.log.limited("reply", what, `dropping a reply from ${this.#endpoint}: ${what}`);
  }
}
