/// <reference types="bun-types" />
/** The driver for Bun, and so for the compiled binary. */
import { Buffer } from "node:buffer";
import { dlopen, ptr } from "bun:ffi";
import { Arena, PULL_PIECE_BYTES } from "./arena.ts";
import {
  AF_UNIX,
  CLOCK_MONOTONIC,
  formatAddress,
  NOTIFY_FLAGS,
  readShare,
  SOCK_DGRAM,
  systemError,
  timespecMicros,
  unixAddress,
} from "./common.ts";
import { applyOptions, type SetOption, setReceiveBuffer } from "./sockopt.ts";
import { ENTRY_BYTES, LIST_BYTES, Vectors } from "./vectors.ts";
import type { Address, Link, LinkEvents, LinkOptions, Listener, Runtime } from "./types.ts";

const ARENA = new Arena();
/** Where we read to ourselves; one for all links, as nothing stays in it. */
const PULL_PIECE = ARENA.take(PULL_PIECE_BYTES)!;
const PULL_ADDRESS = ptr(ARENA.buf, PULL_PIECE.start);
/** A link that brings so much at once has more. */
const PULL_MIN_BYTES = 64 * 1024;
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
const VECTORS = new Vectors(ARENA, ARENA.take(LIST_BYTES)!, ptr);
const VECTORS_ADDRESS = VECTORS.base + VECTORS.at;
const MSG_DONTWAIT = process.platform === "darwin" ? 0x80 : 0x40;

const runtime: Runtime = {
  name: "bun",
  version: Bun.version,
  self: Bun.main.startsWith("/$bunfs/") ? [process.execPath] : [process.execPath, Bun.main],
  notifiesItself: true,
  notify,
  monotonicMicros,
  arena: ARENA,
  vectors: VECTORS,
  copy,
  trim,
  listen,
  connect,
  loadLibzmq: () =>
    Promise.reject(
      new Error(
        "zmq-engine = libzmq needs Node or Deno: its addon does not run on Bun, nor in the compiled binary. " +
          "Use zmq-engine = native",
      ),
    ),
};
export default runtime;

const bufferCopy = Buffer.prototype.copy;

/** Native on Bun, and half the time of making a view; it takes any Uint8Array. */
function copy(from: Uint8Array, start: number, end: number, to: Uint8Array, at: number): void {
  bufferCopy.call(from as Buffer, to, at, start, end);
}

/** Linux: the pages are taken back, and come again as zeros. */
const MADV_DONTNEED = 4;
/** Smaller pieces are not worth a system call. */
const TRIM_MIN_BYTES = 64 * 1024;

function trim(): void {
  const libc = process.platform === "linux" ? loadLibc() : null;
  if (libc === null) return;
  for (const piece of [...ARENA.freePieces(TRIM_MIN_BYTES), PULL_PIECE]) {
    libc.madvise(VECTORS.base + piece.start, piece.end - piece.start, MADV_DONTNEED);
  }
}

/** Links that are open. */
let links = 0;

