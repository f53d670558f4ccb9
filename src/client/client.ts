/** The client of one CC server. */
import type { Clock, Environment } from "../contracts/environment.ts";
import type { Draft } from "../contracts/message.ts";
import type { OpenedParts, Seal } from "../contracts/seal.ts";
import { CCError, errorText } from "../errors.ts";
import { IDENTITY_MAX_BYTES, MESSAGE_MAX_BYTES, QUERIES_MAX } from "../limits.ts";
import type { Logger } from "../log.ts";
import { Block } from "../memory/block.ts";
import { encodeMessage } from "../message/draft.ts";
import { MessageParts, typeBehind } from "../message/parts.ts";
import { SocketContext } from "../socket/context.ts";
import { Dealer } from "../socket/dealer.ts";
import type { MessageSink, Source } from "../socket/types.ts";
import { latin1, utf8 } from "../text.ts";
import { bodyStart, copyOf, encodeFrame, frameEnd, MORE } from "../zmtp/frame.ts";
import { ClientError } from "./errors.ts";
import { Inbox, type InboxOptions } from "./inbox.ts";
import { Turns, type Wait, waiting } from "./turns.ts";
import type { ClientLike, ClientOptions, Received } from "./types.ts";

const NO_IDENTITY = new Uint8Array(0);
const NO_ROUTE = new Uint8Array(0);
const KEEP_ALIVE = { idleSeconds: 240, intervalSeconds: 15, count: 4 };
const HIGH_WATER_MARK = 1000;
const QUERY_TIMEOUT_MS = 5000;
const LINGER_MS = 500;
/** Query ids are `Q` and so many hexadecimal digits, counted up from a random number. */
const ID_DIGITS = 12;

/** A query that waits for its reply. */
interface Pending {
  /** Of the messages sent, the how manieth it was. */
  readonly sent: number;
  resolve(received: Received): void;
  reject(error: Error): void;
}

/** What a client cannot do without. */
export type ClientParts =
  & Omit<ClientOptions, "environment" | "log" | "seal">
  & Required<Pick<ClientOptions, "environment" | "log" | "seal">>;

export class Client implements ClientLike, MessageSink {
  readonly endpoint: string;
  readonly #environment: Environment;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #seal: Seal;
  readonly #dealer: Dealer;
  readonly #highWaterMark: number;
  readonly #turns: Turns;
  readonly #pending = new Map<string, Pending>();
  readonly #inboxes = new Set<Inbox>();
  /** Those who wait for the server to be there. */
  readonly #upWaits = new Set<(error: ClientError | null) => void>();
  /** Those who wait no longer than until it is known that the server is not there. */
  readonly #firstTries = new Set<(error: ClientError | null) => void>();
  /** Why the last try to reach it failed. */
  #failure = "";
  /** Those whose message is queued and who wait for room for another. */
  readonly #roomWaits = new Set<() => void>();
  readonly #ownDrops = new Map<string, number>();
  #serial: number;
  /** Messages that were queued since the start. */
  #sent = 0;
  /** The queue is full: the server is there, but slow. */
  #full = false;
  #closed = false;

