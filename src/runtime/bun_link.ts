/// <reference types="bun-types" />
/** A link of Bun: its socket, and reads of our own where much comes. */
import { ptr } from "bun:ffi";
import type { Link, LinkEvents } from "../contracts/links.ts";
import { Arena, SHARED_READ_BYTES } from "../memory/arena.ts";
import { ENTRY_BYTES, LIST_BYTES, Vectors } from "../memory/vectors.ts";
import { type Libc, loadLibc } from "./bun_libc.ts";
import { fairReadBytes } from "./common.ts";

export const ARENA = new Arena();
/** Where we read to ourselves; one for all links, as nothing stays in it. */
const SHARED_BLOCK = ARENA.take(SHARED_READ_BYTES)!;
const SHARED_ADDRESS = ptr(ARENA.buf, SHARED_BLOCK.start);
/** A link that brings so much at once has more. */
const READ_MORE_MIN_BYTES = 64 * 1024;
/** A read that brings less is a small one; a turn ends with the last of so many. */
const SMALL_READ_BYTES = 16 * 1024;
const SMALL_READS_MAX = 4;
/** So much of it is read before others have their turn. */
const TURN_BYTES = 8 * 1024 * 1024;
/** The same while other links bring little at a time: somebody may wait for an answer there. */
const MIXED_TURN_BYTES = 4 * 1024 * 1024;
/** So many turns after the last small chunk, such links count as gone. */
const MIXED_TURNS = 64;
/** Turns that are left until then. */
let mixedTurns = 0;
/** From here on a large message is read where it belongs, instead of copied there. */
const DIRECT_MIN_BYTES = 16 * 1024;
/** From here on the buffer of a chunk is given back by hand. */
const FREE_MIN_BYTES = 4 * 1024;
/** What writev() writes. */
export const VECTORS: Vectors = new Vectors(ARENA, ARENA.take(LIST_BYTES)!, ptr);
const VECTORS_ADDRESS = VECTORS.base + VECTORS.at;
const MSG_DONTWAIT = process.platform === "darwin" ? 0x80 : 0x40;
/** Bun hands out at most so much at once. */
const CHUNK_MAX_BYTES = 512 * 1024;

/** Linux: the pages are taken back, and come again as zeros. */
const MADV_DONTNEED = 4;
/** Smaller blocks are not worth a system call. */
const TRIM_MIN_BYTES = 64 * 1024;

export function trim(): void {
  const libc = process.platform === "linux" ? loadLibc() : null;
  if (libc === null) return;
  for (const block of [...ARENA.freeBlocks(TRIM_MIN_BYTES), SHARED_BLOCK]) {
    libc.madvise(VECTORS.base + block.start, block.size, MADV_DONTNEED);
  }
}

/** Links that are open. */
let openLinks = 0;

export class BunLink implements Link {
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

  constructor(socket: Bun.Socket<Slot>, remote: string) {
    this.#socket = socket;
    this.remote = remote;
    openLinks++;
  }

  data(chunk: Uint8Array): void {
    const { events } = this;
    const size = chunk.length;
    events.data(chunk, 0, size);
    // Bun makes a buffer for each chunk: given back now it is used for the next, and not left to the collector.
    if (size >= FREE_MIN_BYTES && chunk.buffer.byteLength === size) (chunk.buffer as ArrayBuffer).transfer(0);
    if (size >= READ_MORE_MIN_BYTES) this.#readMore();
    else mixedTurns = MIXED_TURNS;
  }

  /** Where much comes there is more: it is read into the arena at once, without a buffer made for it. */
  #readMore(): void {
    const { fd } = this.#socket as unknown as { fd: number };
    const libc = loadLibc();
    if (libc === null) return;
    let left = mixedTurns > 0 ? MIXED_TURN_BYTES : TURN_BYTES;
    let smallReads = 0;
    if (mixedTurns > 0) mixedTurns--;
    while (left > 0 && !this.#paused && !this.#gone) {
      const direct = this.events.readTarget(DIRECT_MIN_BYTES);
      const n = direct === null ? this.#readShared(libc, fd) : this.#readDirect(libc, fd, direct);
      if (n <= 0) return;
      left -= n;
      // One that sends little at a time, and perhaps waits for the answer, has its next turn after the others.
      const small = direct === null ? n < SMALL_READ_BYTES : n < direct.length;
      if (small && ++smallReads === SMALL_READS_MAX) return;
    }
  }

  #readDirect(libc: Libc, fd: number, to: Uint8Array): number {
    const n = libc.recv(fd, ptr(to), to.length, MSG_DONTWAIT);
    if (n > 0) this.events.commitRead(n);
    return n;
  }

  #readShared(libc: Libc, fd: number): number {
    // As much as Bun reads, or each link's share.
    const most = Math.max(CHUNK_MAX_BYTES, fairReadBytes(openLinks, SHARED_READ_BYTES));
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

  pause(): void {
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    this.#paused = false;
    this.#socket.resume();
  }

  end(): void {
    this.#ending = true;
    if (this.#rest === null) this.#socket.shutdown();
  }

  destroy(): void {
    if (this.#gone) return;
    this.#gone = true;
    openLinks--;
    this.#rest = null;
    // terminate() resets, and the kernel forgets what it has not sent yet.
    if (this.#ending) this.#socket.close();
    else this.#socket.terminate();
  }

  closed(error?: Error): void {
    if (this.#gone) return;
    this.#gone = true;
    openLinks--;
    this.events.closed(error);
  }

  ended(): void {
    if (!this.#gone) this.events.ended();
  }
}

/**
 * Bun reads up to 512 KiB of each socket that is ready, and only then can a link be paused: with many links the kernel is
 * asked to let each send less at once.
 *
 * @returns Bytes of the receive buffer that an accepted socket should have; null: the system's size.
 */
export function windowBytes(): number | null {
  const share = fairReadBytes(openLinks, CHUNK_MAX_BYTES);
  return share < CHUNK_MAX_BYTES ? share : null;
}

/** What hangs on a Bun socket. */
export interface Slot {
  link: BunLink | null;
  error?: Error;
}
