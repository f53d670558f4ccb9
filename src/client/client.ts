/** What a program uses to talk to a CC server: publish, query. */
import { hostname } from "node:os";
import { MESSAGE_MAX_BYTES, QUERIES_MAX } from "../limits.ts";
import type { Logger } from "../log.ts";
import { CCMessage, encodeMessage } from "../message/message.ts";
import { isType } from "../message/type.ts";
import { SYSTEM_CLOCK } from "../socket/context.ts";
import { systemContext } from "../socket/system.ts";
import { nativeEngine } from "../socket/native.ts";
import type { DealerSocket, MessageSink, Source } from "../socket/types.ts";
import { bodyStart, copyOf, frameEnd } from "../zmtp/frame.ts";

const NO_PREFIX = new Uint8Array(0);

/** Something a client asked for did not come about. */
export class ClientError extends Error {
  override name = "ClientError";
  /** `unreachable`: no connection in time; `timeout`: no reply in time; `closed`: the client was closed. */
  readonly code: "unreachable" | "timeout" | "closed" | "too-many-queries";
  constructor(code: ClientError["code"], message: string) {
    super(message);
    this.code = code;
  }
}

/** A reply to a query. */
export interface Reply {
  type: string;
  /** The JSON object of the body. */
  body: Record<string, unknown>;
  blob: Uint8Array;
}

/** Options of a client. */
export interface ClientOptions {
  log: Logger;
  /** Messages that may wait; {@link CCClient.publish} waits beyond. Default 1000. */
  hwm?: number;
  /** How this host is called in messages. */
  hostname?: string;
}

/** Options of one message. */
export interface SendOptions {
  blob?: Uint8Array;
}

interface Waiting {
  resolve(reply: Reply): void;
  reject(error: Error): void;
  cancel(): void;
}

/**
 * A client of one CC server. It connects in the background, and again whenever the link breaks.
 *
 * @example
 * ```ts
 * const client = new CCClient("tcp://127.0.0.1:10000", { log });
 * await client.publish("log.info", { log_level: "INFO", log_msg: "hello", log_time: Date.now() / 1000 });
 * const { body } = await client.query("echo.request", { target: "" });
 * await client.close();
 * ```
 */
export class CCClient {
  readonly endpoint: string;
  readonly #dealer: DealerSocket;
  readonly #hostname: string;
  readonly #clock = SYSTEM_CLOCK;
  readonly #waiting = new Map<string, Waiting>();
  readonly #upWaits = new Set<() => void>();
  readonly #hwm: number;
  /** Publishers that have not sent yet; all but the first of them wait in the queue for their turn. */
  #publishers = 0;
  readonly #queue: (() => void)[] = [];
  readonly #changes: (() => void)[] = [];
  #serial = 0;
  /** The queue is full: the server is there, but slow. */
  #full = false;
  #closed = false;

  /** @throws {EndpointError} */
  constructor(endpoint: string, options: ClientOptions) {
    this.endpoint = endpoint;
    this.#hostname = options.hostname ?? hostname();
    const context = systemContext(options.log);
    this.#hwm = options.hwm ?? 1000;
    this.#dealer = nativeEngine(context).dealer(
      endpoint,
      {
        hwm: this.#hwm,
        receiveBufferBytes: 0,
        sendBufferBytes: 0,
        keepAlive: { idleSeconds: 240, intervalSeconds: 15, count: 4 },
        messageMaxBytes: MESSAGE_MAX_BYTES,
      },
      this.#sink,
      { up: () => this.#isUp() },
    );
  }

  /** Is the server there? */
  get up(): boolean {
    return this.#dealer.up;
  }

  /** Messages that were dropped, because the server was away and too many waited. */
  get dropped(): number {
    return this.#dealer.drops.total;
  }

