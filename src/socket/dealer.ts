/**
 * A DEALER (RFC 28) that is connected to one endpoint: what is sent waits while the peer is away, up to the high water
 * mark, and goes out in order when it is there.
 */
import {
  EGRESS_FULL_BYTES,
  EGRESS_MAX_BYTES,
  RECONNECT_MAX_MS,
  RECONNECT_MIN_MS,
  UPSTREAM_EGRESS_FLOOR_BYTES,
  UPSTREAM_STALL_MS,
} from "../limits.ts";
import { type Logger, reason } from "../log.ts";
import type { Piece } from "../runtime/arena.ts";
import type { Address, Link } from "../runtime/types.ts";
import type { PeerProperties } from "../zmtp/handshake.ts";
import { Connection } from "./connection.ts";
import type { Context } from "./context.ts";
import { DropCounter } from "./drops.ts";
import { Egress } from "./egress.ts";
import { parseEndpoint } from "./endpoint.ts";
import type { DealerEvents, DealerOptions, DealerSocket, MessageSink, RunQueue, Source } from "./types.ts";
import { finish, waitEmpty, watchStall } from "./wait.ts";

const NO_PREFIX = new Uint8Array(0);

export class Dealer implements DealerSocket, RunQueue {
  readonly endpoint: string;
  readonly drops: DropCounter;
  readonly #context: Context;
  readonly #log: Logger;
  readonly #options: DealerOptions;
  readonly #sink: MessageSink;
  readonly #events: DealerEvents;
  readonly #address: Address;
  readonly #egress: Egress;
  readonly #held = new Set<Source>();
  #upstream: Upstream | null = null;
  #up = false;
  #closed = false;
  #receiving = true;
  #attempts = 0;
  /** Ends what is under way: an attempt to connect, or the wait before the next. */
  #cancel: () => void = () => {};
  #cancelStall: (() => void) | null = null;

