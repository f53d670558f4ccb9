/**
 * A ROUTER (RFC 28): every peer has an identity; what comes from it carries the identity in front, and a message goes
 * to the peer whose identity is its first frame.
 */
import type { Cancel } from "../contracts/environment.ts";
import type { Address, Link, LinkEvents, Listener } from "../contracts/links.ts";
import { errorText } from "../errors.ts";
import {
  CLIENT_EGRESS_FLOOR_BYTES,
  CLIENT_STALL_MAX_MS,
  EGRESS_FULL_BYTES,
  EGRESS_MAX_BYTES,
} from "../limits.ts";
import type { Logger } from "../log.ts";
import type { Block } from "../memory/block.ts";
import { POOL } from "../memory/pool.ts";
import { hostOf, latin1 } from "../text.ts";
import { bodyStart, encodeFrame, frameEnd, MORE, ProtocolError } from "../zmtp/frame.ts";
import { type PeerProperties, PING } from "../zmtp/handshake.ts";
import { Claims, type Verdict } from "./claims.ts";
import { Connection } from "./connection.ts";
import type { SocketContext } from "./context.ts";
import { describeMessage, identityName } from "./describe.ts";
import { Door } from "./door.ts";
import { DropCounter } from "./drops.ts";
import { Egress } from "./egress.ts";
import { endpointText, parseEndpoint } from "../endpoint.ts";
import { finish, watchStall } from "./linger.ts";
import type { ClosedReason, MessageSink, RouterOptions, RouterSocket } from "./types.ts";

const NO_IDENTITY = new Uint8Array(0);
/** So often within the time that a message may take is it looked whether more of it has come. */
const MESSAGE_LOOKS = 4;
/** A client that holds less is not worth to be closed. */
const SHED_MIN_BYTES = 64 * 1024;
/** So many peers are looked at at once, more only every so often. */
const FEW_PEERS = 100;
const SHED_LOOK_MS = 20;
/** Bytes of an identity frame that we made: flags, size, a zero byte, four of a counter; as libzmq makes them. */
const OWN_FRAME_BYTES = 7;

export class Router implements RouterSocket {
  readonly drops: DropCounter;
  readonly #context: SocketContext;
  readonly #log: Logger;
  readonly #options: RouterOptions;
  readonly #sink: MessageSink;
  readonly #claims: Claims<Peer, Peer>;
  #listeners: Listener[] = [];
  readonly #unbinding: Promise<void>[] = [];
  /** Where it listened, while the door is shut. */
  #shutAt: Address[] = [];
  /** How many descriptors they took. */
  #shutDescriptors = 0;
  #door: Door | null = null;
  /** Every connection, those in their handshake too. */
  readonly #connections = new Set<Peer>();
  /** Peers by the counter in the identity that we gave them. */
  readonly #byNumber = new Map<number, Peer>();
  /** Peers by an identity of their own, as Latin-1. */
  readonly #byName = new Map<string, Peer>();
  #counter: number;
  /** Whom the last message went to: runs of replies go to one peer. */
  #last: Peer | null = null;
  #closed = false;
  #drained = false;
  readonly closed = new Map<ClosedReason, number>();
  readonly #cancels: Cancel[] = [];
  #shedding = false;
  /** Those in the middle of a message, how far they had come when they were looked at, and how often it was just that. */
  #waiting = new Map<Peer, { moved: number; looks: number }>();

  constructor(context: SocketContext, options: RouterOptions, sink: MessageSink) {
    this.#context = context;
    this.#log = context.log;
    this.#options = options;
    this.#sink = sink;
    this.drops = new DropCounter(context.log);
    this.#claims = new Claims(context.clock, options.identityTakeover);
    this.#counter = Math.floor(context.environment.random() * 0x1_0000_0000);
  }

  get rests(): boolean {
    return this.#door?.shut ?? false;
  }

  get peersMax(): number {
    return this.#options.maxClients;
  }

  get peers(): number {
    return this.#byNumber.size + this.#byName.size;
  }