  /**
   * Waits until the server is there.
   *
   * @throws {ClientError} `unreachable`: not within `timeoutMs`.
   */
  ready(timeoutMs: number): Promise<void> {
    if (this.#dealer.up) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const done = () => {
        cancel();
        resolve();
      };
      const cancel = this.#clock.after(timeoutMs, () => {
        this.#upWaits.delete(done);
        reject(
          new ClientError("unreachable", `no answer from ${this.endpoint} within ${timeoutMs / 1000} s`),
        );
      });
      this.#upWaits.add(done);
    });
  }

  /**
   * Sends a message that expects no reply. Resolves when it is queued and there is room for another: while the server is
   * away and `hwm` messages wait already, not before it is back.
   *
   * @param fields Those of the type; `req`, `time`, `hostname` and `blob_hash` are added.
   * @throws {TypeError} `type` is no message type.
   * @throws {ClientError} `closed`.
   */
  async publish(type: string, fields: Record<string, unknown>, options: SendOptions = {}): Promise<void> {
    if (this.#publishers > 0 || this.#blocked) await this.#turn();
    else this.#publishers++;
    try {
      this.#send([], type, fields, options.blob);
    } finally {
      this.#publishers--;
      this.#endTurn();
    }
    while (this.#full && !this.#closed) await this.#change();
  }

  /**
   * Sends a message and waits for its reply. The reply is recognised by a route frame of our own, so that any number of
   * queries may be under way.
   *
   * @throws {ClientError} `timeout`: none within `timeoutMs`.
   */
  query(
    type: string,
    fields: Record<string, unknown>,
    options: SendOptions & { timeoutMs?: number } = {},
  ): Promise<Reply> {
    const { timeoutMs = 5000, blob } = options;
    if (this.#waiting.size >= QUERIES_MAX) {
      return Promise.reject(
        new ClientError("too-many-queries", `${QUERIES_MAX} queries wait for a reply already`),
      );
    }
    const id = `Q${String(++this.#serial).padStart(6, "0")}`;
    return new Promise((resolve, reject) => {
      const cancel = this.#clock.after(timeoutMs, () => {
        this.#waiting.delete(id);
        reject(
          new ClientError(
            "timeout",
            `no reply to "${type}" from ${this.endpoint} within ${timeoutMs / 1000} s`,
          ),
        );
      });
      this.#waiting.set(id, { resolve, reject, cancel });
      try {
        this.#send([new TextEncoder().encode(id)], type, fields, blob);
      } catch (error) {
        this.#waiting.delete(id);
        cancel();
        reject(error);
      }
    });
  }

  /** Waits up to `lingerMs` for what is queued, then ends the connection. Queries under way fail. */
  async close(lingerMs = 500): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const { reject, cancel } of this.#waiting.values()) {
      cancel();
      reject(new ClientError("closed", "the client was closed"));
    }
    this.#waiting.clear();
    this.#changed();
    await this.#dealer.close(lingerMs);
  }

  #send(
    route: Uint8Array[],
    type: string,
    fields: Record<string, unknown>,
    blob: Uint8Array | undefined,
  ): void {
    if (this.#closed) throw new ClientError("closed", "the client was closed");
    const message = encodeMessage(route, type, fields, { hostname: this.#hostname, blob });
    if (this.#dealer.send(NO_PREFIX, message, 0, message.length, true)) return;
    if (!this.#full) this.#dealer.hold(this.#source);
  }

  /** What the DEALER holds while its queue is full. */
  readonly #source: Source = {
    prefix: NO_PREFIX,
    name: "this program",
    hold: () => this.#full = true,
    release: () => {
      this.#full = false;
      this.#changed();
    },
  };

  /** Is there no room for a message now, because the server is slow, or away and the queue full? */
  get #blocked(): boolean {
    if (this.#closed) return false;
    return this.#full || (!this.#dealer.up && this.#dealer.queued >= this.#hwm);
  }

  /** Waits until the publishers before have had their turn, and there is room. */
  async #turn(): Promise<void> {
    if (this.#publishers++ > 0) await new Promise<void>((resolve) => this.#queue.push(resolve));
    while (this.#blocked) await this.#change();
  }

  #endTurn(): void {
    this.#queue.shift()?.();
  }

  /** Resolves when the server is there, has room again, or the client is closed. */
  #change(): Promise<void> {
    return new Promise((resolve) => this.#changes.push(resolve));
  }

  #changed(): void {
    for (const resolve of this.#changes.splice(0)) resolve();
  }

  #isUp(): void {
    this.#changed();
    for (const done of this.#upWaits) done();
    this.#upWaits.clear();
  }

  readonly #sink: MessageSink = {
    message: (source, buf, start, end, delimiter, tail, owned) => {
      if (delimiter <= start || tail < 2) return; // not a reply to a query
      const waiting = this.#take(buf, start);
      if (waiting === undefined) return; // too late: its query has timed out
      waiting.cancel();
      const view = new CCMessage();
      const header = frameEnd(buf, delimiter);
      const type = new TextDecoder().decode(buf.subarray(bodyStart(buf, header), frameEnd(buf, header)));
      view.set(source, buf, start, end, delimiter, owned, type);
      try {
        if (!isType(type)) throw new TypeError("the reply's type is not a message type");
        const body = JSON.parse(new TextDecoder().decode(view.body)) as Record<string, unknown>;
        waiting.resolve({ type, body, blob: copyOf(view.blob) });
      } catch (error) {
        waiting.reject(error as Error);
      }
    },
    chunkEnd() {},
  };

  #take(buf: Uint8Array, start: number): Waiting | undefined {
    const id = new TextDecoder().decode(buf.subarray(bodyStart(buf, start), frameEnd(buf, start)));
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }
}
