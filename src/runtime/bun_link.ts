/// <reference types="bun-types" />
/** A link of Bun: its socket, and reads of our own where much comes. */
import { ptr } from "bun:ffi";
import type { Batch, Link, LinkEvents } from "../contracts/links.ts";
import { Arena, SHARED_READ_BYTES } from "../memory/arena.ts";
import { ENTRY_BYTES, LIST_BYTES, Vectors } from "../memory/vectors.ts";
import { openEpoll } from "./bun_epoll.ts";
import { type Libc, loadLibc } from "./bun_libc.ts";
import {
  DIRECT_MIN_BYTES,
  fairReadBytes,
  MADV_DONTNEED,
  SIOCOUTQ,
  TRIM_MIN_BYTES,
  windowBytes,
} from "./common.ts";
import { type SetOption, setReceiveBuffer } from "./sockopt.ts";
import { Crowd, CROWD_MUCH_BYTES, type CrowdLink, type Member } from "./crowd.ts";
import { type HotLink, type LightLink, type Loop, Manner, MUCH_BYTES, Pace, Rounds } from "./turn.ts";

export const ARENA = new Arena();
/** Where we read to ourselves; one for all links, as nothing stays in it. */
const SHARED_BLOCK = ARENA.take(SHARED_READ_BYTES)!;
const SHARED_ADDRESS = ptr(ARENA.buf, SHARED_BLOCK.start);
/** A hot link that brings less in so many turns, one after the other, is not hot any more. */
const SMALL_READ_BYTES = 16 * 1024;
const SMALL_TURNS_MAX = 4;
/** So many reads that bring less end a turn. */
const SMALL_READS_MAX = 4;
/** Bytes that a link which brings little is asked for. */
const LIGHT_READ_BYTES = 64 * 1024;
/** From here on the buffer of a chunk is given back by hand. */
const FREE_MIN_BYTES = 4 * 1024;
/** What writev() writes. */
export const VECTORS: Vectors = new Vectors(ARENA, ARENA.take(LIST_BYTES)!, ptr);
const VECTORS_ADDRESS = VECTORS.base + VECTORS.at;
const MSG_DONTWAIT = process.platform === "darwin" ? 0x80 : 0x40;
/** Bun hands out at most so much at once. */
const CHUNK_MAX_BYTES = 512 * 1024;

export function trim(): void {
  const libc = process.platform === "linux" ? loadLibc() : null;
  if (libc === null) return;
  for (const block of [...ARENA.freeBlocks(TRIM_MIN_BYTES), SHARED_BLOCK]) {
    libc.madvise(VECTORS.base + block.start, block.size, MADV_DONTNEED);
  }
}

/** From so many open links on, what each may bring at once is too much, all together. */
const CROWD_LINKS = 256;
/** In a crowd, one that is paused comes in when it has brought that. */
const CROWD_PAUSED_BYTES = 4 * 1024;

/** Links that are open. */
let openLinks = 0;
/** Those that were accepted, each at its `#place`. */
const accepted: BunLink[] = [];
/** Those before have been asked to join the crowd. */
let asked = 0;
/** Those before have receive buffers of at most so many bytes. */
let narrowed = 0;
let narrowBytes = Infinity;

const LOOP: Loop = {
  // Where processors are short, one that never rests is put off for longer than that by the system.
  nextTurn: (f, mixed) => void (mixed ? setTimeout(f, 1) : setImmediate(f)),
  now: () => performance.now(),
  mixedBytes: 4 * 1024 * 1024,
  mixedMs: 4,
};
const ROUNDS = new Rounds(LOOP);
let crowd: Crowd | null | undefined;

/** Made when it is needed; null where it cannot be. */
function crowdOf(): Crowd | null {
  if (crowd !== undefined) return crowd;
  const readiness = loadLibc() === null ? null : openEpoll();
  return crowd = readiness === null ? null : new Crowd(ROUNDS, LOOP, readiness, pullIn);
}

function pullIn(links: number): boolean {
  for (; links > 0 && asked < accepted.length; links--) accepted[asked++].crowd(0);
  if (asked < accepted.length) return true;
  asked = 0;
  return false;
}

export class BunLink implements Link, HotLink, LightLink, CrowdLink {
  readonly remote: string;
  events!: LinkEvents;
  readonly #socket: Bun.Socket<Slot>;
  /** The write in flight: what the kernel did not take yet. */
  #rest: Uint8Array | null = null;
  #start = 0;
  #at = 0;
  #end = 0;
  #ending = false;
  #paused = false;
  #gone = false;
  /** Read in rounds, and not by Bun's loop. */
  #hot = false;
  #smallTurns = 0;
  /** In the crowd. */
  #member: Member | null = null;
  #place = -1;
  #windowBytes = Infinity;
  readonly #manner = new Manner();
  readonly #pace = new Pace();
  /** Another descriptor of the socket, as Bun has closed its own when it tells of the end; -1: there is none. */
  #kept = -1;
  #unacknowledged = -1;

  constructor(socket: Bun.Socket<Slot>, remote: string) {
    this.#socket = socket;
    this.remote = remote;
    openLinks++;
  }

