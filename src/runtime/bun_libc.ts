/** The C library on Bun, by bun:ffi: what its sockets and the `node:` modules do not give. */
import { dlopen, type FFIFunction, type Pointer, read } from "bun:ffi";

/** Functions of the C library. */
export interface Libc {
  setsockopt(fd: number, level: number, name: number, value: Int32Array, size: number): number;
  bind(fd: number, address: Uint8Array, size: number): number;
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
  connect(fd: number, to: Uint8Array, size: number): number;
  waitpid(pid: number, status: null, options: number): number;
  listen(fd: number, backlog: number): number;
  fcntl(fd: number, command: number, value: number): number;
  close(fd: number): number;
  dup(fd: number): number;
  ioctl(fd: number, request: number, to: Int32Array): number;
  clock_gettime(clock: number, to: BigInt64Array): number;
}
const SIGNATURES = {
  setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
  recv: { args: ["i32", "ptr", "usize", "i32"], returns: "i32" },
  madvise: { args: ["ptr", "usize", "i32"], returns: "i32" },
  writev: { args: ["i32", "ptr", "i32"], returns: "i64" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  sendto: { args: ["i32", "ptr", "usize", "i32", "ptr", "u32"], returns: "i64" },
  connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
  waitpid: { args: ["i32", "ptr", "i32"], returns: "i32" },
  listen: { args: ["i32", "i32"], returns: "i32" },
  fcntl: { args: ["i32", "i32", "i32"], returns: "i32" },
  close: { args: ["i32"], returns: "i32" },
  dup: { args: ["i32"], returns: "i32" },
  ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
} as const;
let libc: Libc | null | undefined;

const MUSL_ARCH = process.arch === "arm64" ? "aarch64" : "x86_64";
const LINUX_NAMES = ["libc.so.6", `libc.musl-${MUSL_ARCH}.so.1`];

/** Null where there is none to be had. */
export function loadLibc(): Libc | null {
  if (libc !== undefined) return libc;
  for (const name of [...LINUX_NAMES, "libSystem.B.dylib"]) {
    try {
      return libc = dlopen(name, SIGNATURES).symbols as unknown as Libc;
    } catch {
      // the next name
    }
  }
  return libc = null;
}

/** Functions that Linux alone has; null elsewhere. */
export function loadLinux<T>(signatures: Record<string, FFIFunction>): T | null {
  for (const name of LINUX_NAMES) {
    try {
      return dlopen(name, signatures).symbols as unknown as T;
    } catch {
      // the next name
    }
  }
  return null;
}

let errnoAt: Pointer | null = null;

/** Why the last call of this thread failed, on Linux; 0 where that cannot be told. */
export function lastErrno(): number {
  errnoAt ??= loadLinux<{ __errno_location(): Pointer | null }>({
    __errno_location: { args: [], returns: "ptr" },
  })?.__errno_location() ?? null;
  return errnoAt === null ? 0 : read.i32(errnoAt, 0);
}