  /**
   * @throws {EndpointError}
   * @throws {CCError} `bad-name`
   */
  constructor(endpoint: string, parts: ClientParts) {
    const { environment, log, seal, name = "", highWaterMark = HIGH_WATER_MARK, onChange } = parts;
    this.endpoint = endpoint;
    this.#environment = environment;
    this.#clock = environment.clock;
    this.#log = log;
    this.#seal = seal;
    this.#highWaterMark = highWaterMark;
    this.#turns = new Turns(this.#clock, () => !this.#blocked);
    // Not to be guessed, so that a stray answer is never taken for one of ours.
    this.#serial = Math.floor(environment.random() * 2 ** 47);
    this.#dealer = new Dealer(
      new SocketContext(environment, log),
      endpoint,
      {
        hwm: highWaterMark,
        receiveBufferBytes: 0,
        sendBufferBytes: 0,
        keepAlive: KEEP_ALIVE,
        messageMaxBytes: MESSAGE_MAX_BYTES,
        identity: identityOf(name),
      },
      this,
      {
        up: () => {
          this.#failure = "";
          for (const done of this.#upWaits) done(null);
          this.#upWaits.clear();
          this.#turns.next();
          onChange?.(true, "");
        },
        down: (why) => {
          this.#failSent(why);
          onChange?.(false, why);
        },
        failed: (why) => {
          // Some say where; who is told knows.
          if (why.startsWith(`${this.endpoint}: `)) why = why.slice(this.endpoint.length + 2);
          this.#failure = why;
          const text = `${this.endpoint} cannot be reached: ${why}`;
          for (const done of this.#firstTries) done(new ClientError("unreachable", text));
        },
      },
    );
  }

  get up(): boolean {
    return this.#dealer.up;
  }

  get drops(): ReadonlyMap<string, number> {
    return new Map<string, number>([...this.#dealer.drops.byReason, ...this.#ownDrops]);
  }

  ready(options: Wait = {}): Promise<void> {
    return this.#untilUp(options, false);
  }

  /** The same, for one who does not wait until a server comes: the first try that fails is its answer. */
  reach(options: Wait): Promise<void> {
    return this.#untilUp(options, true);
  }

  async #untilUp(options: Wait, once: boolean): Promise<void> {
    if (this.#closed) throw closedError();
    if (this.up) return;
    try {
      await waiting(this.#clock, options, `no answer from ${this.endpoint}`, (done, fail) => {
        const end = () => {
          this.#upWaits.delete(wait);
          this.#firstTries.delete(wait);
        };
        const wait = (error: ClientError | null) => {
          end();
          if (error === null) done();
          else fail(error);
        };
        this.#upWaits.add(wait);
        if (once) this.#firstTries.add(wait);
        return end;
      });
    } catch (error) {
      const caused = this.#withCause(error);
      if (caused instanceof ClientError && caused.code === "timeout") {
        throw new ClientError("unreachable", caused.message);
      }
      throw caused;
    }
  }

  async publish(draft: Draft, options: Wait = {}): Promise<void> {
    const { clock } = this.#environment;
    const { timeoutMs = Infinity, signal } = options;
    const until = clock.now() + timeoutMs;
    await this.#submit(NO_ROUTE, draft, options);
    if (!this.#full) return;
    // It is queued: that whoever sends it waits no longer takes nothing back.
    const wait = { timeoutMs: Math.max(0, until - clock.now()), signal };
    await waiting(clock, wait, "there was no room", (done) => {
      this.#roomWaits.add(done);
      return () => void this.#roomWaits.delete(done);
    }).catch(() => {});
  }

  async query(draft: Draft, { timeoutMs = QUERY_TIMEOUT_MS, signal }: Wait = {}): Promise<Received> {
    if (this.#pending.size >= QUERIES_MAX) {
      throw new ClientError("too-many-queries", `${QUERIES_MAX} queries wait for a reply already`);
    }
    const what = `no reply to "${draft.type}" from ${this.endpoint}`;
    const id = this.#nextId();
    const reply = new Promise<Received>((resolve, reject) => {
      const sent = () => this.#pending.set(id, { sent: this.#sent, resolve, reject });
      this.#submit(encodeFrame(utf8(id), MORE), draft, { timeoutMs, signal }, what, sent).catch(reject);
    });
    reply.catch(() => {/* whoever waits below is told */});
    try {
      return await waiting<Received>(
        this.#clock,
        { timeoutMs, signal },
        what,
        (resolve, reject) => {
          reply.then(resolve, reject);
          return () => void this.#pending.delete(id);
        },
      );
    } catch (error) {
      throw this.#withCause(error);
    }
  }

  /** Where there was no link, why. */
  #withCause(error: unknown): unknown {
    const late = error instanceof ClientError && error.code === "timeout";
    return late && this.#failure !== ""
      ? new ClientError("timeout", `${error.message}: ${this.#failure}`)
      : error;
  }

  messages(options: InboxOptions = {}): AsyncIterableIterator<Received> {
    const inbox = new Inbox(options, this.#highWaterMark, (ended) => void this.#inboxes.delete(ended));
    if (this.#closed) inbox.end();
    else if (!options.signal?.aborted) this.#inboxes.add(inbox);
    return inbox;
  }

  async close(lingerMs: number = LINGER_MS): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const error = closedError();
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    for (const done of this.#upWaits) done(error);
    this.#upWaits.clear();
    this.#turns.close(error);
    this.#haveRoom();
    for (const inbox of [...this.#inboxes]) inbox.end();
    await this.#dealer.close(lingerMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A message, or a reply, from the server. */
  message(
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    framesAfterDelimiter: number,
  ): void {
    const pending = this.#takePending(buf, start, delimiter);
    const type = typeBehind(buf, delimiter, framesAfterDelimiter);
    if (type === null) {
      if (pending === undefined) this.#drop("invalid");
      pending?.reject(
        new ClientError("bad-reply", `${this.endpoint} answered with what is no CC message`),
      );
      return;
    }
    if (pending === undefined && !this.#wanted(type)) {
      this.#drop(delimiter > start ? "late" : "unasked");
      return;
    }
    // What is opened later, or kept, must not lie in memory that is used again.
    const parts = new MessageParts(type, copyOf(buf, delimiter, end), 0);
    try {
      const opened = this.#seal.open(parts);
      if (opened instanceof Promise) this.#takeLater(opened, type, pending, source);
      else this.#takeOpened(opened, type, pending, source);
    } catch (error) {
      this.#unreadable(error, pending);
    }
  }

  chunkEnd(): void {}

  /** Nothing more comes until then: messages keep their order. */
  async #takeLater(
    opened: Promise<OpenedParts>,
    type: string,
    pending: Pending | undefined,
    source: Source,
  ): Promise<void> {
    source.pause();
    try {
      this.#takeOpened(await opened, type, pending, source);
    } catch (error) {
      this.#unreadable(error, pending);
    } finally {
      source.resume();
    }
  }

  #takeOpened(opened: OpenedParts, type: string, pending: Pending | undefined, source: Source): void {
    const claim = opened.claim?.();
    if (claim !== undefined && claim.state !== "new") {
      this.#drop("duplicate");
      pending?.reject(new ClientError("bad-reply", "the reply is a copy of one that has come before"));
      return;
    }
    claim?.settle(true);
    this.#take(readOpened(type, opened), pending, source);
  }

  #take(received: Received, pending: Pending | undefined, source: Source): void {
    const { type } = received;
    if (pending === undefined) this.#deliver(received, source);
    else if (type === "error" || type.startsWith("error.")) pending.reject(refused(received));
    else pending.resolve(received);
  }

  #unreadable(error: unknown, pending: Pending | undefined): void {
    if (pending === undefined) this.#drop("unreadable");
    pending?.reject(error instanceof CCError ? error : new ClientError("bad-reply", errorText(error)));
  }

  #wanted(type: string): boolean {
    for (const inbox of this.#inboxes) if (inbox.wants(type)) return true;
    return false;
  }

  #deliver(received: Received, source: Source): void {
    let wanted = false;
    for (const inbox of this.#inboxes) {
      if (!inbox.wants(received.type)) continue;
      inbox.put(received, source);
      wanted = true;
    }
    if (!wanted) this.#drop("unasked");
  }

  /** The query that a message answers, by its first route frame; it waits no longer. */
  #takePending(buf: Uint8Array, start: number, delimiter: number): Pending | undefined {
    if (delimiter <= start || buf[bodyStart(buf, start)] !== 0x51 /* Q */) return undefined;
    const next = frameEnd(buf, start);
    if (next !== delimiter || next - start !== 2 + 1 + ID_DIGITS) return undefined;
    const id = latin1(buf, bodyStart(buf, start), next);
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  #nextId(): string {
    this.#serial = (this.#serial + 1) % 2 ** 48;
    return `Q${this.#serial.toString(16).padStart(ID_DIGITS, "0")}`;
  }

  /** Has a turn, seals the draft and queues it. */
  async #submit(
    route: Uint8Array,
    draft: Draft,
    wait: Wait,
    what = `"${draft.type}" was not taken by ${this.endpoint}`,
    sent: () => void = () => {},
  ): Promise<void> {
    if (this.#closed) throw closedError();
    if (!this.#turns.tryBegin()) await this.#turns.begin(wait, what);
    try {
      const { type, fields, blob } = draft;
      const { clock, host } = this.#environment;
      const sealed = this.#seal.seal({ type, fields, blob, time: clock.time() / 1000, hostname: host.name });
      this.#send(encodeMessage(route, sealed instanceof Promise ? await sealed : sealed));
      sent();
    } finally {
      this.#turns.end();
    }
  }

  #send(bytes: Uint8Array): void {
    if (this.#closed) throw closedError();
    const block = new Block(bytes, 0, bytes.length, null);
    const sent = this.#dealer.send(NO_IDENTITY, bytes, 0, bytes.length, block);
    if (sent === "dropped") throw new ClientError("unreachable", `${this.endpoint} takes no more messages`);
    this.#sent++;
    if (sent === "full" && !this.#full) this.#dealer.pause(this.#pausable);
  }

  /** What the DEALER pauses while its queue is full. */
  readonly #pausable: Source = {
    identityFrame: NO_IDENTITY,
    name: "this program",
    pause: () => this.#full = true,
    resume: () => this.#haveRoom(),
  };

  #haveRoom(): void {
    this.#full = false;
    for (const resolve of this.#roomWaits) resolve();
    this.#roomWaits.clear();
    this.#turns.next();
  }

  /** Is there no room for a message now, because the server is slow, or away and the queue full? */
  get #blocked(): boolean {
    if (this.#closed) return false;
    return this.#full || (!this.up && (this.#dealer.queued >= this.#highWaterMark || this.#dealer.full));
  }

  /** The link broke: queries that had been sent get no reply; those that wait in the queue are sent again. */
  #failSent(why: string): void {
    const written = this.#sent - this.#dealer.queued;
    for (const [id, { sent, reject }] of this.#pending) {
      if (sent > written) continue;
      this.#pending.delete(id);
      reject(new ClientError("unreachable", `${this.endpoint} went away before it had answered: ${why}`));
    }
  }

  #drop(reason: string): void {
    this.#ownDrops.set(reason, (this.#ownDrops.get(reason) ?? 0) + 1);
    const text = `dropping a message from ${this.endpoint}: ${DROP_TEXTS[reason]}`;
    this.#log.warnRarely("drop", `${reason} ${this.endpoint}`, text);
  }
}