class BunLink implements Link {
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
    links++;
  }

  data(chunk: Uint8Array): void {
    const { events } = this;
    const size = chunk.length;
    events.data(chunk, 0, size);
    // Bun makes a buffer for each chunk: given back now it is used for the next, and not left to the collector.
    if (size >= FREE_MIN_BYTES && chunk.buffer.byteLength === size) (chunk.buffer as ArrayBuffer).transfer(0);
    if (size >= PULL_MIN_BYTES) this.#pull();
    else mixedTurns = MIXED_TURNS;
  }

  /** Where much comes there is more: it is read into the arena at once, without a buffer made for it. */
  #pull(): void {
    const { events } = this;
    const { fd } = this.#socket as unknown as { fd: number };
    const libc = loadLibc();
    if (libc === null) return;
    let left = mixedTurns > 0 ? MIXED_TURN_BYTES : TURN_BYTES;
    let smallReads = 0;
    if (mixedTurns > 0) mixedTurns--;
    while (left > 0 && !this.#paused && !this.#gone) {
      const direct = events.space(DIRECT_MIN_BYTES);
      if (direct !== null) {
        const n = libc.recv(fd, ptr(direct), direct.length, MSG_DONTWAIT);
        if (n <= 0) return;
        left -= n;
        events.filled(n);
        if (n < direct.length && ++smallReads === SMALL_READS_MAX) return;
        continue;
      }
      const n = libc.recv(fd, PULL_ADDRESS, pullBytes(), MSG_DONTWAIT);
      if (n <= 0) return;
      left -= n;
      events.data(ARENA.buf, PULL_PIECE.start, PULL_PIECE.start + n);
      // One that sends little at a time, and perhaps waits for the answer, has its next turn after the others.
      if (n < SMALL_READ_BYTES && ++smallReads === SMALL_READS_MAX) return;
    }
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

  taken(): number {
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
    links--;
    this.#rest = null;
    // terminate() resets, and the kernel forgets what it has not sent yet.
    if (this.#ending) this.#socket.close();
    else this.#socket.terminate();
  }

  closed(error?: Error): void {
    if (this.#gone) return;
    this.#gone = true;
    links--;
    this.events.closed(error);
  }

  ended(): void {
    if (!this.#gone) this.events.ended();
  }
}

/** What hangs on a Bun socket. */
interface Slot {
  link: BunLink | null;
  error?: Error;
}

/** One object for all sockets: Bun takes its functions once. */
const HANDLERS = {
  data(socket: Bun.Socket<Slot>, chunk: Uint8Array): void {
    socket.data.link?.data(chunk);
  },
  drain(socket: Bun.Socket<Slot>): void {
    socket.data.link?.retry();
  },
  end(socket: Bun.Socket<Slot>): void {
    socket.data.link?.ended();
  },
  error(socket: Bun.Socket<Slot>, error: Error): void {
    socket.data.error = error;
  },
  close(socket: Bun.Socket<Slot>, error?: Error): void {
    const cause = error ?? socket.data.error;
    socket.data.link?.closed(cause && systemError(cause, socket.data.link.remote));
  },
};

function listen(
  address: Address,
  options: LinkOptions,
  accept: (link: Link) => LinkEvents,
): Promise<Listener> {
  const socket: Bun.SocketHandler<Slot> = {
    ...HANDLERS,
    open(socket) {
      socket.setNoDelay(true);
      const link = new BunLink(
        socket,
        address.transport === "ipc"
          ? formatAddress(address)
          : formatAddress({ transport: "tcp", host: socket.remoteAddress, port: socket.remotePort }),
      );
      socket.data = { link };
      if (address.transport === "tcp" && options.receiveBufferBytes === 0) {
        clampWindow((socket as unknown as { fd: number }).fd);
      }
      link.events = accept(link);
    },
  };
  const data: Slot = { link: null };
  try {
    if (address.transport === "ipc") {
      const listener = Bun.listen<Slot>({ unix: address.path, socket, data, allowHalfOpen: true });
      return Promise.resolve({ address, close: () => Promise.resolve(listener.stop()) });
    }
    const { host, port } = address;
    const listener = Bun.listen<Slot>({ hostname: host, port, socket, data, allowHalfOpen: true });
    // Linux hands the options of a listening socket to those it accepts.
    setOptions((listener as unknown as { fd: number }).fd, options);
    return Promise.resolve({
      address: { transport: "tcp", host, port: listener.port },
      close: () => Promise.resolve(listener.stop()),
    });
  } catch (error) {
    return Promise.reject(systemError(error, `cannot listen on ${formatAddress(address)}`));
  }
}

function connect(
  address: Address,
  options: LinkOptions,
  open: (link: Link) => LinkEvents,
  failed: (error: Error) => void,
): () => void {
  let settled = false;
  const fail = (error: unknown) => {
    if (settled) return;
    settled = true;
    failed(systemError(error, formatAddress(address)));
  };
  const socket: Bun.SocketHandler<Slot> = {
    ...HANDLERS,
    open(socket) {
      if (settled) {
        socket.terminate();
        return;
      }
      settled = true;
      if (address.transport === "tcp") {
        socket.setNoDelay(true);
        setOptions((socket as unknown as { fd: number }).fd, options);
      }
      const link = new BunLink(socket, formatAddress(address));
      socket.data = { link };
      link.events = open(link);
    },
    connectError(_socket, error) {
      fail(error);
    },
  };
  const data: Slot = { link: null };
  const connecting = address.transport === "ipc"
    ? Bun.connect<Slot>({ unix: address.path, socket, data, allowHalfOpen: true })
    : Bun.connect<Slot>({ hostname: address.host, port: address.port, socket, data, allowHalfOpen: true });
  connecting.catch(fail);
  return () => {
    settled = true;
  };
}

/** Bun hands out at most so much at once. */
const CHUNK_MAX_BYTES = 512 * 1024;

/** Functions of the C library. */
interface Libc {
  setsockopt(fd: number, level: number, name: number, value: Int32Array, size: number): number;
  recv(fd: number, to: number, size: number, flags: number): number;
  writev(fd: number, vectors: number, count: number): number | bigint;
  madvise(at: number, bytes: number, advice: number): number;
  socket(domain: number, type: number, protocol: number): number;
  sendto(
    fd: number,
    from: Uint8Array,
    size: number,
    flags: number,
    to: Uint8Array,
    toSize: number,
  ): number | bigint;
  close(fd: number): number;
  clock_gettime(clock: number, to: BigInt64Array): number;
}
const SIGNATURES = {
  setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
  recv: { args: ["i32", "ptr", "usize", "i32"], returns: "i32" },
  madvise: { args: ["ptr", "usize", "i32"], returns: "i32" },
  writev: { args: ["i32", "ptr", "i32"], returns: "i64" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  sendto: { args: ["i32", "ptr", "usize", "i32", "ptr", "u32"], returns: "i64" },
  close: { args: ["i32"], returns: "i32" },
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
} as const;
let libc: Libc | null | undefined;

/** Null where there is none to be had. */
function loadLibc(): Libc | null {
  if (libc !== undefined) return libc;
  for (const name of ["libc.so.6", `libc.musl-${MUSL_ARCH}.so.1`, "libSystem.B.dylib"]) {
    try {
      return libc = dlopen(name, SIGNATURES).symbols as unknown as Libc;
    } catch {
      // the next name
    }
  }
  return libc = null;
}
const MUSL_ARCH = process.arch === "arm64" ? "aarch64" : "x86_64";

/**
 * Bun reads up to 512 KiB of each socket that is ready, and only then can a link be held back: with many links the
 * kernel is told to let each send less at once.
 */
function clampWindow(fd: number): void {
  const share = readShare(links, CHUNK_MAX_BYTES);
  if (share < CHUNK_MAX_BYTES && fd >= 0) setReceiveBuffer(share, setterOf(fd));
}

/** What we read ourselves keeps to the same share, but is no less than what Bun reads. */
function pullBytes(): number {
  return Math.max(CHUNK_MAX_BYTES, readShare(links, PULL_PIECE_BYTES));
}

function setOptions(fd: number, options: LinkOptions): void {
  if (fd >= 0) applyOptions(options, setterOf(fd));
}

function setterOf(fd: number): SetOption {
  return (level, name, value) => void loadLibc()?.setsockopt(fd, level, name, Int32Array.of(value), 4);
}

function notify(socket: string, text: string): boolean {
  const libc = process.platform === "linux" ? loadLibc() : null;
  const to = unixAddress(socket);
  const fd = libc === null || to === null ? -1 : libc.socket(AF_UNIX, SOCK_DGRAM, 0);
  if (libc === null || to === null || fd < 0) return false;
  const bytes = new TextEncoder().encode(text);
  const sent = Number(libc.sendto(fd, bytes, bytes.length, NOTIFY_FLAGS, to, to.length));
  libc.close(fd);
  return sent === bytes.length;
}

function monotonicMicros(): bigint | null {
  const time = new BigInt64Array(2);
  if (process.platform !== "linux" || loadLibc()?.clock_gettime(CLOCK_MONOTONIC, time) !== 0) return null;
  return timespecMicros(time);
}
