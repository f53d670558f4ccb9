/**
 * A ROUTER (RFC 28): every peer has an identity; what comes from it carries the identity in front, and a message goes
 * to the peer whose identity is its first frame.
 */
import {
  CLIENT_EGRESS_FLOOR_BYTES,
  CLIENT_STALL_MAX_MS,
  EGRESS_FULL_BYTES,
  EGRESS_MAX_BYTES,
  PEERS_MAX,
} from "../limits.ts";
import { type Logger, printableBytes, reason } from "../log.ts";
import { formatAddress } from "../runtime/common.ts";
import type { Link, LinkEvents, Listener } from "../runtime/types.ts";
import { bodyStart, encodeFrame, frameEnd, MORE, ProtocolError } from "../zmtp/frame.ts";
import type { PeerProperties } from "../zmtp/handshake.ts";
import { Connection } from "./connection.ts";
import type { Context } from "./context.ts";
import { DropCounter } from "./drops.ts";
import { Egress } from "./egress.ts";
import { parseEndpoint } from "./endpoint.ts";
import { prepareSocketFile, removeSocketFile } from "./ipc.ts";
import type { MessageSink, RouterSocket, SocketOptions } from "./types.ts";
import { finish, waitEmpty, watchStall } from "./wait.ts";

const NO_PREFIX = new Uint8Array(0);
/** Bytes of an identity frame that we made: flags, size, a zero byte, four of a counter; as libzmq makes them. */
const OWN_FRAME_BYTES = 7;

export class Router implements RouterSocket {
  readonly drops: DropCounter;
  readonly #context: Context;
  readonly #log: Logger;
  readonly #options: SocketOptions;
  readonly #sink: MessageSink;
  readonly #listeners: Listener[] = [];
  readonly #unbinding: Promise<void>[] = [];
  /** Every connection, those in their handshake too. */
  readonly #connections = new Set<Peer>();
  /** Peers by the counter in the identity that we gave them. */
  readonly #numbered = new Map<number, Peer>();
  /** Peers by an identity of their own, as Latin-1. */
  readonly #named = new Map<string, Peer>();
  #counter: number;
  /** Whom the last message went to: runs of replies go to one peer. */
  #last: Peer | null = null;
  #closed = false;

  constructor(context: Context, options: SocketOptions, sink: MessageSink) {
    this.#context = context;
    this.#log = context.log;
    this.#options = options;
    this.#sink = sink;
    this.drops = new DropCounter(context.log);
    this.#counter = Math.floor(context.environment.random() * 0x1_0000_0000);
  }

  get peers(): number {
    return this.#numbered.size + this.#named.size;
  }

  async bind(endpoint: string): Promise<string> {
    let address = parseEndpoint(endpoint, "bind");
    if (address.transport === "tcp") {
      const { host } = address;
      const isIp = host.includes(":") || /^[\d.]+$/.test(host);
      const [ip] = isIp ? [host] : await this.#context.environment.resolve(host).catch((error) => {
        throw new Error(`cannot listen on ${endpoint}: ${reason(error)}`);
      });
      address = { ...address, host: ip };
    } else {
      await prepareSocketFile(address.path, this.#context.environment.transport);
    }
    const listener = await this.#context.environment.transport.listen(
      address,
      this.#options,
      (link) => this.#accept(link),
    );
    this.#listeners.push(listener);
    return formatAddress(listener.address);
  }

  send(buf: Uint8Array, start: number, end: number, owned: boolean): boolean {
    const next = frameEnd(buf, start);
    if (next >= end) {
      this.drops.add("no-route", "nobody");
      return false;
    }
    const last = this.#last;
    const peer = last !== null && startsWith(last.prefix, buf, start, next)
      ? last
      : this.#find(buf, start, next);
    if (peer === null) {
      this.drops.add("no-such-peer", identityName(buf.subarray(bodyStart(buf, start), next)));
      return false;
    }
    this.#last = peer;
    return peer.send(buf, next, end, owned);
  }

  stopReceiving(): void {
    for (const listener of this.#listeners) {
      this.#unbinding.push(listener.close());
      if (listener.address.transport === "ipc") removeSocketFile(listener.address.path);
    }
    this.#listeners.length = 0;
    for (const peer of this.#connections) {
      if (peer.ready) peer.hold();
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
    this.#numbered.clear();
    this.#named.clear();
  }

  /** What peers call. */
  readonly #forPeers: PeerOwner = {
    drops: () => this.drops,
    sink: () => this.#sink,
    admit: (peer, identity) => this.#admit(peer, identity),
    lost: (peer, why, error) => this.#lost(peer, why, error),
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
      this.#log.limited(
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
      const before = this.#named.get(key);
      if (before !== undefined) {
        this.#log.info(
          "peer",
          `${peer.name} takes over the identity ${identityName(identity)} from ${before.name}`,
        );
        before.close();
        this.#forget(before);
      }
      this.#named.set(key, peer);
      peer.key = key;
    } else {
      identity = new Uint8Array(5);
      do {
        this.#counter = (this.#counter + 1) >>> 0;
      } while (this.#numbered.has(this.#counter));
      new DataView(identity.buffer).setUint32(1, this.#counter);
      this.#numbered.set(this.#counter, peer);
      peer.number = this.#counter;
    }
    this.#log.debug("peer", `${peer.name} connected as ${identityName(identity)}`);
    return encodeFrame(identity, MORE);
  }

  #lost(peer: Peer, why: string, error: Error | undefined): void {
    if (error instanceof ProtocolError) {
      this.#log.limited("peer", `${error.code} ${hostOf(peer.name)}`, `closed ${peer.name}: ${why}`);
    } else {
      this.#log.debug("peer", `${peer.name} is gone: ${why}`);
    }
    this.#forget(peer);
  }

  #forget(peer: Peer): void {
    this.#connections.delete(peer);
    if (peer.number >= 0) this.#numbered.delete(peer.number);
    if (peer.key !== null && this.#named.get(peer.key) === peer) this.#named.delete(peer.key);
    if (this.#last === peer) this.#last = null;
    this.drops.add("client-gone", peer.name, peer.egress.clear());
  }

  #find(buf: Uint8Array, start: number, next: number): Peer | null {
    const at = bodyStart(buf, start);
    if (next - start === OWN_FRAME_BYTES && buf[at] === 0) {
      const number = ((buf[at + 1] << 24) | (buf[at + 2] << 16) | (buf[at + 3] << 8) | buf[at + 4]) >>> 0;
      return this.#numbered.get(number) ?? null;
    }
    return this.#named.get(latin1(buf, at, next)) ?? null;
  }
}

