/**
 * A world in one process, under a seed: a virtual clock, machines, and links between them that split, stall and cut what they
 * carry. The same seed gives the same run.
 *
 * A link is a pair of pipes. What a pipe takes stands in for the kernel's buffers: a message that was taken whole and not
 * handed over whole is lost with the pipe, and the pipe knows which ones those are.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { Address, Cancel, Environment, Link, LinkEvents, Transport } from "../../mod.ts";
import { type Arena, READ_BLOCK_BYTES } from "../../src/memory/arena.ts";
import { seeded } from "./env.ts";
import { ARENA, READ_BLOCK, type TestVectors, VECTORS } from "./vectors.ts";

/** What a machine's driver can do: what those of Bun, of Deno and Node, and one without WebAssembly can. */
export type Driver = "writes many pieces" | "has an arena" | "plain";
export const DRIVERS: readonly Driver[] = ["writes many pieces", "has an arena", "plain"];

/** What a chunk is overwritten with when it was only borrowed and that is over. */
const POISON = 0xa5;

interface Event {
  readonly at: number;
  readonly order: number;
  run: (() => void) | null;
}

/** A virtual clock: events by time, then in the order they were asked for. */
class Events {
  now = 0;
  #heap: Event[] = [];
  #orders = 0;

  after(ms: number, run: () => void): Cancel {
    const event: Event = { at: this.now + Math.max(0, ms), order: this.#orders++, run };
    this.#heap.push(event);
    this.#up(this.#heap.length - 1);
    return () => event.run = null;
  }

  /** The next event, its time come; null when there is none. */
  next(): (() => void) | null {
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined) return null;
      const last = this.#heap.pop()!;
      if (this.#heap.length > 0) {
        this.#heap[0] = last;
        this.#down(0);
      }
      if (first.run === null) continue;
      this.now = first.at;
      const { run } = first;
      first.run = null;
      return run;
    }
  }

  #before(a: number, b: number): boolean {
    const [x, y] = [this.#heap[a], this.#heap[b]];
    return x.at < y.at || (x.at === y.at && x.order < y.order);
  }

  #swap(a: number, b: number): void {
    [this.#heap[a], this.#heap[b]] = [this.#heap[b], this.#heap[a]];
  }

  #up(i: number): void {
    for (; i > 0 && this.#before(i, (i - 1) >> 1); i = (i - 1) >> 1) this.#swap(i, (i - 1) >> 1);
  }

  #down(i: number): void {
    for (;;) {
      let least = i;
      for (const child of [2 * i + 1, 2 * i + 2]) {
        if (child < this.#heap.length && this.#before(child, least)) least = child;
      }
      if (least === i) return;
      this.#swap(i, least);
      i = least;
    }
  }
}

/** Bytes of a frame that are looked at: more than a type, and a body up to its id. */
const FRAME_HEAD_BYTES = 200;

/** Reads what passes a place as ZMTP, and collects the whole messages. */
class Reading {
  readonly messages: Passed[] = [];
  /** The header, or the head of the body, as far as it has come. */
  readonly #head: number[] = [];
  /** Bytes of the greeting, or of the frame's body, that are still to come; -1: a header comes. */
  #left = 64;
  #greeted = false;
  #flags = 0;
  #frames: Uint8Array[] = [];

