/** A handler's connection to another CC server: what goes there, and what comes back. */
import type { Environment } from "../contracts/environment.ts";
import type { Upstream, UpstreamOptions } from "../contracts/handler.ts";
import type { Draft, Message, Outcome } from "../contracts/message.ts";
import type { Seal } from "../contracts/seal.ts";
import type { Logger } from "../log.ts";
import type { Block } from "../memory/block.ts";
import { ENCRYPTED_BYTES } from "../message/body.ts";
import { CCMessage, inside } from "../message/message.ts";
import { typeBehind } from "../message/parts.ts";
import { EchoResponse } from "../message/schemas.ts";
import type {
  DealerOptions,
  DealerSocket,
  Engine,
  MessageSink,
  RouterSocket,
  SocketOptions,
  Source,
} from "../socket/types.ts";
import type { HandlerCounter, Statistics } from "./counts.ts";
import type { Guard } from "./guard.ts";
import { type Body, BodyReader, isRefusal, openMessage, unsealedBody } from "./opener.ts";
import { Pinger } from "./pinger.ts";
import type { Post } from "./post.ts";

/** What an upstream needs of its handler and server. */
export interface UpstreamParts {
  readonly environment: Environment;
  /** The handler's. */
  readonly log: Logger;
  readonly guard: Guard;
  readonly engine: Engine;
  /** What the server's own socket has. */
  readonly socketOptions: SocketOptions;
  readonly lingerMs: number;
  readonly post: Post;
  readonly seal: Seal;
  readonly statistics: Statistics;
  readonly router: RouterSocket;
  /** Counts what came back without a way to go. */
  readonly unrouted: Pick<HandlerCounter, "add">;
}

function dealerOptions(options: UpstreamOptions, own: SocketOptions): DealerOptions {
  return {
    hwm: options.highWaterMark ?? own.hwm,
    receiveBufferBytes: options.receiveBufferBytes ?? own.receiveBufferBytes,
    sendBufferBytes: options.sendBufferBytes ?? own.sendBufferBytes,
    keepAlive: options.keepAlive === undefined ? own.keepAlive : options.keepAlive,
    messageMaxBytes: own.messageMaxBytes,
    minVersion: own.minVersion,
    stallMs: options.stallMs,
    reconnectMaxMs: options.reconnectMaxMs,
    awaitedMs: options.awaitedMs,
  };
}

const PONG = new BodyReader(EchoResponse);

export class HandlerUpstream implements Upstream, MessageSink {
  readonly endpoint: string;
  readonly dealer: DealerSocket;
  readonly #parts: UpstreamParts;
  #options: UpstreamOptions;
  #pinger: Pinger | null = null;

  /** @throws {EndpointError} */
  constructor(endpoint: string, options: UpstreamOptions, parts: UpstreamParts) {
    this.endpoint = endpoint;
    this.#parts = parts;
    this.#options = options;
    const { guard, socketOptions } = parts;
    this.dealer = parts.engine.dealer(endpoint, dealerOptions(options, socketOptions), this, {
      up: () => {
        this.#pinger?.up();
        guard.call("onChange", () => this.#options.onChange?.(true, ""));
      },
      down: (why) => guard.call("onChange", () => this.#options.onChange?.(false, why)),
    });
    this.#pingEvery(options.pingMs);
  }

  reconfigure(options: UpstreamOptions): void {
    const before = this.#options;
    this.#options = options;
    this.dealer.reconfigure(dealerOptions(options, this.#parts.socketOptions));
    if (options.pingMs === before.pingMs) return;
    this.stopPinging();
    this.#pingEvery(options.pingMs);
  }

  #pingEvery(ms = 0): void {
    const { environment, log } = this.#parts;
    this.#pinger = ms > 0 ? new Pinger(environment, log, this.endpoint, ms, () => this.#ping()) : null;
  }

  get up(): boolean {
    return this.dealer.up;
  }

  get queued(): number {
    return this.dealer.queued;
  }

  /** The latest ping's; null where nothing was pinged, nothing answered yet, or the upstream is down. */
  get roundTripSeconds(): number | null {
    // Of one that is away, the latest says nothing.
    return this.#pinger === null || !this.up ? null : this.#pinger.roundTripSeconds;
  }

  send(what: Draft | Message): Outcome | Promise<Outcome> {
    return this.#parts.post.toUpstream(this.dealer, what);
  }

  /** No more pings; what comes back still goes to its clients. */
  stopPinging(): void {
    this.#pinger?.close();
  }

  /** Waits for what is queued, at most linger, its own or `lingerMs`. */
  async close(lingerMs: number): Promise<void> {
    this.stopPinging();
    await this.dealer.close(Math.min(lingerMs, this.#options.lingerMs ?? this.#parts.lingerMs));
  }

  /** What came back: a reply's route tells the client; what has none is for the handler. */
  message(
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    framesAfterDelimiter: number,
    block: Block | null,
  ): void {
    if (delimiter <= start) {
      this.#unrouted(source, buf, start, end, delimiter, framesAfterDelimiter, block);
    } else if (this.#parts.router.send(buf, start, end, block)) {
      this.#parts.statistics.reply(end - start);
    }
  }

  chunkEnd(): void {}

  #unrouted(
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    framesAfterDelimiter: number,
    block: Block | null,
  ): void {
    const { guard, post } = this.#parts;
    const type = typeBehind(buf, delimiter, framesAfterDelimiter);
    if (type === null) return this.#drop("not a CC message");
    const pong = type === "echo.response" && this.#pinger !== null;
    if (!pong && this.#options.onMessage === undefined) return this.#drop(`"${type}" without a route`);
    const message = new CCMessage(post, type, source.identityFrame, buf, start, end, delimiter, block);
    inside.enter(message);
    try {
      if (pong) this.#takePong(message);
      else guard.call("onMessage", () => this.#options.onMessage!(message));
    } finally {
      inside.leave(message);
    }
  }

  #takePong(message: CCMessage): void {
    try {
      // Whether the link lives needs no signature: the upstream may not sign.
      const encrypted = inside.parts(message).body.length <= ENCRYPTED_BYTES;
      const { seal, guard } = this.#parts;
      const body = encrypted ? openMessage(message, seal, false, false) : unsealedBody(message, false);
      if (body instanceof Promise) guard.call("pong", () => this.#takePongLater(message, body));
      else this.#pinger!.pong(PONG.read(body) as EchoResponse);
    } catch (error) {
      this.#unreadablePong(error);
    }
  }

  async #takePongLater(message: CCMessage, opened: Promise<Body>): Promise<void> {
    inside.enter(message);
    try {
      const body = await opened;
      this.#pinger?.pong(PONG.read(body) as EchoResponse);
    } catch (error) {
      this.#unreadablePong(error);
    } finally {
      inside.leave(message);
    }
  }

  #unreadablePong(error: unknown): void {
    if (!isRefusal(error)) throw error;
    const text = `unreadable pong from ${this.endpoint}: ${error.message}`;
    this.#parts.log.warnRarely("pong", this.endpoint, text);
  }

  #drop(what: string): void {
    this.#parts.unrouted.add();
    const text = `dropping a reply from ${this.endpoint}: ${what}`;
    this.#parts.log.warnRarely("reply", `${this.endpoint} ${what}`, text);
  }

  #ping(): void {
    // One that is away is not asked: what it would answer later is no answer.
    if (!this.dealer.up) return;
    this.send({ type: "echo.request", fields: { target: this.endpoint } });
  }
}
