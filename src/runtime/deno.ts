/** The driver for Deno: its own sockets, each read into a buffer of ours. */
import { endpointText } from "../endpoint.ts";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import process from "node:process";
import type { Mailbox } from "../contracts/environment.ts";
import type { Address, Link, LinkEvents, LinkOptions, Listener } from "../contracts/links.ts";
import { systemError } from "../errors.ts";
import { Arena, READ_BLOCK_BYTES } from "../memory/arena.ts";
import { Block } from "../memory/block.ts";
import { collect, countTraffic } from "./collector.ts";
import {
  AF_UNIX,
  BACKLOG,
  CLOCK_MONOTONIC,
  copyByView,
  DIRECT_MIN_BYTES,
  F_GETFL,
  F_SETFL,
  fairReadBytes,
  MADV_DONTNEED,
  MSG_DONTWAIT,
  NOTIFY_FLAGS,
  O_NONBLOCK,
  openDatagrams,
  SIOCOUTQ,
  SOCK_DGRAM,
  timespecMicros,
  TRIM_MIN_BYTES,
  unixAddress,
  windowBytes,
  WNOHANG,
} from "./common.ts";
import { askBy, listenBy, prepareSocketFile, removeSocketFile } from "./ipc.ts";
import { applyOptions, type SetOption, setReceiveBuffer } from "./sockopt.ts";
import { Budget, Share } from "./turn.ts";
import type { Runtime } from "./types.ts";

/** A read that waits pins its buffer: an idle link holds the smallest, a busy one grows to the largest. */
const READ_MIN_BYTES = 2 * 1024;
const READ_MAX_BYTES = READ_BLOCK_BYTES;
/** The largest of those that find no piece of the arena free. */
const READ_OWN_MAX_BYTES = 256 * 1024;
const ARENA = new Arena();

/** Where a link reads to: memory of its own, or a block of the arena. */
interface ReadBuffer {
  /** For `conn.read`. */
  view: Uint8Array;
  block: Block;
}

function readBuffer(bytes: number): ReadBuffer {
  const block = bytes > READ_OWN_MAX_BYTES ? ARENA.take(READ_MAX_BYTES) : null;
  if (block !== null) return { view: ARENA.buf.subarray(block.start, block.end), block };
  const view = new Uint8Array(Math.min(bytes, READ_OWN_MAX_BYTES));
  const own = new Block(view, 0, view.length, null);
  own.retain();
  return { view, block: own };
}

const runtime: Runtime = {
  name: "deno",
  version: Deno.version.deno,
  self: Deno.build.standalone ? [Deno.execPath()] : [Deno.execPath(), "run", "-A", process.argv[1]],
  loadsTypeScript: true,
  notifiesItself: true,
  notify,
  get openDatagrams() {
    return loadLibc() === null ? null : openDatagramsHere;
  },
  get collect() {
    const libc = loadLibc();
    return libc === null ? null : (pid: number) => void libc.waitpid(pid, null, WNOHANG);
  },
  setNonBlocking,
  nextTurn,
  monotonicMicros,
  arena: ARENA,
  copy: copyByView,
  trim,
  listen: listenBy((path) => answers(path), listenAt),
  connect,
  prepareSocketFile: (path) => prepareSocketFile(path, answers),
  removeSocketFile,
  // Its uv_poll calls back once and then never again (denoland/deno#36317).
  loadLibzmq: async () => ({ zmq: await import("zeromq"), pollMs: 1 }),
};
export default runtime;

/** Accepts that may fail in a row before there is a rest. */
const ACCEPT_FAILURES_MAX = 200;

/** Links that are open. */
let openLinks = 0;

/** Tasks after which Deno looks at its sockets, however much there is to do (tokio's `event_interval` is 61). */
const LOOK_TASKS = 64;

/** Otherwise Deno looks at its sockets only when it rests. An empty task takes two microseconds. */
function nextTurn(f: () => void): void {
  let tasks = LOOK_TASKS;
  const next = () => void (--tasks === 0 ? f() : setImmediate(next));
  setImmediate(next);
}

const BUDGET = new Budget({
  nextTurn,
  now: () => performance.now(),
  mixedBytes: 1024 * 1024,
  mixedMs: 2,
});
const rest = (resolve: () => void): void => BUDGET.rest(resolve);