  push(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length || this.#left === 0;) {
      if (this.#left < 0) {
        this.#head.push(bytes[at++]);
        this.#header();
        continue;
      }
      const size = Math.min(this.#left, bytes.length - at);
      for (let i = at; i < at + size && this.#head.length < FRAME_HEAD_BYTES; i++) this.#head.push(bytes[i]);
      at += size;
      this.#left -= size;
      if (this.#left === 0) this.#frame();
    }
  }

  #header(): void {
    const head = this.#head;
    const long = (head[0] & 2) !== 0;
    if (head.length < (long ? 9 : 2)) return;
    this.#flags = head[0];
    this.#left = head.slice(1).reduce((size, byte) => size * 256 + byte, 0);
    head.length = 0;
  }

  #frame(): void {
    const head = Uint8Array.from(this.#head);
    this.#head.length = 0;
    this.#left = -1;
    if (!this.#greeted) {
      this.#greeted = true;
      return;
    }
    if ((this.#flags & 4) !== 0) return;
    this.#frames.push(head);
    if ((this.#flags & 1) !== 0) return;
    this.messages.push(passed(this.#frames));
    this.#frames = [];
  }
}

/** A message that passed a place: its type, and the `id` of its body. */
export interface Passed {
  readonly type: string;
  readonly id: string;
}

function passed(frames: Uint8Array[]): Passed {
  const at = frames.findIndex(({ length }) => length === 0);
  const text = (frame: Uint8Array | undefined) => new TextDecoder().decode(frame);
  return { type: text(frames[at + 1]), id: /"id":"([^"]*)"/.exec(text(frames[at + 2]))?.[1] ?? "" };
}

/** One direction of a link. */
class Pipe {
  readonly capacity: number;
  readonly bytesPerMs: number;
  /** What was taken and not handed over yet. */
  #bytes: Uint8Array[] = [];
  size = 0;
  /** Nothing comes out any more. */
  dead = false;
  /** Nothing comes out for now. */
  stalled = false;
  /** The sender has sent FIN behind what it wrote. */
  fin = false;
  readonly taken = new Reading();
  readonly handedOver = new Reading();

  constructor(capacity: number, bytesPerMs: number) {
    this.capacity = capacity;
    this.bytesPerMs = bytesPerMs;
  }

  get room(): number {
    return Math.max(0, this.capacity - this.size);
  }

  put(bytes: Uint8Array): void {
    this.taken.push(bytes);
    this.#bytes.push(bytes);
    this.size += bytes.length;
  }

  take(size: number): Uint8Array {
    const out = new Uint8Array(Math.min(size, this.size));
    let at = 0;
    while (at < out.length) {
      const first = this.#bytes[0];
      const part = first.subarray(0, out.length - at);
      out.set(part, at);
      at += part.length;
      if (part.length === first.length) this.#bytes.shift();
      else this.#bytes[0] = first.subarray(part.length);
    }
    this.size -= out.length;
    return out;
  }

  /** What the kernel held is gone; it still takes what is written, as long as nobody has noticed. */
  kill(): void {
    this.dead = true;
    this.#bytes = [];
    this.size = 0;
  }

  /** Messages that went in whole and did not come out whole. */
  get lost(): Passed[] {
    return this.taken.messages.slice(this.handedOver.messages.length);
  }
}

interface InFlight {
  readonly buf: Uint8Array;
  readonly start: number;
  at: number;
  readonly end: number;
  /** The bytes as they were: nobody may touch them. */
  readonly copy: Uint8Array;
}

class SimulatedLink implements Link {
  readonly remote: string;
  readonly writev?: (first: number, count: number) => number;
  events: LinkEvents | null = null;
  peer!: SimulatedLink;
  /** Nothing happens here any more. */
  gone = false;
  readonly #world: World;
  readonly #machine: Machine;
  readonly #incoming: Pipe;
  readonly #outgoing: Pipe;
  #inFlight: InFlight | null = null;
  #written = 0;
  paused = false;
  #ending = false;
  #finSeen = false;
  #delivering = false;
  #lastBytes = 0;

  constructor(world: World, machine: Machine, remote: string, incoming: Pipe, outgoing: Pipe) {
    this.#world = world;
    this.#machine = machine;
    this.remote = remote;
    this.#incoming = incoming;
    this.#outgoing = outgoing;
    if (machine.vectors !== null) {
      this.writev = (first, count) => this.#writev(machine.vectors!, first, count);
    }
  }

  write(chunk: Uint8Array, start: number, end: number): boolean {
    assert.equal(this.#inFlight, null, "a write while another is in flight");
    assert.ok(!this.#ending, "a write after end()");
    assert.ok(end > start, "a write of nothing");
    if (this.gone) return true;
    this.#inFlight = { buf: chunk, start, at: start, end, copy: chunk.slice(start, end) };
    this.#pushOn();
    // A runtime that can take nothing at once is one of them.
    if (this.#inFlight!.at < end || this.#world.chance(0.1)) {
      if (this.#inFlight!.at === end) this.#world.soon(() => this.retry());
      return false;
    }
    this.#inFlight = null;
    return true;
  }

  #writev(vectors: TestVectors, first: number, count: number): number {
    assert.equal(this.#inFlight, null, "a write while another is in flight");
    if (this.gone) return 0;
    let taken = 0;
    for (const piece of vectors.pieces(first, count)) {
      const part = piece.slice(0, this.#most());
      if (part.length > 0) this.#put(part);
      taken += part.length;
      if (part.length < piece.length) break;
    }
    vectors.forget();
    return taken;
  }

  /** The kernel takes what fits, and sometimes less. */
  #most(): number {
    const { room } = this.#outgoing;
    return this.#world.chance(0.1) ? Math.floor(room * this.#world.random()) : room;
  }

  #put(bytes: Uint8Array): void {
    this.#outgoing.put(bytes);
    this.peer.deliverSoon();
  }

  /** The kernel takes of the write in flight what fits. */
  #pushOn(): void {
    const write = this.#inFlight;
    if (write === null) return;
    const size = Math.min(write.end - write.at, this.#most());
    if (size === 0) return;
    const bytes = write.buf.slice(write.at, write.at + size);
    const before = write.copy.subarray(write.at - write.start, write.at - write.start + size);
    assert.ok(Buffer.compare(bytes, before) === 0, "bytes in flight were touched");
    write.at += size;
    this.#put(bytes);
  }

  retry(): void {
    if (this.gone || this.#inFlight === null) return;
    this.#pushOn();
    const write = this.#inFlight;
    if (write.at < write.end) return;
    this.#written = write.end - write.start;
    this.#inFlight = null;
    if (this.#ending) this.#fin();
    this.events!.written();
  }

  writtenBytes(): number {
    return this.#inFlight === null ? this.#written : this.#inFlight.at - this.#inFlight.start;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.deliverSoon();
  }

  end(): void {
    if (this.#ending || this.gone) return;
    this.#ending = true;
    if (this.#inFlight === null) this.#fin();
  }

  #fin(): void {
    this.#outgoing.fin = true;
    this.peer.deliverSoon();
  }

  destroy(): void {
    if (this.gone) return;
    this.gone = true;
    const unread = this.#incoming.size > 0;
    this.#incoming.kill();
    // As the kernel does: what a process leaves unread, or says by a reset, takes what was sent with it.
    if (!this.#ending || unread || this.#inFlight !== null) {
      this.#outgoing.kill();
      this.#world.after(
        this.#world.between(0.1, 40),
        () => this.peer.lose(new Error("connection reset by peer")),
      );
    }
    this.peer.deliverSoon();
  }

  /** The link is gone, and this end learns it. */
  lose(error?: Error): void {
    if (this.gone) return;
    this.gone = true;
    this.#incoming.kill();
    this.events!.closed(error);
  }

  deliverSoon(): void {
    if (this.#delivering || this.gone || this.events === null) return;
    this.#delivering = true;
    this.#world.after(this.#world.between(0.05, 2) + this.#lastBytes / this.#incoming.bytesPerMs, () => {
      this.#delivering = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    const pipe = this.#incoming;
    if (this.gone || pipe.dead || pipe.stalled || this.paused) return;
    if (pipe.size === 0) {
      if (!pipe.fin || this.#finSeen) return;
      this.#finSeen = true;
      this.events!.ended();
      return;
    }
    const direct = this.events!.readTarget(1 + Math.floor(this.#world.random() * 20_000));
    const bytes = pipe.take(
      direct === null ? this.#split(pipe.size) : Math.min(direct.length, this.#split(pipe.size)),
    );
    pipe.handedOver.push(bytes);
    this.#lastBytes = bytes.length;
    this.#world.note(bytes.length);
    if (direct !== null) {
      direct.set(bytes);
      this.events!.commitRead(bytes.length);
    } else {
      this.#machine.hand(bytes, (chunk, start, end) => this.events!.data(chunk, start, end));
    }
    if (!this.gone) this.peer.roomSoon();
    this.deliverSoon();
  }

  /** Where a read ends: anywhere. */
  #split(size: number): number {
    const { random } = this.#world;
    const kind = random();
    const most = kind < 0.1 ? 4 : kind < 0.3 ? 300 : kind < 0.6 ? 8000 : READ_BLOCK_BYTES;
    return Math.min(size, 1 + Math.floor(random() * most));
  }

  roomSoon(): void {
    if (this.#inFlight === null) return;
    this.#world.after(this.#world.between(0.05, 1), () => this.retry());
  }
}

class Machine {
  readonly vectors: TestVectors | null;
  readonly arena: Arena | undefined;
  readonly #inArena: () => boolean;

  constructor(world: World, driver: Driver) {
    this.arena = driver === "plain" ? undefined : ARENA;
    this.vectors = driver === "writes many pieces" ? VECTORS : null;
    this.#inArena = () => this.arena !== undefined && world.chance(0.5);
  }

  /** Hands bytes over as a chunk that is borrowed, and takes it away again. */
  hand(bytes: Uint8Array, data: (chunk: Uint8Array, start: number, end: number) => void): void {
    if (this.#inArena()) {
      ARENA.buf.set(bytes, READ_BLOCK.start);
      data(ARENA.buf, READ_BLOCK.start, READ_BLOCK.start + bytes.length);
      ARENA.buf.fill(POISON, READ_BLOCK.start, READ_BLOCK.start + bytes.length);
    } else {
      data(bytes, 0, bytes.length);
      bytes.fill(POISON);
    }
  }
}

/** What one connection carried, once the world has ended. */
interface Connected {
  readonly from: string;
  readonly to: string;
  readonly dialer: SimulatedLink;
  readonly accepted: SimulatedLink;
  readonly up: Pipe;
  readonly down: Pipe;
}

interface Listening {
  readonly machine: Machine;
  readonly accept: (link: Link) => LinkEvents;
}

/** All machines, and the network between them. */
export class World {
  readonly random: () => number;
  readonly connections: Connected[] = [];
  readonly #events = new Events();
  readonly #listening = new Map<string, Listening>();
  #digest = 17;
  #ports = 1024;

  constructor(seed: number) {
    this.random = seeded(seed);
  }

  get now(): number {
    return this.#events.now;
  }

  /** Timers that were neither cancelled nor have come, by machine. */
  readonly timers = new Map<string, number>();

  /** Two runs of one seed have the same. */
  get digest(): number {
    return this.#digest;
  }

  note(value: number): void {
    this.#digest = (Math.imul(this.#digest, 31) + value + Math.round(this.now * 1000)) | 0;
  }

  chance(probability: number): boolean {
    return this.random() < probability;
  }

  between(least: number, most: number): number {
    return least + (most - least) * this.random();
  }

  pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.random() * list.length)];
  }

  after(ms: number, f: () => void): Cancel {
    return this.#events.after(ms, f);
  }

  soon(f: () => void): void {
    this.#events.after(0, f);
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => void this.#events.after(ms, resolve));
  }

  /** Lets the world go on until a promise has settled. */
  async run<T>(what: string, promise: Promise<T>, limitMs: number): Promise<T> {
    let settled = false;
    const end = this.now + limitMs;
    promise.then(() => settled = true, () => settled = true);
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (settled) return await promise;
      const event = this.#events.next();
      if (event === null) throw new Error(`nothing happens any more, while waiting for ${what}`);
      if (this.now > end) throw new Error(`${what} took longer than ${limitMs / 1000} s`);
      event();
    }
  }

  /** A machine, from which one can connect to `tcp://NAME:PORT` of others. */
  machine(name: string, driver: Driver): Environment {
    const machine = new Machine(this, driver);
    return {
      clock: {
        now: () => this.now,
        time: () => 1_700_000_000_000 + this.now,
        after: (ms, f) => this.#timer(name, ms, f, false),
        every: (ms, f) => this.#timer(name, ms, f, true),
        soon: (f) => queueMicrotask(f),
        nextTurn: (f) => this.soon(f),
      },
      random: this.random,
      host: {
        name,
        pid: 1,
        home: "/root",
        folder: "/",
        platform: "simulated",
        runtime: driver,
        descriptorsMax: null,
        descriptorsFree: () => true,
        receivesDatagrams: false,
        memoryBytes: 2 ** 40,
        usage: () => ({
          userSeconds: 0,
          systemSeconds: 0,
          childUserSeconds: 0,
          childSystemSeconds: 0,
          residentBytes: 0,
          startedMs: 0,
        }),
      },
      resolve: (host) => Promise.resolve([host]),
      links: this.#transport(name, machine),
      files: {
        read: absent,
        replace: absent,
        create: absent,
        list: () => Promise.resolve([]),
        ownerOf: () => Promise.resolve(null),
        modeOf: () => Promise.resolve(null),
        remove: absent,
        makeFolder: absent,
        openPipes: absent,
        openMailbox: absent,
        postTo: absent,
        openAppend: absent,
        closeFile: () => {},
      },
      processes: {
        self: [],
        load: absent,
        onSignal: () => () => {},
        onUncaught: () => () => {},
        setNonBlocking: () => false,
        serviceManager: { hearsUs: false, notify: () => false, monotonicMicros: () => null },
        user: null,
        env: {},
        bootId: "",
        spawn: () => ({
          pid: null,
          exited: Promise.resolve({ code: null, signal: null, error: "ENOSYS" }),
          outputEnded: Promise.resolve(),
          closeOutput() {},
        }),
        signal: () => false,
        look: () => null,
        userOf: () => null,
        findUser: () => Promise.resolve(null),
        list: () => [],
        environmentOf: () => null,
        startThread: () => {
          throw new Error("a simulation has no threads");
        },
        takeSecret: () => null,
        collectsOrphans: false,
        collect() {},
      },
    };
  }

  #timer(machine: string, ms: number, f: () => void, again: boolean): Cancel {
    const count = (by: number) => this.timers.set(machine, (this.timers.get(machine) ?? 0) + by);
    let cancelEvent: Cancel = () => {};
    const cancel = () => {
      if (over) return;
      over = true;
      count(-1);
      cancelEvent();
    };
    const run = () => {
      if (again) cancelEvent = this.#events.after(ms, run);
      else cancel();
      f();
    };
    let over = false;
    count(1);
    cancelEvent = this.#events.after(ms, run);
    return cancel;
  }

  #transport(name: string, machine: Machine): Transport {
    return {
      arena: machine.arena,
      vectors: machine.vectors ?? undefined,
      copy: (from, start, end, to, at) => to.set(from.subarray(start, end), at),
      listen: (address, _options, accept) => {
        const key = keyOf(address);
        assert.ok(!this.#listening.has(key), `${key} is free`);
        this.#listening.set(key, { machine, accept });
        return Promise.resolve({
          address,
          close: () => {
            this.#listening.delete(key);
            return Promise.resolve();
          },
        });
      },
      connect: (address, _options, open, failed) => this.#connect(name, machine, address, open, failed),
      prepareSocketFile: absent,
      removeSocketFile: () => {},
      loadLibzmq: absent,
    };
  }

  #connect(
    name: string,
    machine: Machine,
    address: Address,
    open: (link: Link) => LinkEvents,
    failed: (error: Error) => void,
  ): Cancel {
    return this.after(this.between(0.1, 5), () => {
      const to = keyOf(address);
      const listening = this.#listening.get(to);
      if (listening === undefined || this.chance(0.05)) return failed(new Error("connection refused"));
      const [up, down] = [this.#pipe(), this.#pipe()];
      const dialer = new SimulatedLink(this, machine, `tcp://${to}`, down, up);
      const accepted = new SimulatedLink(this, listening.machine, `tcp://${name}:${this.#ports++}`, up, down);
      dialer.peer = accepted;
      accepted.peer = dialer;
      this.connections.push({ from: name, to, dialer, accepted, up, down });
      accepted.events = listening.accept(accepted);
      dialer.events = open(dialer);
      for (const link of [dialer, accepted]) link.deliverSoon();
    });
  }

  /** Capacities and speeds as far apart as those of a busy line and an idle one. */
  #pipe(): Pipe {
    return new Pipe(Math.floor(2 ** this.between(10, 18)), 2 ** this.between(8, 16));
  }

  /** Connections that are there, as far as both ends know. */
  get open(): Connected[] {
    return this.connections.filter(({ dialer, accepted }) => !dialer.gone && !accepted.gone);
  }

  /** Cuts a connection: what it held is lost. The listening end learns it first, as it does where its peer has crashed. */
  cut({ dialer, accepted, up, down }: Connected): void {
    up.kill();
    down.kill();
    this.after(this.between(0, 20), () => accepted.lose(new Error("connection reset by peer")));
    this.after(
      this.between(20, 45),
      () => dialer.lose(this.chance(0.5) ? new Error("connection reset by peer") : undefined),
    );
  }

  /** Nothing comes through for a while, in one direction or both. */
  stall({ dialer, accepted, up, down }: Connected, ms: number): void {
    const pipes = this.pick([[up], [down], [up, down]]);
    for (const pipe of pipes) pipe.stalled = true;
    this.after(ms, () => {
      for (const pipe of pipes) pipe.stalled = false;
      for (const link of [dialer, accepted]) link.deliverSoon();
    });
  }
}

function keyOf(address: Address): string {
  assert.equal(address.transport, "tcp");
  return address.transport === "tcp" ? `${address.host}:${address.port}` : "";
}

function absent(): Promise<never> {
  return Promise.reject(new Error("the simulation has no such thing"));
}