  async bind(endpoint: string): Promise<string> {
    let address = parseEndpoint(endpoint, "bind");
    if (address.transport === "tcp") {
      const { host } = address;
      const isIp = host.includes(":") || /^[\d.]+$/.test(host);
      const [ip] = isIp ? [host] : await this.#context.environment.resolve(host).catch((error) => {
        throw new Error(`cannot listen on ${endpoint}: ${errorText(error)}`);
      });
      address = { ...address, host: ip };
    }
    const listener = await this.#listen(address);
    this.#door ??= this.#begin();
    return endpointText(listener.address);
  }

  async #listen(address: Address): Promise<Listener> {
    const { links } = this.#context.environment;
    const listener = await links.listen(address, this.#options, (link) => this.#accept(link));
    if (this.#closed) this.#unbinding.push(listener.close());
    else this.#listeners.push(listener);
    return listener;
  }

  /** There may be clients from now on. */
  #begin(): Door {
    const { clock, environment } = this.#context;
    const { messageTimeoutMs, memoryBudgetBytes } = this.#options;
    this.#cancels.push(
      clock.every(messageTimeoutMs / MESSAGE_LOOKS, () => this.#endUnfinished()),
      POOL.watch(memoryBudgetBytes / 2, () => this.#overBudget()),
    );
    return new Door({
      clock,
      host: environment.host,
      shut: async () => {
        const listeners = this.#listeners;
        this.#listeners = [];
        this.#shutAt.push(...listeners.map(({ address }) => address));
        for (const { descriptors = 1 } of listeners) this.#shutDescriptors += descriptors;
        await Promise.all(listeners.map((listener) => listener.close()));
        return this.#shutDescriptors;
      },
      open: async () => {
        for (let address = this.#shutAt.at(0); address !== undefined; address = this.#shutAt.at(0)) {
          await this.#listen(address);
          this.#shutAt.shift();
        }
        this.#shutDescriptors = 0;
      },
      rests: (error) => {
        const why = error === null ? "no file descriptor is free" : errorText(error);
        this.#log.warnRarely("client", `rests ${why}`, `${why}: no client is accepted for now`);
      },
    });
  }

  send(buf: Uint8Array, start: number, end: number, block: Block | null): boolean {
    const next = frameEnd(buf, start);
    if (next >= end) return this.#noRoute();
    const last = this.#last;
    const peer = last !== null && startsWith(last.identityFrame, buf, start, next)
      ? last
      : this.#find(buf, start, next);
    if (peer === null) return this.#noPeer(buf, start, next);
    this.#last = peer;
    return peer.send(buf, next, end, block);
  }

  #noRoute(): false {
    this.drops.add("no-route", "nobody");
    return false;
  }

  #noPeer(buf: Uint8Array, start: number, next: number): false {
    this.drops.add("no-such-peer", identityName(buf.subarray(bodyStart(buf, start), next)));
    return false;
  }

  stopListening(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#claims.close();
    for (const listener of this.#listeners) this.#unbinding.push(listener.close());
    this.#listeners = [];
    if (this.#door !== null) this.#unbinding.push(this.#door.close());
    for (const peer of this.#connections) {
      if (peer.ready) peer.hold();
      else peer.close();
    }
  }

  get idle(): boolean {
    for (const peer of this.#connections) if (!peer.idle) return false;
    return true;
  }

  async drain(ms: number): Promise<void> {
    this.stopListening();
    this.#drained = true;
    await finish(this.#context.clock, [...this.#connections], ms);
    // One that does not end keeps what it sends on: nothing more is read from it.
    for (const peer of this.#connections) peer.stopReceiving();
  }

  async close(lingerMs: number): Promise<void> {
    const { clock } = this.#context;
    const until = clock.now() + lingerMs;
    if (!this.#drained) await this.drain(lingerMs);
    await finish(clock, [...this.#connections], until - clock.now());
    await Promise.all(this.#unbinding);
    for (const cancel of this.#cancels) cancel();
    for (const peer of this.#connections) {
      peer.abandon();
      this.drops.add("linger", peer.name, peer.egress.clear());
    }
    this.#connections.clear();
    this.#byNumber.clear();
    this.#byName.clear();
  }

  /** What peers call. */
  readonly #forPeers: PeerOwner = {
    drops: () => this.drops,
    sink: () => this.#sink,
    admit: (peer, identity) => this.#admit(peer, identity),
    disconnected: (peer, why, error) => this.#disconnected(peer, why, error),
    stalled: (peer, why) => this.#end(peer, "stalled", why),
  };

  #accept(link: Link): LinkEvents {
    const egress = new Egress(this.#context, {
      hwm: this.#options.hwm,
      floorBytes: CLIENT_EGRESS_FLOOR_BYTES,
      fullBytes: EGRESS_FULL_BYTES,
      maxBytes: EGRESS_MAX_BYTES,
    });
    const peer = new Peer(this.#forPeers, this.#context, link, egress, this.#options);
    if (this.#closed) {
      peer.close();
    } else if (this.#door?.look() === false) {
      this.#count("descriptors", link.remote, "no file descriptor is free");
      peer.abandon();
    } else if (this.#connections.size >= this.#options.maxClients) {
      this.#count("max-clients", link.remote, `${this.#options.maxClients} clients are here already`);
      peer.abandon();
    } else {
      this.#connections.add(peer);
    }
    return peer;
  }

  /** The one place where clients are closed for a reason of ours: counted, and told within limits. */
  #count(reason: ClosedReason, who: string, why: string): void {
    const count = (this.closed.get(reason) ?? 0) + 1;
    this.closed.set(reason, count);
    this.#log.warnRarely("client", reason, `closed ${who}: ${why} (${reason}, ${count} in all)`);
  }

  #end(peer: Peer, reason: ClosedReason, why: string): void {
    this.#count(reason, peer.name, why);
    peer.close();
    this.#forget(peer);
  }

  /** A message that was begun comes to its end, and a large one that is sent is taken, or their memory is given back. */
  #endUnfinished(): void {
    const before = this.#waiting;
    this.#waiting = new Map();
    for (const peer of this.#connections) {
      const sends = peer.egress.heldBytes >= EGRESS_FULL_BYTES;
      if (!peer.expectsMore && !sends) continue;
      // One that sends on and does not read holds what is sent to it all the same.
      const moved = sends ? peer.egress.progress : peer.chunks;
      const last = before.get(peer);
      const looks = last !== undefined && last.moved === moved ? last.looks + 1 : 0;
      if (looks < MESSAGE_LOOKS) {
        this.#waiting.set(peer, { moved, looks });
        continue;
      }
      const seconds = this.#options.messageTimeoutMs / 1000;
      if (sends) this.#end(peer, "stalled", `it took nothing for ${seconds} s of what is sent to it`);
      else {this.#end(
          peer,
          "message-timeout",
          `it began a message and sent nothing more of it for ${seconds} s`,
        );}
    }
  }

  /** Not at once: who takes memory is in the middle of a chunk; and not at each of many: all peers are looked at. */
  #overBudget(): void {
    if (this.#shedding) return;
    this.#shedding = true;
    const { clock } = this.#context;
    const look = () => {
      this.#shedding = false;
      this.#shed();
    };
    if (this.#connections.size <= FEW_PEERS) clock.soon(look);
    else clock.after(SHED_LOOK_MS, look);
  }

  /** What waits for upstreams is not its clients' fault: it has a bound of its own. */
  #shed(): void {
    const { memoryBudgetBytes } = this.#options;
    const most = Math.max(memoryBudgetBytes / 2, memoryBudgetBytes - this.#context.upstreams.bytes);
    const holders = [...this.#connections].filter(({ heldBytes }) => heldBytes >= SHED_MIN_BYTES)
      .sort((a, b) => b.heldBytes - a.heldBytes);
    let held = holders.reduce((sum, { heldBytes }) => sum + heldBytes, 0);
    for (const peer of holders) {
      if (held <= most) return;
      const bytes = peer.heldBytes;
      held -= bytes;
      const [mib, budget] = [bytes, memoryBudgetBytes].map((bytes) => (bytes / 2 ** 20).toFixed(1));
      this.#end(
        peer,
        "memory-budget",
        `it held ${mib} MiB, and all together more than they may of ${budget} MiB`,
      );
    }
  }

  /** The frame for a peer's messages; null: whether it may have its identity is known later. */
  #admit(peer: Peer, identity: Uint8Array): Uint8Array | null {
    if (identity.length === 0) return this.#admitNumbered(peer);
    const key = latin1(identity, 0, identity.length);
    const holder = this.#byName.get(key);
    if (holder === undefined) return this.#admitNamed(peer, identity, key);
    const verdict = this.#claims.claim(key, holder, peer, (verdict) => {
      // Another may have come when the one that was asked had gone.
      const now = this.#byName.get(key);
      if (verdict !== "handed-over") this.#refuse(peer, identity, key, verdict);
      else if (now !== undefined && now !== holder) this.#refuse(peer, identity, key, "unclear");
      else peer.admit(this.#handOver(key, peer, identity));
    });
    if (verdict === null) return null;
    if (verdict === "handed-over") return this.#handOver(key, peer, identity);
    this.#refuse(peer, identity, key, verdict);
    return null;
  }

  #refuse(peer: Peer, identity: Uint8Array, key: string, verdict: Verdict): void {
    const holder = this.#byName.get(key)?.name ?? "another";
    const lives = verdict === "lives";
    const why = lives ? "which lives" : "which may live";
    peer.refuse(`the identity ${identityName(identity)} is in use by ${holder}, ${why}`, lives);
  }

  #handOver(key: string, peer: Peer, identity: Uint8Array): Uint8Array {
    const holder = this.#byName.get(key);
    if (holder !== undefined) {
      this.#log.warnRarely(
        "peer",
        `takeover ${hostOf(peer.name)}`,
        `${peer.name} takes over the identity ${identityName(identity)} from ${holder.name}`,
      );
      holder.close();
      this.#forget(holder);
    }
    return this.#admitNamed(peer, identity, key);
  }

  #admitNamed(peer: Peer, identity: Uint8Array, key: string): Uint8Array {
    this.#byName.set(key, peer);
    peer.key = key;
    return this.#admitted(peer, identity);
  }

  #admitNumbered(peer: Peer): Uint8Array {
    const identity = new Uint8Array(5);
    do {
      this.#counter = (this.#counter + 1) >>> 0;
    } while (this.#byNumber.has(this.#counter));
    new DataView(identity.buffer).setUint32(1, this.#counter);
    this.#byNumber.set(this.#counter, peer);
    peer.number = this.#counter;
    return this.#admitted(peer, identity);
  }

  #admitted(peer: Peer, identity: Uint8Array): Uint8Array {
    this.#log.debug("peer", `${peer.name} connected as ${identityName(identity)}, ZMTP ${peer.version}`);
    return encodeFrame(identity, MORE);
  }

  #disconnected(peer: Peer, why: string, error: Error | undefined): void {
    if (error instanceof ProtocolError) {
      this.#log.warnRarely("peer", `${error.code} ${hostOf(peer.name)}`, `closed ${peer.name}: ${why}`);
    } else {
      this.#log.debug("peer", `${peer.name} is gone: ${why}`);
    }
    this.#forget(peer);
  }

  #forget(peer: Peer): void {
    this.#connections.delete(peer);
    this.#waiting.delete(peer);
    if (peer.number >= 0) this.#byNumber.delete(peer.number);
    if (peer.key !== null && this.#byName.get(peer.key) === peer) this.#byName.delete(peer.key);
    if (this.#last === peer) this.#last = null;
    this.drops.add("client-gone", peer.name, peer.egress.clear());
  }

  #find(buf: Uint8Array, start: number, next: number): Peer | null {
    const at = bodyStart(buf, start);
    if (next - start === OWN_FRAME_BYTES && buf[at] === 0) {
      const number = ((buf[at + 1] << 24) | (buf[at + 2] << 16) | (buf[at + 3] << 8) | buf[at + 4]) >>> 0;
      return this.#byNumber.get(number) ?? null;
    }
    return this.#byName.get(latin1(buf, at, next)) ?? null;
  }
}

