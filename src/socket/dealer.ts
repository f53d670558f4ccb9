/**
 * A DEALER (RFC 28) that is connected to one endpoint: what is sent waits while the peer is away, up to the high water
 * mark, and goes out in order when it is there.
 */
import type { Address, Link } from "../contracts/links.ts";
import { errorText } from "../errors.ts";
import {
  EGRESS_FULL_BYTES,
  EGRESS_MAX_BYTES,
  RECONNECT_MAX_MS,
  RECONNECT_MIN_MS,
  UPSTREAM_EGRESS_FLOOR_BYTES,
  UPSTREAM_STALL_MS,
} from "../limits.ts";
import type { Logger } from "../log.ts";
import type { Block } from "../memory/block.ts";
import type { RunQueue } from "../relay/group.ts";
import type { PeerProperties } from "../zmtp/handshake.ts";
import { Connection } from "./connection.ts";
import type { SocketContext } from "./context.ts";
import { DropCounter } from "./drops.ts";
import { Egress } from "./egress.ts";
import { parseEndpoint } from "../endpoint.ts";
import { finish, waitEmpty, watchStall } from "./linger.ts";
import { PausedSources } from "./paused.ts";
import type { DealerEvents, DealerOptions, DealerSocket, MessageSink, SendResult, Source } from "./types.ts";

const NO_IDENTITY = new Uint8Array(0);

export class Dealer implements DealerSocket {
  readonly endpoint: string;
  readonly drops: DropCounter;
  readonly #context: SocketContext;
  readonly #log: Logger;
  readonly #options: DealerOptions;
  readonly #sink: MessageSink;
  readonly #events: DealerEvents;
  readonly #address: Address;
  readonly #egress: Egress;
  readonly #paused: PausedSources;
  #link: UpstreamLink | null = null;
  #up = false;
  #closed = false;
  #receiving = true;
  #attempts = 0;
  /** Ends what is under way: an attempt to connect, or the wait before the next. */
  #cancel: () => void = () => {};
  #cancelStall: (() => void) | null = null;

  /** @throws {EndpointError} */
  constructor(
    context: SocketContext,
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
    this.#paused = new PausedSources(() => this.#mayResume(), context.clock.soon);
    this.#egress.ondrained = () => this.#drained();
    this.#connect();
  }

  get up(): boolean {
    return this.#up;
  }

  get queued(): number {
    return this.#egress.unwritten;
  }

  send(
    identityFrame: Uint8Array,
    buf: Uint8Array,
    start: number,
    end: number,
    block: Block | null,
  ): SendResult {
    const egress = this.#egress;
    if (this.#closed) {
      this.drops.add("linger", this.endpoint);
      return "dropped";
    }
    if (this.#up) {
      if (egress.bytes >= EGRESS_MAX_BYTES) {
        this.drops.add("upstream-full", this.endpoint);
        return "dropped";
      }
      egress.append(identityFrame, buf, start, end, block);
      if (!egress.full || !this.#up) return "queued";
      this.#watchFull();
      return "full";
    }
    if (egress.messages >= this.#options.hwm || egress.bytes >= EGRESS_MAX_BYTES) {
      this.drops.add("upstream-down", this.endpoint);
      return "dropped";
    }
    egress.append(identityFrame, buf, start, end, block);
    return "queued";
  }

  get runs(): RunQueue {
    return this.#egress;
  }

  pause(source: Source): void {
    const egress = this.#egress;
    if (!this.#up || this.#paused.has(source)) return;
    egress.flushAndRetry();
    if (!egress.full || !this.#up) return;
    this.#paused.add(source);
    this.#watchFull();
  }

  /** A queue that is full, and does not move for too long: the upstream counts as down. */
  #watchFull(): void {
    if (this.#cancelStall !== null) return;
    const stallMs = this.#options.stallMs ?? UPSTREAM_STALL_MS;
    this.#cancelStall = watchStall(this.#context.clock, this.#egress, stallMs, () => {
      const why = `it took nothing for ${stallMs / 1000} s while its queue was full`;
      this.#link?.close();
      this.disconnected(why);
    });
    this.#egress.watch();
  }

  stopReceiving(): void {
    this.#receiving = false;
    // One whose handshake is under way is paused once that is done.
    if (this.#up) this.#link?.stopReceiving();
  }

  async close(lingerMs: number): Promise<void> {
    const { clock } = this.#context;
    const until = clock.now() + lingerMs;
    if (this.#receiving) this.stopReceiving();
    await waitEmpty(clock, [this.#egress], lingerMs);
    this.#closed = true;
    this.#cancel();
    if (this.#link !== null && this.#up) await finish(clock, [this.#link], until - clock.now());
    this.#link?.close();
    this.#resumeAll();
    this.#up = false;
    this.drops.add("linger", this.endpoint, this.#egress.clear());
  }

  /** The handshake is done; called by the connection. */
  handshaken(): void {
    this.#up = true;
    this.#attempts = 0;
    this.#log.debug("connect", `${this.endpoint} is up`);
    if (!this.#receiving) this.#link?.stopReceiving();
    this.#events.up?.();
  }

  /** The connection is over; called by it. */
  disconnected(why: string): void {
    const wasUp = this.#up;
    this.#up = false;
    this.#link = null;
    this.drops.add("link-lost", this.endpoint, this.#egress.detach());
    this.#resumeAll();
    if (wasUp) this.#events.down?.(why);
    this.#retry(why);
  }

  #drained(): void {
    this.#endWatch();
    this.#paused.resume();
  }

  /** Is there room for another source's messages? */
  #mayResume(): boolean {
    if (!this.#egress.full) return true;
    this.#watchFull();
    return false;
  }

  #resumeAll(): void {
    this.#endWatch();
    this.#paused.resumeAll();
  }

  #endWatch(): void {
    this.#cancelStall?.();
    this.#cancelStall = null;
  }

  #retry(why: string): void {
    if (this.#closed) return;
    const { clock, environment } = this.#context;
    // Half of the wait is chance, so that a thousand hosts do not come back in step.
    const cap = Math.min(RECONNECT_MAX_MS, RECONNECT_MIN_MS * 2 ** Math.min(this.#attempts, 20));
    const wait = cap / 2 + environment.random() * cap / 2;
    this.#attempts++;
    this.#log.warnRarely(
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
      if (!cancelled) this.#retry(errorText(error));
    });
  }

  /** Tries one address after the other, as the name gave them. */
  #tryEach(addresses: Address[], cancellable: (cancel: () => void) => void): void {
    const [first, ...others] = addresses;
    if (first === undefined) {
      this.#retry("its name has no address");
      return;
    }
    cancellable(this.#context.environment.links.connect(
      first,
      this.#options,
      (link) => {
        cancellable(() => {});
        this.#link = new UpstreamLink(this, this.#context, link, this.#egress, this.#sink, this.#options);
        return this.#link;
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
class UpstreamLink extends Connection {
  readonly #dealer: Dealer;

  constructor(
    dealer: Dealer,
    context: SocketContext,
    link: Link,
    egress: Egress,
    sink: MessageSink,
    options: DealerOptions,
  ) {
    super(context, link, egress, sink, "DEALER", options.identity ?? NO_IDENTITY, options.messageMaxBytes);
    this.#dealer = dealer;
  }

  protected override handshaken(_peer: PeerProperties): Uint8Array {
    this.#dealer.handshaken();
    return NO_IDENTITY;
  }

  protected override discarded(messages: number): void {
    this.#dealer.drops.add("unread", this.name, messages);
  }

  protected override disconnected(why: string): void {
    this.#dealer.disconnected(why);
  }
}