  /**
   * A client's: there may be many, and what waits in the system for all of them is bounded.
   *
   * @param sized May its receive buffer be chosen?
   */
  accept(sized: boolean): void {
    this.#place = accepted.push(this) - 1;
    const bytes = windowBytes(openLinks);
    if (bytes < narrowBytes) narrowed = 0;
    narrowBytes = bytes;
    if (sized) this.#narrow(bytes);
    else this.#windowBytes = 0;
    // Those that came before follow: by the time there are a third more, all have.
    for (let i = 0; i < 4 && narrowed < accepted.length; i++) accepted[narrowed++].#narrow(bytes);
  }

  #narrow(bytes: number): void {
    const { fd } = this.#socket as unknown as { fd: number };
    if (bytes >= this.#windowBytes || fd < 0) return;
    this.#windowBytes = bytes;
    setReceiveBuffer(bytes, setterOf(fd));
  }

  #forget(): void {
    openLinks--;
    if (this.#hot) ROUNDS.remove(this);
    if (this.#place < 0) return;
    const last = accepted.pop()!;
    if (last !== this) accepted[last.#place = this.#place] = last;
    this.#place = -1;
  }

  data(chunk: Uint8Array): void {
    const { events } = this;
    const size = chunk.length;
    events.data(chunk, 0, size);
    // Bun makes a buffer for each chunk: given back now it is used for the next, and not left to the collector.
    if (size >= FREE_MIN_BYTES && chunk.buffer.byteLength === size) (chunk.buffer as ArrayBuffer).transfer(0);
    if (this.#gone || this.#hot || this.#member !== null) return;
    const isCrowd = openLinks >= CROWD_LINKS;
    if (this.#paused) {
      if (isCrowd && size >= CROWD_PAUSED_BYTES) this.crowd(size);
    } else if (size < (isCrowd ? CROWD_MUCH_BYTES : MUCH_BYTES)) {
      if (this.#manner.little(size, performance.now())) ROUNDS.light(this);
    } else {
      this.#heat();
    }
  }

  /** Where much comes there is more: it is read into the arena, without a buffer made for it. */
  #heat(): void {
    if (loadLibc() === null) return;
    if (crowd && crowd.size > 0 && this.crowd(0)) return;
    if (!ROUNDS.add(this)) {
      if (this.crowd(0)) return;
      ROUNDS.begin();
      this.#read();
      this.#manner.much(performance.now());
      return;
    }
    this.#hot = true;
    this.#smallTurns = 0;
    this.#socket.pause();
  }

  /**
   * It joins the crowd, unless it is there.
   *
   * @param bytes What it has brought when it is paused.
   * @returns Is it there now?
   */
  crowd(bytes: number): boolean {
    const { fd } = this.#socket as unknown as { fd: number };
    if (this.#gone || this.#hot || fd < 0) return false;
    if (this.#member !== null) return true;
    this.#member = crowdOf()?.join(this, fd) ?? null;
    if (this.#member === null) return false;
    if (this.#paused) crowd!.pause(this.#member, bytes);
    else this.#socket.pause();
    return true;
  }

  readOnce(mostBytes: number): number {
    const most = Math.min(mostBytes, ROUNDS.next(this.#pace));
    let direct = this.events.readTarget(DIRECT_MIN_BYTES);
    if (direct !== null && direct.length > most) direct = direct.subarray(0, most);
    const asked = direct === null ? Math.min(most, sharedReadBytes()) : direct.length;
    const { fd } = this.#member!;
    const libc = loadLibc()!;
    const n = direct === null ? this.#readShared(libc, fd, asked) : this.#readDirect(libc, fd, direct);
    if (n > 0) ROUNDS.took(this.#pace, n);
    if (this.#member !== null) this.#member.more = n === asked;
    return n;
  }

  get batch(): Batch | null {
    return this.events.batch ?? null;
  }

  left(few: boolean): void {
    this.#member = null;
    if (few && ROUNDS.add(this)) {
      this.#hot = true;
      this.#smallTurns = 0;
    } else {
      this.#toLoop();
    }
  }

  readTurn(): void {
    // One that sends little at a time, and perhaps waits for the answer, costs a turn more here than there.
    if (this.#read()) this.#smallTurns = 0;
    else if (this.#hot && !this.#paused && ++this.#smallTurns === SMALL_TURNS_MAX) this.#leave();
  }

  /** Reads until its turn is over, or there is no more; false: that was little. */
  #read(): boolean {
    const { fd } = this.#socket as unknown as { fd: number };
    const libc = loadLibc()!;
    let bytes = 0;
    let smallReads = 0;
    while (!this.#paused && !this.#gone) {
      const most = ROUNDS.next(this.#pace);
      if (most === 0) return true;
      let direct = this.events.readTarget(DIRECT_MIN_BYTES);
      if (direct !== null && direct.length > most) direct = direct.subarray(0, most);
      const asked = direct === null ? Math.min(most, sharedReadBytes()) : direct.length;
      const n = direct === null ? this.#readShared(libc, fd, asked) : this.#readDirect(libc, fd, direct);
      if (n <= 0) {
        // Bun's loop sees the end once more, and tells.
        if (n === 0 && this.#hot) this.#leave();
        break;
      }
      bytes += n;
      ROUNDS.took(this.#pace, n);
      // More may have come meanwhile, and more at once costs less; one that sends little waits for its next turn.
      if (n < asked && n < SMALL_READ_BYTES && ++smallReads === SMALL_READS_MAX) break;
    }
    return bytes >= SMALL_READ_BYTES;
  }

  readLight(): boolean {
    if (this.#gone || this.#hot || this.#member !== null) return false;
    if (this.#paused) return true;
    const { fd } = this.#socket as unknown as { fd: number };
    return this.#readShared(loadLibc()!, fd, LIGHT_READ_BYTES) !== 0;
  }

  #leave(): void {
    ROUNDS.remove(this);
    this.cool();
  }

  cool(): void {
    this.#manner.much(performance.now());
    this.#toLoop();
  }

  #toLoop(): void {
    this.#hot = false;
    if (!this.#paused && !this.#gone) this.#socket.resume();
  }

  #readDirect(libc: Libc, fd: number, to: Uint8Array): number {
    const n = libc.recv(fd, ptr(to), to.length, MSG_DONTWAIT);
    if (n > 0) this.events.commitRead(n);
    return n;
  }

  #readShared(libc: Libc, fd: number, most: number): number {
    const n = libc.recv(fd, SHARED_ADDRESS, most, MSG_DONTWAIT);
    if (n > 0) this.events.data(ARENA.buf, SHARED_BLOCK.start, SHARED_BLOCK.start + n);
    return n;
  }

  write(chunk: Uint8Array, start: number, end: number): boolean {
    this.#start = this.#at = start;
    const n = this.#socket.write(chunk, start, end - start);
    if (n === end - start) return true;
    this.#rest = chunk;
    if (n > 0) this.#at = start + n;
    this.#end = end;
    return false;
  }

  writev(first: number, count: number): number {
    const { fd } = this.#socket as unknown as { fd: number };
    const libc = loadLibc();
    if (libc === null || this.#gone || fd < 0) return 0;
    // An error is told by the write that follows.
    return Math.max(0, Number(libc.writev(fd, VECTORS_ADDRESS + first * ENTRY_BYTES, count)));
  }

  writtenBytes(): number {
    return this.#at - this.#start;
  }

  /** Called when the socket can take more, and by {@link Link.retry}. */
  retry(): void {
    if (this.#rest === null || this.#gone) return;
    const n = this.#socket.write(this.#rest, this.#at, this.#end - this.#at);
    if (n > 0) this.#at += n;
    if (this.#at < this.#end) return;
    this.#rest = null;
    if (this.#ending) this.#socket.shutdown();
    this.events.written();
  }

  /** From now on it tells what is unacknowledged. */
  keepDescriptor(): void {
    const { fd } = this.#socket as unknown as { fd: number };
    if (process.platform === "linux" && fd >= 0) this.#kept = loadLibc()?.dup(fd) ?? -1;
  }

  unacknowledgedBytes(): number {
    if (this.#kept < 0) return this.#unacknowledged;
    const bytes = new Int32Array(1);
    return loadLibc()!.ioctl(this.#kept, SIOCOUTQ, bytes) === 0 ? bytes[0] : -1;
  }

  /** A socket ends when all its descriptors are closed. */
  #closeKept(): void {
    if (this.#kept < 0) return;
    this.#unacknowledged = this.unacknowledgedBytes();
    loadLibc()!.close(this.#kept);
    this.#kept = -1;
  }

  pause(): void {
    this.#paused = true;
    if (this.#hot) ROUNDS.remove(this);
    else if (this.#member !== null) crowd!.pause(this.#member, 0);
    else this.#socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    if (this.#member !== null) crowd!.resume(this.#member);
    else if (!this.#hot) this.#socket.resume();
    else if (!ROUNDS.add(this)) this.cool();
  }

  end(): void {
    this.#ending = true;
    if (this.#rest === null) this.#socket.shutdown();
  }

  destroy(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#forget();
    if (this.#member !== null) crowd!.drop(this.#member, false);
    this.#rest = null;
    this.#closeKept();
    // terminate() resets, and the kernel forgets what it has not sent yet.
    if (this.#ending) this.#socket.close();
    else this.#socket.terminate();
  }

  closed(error?: Error): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#forget();
    if (this.#member !== null) crowd!.drop(this.#member, true);
    this.#closeKept();
    this.events.closed(error);
  }

  ended(): void {
    if (!this.#gone) this.events.ended();
  }
}

/** Bytes of one read: as much as Bun reads, or each link's share. */
function sharedReadBytes(): number {
  return Math.max(CHUNK_MAX_BYTES, fairReadBytes(openLinks, SHARED_READ_BYTES));
}

export function setterOf(fd: number): SetOption {
  return (level, name, value) => void loadLibc()?.setsockopt(fd, level, name, Int32Array.of(value), 4);
}

/** What hangs on a Bun socket. */
export interface Slot {
  link: BunLink | null;
  error?: Error;
}