interface PeerOwner {
  drops(): DropCounter;
  sink(): MessageSink;
  admit(peer: Peer, identity: Uint8Array): Uint8Array | null;
  disconnected(peer: Peer, why: string, error: Error | undefined): void;
  stalled(peer: Peer, why: string): void;
}

/** One client of a ROUTER. */
class Peer extends Connection {
  /** The counter in the identity we gave it; -1: it brought its own. */
  number = -1;
  key: string | null = null;
  /** Of ZMTP, which it speaks. */
  version = "";
  readonly #owner: PeerOwner;
  readonly #messageMaxBytes: number;
  #answersPing = false;
  /** How much it had taken when it was looked at, -1: nothing waited; and since when that has not changed. */
  #tookAt = -1;
  #tookSince = 0;
  #pausedBySelf = false;
  #cancelStall: Cancel | null = null;

  constructor(owner: PeerOwner, context: SocketContext, link: Link, egress: Egress, options: RouterOptions) {
    super(context, link, egress, owner.sink(), "ROUTER", NO_IDENTITY, options);
    this.#owner = owner;
    this.#messageMaxBytes = options.messageMaxBytes;
  }

  protected override handshaken(peer: PeerProperties): Uint8Array | null {
    this.version = peer.version;
    this.#answersPing = peer.version > "3.0";
    return this.#owner.admit(this, peer.identity);
  }

