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
  RECONNECT_STEADY_MS,
  SEND_TRIES,
  UPSTREAM_EGRESS_FLOOR_BYTES,
  UPSTREAM_STALL_MS,
} from "../limits.ts";
import type { Logger } from "../log.ts";
import type { Block } from "../memory/block.ts";
import type { RunQueue } from "../relay/group.ts";
import type { PeerProperties } from "../zmtp/handshake.ts";
import { boundPassed } from "./bounds.ts";
import { Connection } from "./connection.ts";
import type { SocketContext } from "./context.ts";
import { describeMessage } from "./describe.ts";
import { DropCounter } from "./drops.ts";
import { Egress } from "./egress.ts";
import { parseEndpoint } from "../endpoint.ts";
import { counted } from "../text.ts";
import { finish, waitEmpty, watchStall } from "./linger.ts";
import { PausedSources } from "./paused.ts";
import type {
  DealerEvents,
  DealerOptions,
  DealerSocket,
  DropReason,
  MessageSink,
  SendResult,
  Source,
} from "./types.ts";

const NO_IDENTITY = new Uint8Array(0);
/** How often a link is asked what is unacknowledged. */
const UNACKNOWLEDGED_ASK_MS = 1000;

export class Dealer implements DealerSocket {
  readonly endpoint: string;
  readonly drops: DropCounter;
  readonly #context: SocketContext;
  readonly #log: Logger;
  #options: DealerOptions;
  readonly #sink: MessageSink;
  readonly #events: DealerEvents;
  readonly #address: Address;
  readonly #egress: Egress;
  readonly #paused: PausedSources;
  #link: UpstreamLink | null = null;
  #up = false;
  /** Since when. */
  #upSince = 0;
  readonly #since: number;
  #closed = false;
  /** Attempts to connect since a link was steady; the more, the longer the wait. */
  #attempts = 0;
  /** Messages whose arrival is unknown, as a link broke behind them. */
  #unconfirmed = 0;
  /** What was unacknowledged when it was asked last, -1: unknown; and the end of asking. */
  #unacknowledged = -1;
  #cancelAsking: () => void = () => {};
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
    this.#since = context.clock.now();
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
      marksSent: true,
    });
    context.upstreams.add(this.#egress);
    this.#paused = new PausedSources(() => this.#mayResume(), context.clock.soon);
    this.#egress.ondrained = () => this.#drained();
    this.#connect();
  }

  get up(): boolean {
    return this.#up;
  }

  /** Is what waits as much as may be sent before there is room again, by its count or by its bytes? */
  get full(): boolean {
    return this.#egress.full;
  }

  get unconfirmed(): number {
    return this.#unconfirmed;
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
    const passed = boundPassed(identityFrame, buf, start, end, this.#options.messageMaxBytes);
    if (passed !== null) return this.#refuse(passed, identityFrame, buf, start, end);
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
    const { upstreams } = this.#context;
    if (
      egress.messages >= this.#options.hwm || egress.bytes >= EGRESS_MAX_BYTES ||
      !upstreams.takes(egress, end - start)
    ) {
      this.drops.add("upstream-down", this.endpoint);
      return "dropped";
    }
    egress.append(identityFrame, buf, start, end, block);
    return "queued";
  }

  #refuse(
    reason: DropReason,
    identityFrame: Uint8Array,
    buf: Uint8Array,
    start: number,
    end: number,
  ): "dropped" {
    this.drops.add(reason, this.endpoint, 1, () => {
      const message = new Uint8Array(identityFrame.length + end - start);
      message.set(identityFrame, 0);
      message.set(buf.subarray(start, end), identityFrame.length);
      return describeMessage(message, 0, message.length);
    });
    return "dropped";
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
      this.#link?.abandon();
      this.disconnected(why);
    });
    this.#egress.watch();
  }

  reconfigure(options: DealerOptions): void {
    this.#options = options;
    this.#egress.hwm = options.hwm;
    // Nobody waits for a mark that has risen; and the watch begins anew, with its time of now.
    if (!this.#egress.full) this.#drained();
    else if (this.#cancelStall !== null) {
      this.#endWatch();
      this.#watchFull();
    }
  }

  async close(lingerMs: number): Promise<void> {
    const { clock } = this.#context;
    const until = clock.now() + lingerMs;
    await waitEmpty(clock, [this.#egress], lingerMs);
    this.#closed = true;
    this.#cancel();
    if (this.#link !== null && this.#up) await finish(clock, [this.#link], until - clock.now());
    const link = this.#link;
    const wrote = this.#egress.progress;
    link?.abandon();
    const dropped = this.#egress.clear();
    // One that has closed its side behind ours has all.
    if (link !== null && !link.finishedClean) {
      const unconfirmed = this.#countUnconfirmed(link, wrote);
      if (unconfirmed !== "") {
        this.#log.warnRarely("connect", this.endpoint, `${this.endpoint} is left${unconfirmed}`);
      }
    }
    this.#cancelAsking();
    this.#resumeAll();
    this.#up = false;
    this.drops.add("linger", this.endpoint, dropped);
    this.#context.upstreams.delete(this.#egress);
  }

  /** The handshake is done; called by the connection. */
  handshaken(version: string): void {
    this.#up = true;
    this.#upSince = this.#context.clock.now();
    this.#askUnacknowledged();
    this.#log.debug("connect", `${this.endpoint} is up, ZMTP ${version}`);
    this.#events.up?.();
  }

  /** The connection is over; called by it. */
  disconnected(why: string): void {
    const wasUp = this.#up;
    if (wasUp && this.#context.clock.now() - this.#upSince >= RECONNECT_STEADY_MS) this.#attempts = 0;
    this.#up = false;
    const link = this.#link;
    const wrote = this.#egress.progress;
    this.#link = null;
    this.drops.add("link-lost", this.endpoint, this.#egress.detach());
    if (wasUp && link !== null) why += this.#countUnconfirmed(link, wrote);
    if (this.#egress.breaks >= SEND_TRIES) this.#dropBreaking();
    this.#resumeAll();
    if (wasUp) this.#events.down?.(why);
    // Who waits for the end of what is queued waits in vain.
    if (this.#closed) this.#egress.onempty?.();
    this.#retry(why);
  }

  /** Some links can only be asked while they are there. */
  #askUnacknowledged(): void {
    this.#cancelAsking();
    this.#unacknowledged = -1;
    const { link } = this.#link ?? {};
    if (link?.unacknowledgedBytes === undefined) return;
    this.#cancelAsking = this.#context.clock.every(UNACKNOWLEDGED_ASK_MS, () => {
      this.#unacknowledged = link.unacknowledgedBytes!();
    });
  }

  /** The link is over, and the queue has no link; says what is not known of what was written, up to that progress. */
  #countUnconfirmed({ link }: UpstreamLink, wrote: number): string {
    this.#cancelAsking();
    const now = link.unacknowledgedBytes?.() ?? -1;
    const bytes = now < 0 ? this.#unacknowledged : now;
    const messages = bytes <= 0 ? 0 : this.#egress.messagesBehind(wrote - bytes);
    if (messages === 0) return "";
    this.#unconfirmed += messages;
    return `, and up to ${
      counted(messages, "message")
    } may not have arrived (unconfirmed, ${this.#unconfirmed} in all)`;
  }

  /** Whatever the upstream has against it, those behind it shall pass. */
  #dropBreaking(): void {
    this.#egress.dropFirst((buf, start, end) => {
      this.drops.add("breaks-link", this.endpoint, 1, () => describeMessage(buf, start, end));
    });
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
    const { reconnectMaxMs = RECONNECT_MAX_MS, awaitedMs = 0 } = this.#options;
    const cap = Math.min(reconnectMaxMs, RECONNECT_MIN_MS * 2 ** Math.min(this.#attempts, 20));
    const wait = cap / 2 + environment.random() * cap / 2;
    this.#attempts++;
    this.#events.failed?.(why);
    const awaited = this.#upSince === 0 && clock.now() - this.#since < awaitedMs;
    const text = `${this.endpoint} is down: ${why}; trying again in ${(wait / 1000).toFixed(1)} s, then ` +
      (cap < reconnectMaxMs ? "at growing intervals" : `every ${reconnectMaxMs / 1000} s`);
    if (awaited) this.#log.debug("connect", text);
    else this.#log.warnRarely("connect", this.endpoint, text);
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
    super(context, link, egress, sink, "DEALER", options.identity ?? NO_IDENTITY, options);
    this.#dealer = dealer;
  }

  protected override handshaken({ version }: PeerProperties): Uint8Array {
    this.#dealer.handshaken(version);
    return NO_IDENTITY;
  }

  protected override get drops(): DropCounter {
    return this.#dealer.drops;
  }

  protected override disconnected(why: string): void {
    this.#dealer.disconnected(why);
  }
}