const DROP_TEXTS: Readonly<Record<string, string>> = {
  late: "the query that it answers does not wait any more",
  unasked: "nobody takes such messages here",
  invalid: "it is not a CC message",
  unreadable: "its body cannot be read",
  duplicate: "it is a copy of one that has come before",
};

/** @throws {Error} Its body is no JSON object. */
function readOpened(type: string, { json, blob, signer }: OpenedParts): Received {
  const body = parseBody(json);
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new ClientError("bad-reply", `the body of "${type}" is not an object`);
  }
  return {
    type,
    body: body as Record<string, unknown>,
    blob: blob === null || blob.length === 0 ? null : blob,
    signer,
  };
}

function parseBody(json: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json));
  } catch {
    throw new ClientError("bad-reply", "its body is not JSON in UTF-8");
  }
}

function closedError(): ClientError {
  return new ClientError("closed", "the client was closed");
}

function refused({ body }: Received): ClientError {
  return new ClientError("refused", typeof body.msg === "string" ? body.msg : JSON.stringify(body));
}

/** @throws {CCError} `bad-name` */
function identityOf(name: string): Uint8Array {
  const identity = utf8(name);
  if (identity.length > IDENTITY_MAX_BYTES || identity[0] === 0) {
    throw new CCError(
      "bad-name",
      `a client's name has at most ${IDENTITY_MAX_BYTES} bytes, and begins with no zero byte`,
    );
  }
  return identity;
}
