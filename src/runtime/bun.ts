/// <reference types="bun-types" />
/** The driver for Bun, and so for the compiled binary. */
import { ptr } from "bun:ffi";
import { endpointText } from "../endpoint.ts";
import { Buffer } from "node:buffer";
import type { Mailbox } from "../contracts/environment.ts";
import type { Address, Link, LinkEvents, LinkOptions, Listener } from "../contracts/links.ts";
import { CCError, systemError } from "../errors.ts";
import { lastErrno, loadLibc, loadLinux } from "./bun_libc.ts";
import { ARENA, BunLink, setterOf, type Slot, trim, VECTORS } from "./bun_link.ts";
import {
  AF_UNIX,
  BACKLOG,
  CLOCK_MONOTONIC,
  ECONNREFUSED,
  ENOENT,
  F_GETFL,
  F_SETFL,
  MSG_DONTWAIT,
  NOTIFY_FLAGS,
  O_NONBLOCK,
  openDatagrams,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  timespecMicros,
  unixAddress,
  WNOHANG,
} from "./common.ts";
import { askBy, listenOnFile, prepareSocketFile, removeSocketFile } from "./ipc.ts";
import { applyOptions } from "./sockopt.ts";
import { Turnstile, TURNSTILE_DESCRIPTORS, type TurnstileCalls } from "./turnstile.ts";
import type { Runtime } from "./types.ts";

const runtime: Runtime = {
  name: "bun",
  version: Bun.version,
  self: Bun.main.startsWith("/$bunfs/") ? [process.execPath] : [process.execPath, Bun.main],
  loadsTypeScript: true,
  notifiesItself: true,
  notify,
  get openDatagrams() {
    return process.platform === "linux" && loadLibc() !== null ? openDatagramsHere : null;
  },
  get collect() {
    const libc = process.platform === "linux" ? loadLibc() : null;
    return libc === null ? null : (pid: number) => void libc.waitpid(pid, null, WNOHANG);
  },
  setNonBlocking,
  nextTurn: (f) => void setImmediate(f),
  monotonicMicros,
  arena: ARENA,
  vectors: VECTORS,
  copy,
  trim,
  listen,
  connect,
  prepareSocketFile: (path) => prepareSocketFile(path, answers),
  removeSocketFile,
  loadLibzmq: () =>
    Promise.reject(
      new CCError(
        "no-libzmq",
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
  let turnstile: Turnstile | null = null;
  const socket: Bun.SocketHandler<Slot> = {
    ...HANDLERS,
    open(socket) {
      turnstile?.passed();
      socket.setNoDelay(true);
      const link = new BunLink(
        socket,
        address.transport === "ipc"
          ? endpointText(address)
          : endpointText({ transport: "tcp", host: socket.remoteAddress, port: socket.remotePort }),
      );
      socket.data = { link };
      link.accept(address.transport === "tcp" && options.receiveBufferBytes === 0);
      link.events = accept(link);
    },
  };
  const data: Slot = { link: null };
  try {
    if (address.transport === "ipc") {
      const { path } = address;
      return listenOnFile(path, answers, (unix) => {
        try {
          const listener = Bun.listen<Slot>({ unix, socket, data, allowHalfOpen: true });
          return Promise.resolve({ address, close: () => Promise.resolve(listener.stop()) });
        } catch (error) {
          return Promise.reject(systemError(error, `cannot listen on ${endpointText(address)}`));
        }
      }, options.mode);
    }
    const { host, port } = address;
    const listener = Bun.listen<Slot>({ hostname: host, port, socket, data, allowHalfOpen: true });
    const { fd } = listener as unknown as { fd: number };
    // Linux hands the options of a listening socket to those it accepts.
    setOptions(fd, options);
    if (fd >= 0) loadLibc()?.listen(fd, BACKLOG);
    turnstile = turnstileAt(fd);
    return Promise.resolve({
      address: { transport: "tcp", host, port: listener.port },
      descriptors: turnstile === null ? 1 : 1 + TURNSTILE_DESCRIPTORS,
      close() {
        turnstile?.close();
        return Promise.resolve(listener.stop());
      },
    });
  } catch (error) {
    return Promise.reject(systemError(error, `cannot listen on ${endpointText(address)}`));
  }
}

function turnstileAt(fd: number): Turnstile | null {
  const libc = process.platform === "linux" ? loadLibc() : null;
  dup3 ??= libc === null ? null : loadLinux<Pick<TurnstileCalls, "dup3">>({
    dup3: { args: ["i32", "i32", "i32"], returns: "i32" },
  });
  return libc === null || dup3 === null ? null : new Turnstile({ ...libc, ...dup3 }, fd, runtime.nextTurn);
}
let dup3: Pick<TurnstileCalls, "dup3"> | null = null;

/** Bun says "refused", whatever the reason was: the system's own word is asked for. */
async function answers(path: string): Promise<boolean> {
  const libc = process.platform === "linux" ? loadLibc() : null;
  const to = unixAddress(path);
  if (libc === null || to === null) return await askBy(connect)(path);
  const fd = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0) return true;
  // Loaded before: that makes calls of its own.
  lastErrno();
  const failed = libc.connect(fd, to, to.length) !== 0;
  const errno = lastErrno();
  libc.close(fd);
  return !failed || errno !== ECONNREFUSED && errno !== ENOENT;
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
    failed(systemError(error, endpointText(address)));
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
      const link = new BunLink(socket, endpointText(address));
      // What a Unix socket holds is gone with its peer.
      if (address.transport === "tcp") link.keepDescriptor();
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

function setOptions(fd: number, options: LinkOptions): void {
  if (fd >= 0) applyOptions(options, setterOf(fd));
}

function setNonBlocking(fd: number): boolean {
  const libc = process.platform === "linux" ? loadLibc() : null;
  if (libc === null) return false;
  const flags = libc.fcntl(fd, F_GETFL, 0);
  return flags >= 0 && libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK) === 0;
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

function openDatagramsHere(path: string): Mailbox {
  const libc = loadLibc()!;
  // The library is looked for the first time it is asked, which may change the number.
  lastErrno();
  return openDatagrams(path, {
    socket: libc.socket,
    bind: (fd, address) => libc.bind(fd, address, address.length),
    recv: (fd, into) => libc.recv(fd, ptr(into), into.length, MSG_DONTWAIT),
    close: (fd) => void libc.close(fd),
    errno: lastErrno,
  });
}

function monotonicMicros(): bigint | null {
  const time = new BigInt64Array(2);
  if (process.platform !== "linux" || loadLibc()?.clock_gettime(CLOCK_MONOTONIC, time) !== 0) return null;
  return timespecMicros(time);
}
