/**
 * A ROUTER (RFC 28): every peer has an identity; what comes from it carries the identity in front, and a message goes
 * to the peer whose identity is its first frame.
 */
import type { Link, LinkEvents, Listener } from "../contracts/links.ts";
import { errorText } from "../errors.ts";
import {
  CLIENT_EGRESS_FLOOR_BYTES,
  CLIENT_STALL_MAX_MS,
  EGRESS_FULL_BYTES,
  EGRESS_MAX_BYTES,
  PEERS_MAX,
} from "../limits.ts";
import type { Logger } from "../log.ts";
import type { Block } from "../memory/block.ts";
import { hex, latin1, printableBytes } from "../text.ts";
import { bodyStart, encodeFrame, frameEnd, MORE, ProtocolError } from "../zmtp/frame.ts";
import type { PeerProperties } from "../zmtp/handshake.ts";
import { Connection } from "./connection.ts";
import type { SocketContext } from "./context.ts";
import { DropCounter } from "./drops.ts";
import { Egress } from "./egress.ts";
import { endpointText, parseEndpoint } from "../endpoint.ts";
import { finish, waitEmpty, watchStall } from "./linger.ts";
import type { MessageSink, RouterSocket, SocketOptions } from "./types.ts";

const NO_IDENTITY = new Uint8Array(0);
/** Bytes of an identity frame that we made: flags, size, a zero byte, four of a counter; as libzmq makes them. */
const OWN_FRAME_BYTES = 7;

export class Router implements RouterSocket {
  readonly drops: DropCounter;
  readonly #context: SocketContext;
  readonly #log: Logger;
  readonly #options: SocketOptions;
  readonly #sink: MessageSink;
  readonly #listeners: Listener[] = [];
  readonly #unbinding: Promise<void>[] = [];
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

  constructor(context: SocketContext, options: SocketOptions, sink: MessageSink) {
    this.#context = context;
    this.#log = context.log;
    this.#options = options;
    this.#sink = sink;
    this.drops = new DropCounter(context.log);
    this.#counter = Math.floor(context.environment.random() * 0x1_0000_0000);
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
    } else {
      await this.#context.environment.links.prepareSocketFile(address.path);
    }
    const listener = await this.#context.environment.links.listen(
      address,
      this.#options,
      (link) => this.#accept(link),
    );
    this.#listeners.push(listener);
    return endpointText(listener.address);
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

  stopReceiving(): void {
    const { links } = this.#context.environment;
    for (const listener of this.#listeners) {
      this.#unbinding.push(listener.close());
      if (listener.address.transport === "ipc") links.removeSocketFile(listener.address.path);
    }
    this.#listeners.length = 0;
    for (const peer of this.#connections) {
      if (peer.ready) peer.stopReceiving();
      else peer.close();
    }
    this.#closed = true;
  }

  async close(lingerMs: number): Promise<void> {
    if (!this.#closed) this.stopReceiving();
    const { clock } = this.#context;
    const until = clock.now() + lingerMs;
    const peers = [...this.#connections];
    await waitEmpty(clock, peers.map(({ egress }) => egress), lingerMs);
    await finish(clock, peers, until - clock.now());
    await Promise.all(this.#unbinding);
    for (const peer of this.#connections) {
      peer.close();
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
  };

  #accept(link: Link): LinkEvents {
    const egress = new Egress(this.#context, {
      hwm: this.#options.hwm,
      floorBytes: CLIENT_EGRESS_FLOOR_BYTES,
      fullBytes: EGRESS_FULL_BYTES,
      maxBytes: EGRESS_MAX_BYTES,
    });
    const peer = new Peer(this.#forPeers, this.#context, link, egress, this.#options.messageMaxBytes);
    if (this.#closed) {
      peer.close();
    } else if (this.#connections.size >= PEERS_MAX) {
      this.#log.warnRarely(
        "accept",
        "peers",
        `refused ${link.remote}: ${PEERS_MAX} connections are open already`,
      );
      peer.close();
    } else {
      this.#connections.add(peer);
    }
    return peer;
  }

  #admit(peer: Peer, identity: Uint8Array): Uint8Array {
    if (identity.length > 0) {
      const key = latin1(identity, 0, identity.length);
      const before = this.#byName.get(key);
      if (before !== undefined) {
        this.#log.info(
          "peer",
          `${peer.name} takes over the identity ${identityName(identity)} from ${before.name}`,
        );
        before.close();
        this.#forget(before);
      }
      this.#byName.set(key, peer);
      peer.key = key;
    } else {
      identity = new Uint8Array(5);
      do {
        this.#counter = (this.#counter + 1) >>> 0;
      } while (this.#byNumber.has(this.#counter));
      new DataView(identity.buffer).setUint32(1, this.#counter);
      this.#byNumber.set(this.#counter, peer);
      peer.number = this.#counter;
    }
    this.#log.debug("peer", `${peer.name} connected as ${identityName(identity)}`);
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
  admit(peer: Peer, identity: Uint8Array): Uint8Array;
  disconnected(peer: Peer, why: string, error: Error | undefined): void;
}

/** One client of a ROUTER. */
class Peer extends Connection {
  /** The counter in the identity we gave it; -1: it brought its own. */
  number = -1;
  key: string | null = null;
  readonly #owner: PeerOwner;
  #pausedBySelf = false;
  #cancelStall: () => void = () => {};

  constructor(owner: PeerOwner, context: SocketContext, link: Link, egress: Egress, messageMaxBytes: number) {
    super(context, link, egress, owner.sink(), "ROUTER", NO_IDENTITY, messageMaxBytes);
    this.#owner = owner;
  }

  protected override handshaken(peer: PeerProperties): Uint8Array {
    return this.#owner.admit(this, peer.identity);
  }

  override close(): void {
    this.#cancelStall();
    super.close();
  }

  protected override discarded(messages: number): void {
    this.#owner.drops().add("unread", this.name, messages);
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
    if (this.#pausedBySelf && egress.overfull) {
      this.#owner.drops().add("client-full", this.name);
      return false;
    }
    egress.append(NO_IDENTITY, buf, start, end, block);
    if (!this.#pausedBySelf && egress.full) this.#pauseSelf();
    return true;
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
      this.context.log.warnRarely(
        "peer",
        `stalled ${hostOf(this.name)}`,
        `disconnecting ${this.name}: ${why}`,
      );
      this.close();
      this.#owner.disconnected(this, why, undefined);
    });
    egress.ondrained = () => {
      this.#cancelStall();
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

/** An identity for people: text where it is printable, else hexadecimal. */
export function identityName(identity: Uint8Array): string {
  if (identity.every((b) => b > 0x20 && b < 0x7f)) return `"${printableBytes(identity, 255)}"`;
  return hex(identity.subarray(0, 32));
}

/** The address without its port: all connections of one host are one subject of the rate limiter. */
function hostOf(remote: string): string {
  return remote.replace(/:\d+$/, "");
}