interface PeerOwner {
  drops(): DropCounter;
  sink(): MessageSink;
  admit(peer: Peer, identity: Uint8Array): Uint8Array;
  lost(peer: Peer, why: string, error: Error | undefined): void;
}

/** One client of a ROUTER. */
class Peer extends Connection {
  /** The counter in the identity we gave it; -1: it brought its own. */
  number = -1;
  key: string | null = null;
  readonly #owner: PeerOwner;
  #heldBySelf = false;

  constructor(owner: PeerOwner, context: Context, link: Link, egress: Egress, messageMaxBytes: number) {
    super(context, link, egress, owner.sink(), "ROUTER", NO_PREFIX, messageMaxBytes);
    this.#owner = owner;
  }

  protected override admitted(peer: PeerProperties): Uint8Array {
    return this.#owner.admit(this, peer.identity);
  }

  protected override discarded(messages: number): void {
    this.#owner.drops().add("unread", this.name, messages);
  }

  protected override lost(why: string, error: Error | undefined): void {
    this.#owner.lost(this, why, error);
  }

  /**
   * Queues a message for this peer. A peer whose queue is full is not read from any more: one that asks but does not
   * read the answers is held back by TCP. What others send it then, up to twice the mark, waits; beyond, it is
   * dropped, and a peer that takes nothing at all is disconnected.
   */
  send(buf: Uint8Array, start: number, end: number, owned: boolean): boolean {
    const { egress } = this;
    if (this.#heldBySelf && egress.overfull) {
      this.#owner.drops().add("client-full", this.name);
      return false;
    }
    egress.append(NO_PREFIX, buf, start, end, owned);
    if (!this.#heldBySelf && egress.full) this.#holdSelf();
    return true;
  }

  #holdSelf(): void {
    const { egress } = this;
    egress.flush();
    if (!egress.full || this.gone) return;
    this.#heldBySelf = true;
    this.hold();
    const cancel = watchStall(this.context.clock, egress, CLIENT_STALL_MAX_MS, () => {
      if (this.gone) return;
      const why = `it took nothing for ${CLIENT_STALL_MAX_MS / 1000} s while its queue was full`;
      this.context.log.limited("peer", `stalled ${hostOf(this.name)}`, `disconnecting ${this.name}: ${why}`);
      this.close();
      this.#owner.lost(this, why, undefined);
    });
    egress.ondrained = () => {
      cancel();
      this.#heldBySelf = false;
      this.release();
    };
    egress.watch();
  }
}

/** Is `prefix` the bytes `buf[start, next)`? */
function startsWith(prefix: Uint8Array, buf: Uint8Array, start: number, next: number): boolean {
  if (prefix.length !== next - start) return false;
  for (let i = 1; i < prefix.length; i++) if (prefix[i] !== buf[start + i]) return false;
  return true;
}

function latin1(buf: Uint8Array, start: number, end: number): string {
  let text = "";
  for (let i = start; i < end; i++) text += String.fromCharCode(buf[i]);
  return text;
}

/** An identity for people: text where it is printable, else hexadecimal. */
export function identityName(identity: Uint8Array): string {
  if (identity.every((b) => b > 0x20 && b < 0x7f)) return `"${printableBytes(identity, 255)}"`;
  return Array.from(identity.subarray(0, 32), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** The address without its port: all connections of one host are one subject of the rate limiter. */
function hostOf(remote: string): string {
  return remote.replace(/:\d+$/, "");
}
