/** Links in a test's own hands: what comes in is given by it, and what goes out is taken as far as it says. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { Arena } from "../../src/memory/arena.ts";
import type { Address, Cancel, Link, LinkEvents, LinkOptions, Listener, Transport } from "../../mod.ts";
import { GREETING, ready } from "./raw.ts";
import type { Driver } from "./simulation.ts";
import { ARENA, READ_BLOCK, type TestVectors, VECTORS } from "./vectors.ts";

export class PuppetLink implements Link {
  readonly remote: string;
  readonly writev?: (first: number, count: number) => number;
  events!: LinkEvents;
  destroyed = false;
  paused = false;
  readonly #network: PuppetNetwork;
  readonly #taken: Buffer[] = [];
  #inFlight: { readonly buf: Uint8Array; readonly start: number; at: number; readonly end: number } | null =
    null;

  constructor(network: PuppetNetwork, remote: string) {
    this.#network = network;
    this.remote = remote;
    const { vectors } = network;
    if (vectors !== undefined) this.writev = (first, count) => this.#writev(vectors, first, count);
  }

  /** All that it took. */
  get bytes(): Buffer {
    return Buffer.concat(this.#taken);
  }

  write(chunk: Uint8Array, start: number, end: number): boolean {
    assert.equal(this.#inFlight, null, "one write at a time");
    const taken = this.#network.takes(end - start);
    this.#taken.push(Buffer.from(chunk.slice(start, start + taken)));
    if (taken === end - start) return true;
    this.#inFlight = { buf: chunk, start, at: start + taken, end };
    return false;
  }

  #writev(vectors: TestVectors, first: number, count: number): number {
    assert.equal(this.#inFlight, null, "one write at a time");
    const bytes = Buffer.concat([...vectors.pieces(first, count)]);
    vectors.forget();
    const taken = this.#network.takes(bytes.length);
    this.#taken.push(Buffer.from(bytes.subarray(0, taken)));
    return taken;
  }

  /** The write in flight goes on, as far as it may. */
  drain(): void {
    while (this.#inFlight !== null && !this.destroyed) {
      const write = this.#inFlight;
      this.#taken.push(Buffer.from(write.buf.slice(write.at, write.end)));
      write.at = write.end;
      this.#inFlight = null;
      this.events.written();
    }
  }

  writtenBytes(): number {
    return this.#inFlight === null ? 0 : this.#inFlight.at - this.#inFlight.start;
  }

  /** Gives it bytes as one chunk, which is overwritten when it has been taken. */
  give(...parts: Uint8Array[]): void {
    const bytes = Buffer.concat(parts);
    if (this.#network.arena === undefined) {
      this.events.data(bytes, 0, bytes.length);
      bytes.fill(0xee);
      return;
    }
    ARENA.buf.set(bytes, READ_BLOCK.start);
    this.events.data(ARENA.buf, READ_BLOCK.start, READ_BLOCK.start + bytes.length);
    ARENA.buf.fill(0xee, READ_BLOCK.start, READ_BLOCK.start + bytes.length);
  }

  /** The link breaks, wherever its write is. */
  break(): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.events.closed(new Error("connection reset by peer"));
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  end(): void {
    this.break();
  }

  destroy(): void {
    this.destroyed = true;
  }
}

/** A transport that listens once, and whose connections are all taken at once by a ROUTER that only speaks its handshake. */
export class PuppetNetwork implements Transport {
  readonly arena?: Arena;
  readonly vectors?: TestVectors;
  /** Links to upstreams, by the order of connecting. */
  readonly upstreams: PuppetLink[] = [];
  /** Of so many bytes, how many a link takes at once. */
  readonly takes: (bytes: number) => number;
  /** When set, nobody listens where one connects to; it is told of each attempt. */
  refuse: ((address: Address) => void) | null = null;
  #accept!: (link: Link) => LinkEvents;
  #greeting = false;

  constructor(driver: Driver, takes: (bytes: number) => number) {
    if (driver !== "plain") this.arena = ARENA;
    if (driver === "writes many pieces") this.vectors = VECTORS;
    this.takes = (bytes) => this.#greeting ? bytes : takes(bytes);
  }

  /** A client connects. */
  accept(): PuppetLink {
    const link = new PuppetLink(this, "tcp://192.0.2.1:1");
    link.events = this.#accept(link);
    return link;
  }

  /** Whole messages that upstreams took, by the endpoint, as text. */
  messages(): Map<string, string[]> {
    const found = new Map<string, string[]>();
    for (const { remote, bytes } of this.upstreams) {
      const messages = found.get(remote) ?? [];
      found.set(remote, messages);
      // Behind the greeting and READY.
      let start = 64 + 2 + bytes[65];
      for (let at = start; at + 2 <= bytes.length;) {
        const long = (bytes[at] & 2) !== 0;
        if (long && at + 9 > bytes.length) break;
        const more = (bytes[at] & 1) !== 0;
        at += long ? 9 + bytes.readUInt32BE(at + 5) : 2 + bytes[at + 1];
        if (more) continue;
        if (at > bytes.length) break;
        messages.push(bytes.toString("latin1", start, at));
        start = at;
      }
    }
    return found;
  }

  copy(from: Uint8Array, start: number, end: number, to: Uint8Array, at: number): void {
    to.set(from.subarray(start, end), at);
  }

  listen(address: Address, _options: LinkOptions, accept: (link: Link) => LinkEvents): Promise<Listener> {
    this.#accept = accept;
    return Promise.resolve({ address, close: () => Promise.resolve() });
  }

  connect(
    address: Address,
    _options: LinkOptions,
    open: (link: Link) => LinkEvents,
    failed: (error: Error) => void,
  ): Cancel {
    if (this.refuse !== null) {
      this.refuse(address);
      queueMicrotask(() => failed(new Error("connection refused")));
      return () => {};
    }
    const link = new PuppetLink(
      this,
      address.transport === "tcp" ? `tcp://${address.host}:${address.port}` : address.path,
    );
    this.upstreams.push(link);
    // The handshake goes through whole; what is tested comes behind it.
    this.#greeting = true;
    link.events = open(link);
    link.give(GREETING, ready("ROUTER"));
    this.#greeting = false;
    return () => {};
  }

  prepareSocketFile(): Promise<void> {
    return Promise.resolve();
  }

  removeSocketFile(): void {}

  loadLibzmq(): Promise<never> {
    return Promise.reject(new Error("not here"));
  }
}