  /** One that we hold back, or that cannot be asked, counts as alive; the latter while it takes what is sent to it. */
  get mute(): boolean {
    return this.paused || (!this.#answersPing && !this.#standsStill);
  }

  /** Has something waited for it for long, and it took nothing? */
  get #standsStill(): boolean {
    const { egress } = this;
    const now = this.context.clock.now();
    const took = egress.empty ? -1 : egress.progress;
    if (took !== this.#tookAt) this.#tookSince = now;
    this.#tookAt = took;
    return took >= 0 && now - this.#tookSince >= CLIENT_STALL_MAX_MS;
  }

  get signs(): number {
    return this.chunks + this.egress.progress;
  }

  get answers(): number {
    return this.pongs;
  }

  ask(): void {
    this.egress.control(PING);
    this.egress.flush();
  }

  override close(): void {
    this.#cancelStall?.();
    super.close();
  }

  protected override get drops(): DropCounter {
    return this.#owner.drops();
  }

  protected override disconnected(why: string, error: Error | undefined): void {
    this.#owner.disconnected(this, why, error);
  }

  /**
   * Queues a message for this peer. A peer whose queue is full is not read from any more: one that asks but does not
   * read the answers is paused by TCP. What others send it then, up to twice the mark, waits; beyond, it is
   * dropped, and a peer that takes nothing at all is disconnected.
   */
  send(buf: Uint8Array, start: number, end: number, block: Block | null): boolean {
    const { egress } = this;
    if (this.finishing) {
      this.drops.add("stopping", this.name);
      return false;
    }
    if (end - start > this.#messageMaxBytes) return this.#tooLarge(buf, start, end);
    if (this.#pausedBySelf && egress.overfull) {
      this.drops.add("client-full", this.name);
      return false;
    }
    egress.append(NO_IDENTITY, buf, start, end, block);
    if (!this.#pausedBySelf && egress.full) this.#pauseSelf();
    return true;
  }

  #tooLarge(buf: Uint8Array, start: number, end: number): false {
    this.drops.add("too-large", this.name, 1, () => describeMessage(buf, start, end));
    return false;
  }

  #pauseSelf(): void {
    const { egress } = this;
    egress.flush();
    if (!egress.full || this.over) return;
    this.#pausedBySelf = true;
    this.pause();
    this.#cancelStall = watchStall(this.context.clock, egress, CLIENT_STALL_MAX_MS, () => {
      if (this.over) return;
      const why = `it took nothing for ${CLIENT_STALL_MAX_MS / 1000} s while its queue was full`;
      this.#owner.stalled(this, why);
    });
    egress.ondrained = () => {
      this.#cancelStall?.();
      this.#cancelStall = null;
      this.#pausedBySelf = false;
      this.resume();
    };
    egress.watch();
  }
}

/** Is `frame` the bytes `buf[start, next)`? */
function startsWith(frame: Uint8Array, buf: Uint8Array, start: number, next: number): boolean {
  if (frame.length !== next - start) return false;
  for (let i = 1; i < frame.length; i++) if (frame[i] !== buf[start + i]) return false;
  return true;
}
