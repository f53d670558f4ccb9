/** What the drivers share. */
import { chmodSync, readFileSync } from "node:fs";
import type { Mailbox } from "../contracts/environment.ts";
import { CCError, systemError } from "../errors.ts";
import { NOTICE_MAX_BYTES, UNIX_PATH_MAX_BYTES } from "../limits.ts";

/** Copies by a view: the way of V8. */
export function copyByView(from: Uint8Array, start: number, end: number, to: Uint8Array, at: number): void {
  if (from === to) to.copyWithin(at, start, end);
  else to.set(from.subarray(start, end), at);
}

/** Bytes that all links together may bring at once, before any of them can be paused. */
const READ_TOGETHER_BYTES = 64 * 1024 * 1024;
const READ_LEAST_BYTES = 16 * 1024;
/** So many links have receive buffers as large as the system makes them: 6 MiB on Linux, where much comes. */
const FREE_WINDOWS = 128;
const WINDOW_MAX_BYTES: number = 512 * 1024;
const WINDOW_LEAST_BYTES = 4 * 1024;
/** What may wait in receive buffers, of the memory for TCP from which on the system slows all its connections down. */
const WINDOWS_OF_TCP = 1 / 3;

/** The bytes that each of so many links may bring at once: a power of two. */
export function fairReadBytes(links: number, mostBytes: number): number {
  return halved(mostBytes, READ_LEAST_BYTES, READ_TOGETHER_BYTES / links);
}

/** The bytes of the receive buffer that each of so many clients should have, in steps; Infinity: it is the system's choice. */
export function windowBytes(links: number): number {
  if (links <= FREE_WINDOWS) return Infinity;
  const most = WINDOWS_OF_TCP * tcpPressureBytes() / links;
  const bytes = halved(WINDOW_MAX_BYTES, WINDOW_LEAST_BYTES, most);
  return bytes < WINDOW_MAX_BYTES && bytes * 3 / 2 <= most ? bytes * 3 / 2 : bytes;
}

function halved(bytes: number, least: number, most: number): number {
  while (bytes > least && bytes > most) bytes /= 2;
  return bytes;
}

let tcpPressure = 0;

/** Once TCP has so much memory, the system slows all connections down. */
function tcpPressureBytes(): number {
  if (tcpPressure > 0) return tcpPressure;
  try {
    const [, pages] = readFileSync("/proc/sys/net/ipv4/tcp_mem", "latin1").split(/\s+/).map(Number);
    return tcpPressure = pages > 0 ? pages * PAGE_BYTES : Infinity;
  } catch {
    return tcpPressure = Infinity;
  }
}

const PAGE_BYTES = 4096;

/** From here on a read goes straight to where the bytes belong, if that is known. */
export const DIRECT_MIN_BYTES: number = 16 * 1024;

/** `madvise` on Linux: the pages are taken back, and come again as zeros. */
export const MADV_DONTNEED = 4;
/** Smaller blocks are not worth a system call. */
export const TRIM_MIN_BYTES: number = 64 * 1024;

/** `ioctl` on Linux: bytes of a socket that the other end's system has not acknowledged. */
export const SIOCOUTQ = 0x5411;

/**
 * Connections that may wait to be accepted; the system may allow fewer. Where a thousand hosts come back at once, those that
 * find no place try again after one second, then after two.
 */
export const BACKLOG = 4096;

export const AF_UNIX = 1;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
/** Numbers of Linux, on all processors that these runtimes run on. */
export const SOCK_NONBLOCK = 0x800;
export const SOCK_CLOEXEC = 0x80000;
export const ENOENT = 2;
export const ECONNREFUSED = 111;
export const CLOCK_MONOTONIC = 1;
/** `waitpid` on Linux. */
export const WNOHANG = 1;
/** `fcntl` on Linux. */
export const F_GETFL = 3;
export const F_SETFL = 4;
export const O_NONBLOCK = 0x800;
export const MSG_DONTWAIT = 0x40;
/** A service manager that is stuck does not hold us up, and one that is gone does not end us. Linux numbers. */
export const NOTIFY_FLAGS = MSG_DONTWAIT | 0x4000 /* MSG_NOSIGNAL */;

/** Calls of the C library that {@link openDatagrams} needs; a number below 0 is a failure. */
export interface DatagramCalls {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array<ArrayBuffer>): number;
  /** Into what is there of a buffer. */
  recv(fd: number, into: Uint8Array): number;
  close(fd: number): void;
  /** Why the last of them failed; 0: that cannot be told. */
  errno(): number;
}

/**
 * A Unix datagram socket, of which each datagram is read as lines.
 *
 * @throws {CCError}
 */
export function openDatagrams(path: string, calls: DatagramCalls): Mailbox {
  const address = unixAddress(path);
  if (address === null) {
    throw new CCError(
      "ENAMETOOLONG",
      `${path} is no path of a socket: it has more than ${UNIX_PATH_MAX_BYTES} bytes`,
    );
  }
  let fd = calls.socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const close = () => {
    if (fd >= 0) calls.close(fd);
    fd = -1;
  };
  if (fd < 0 || calls.bind(fd, address) < 0) {
    const errno = calls.errno();
    close();
    throw systemError(
      new Error(errno === 0 ? "no reason is known" : `(os error ${errno})`),
      `cannot listen on ${path}`,
    );
  }
  try {
    chmodSync(path, 0o600);
  } catch (error) {
    close();
    throw systemError(error, `cannot listen on ${path}`);
  }
  return {
    read(into) {
      let at = 0;
      // A datagram that does not go into the rest would be cut.
      while (fd >= 0 && into.length - at > NOTICE_MAX_BYTES) {
        const n = calls.recv(fd, into.subarray(at, at + NOTICE_MAX_BYTES));
        // An empty one is none of sd_notify(3).
        if (n <= 0) break;
        at += n;
        if (into[at - 1] !== NEWLINE) into[at++] = NEWLINE;
      }
      return at;
    },
    close,
  };
}

const NEWLINE = 10;

/** A `sockaddr_un` for a path, or a name of the abstract namespace that begins with `@`; null for anything else. */
export function unixAddress(name: string): Uint8Array<ArrayBuffer> | null {
  const bytes = new TextEncoder().encode(name);
  if (!/^[/@]./.test(name) || bytes.length > UNIX_PATH_MAX_BYTES) return null;
  const abstract = name.startsWith("@");
  // A path ends with a zero byte, an abstract name begins with one and ends where the address does.
  const address = new Uint8Array(2 + bytes.length + (abstract ? 0 : 1));
  new Uint16Array(address.buffer, 0, 1)[0] = AF_UNIX;
  address.set(bytes, 2);
  if (abstract) address[2] = 0;
  return address;
}

/** The figure of a `timespec`. */
export function timespecMicros([seconds, nanoseconds]: BigInt64Array): bigint {
  return seconds * 1_000_000n + nanoseconds / 1000n;
}