class DenoLink implements Link {
  readonly remote: string;
  events!: LinkEvents;
  readonly #conn: Deno.Conn;
  readonly #share = new Share();
  #paused = false;
  #wake: (() => void) | null = null;
  #written = 0;
  #writing = false;
  #ending = false;
  /** The other side has ended, which is not told yet; and the write that waits for that. */
  #over = false;
  #later: (() => void) | null = null;
  #gone = false;
  #fd: number | null = null;
  #unacknowledged = -1;

  constructor(conn: Deno.Conn, remote: string) {
    this.#conn = conn;
    this.remote = remote;
  }

  /** From now on it tells what is unacknowledged. */
  keepDescriptor(fd: number): void {
    this.#fd = fd;
  }

  unacknowledgedBytes(): number {
    const libc = this.#fd === null ? null : loadLibc();
    if (libc === null || this.#gone) return this.#unacknowledged;
    const bytes = new Int32Array(1);
    return libc.ioctl(this.#fd!, BigInt(SIOCOUTQ), bytes) === 0 ? bytes[0] : -1;
  }

  start(): void {
    openLinks++;
    this.#read().catch(async (error) => {
      await this.#knowWritten();
      this.#lost(error);
    });
  }

  async #read(): Promise<void> {
    const conn = this.#conn;
    const events = this.events;
    let to = readBuffer(READ_MIN_BYTES);
    // Until it ends: a block of the arena is for others then.
    using _block = { [Symbol.dispose]: () => to.block.release() };
    for (;;) {
      while (this.#paused && !this.#gone) {
        await new Promise<void>((resolve) => this.#wake = resolve);
      }
      if (this.#gone) return;
      const direct = events.readTarget(DIRECT_MIN_BYTES);
      const atOnce = BUDGET.next(this.#share, to.view.length);
      const asked = direct ?? (atOnce < to.view.length ? to.view.subarray(0, atOnce) : to.view);
      const n = await conn.read(asked);
      if (this.#gone) return;
      if (n === null) {
        await this.#knowWritten();
        if (this.#gone) return;
        events.ended();
        this.#goOn();
        return;
      }
      // A pause that came while the read waited holds what it brought back.
      while (this.#paused && !this.#gone) {
        await new Promise<void>((resolve) => this.#wake = resolve);
      }
      if (this.#gone) return;
      const cameAt = performance.now();
      countTraffic(n);
      if (direct === null) events.data(to.block.buf, to.block.start, to.block.start + n);
      else events.commitRead(n);
      if (!BUDGET.spend(this.#share, n, cameAt)) await new Promise<void>(rest);
      if (direct !== null) continue;
      const size = to.view.length;
      const most = size > READ_OWN_MAX_BYTES || ARENA.has(READ_MAX_BYTES)
        ? READ_MAX_BYTES
        : READ_OWN_MAX_BYTES;
      const wanted = n === size
        ? Math.min(size * 4, fairReadBytes(openLinks, most))
        : n * 8 < size
        ? Math.max(size / 4, READ_MIN_BYTES)
        : size;
      if (wanted !== size) {
        to.block.release();
        to = readBuffer(wanted);
      }
    }
  }

  write(chunk: Uint8Array, start: number, end: number): boolean {
    this.#written = 0;
    if (this.#over) this.#later = () => this.#begin(chunk, start, end);
    else this.#begin(chunk, start, end);
    return false;
  }

  #begin(chunk: Uint8Array, start: number, end: number): void {
    this.#writing = true;
    this.#write(chunk, start, end).catch((error) => this.#lost(error));
  }

  /** The end has been told, and the link is not ended: it may be written to on. */
  #goOn(): void {
    this.#over = false;
    const later = this.#later;
    this.#later = null;
    if (!this.#gone) later?.();
  }

  async #write(chunk: Uint8Array, start: number, end: number): Promise<void> {
    for (let at = start; at < end;) {
      const n = await this.#conn.write(
        at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end),
      );
      if (this.#gone) return;
      at += n;
      this.#written = at - start;
    }
    this.#writing = false;
    if (this.#ending) await this.#conn.closeWrite();
    if (!this.#gone) this.events.written();
  }

  /**
   * The end was read. A write that is done may be told behind that, in the same turn: it would count as not written, and be
   * sent again.
   */
  async #knowWritten(): Promise<void> {
    this.#over = true;
    for (let turns = 0; this.#writing && turns < 2; turns++) await new Promise<void>(nextTurn);
  }

  writtenBytes(): number {
    return this.#written;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  end(): void {
    this.#ending = true;
    if (!this.#writing && this.#later === null && !this.#gone) {
      this.#conn.closeWrite().catch(() => {/* gone already: nothing to end */});
    }
  }

  destroy(): void {
    if (this.#gone) return;
    this.#unacknowledged = this.unacknowledgedBytes();
    this.#gone = true;
    openLinks--;
    this.resume();
    close(this.#conn);
  }

  #lost(error: unknown): void {
    if (this.#gone) return;
    this.destroy();
    this.events.closed(systemError(error, this.remote));
  }
}

function trim(): void {
  collect();
  const libc = loadLibc();
  if (libc === null) return;
  for (const { start, end } of ARENA.freeBlocks(TRIM_MIN_BYTES)) {
    libc.madvise(Deno.UnsafePointer.of(ARENA.buf.subarray(start, end)), BigInt(end - start), MADV_DONTNEED);
  }
}

const answers = askBy((...args) => connect(...args));

async function listenAt(
  address: Address,
  named: Address,
  options: LinkOptions,
  accept: (link: Link) => LinkEvents,
): Promise<Listener> {
  let listener: Deno.Listener;
  try {
    listener = address.transport === "ipc"
      ? Deno.listen({ transport: "unix", path: address.path })
      : Deno.listen({ transport: "tcp", hostname: address.host, port: address.port });
  } catch (error) {
    throw systemError(error, `cannot listen on ${endpointText(named)}`);
  }
  // Linux hands the options of a listening socket to those it accepts.
  const fd = setByDescriptor(options, listener.addr, 0);
  if (fd !== null) loadLibc()?.listen(fd, BACKLOG);
  let narrowBytes = Infinity;
  /** What waits in the system for all clients is bounded: with more of them, each has less. */
  const narrow = () => {
    const bytes = windowBytes(openLinks);
    if (fd === null || options.receiveBufferBytes > 0 || bytes === narrowBytes || bytes === Infinity) return;
    narrowBytes = bytes;
    setReceiveBuffer(bytes, setterOf(fd));
  };
  let closed = false;
  let failures = 0;
  const accepting = (async () => {
    while (!closed) {
      let conn: Deno.Conn;
      try {
        conn = await listener.accept();
      } catch {
        // A peer that has reset already fails alone (one after the other, if it wants to: those must not slow the rest
        // down); out of descriptors, it fails until one is free.
        if (!closed && ++failures > ACCEPT_FAILURES_MAX) {
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        continue;
      }
      failures = 0;
      narrow();
      const link = new DenoLink(conn, remoteOf(conn, named));
      setOptions(conn, options);
      link.events = accept(link);
      link.start();
    }
  })();
  await Promise.resolve();
  return {
    address: address.transport === "ipc"
      ? address
      : { transport: "tcp", host: address.host, port: (listener.addr as Deno.NetAddr).port },
    async close() {
      closed = true;
      listener.close();
      await accepting;
    },
  };
}

function connect(
  address: Address,
  options: LinkOptions,
  open: (link: Link) => LinkEvents,
  failed: (error: Error) => void,
): () => void {
  let cancelled = false;
  const connecting: Promise<Deno.Conn> = address.transport === "ipc"
    ? Deno.connect({ transport: "unix", path: address.path })
    : Deno.connect({ transport: "tcp", hostname: address.host, port: address.port });
  connecting.then((conn) => {
    if (cancelled) {
      close(conn);
      return;
    }
    const link = new DenoLink(conn, endpointText(address));
    setOptions(conn, options);
    const fd = address.transport === "tcp" ? setByDescriptor(options, conn.localAddr, address.port) : null;
    if (fd !== null) link.keepDescriptor(fd);
    link.events = open(link);
    link.start();
  }, (error) => {
    if (!cancelled) failed(systemError(error, endpointText(address)));
  });
  return () => {
    cancelled = true;
  };
}

function remoteOf(conn: Deno.Conn, listening: Address): string {
  const addr = conn.remoteAddr;
  return addr.transport === "tcp"
    ? endpointText({ transport: "tcp", host: addr.hostname, port: addr.port })
    : endpointText(listening);
}

function setOptions(conn: Deno.Conn, options: LinkOptions): void {
  if (!("setNoDelay" in conn)) return;
  try {
    (conn as Deno.TcpConn).setNoDelay(true);
    (conn as Deno.TcpConn).setKeepAlive(options.keepAlive !== null);
  } catch {
    // The peer is gone already; its read will tell.
  }
}

/** Deno shows no descriptor of its sockets, and sets few options; the system tells which one it is. */
function setByDescriptor(options: LinkOptions, local: Deno.Addr, remotePort: number): number | null {
  if (local.transport !== "tcp") return null;
  const libc = loadLibc();
  const fd = libc === null ? null : descriptorOf(local.port, remotePort);
  if (libc === null || fd === null) return null;
  applyOptions(options, setterOf(fd));
  return fd;
}

function setterOf(fd: number): SetOption {
  return (level, name, value) => void loadLibc()?.setsockopt(fd, level, name, Int32Array.of(value), 4);
}

/** The descriptor of our TCP socket with these ports, the remote one 0 where it listens. */
function descriptorOf(localPort: number, remotePort: number): number | null {
  const hex = (port: number) => `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  try {
    const inodes = new Set<string>();
    for (const table of ["/proc/net/tcp", "/proc/net/tcp6"]) {
      for (const line of readFileSync(table, "utf8").split("\n")) {
        const [, local, remote, , , , , , , inode] = line.trim().split(/\s+/);
        if (local?.endsWith(hex(localPort)) && remote?.endsWith(hex(remotePort))) {
          inodes.add(`socket:[${inode}]`);
        }
      }
    }
    // The newest socket has, most likely, the highest number.
    for (const name of readdirSync("/proc/self/fd").map(Number).sort((a, b) => b - a)) {
      if (inodes.has(linkOf(`/proc/self/fd/${name}`))) return name;
    }
  } catch {
    // no such files: not Linux, or not for us to read
  }
  return null;
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // closed in between
  }
}

function close(conn: Deno.Conn): void {
  try {
    conn.close();
  } catch {
    // closed already
  }
}

const SIGNATURES = {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  sendto: { parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"], result: "isize" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  waitpid: { parameters: ["i32", "pointer", "i32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  madvise: { parameters: ["pointer", "usize", "i32"], result: "i32" },
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
} as const;
let libc: Deno.DynamicLibrary<typeof SIGNATURES>["symbols"] | null | undefined;

/** Null where there is none to be had, or Deno was not started with `--allow-ffi`. */
function loadLibc() {
  if (libc !== undefined) return libc;
  try {
    return libc = Deno.build.os === "linux" ? Deno.dlopen("libc.so.6", SIGNATURES).symbols : null;
  } catch {
    return libc = null;
  }
}

function setNonBlocking(fd: number): boolean {
  const libc = loadLibc();
  if (libc === null) return false;
  const flags = libc.fcntl(fd, F_GETFL, 0);
  return flags >= 0 && libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK) === 0;
}

function notify(socket: string, text: string): boolean {
  const libc = loadLibc();
  const to = unixAddress(socket);
  const fd = libc === null || to === null ? -1 : libc.socket(AF_UNIX, SOCK_DGRAM, 0);
  if (libc === null || to === null || fd < 0) return false;
  const bytes = new TextEncoder().encode(text);
  const sent = Number(libc.sendto(fd, bytes, BigInt(bytes.length), NOTIFY_FLAGS, to, to.length));
  libc.close(fd);
  return sent === bytes.length;
}

function openDatagramsHere(path: string): Mailbox {
  const libc = loadLibc()!;
  return openDatagrams(path, {
    socket: libc.socket,
    bind: (fd, address) => libc.bind(fd, address, address.length),
    recv: (fd, into) =>
      Number(libc.recv(fd, into as Uint8Array<ArrayBuffer>, BigInt(into.length), MSG_DONTWAIT)),
    close: (fd) => void libc.close(fd),
    errno: () => 0,
  });
}

function monotonicMicros(): bigint | null {
  const time = new BigInt64Array(2);
  return loadLibc()?.clock_gettime(CLOCK_MONOTONIC, time) === 0 ? timespecMicros(time) : null;
}