  /** @throws {EndpointError} */
  constructor(
    context: Context,
    endpoint: string,
    options: DealerOptions,
    sink: MessageSink,
    events: DealerEvents = {},
  ) {
    this.#address = parseEndpoint(endpoint, "connect");
    this.endpoint = endpoint;
    this.#context = context;
    this.#log = context.log;
    this.#options = options;
    this.#sink = sink;
    this.#events = events;
    this.drops = new DropCounter(context.log);
    this.#egress = new Egress(context, {
      hwm: options.hwm,
      floorBytes: UPSTREAM_EGRESS_FLOOR_BYTES,
      fullBytes: EGRESS_FULL_BYTES,
      maxBytes: EGRESS_MAX_BYTES,
    });
    this.#egress.ondrained = () => this.#drained();
    this.#connect();
  }

  get up(): boolean {
    return this.#up;
  }

  get queued(): number {
    return this.#egress.unwritten;
  }

  send(prefix: Uint8Array, buf: Uint8Array, start: number, end: number, owned: boolean): boolean {
    const egress = this.#egress;
    if (this.#up) {
      if (egress.bytes >= EGRESS_MAX_BYTES) {
        this.drops.add("upstream-full", this.endpoint);
        return false;
      }
      egress.append(prefix, buf, start, end, owned);
      if (!egress.full || !this.#up) return true;
      this.#watchFull();
      return false;
    }
    if (this.#closed || egress.messages >= this.#options.hwm || egress.bytes >= EGRESS_MAX_BYTES) {
      this.drops.add("upstream-down", this.endpoint);
    } else {
      egress.append(prefix, buf, start, end, owned);
    }
    return true;
  }

  get runs(): RunQueue {
    return this;
  }

  runRoom(): number {
    return this.#up ? this.#egress.runRoom() : 0;
  }
  runLimit(): number {
    return this.#up ? this.#egress.runLimit() : 0;
  }
  get runBlock(): Piece | null {
    return this.#egress.runBlock;
  }
  get runAt(): number {
    return this.#egress.runAt;
  }
  ran(messages: number, bytes: number): void {
    this.#egress.ran(messages, bytes);
  }
  ranAs(block: Piece, at: number, messages: number, bytes: number): void {
    this.#egress.ranAs(block, at, messages, bytes);
  }

  get writesNow(): boolean {
    return this.#up && this.#egress.writesNow;
  }
  ranListed(prefix: Uint8Array, messages: number, bytes: number): void {
    this.#egress.ranListed(prefix, messages, bytes);
  }

  hold(source: Source): void {
    const egress = this.#egress;
    if (!this.#up || this.#held.has(source)) return;
    egress.press();
    if (!egress.full || !this.#up) return;
    this.#held.add(source);
    source.hold();
    this.#watchFull();
  }

  /** A queue that is full, and does not move for too long: the upstream counts as down. */
  #watchFull(): void {
    if (this.#cancelStall !== null) return;
    const stallMs = this.#options.stallMs ?? UPSTREAM_STALL_MS;
    this.#cancelStall = watchStall(this.#context.clock, this.#egress, stallMs, () => {
      const why = `it took nothing for ${stallMs / 1000} s while its queue was full`;
      this.#upstream?.close();
      this.lost(why);
    });
    this.#egress.watch();
  }

  stopReceiving(): void {
    this.#receiving = false;
    // One whose handshake is under way is held once that is done.
    if (this.#up) this.#upstream?.hold();
  }

  async close(lingerMs: number): Promise<void> {
    const { clock } = this.#context;
    const until = clock.now() + lingerMs;
    if (this.#receiving) this.stopReceiving();
    await waitEmpty(clock, [this.#egress], lingerMs);
    this.#closed = true;
    this.#cancel();
    if (this.#upstream !== null && this.#up) await finish(clock, [this.#upstream], until - clock.now());
    this.#upstream?.close();
    this.#releaseHeld();
    this.#up = false;
    this.drops.add("linger", this.endpoint, this.#egress.clear());
  }

  /** The handshake is done; called by the connection. */
  admitted(): void {
    this.#up = true;
    this.#attempts = 0;
    this.#log.debug("connect", `${this.endpoint} is up`);
    if (!this.#receiving) this.#upstream?.hold();
    this.#events.up?.();
  }

  /** The connection is over; called by it. */
  lost(why: string): void {
    const wasUp = this.#up;
    this.#up = false;
    this.#upstream = null;
    this.drops.add("link-lost", this.endpoint, this.#egress.detach());
    this.#releaseHeld();
    if (wasUp) this.#events.down?.(why);
    this.#retry(why);
  }

  /** There is room again: those that wait have their turn one after the other, until it is used up. */
  #drained(): void {
    this.#cancelStall?.();
    this.#cancelStall = null;
    queueMicrotask(this.#releaseNext);
  }

  readonly #releaseNext = (): void => {
    for (const source of this.#held) {
      if (this.#egress.full) {
        this.#watchFull();
        return;
      }
      this.#held.delete(source);
      source.release();
      queueMicrotask(this.#releaseNext);
      return;
    }
  };

  #releaseHeld(): void {
    this.#cancelStall?.();
    this.#cancelStall = null;
    for (const source of this.#held) source.release();
    this.#held.clear();
  }

  #retry(why: string): void {
    if (this.#closed) return;
    const { clock, environment } = this.#context;
    // Half of the wait is chance, so that a thousand hosts do not come back in step.
    const cap = Math.min(RECONNECT_MAX_MS, RECONNECT_MIN_MS * 2 ** Math.min(this.#attempts, 20));
    const wait = cap / 2 + environment.random() * cap / 2;
    this.#attempts++;
    this.#log.limited(
      "connect",
      this.endpoint,
      `${this.endpoint} is down: ${why}; trying again in ${
        (wait / 1000).toFixed(1)
      } s, then at growing intervals`,
    );
    this.#cancel = clock.after(wait, () => this.#connect());
  }

  #connect(): void {
    let cancelled = false;
    this.#cancel = () => cancelled = true;
    const address = this.#address;
    if (address.transport === "ipc") {
      this.#tryEach([address], (cancel) => this.#cancel = cancel);
      return;
    }
    this.#context.environment.resolve(address.host).then((ips) => {
      if (cancelled) return;
      this.#tryEach(ips.map((host) => ({ ...address, host })), (cancel) => this.#cancel = cancel);
    }, (error) => {
      if (!cancelled) this.#retry(reason(error));
    });
  }

  /** Tries one address after the other, as the name gave them. */
  #tryEach(addresses: Address[], cancellable: (cancel: () => void) => void): void {
    const [first, ...others] = addresses;
    if (first === undefined) {
      this.#retry("its name has no address");
      return;
    }
    cancellable(this.#context.environment.transport.connect(
      first,
      this.#options,
      (link) => {
        cancellable(() => {});
        this.#upstream = new Upstream(this, this.#context, link, this.#egress, this.#sink, this.#options);
        return this.#upstream;
      },
      (error) => {
        if (this.#closed) return;
        if (others.length > 0) this.#tryEach(others, cancellable);
        else this.#retry(error.message);
      },
    ));
  }
}

/** The link of a DEALER to its peer. */
class Upstream extends Connection {
  readonly #dealer: Dealer;

  constructor(
    dealer: Dealer,
    context: Context,
    link: Link,
    egress: Egress,
    sink: MessageSink,
    options: DealerOptions,
  ) {
    super(context, link, egress, sink, "DEALER", options.identity ?? NO_PREFIX, options.messageMaxBytes);
    this.#dealer = dealer;
  }

  protected override admitted(_peer: PeerProperties): Uint8Array {
    this.#dealer.admitted();
    return NO_PREFIX;
  }

  protected override discarded(messages: number): void {
    this.#dealer.drops.add("unread", this.name, messages);
  }

  protected override lost(why: string): void {
    this.#dealer.lost(why);
  }
}
