/** The driver for Node: `node:net`, read into one buffer that all links share. */
import { endpointText } from "../endpoint.ts";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import net from "node:net";
import process from "node:process";
import type { Address, Link, LinkEvents, LinkOptions, Listener } from "../contracts/links.ts";
import { systemError } from "../errors.ts";
import { Arena, READ_BLOCK_BYTES } from "../memory/arena.ts";
import { collect, countTraffic } from "./collector.ts";
import { BACKLOG, copyByView, DIRECT_MIN_BYTES, fairReadBytes } from "./common.ts";
import { askBy, listenBy, prepareSocketFile, removeSocketFile } from "./ipc.ts";
import { Budget, Share } from "./turn.ts";
import type { Runtime } from "./types.ts";

/** libuv reads here and calls back at once, so one buffer serves every link and idle ones hold none. */
const ARENA = new Arena();
const READ_BLOCK = ARENA.take(READ_BLOCK_BYTES)!;
const READ_BUFFER = ARENA.buf.subarray(READ_BLOCK.start, READ_BLOCK.end);
/** Its beginning, by powers of two: as much of it as a link may use. */
const READ_BUFFERS = Array.from({ length: 32 }, (_, i) => READ_BUFFER.subarray(0, 2 ** i));
let shareBytes = READ_BLOCK_BYTES;
/** Links that are open. */
let openLinks = 0;

function countLink(by: 1 | -1): void {
  openLinks += by;
  shareBytes = fairReadBytes(openLinks, READ_BLOCK_BYTES);
}

const runtime: Runtime = {
  name: "node",
  version: process.versions.node,
  self: [process.execPath, process.argv[1]],
  loadsTypeScript: false,
  notifiesItself: false,
  notify,
  openDatagrams: null,
  collect: null,
  setNonBlocking,
  nextTurn: (f) => void setImmediate(f),
  monotonicMicros: () => process.hrtime.bigint() / 1000n,
  arena: ARENA,
  copy: copyByView,
  trim: collect,
  listen: listenBy((path) => answers(path), listenAt),
  connect,
  prepareSocketFile: (path) => prepareSocketFile(path, answers),
  removeSocketFile,
  loadLibzmq: async () => ({ zmq: await import("zeromq"), pollMs: null }),
};
export default runtime;

const BUDGET = new Budget({
  nextTurn: (f) => void setImmediate(f),
  now: () => performance.now(),
  mixedBytes: 256 * 1024,
  mixedMs: 1,
});

/** How often the system is asked what is unacknowledged: Node has no call for that, only a file of all sockets. */
const ASK_MS = 1000;
/** Links that want to know, by their local and remote port, as the file has them. */
const ASKING = new Map<string, NodeLink>();
let asks: NodeJS.Timeout | null = null;

function ask(link: NodeLink, ports: string): void {
  ASKING.set(ports, link);
  asks ??= setInterval(() => void askAll(), ASK_MS).unref();
}

function askNoMore(ports: string): void {
  ASKING.delete(ports);
  if (ASKING.size > 0 || asks === null) return;
  clearInterval(asks);
  asks = null;
}

async function askAll(): Promise<void> {
  if (![...ASKING.values()].some((link) => link.wroteSince())) return;
  for (const table of ["/proc/self/net/tcp", "/proc/self/net/tcp6"]) {
    const text = await readFile(table, "latin1").catch(() => "");
    for (const [, local, remote, queued] of text.matchAll(SOCKET_LINE)) {
      ASKING.get(`${parseInt(local, 16)} ${parseInt(remote, 16)}`)?.sawUnacknowledged(parseInt(queued, 16));
    }
  }
}
/** Of a line of the file: both ports, and bytes that are unacknowledged. */
const SOCKET_LINE = /:([0-9A-F]{4}) [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]{2} ([0-9A-F]{8}):/g;

class NodeLink implements Link {
  readonly remote: string;
  events!: LinkEvents;
  #socket!: net.Socket;
  readonly #share = new Share();
  #callbacks = 0;
  #pending = false;
  #paused = false;
  #size = 0;
  #writtenAtEnd = -1;
  #gone = false;
  #unacknowledged = -1;
  /** Bytes written when the system was asked last, and how they are found in its answer. */
  #askedAt = 0;
  #ports: string | null = null;

  constructor(remote: string) {
    this.remote = remote;
  }

  /** How `net.Socket` asks for a buffer and tells what came; the buffer is asked for after each read. */
  readonly onread = {
    buffer: (): Uint8Array =>
      this.events === undefined || this.#gone ? READ_BUFFER : this.events.readTarget(DIRECT_MIN_BYTES) ??
        READ_BUFFERS[31 - Math.clz32(BUDGET.next(this.#share, shareBytes))],
    callback: (n: number, buffer: Uint8Array): boolean => {
      if (this.#gone) return false;
      const cameAt = performance.now();
      countTraffic(n);
      if (buffer.byteOffset === READ_BUFFER.byteOffset && buffer.buffer === READ_BUFFER.buffer) {
        this.events.data(ARENA.buf, READ_BLOCK.start, READ_BLOCK.start + n);
      } else this.events.commitRead(n);
      // What it cost counts, also where somebody pauses the link because of that.
      const goesOn = BUDGET.spend(this.#share, n, cameAt);
      if (this.#paused || this.#gone) return false;
      // One that did not fill its buffer has no more: the loop goes on by itself.
      if (goesOn || n < buffer.length) return true;
      this.#rest();
      return false;
    },
  };

  /** Others have their turn first. */
  #rest(): void {
    this.#socket.pause();
    BUDGET.rest(() => {
      if (!this.#paused && !this.#gone) this.#socket.resume();
    });
  }

  start(socket: net.Socket): void {
    this.#socket = socket;
    countLink(1);
    let cause: Error | undefined;
    socket.on("error", (error) => cause = error);
    socket.on("end", () => {
      if (!this.#gone) this.events.ended();
    });
    socket.on("close", () => {
      if (this.#gone) return;
      this.#gone = true;
      countLink(-1);
      this.#askNoMore();
      this.events.closed(cause && systemError(cause, this.remote));
    });
    socket.setNoDelay(true);
  }

  /** Writes come back in order, so the last one's call-back tells that the one in flight is done. */
  readonly #written = (error?: Error | null): void => {
    this.#callbacks--;
    // Of a socket that was destroyed Node says so without an error, written or not. The close that follows tells.
    if (error || this.#socket.destroyed) return;
    if (this.#callbacks === 0 && this.#pending && !this.#gone && this.#socket.writableLength === 0) {
      this.#pending = false;
      this.events.written();
    }
  };

  write(chunk: Uint8Array, start: number, end: number): boolean {
    this.#callbacks++;
    this.#size = end - start;
    this.#socket.write(
      start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end),
      this.#written,
    );
    // The kernel took all of it at once when nothing is left to write.
    if (this.#socket.writableLength === 0 && !this.#socket.destroyed) return true;
    this.#pending = true;
    return false;
  }

  writtenBytes(): number {
    const handle = handleOf(this.#socket);
    return handle ? this.#size - handle.writeQueueSize : this.#writtenAtEnd;
  }

  /** From now on it tells what is unacknowledged. */
  askForUnacknowledged(): void {
    const { localPort, remotePort } = this.#socket;
    if (process.platform !== "linux" || localPort === undefined || remotePort === undefined) return;
    this.#ports = `${localPort} ${remotePort}`;
    ask(this, this.#ports);
  }

  #askNoMore(): void {
    if (this.#ports !== null) askNoMore(this.#ports);
    this.#ports = null;
  }

  /** Has anything been written since it was asked, or was something on its way then? */
  wroteSince(): boolean {
    const { bytesWritten } = this.#socket;
    const wrote = bytesWritten !== this.#askedAt || this.#unacknowledged > 0;
    this.#askedAt = bytesWritten;
    return wrote;
  }

  sawUnacknowledged(bytes: number): void {
    this.#unacknowledged = bytes;
  }

  unacknowledgedBytes(): number {
    return this.#unacknowledged;
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
    this.#socket.end();
    // Soon it is over, and what was seen last would be told.
    if (this.#ports !== null) void askAll();
  }

  destroy(): void {
    if (this.#gone) return;
    this.#gone = true;
    countLink(-1);
    this.#askNoMore();
    this.#writtenAtEnd = this.writtenBytes();
    this.#socket.destroy();
  }
}

/** libuv's handle under a socket: `net.Socket` takes `onread` for accepted sockets only with a handle. */
interface Handle {
  writeQueueSize: number;
}
function handleOf(socket: net.Socket): Handle | null {
  return (socket as unknown as { _handle: Handle | null })._handle;
}

/** Kept: what is collected closes its descriptor. */
const NON_BLOCKING: net.Socket[] = [];

/** Node does that with each descriptor that it makes a stream of. */
function setNonBlocking(fd: number): boolean {
  try {
    const socket = new net.Socket({ fd, readable: false, writable: true });
    socket.on("error", () => {/* who writes to the descriptor is told */});
    NON_BLOCKING.push(socket.unref());
    return true;
  } catch {
    return false; // of a kind that no stream is made of
  }
}

const answers = askBy((...args) => connect(...args));

function listenAt(
  address: Address,
  named: Address,
  options: LinkOptions,
  accept: (link: Link) => LinkEvents,
): Promise<Listener> {
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }, (accepted) => {
    const link = new NodeLink(
      address.transport === "ipc" ? endpointText(named) : endpointText({
        transport: "tcp",
        host: accepted.remoteAddress ?? "?",
        port: accepted.remotePort ?? 0,
      }),
    );
    // The socket that the server made cannot be given a read buffer any more; one around its handle can.
    const handle = handleOf(accepted);
    if (handle === null) return;
    (accepted as unknown as { _handle: Handle | null })._handle = null;
    const socket = new net.Socket(
      { handle, allowHalfOpen: true, onread: link.onread } as unknown as net.SocketConstructorOpts,
    );
    link.start(socket);
    setOptions(socket, options);
    link.events = accept(link);
    socket.resume();
  });
  return new Promise((resolve, reject) => {
    server.once("error", (error) => reject(systemError(error, `cannot listen on ${endpointText(named)}`)));
    const listening = () => {
      server.removeAllListeners("error");
      // A failed accept (out of descriptors, say) does not end the server.
      server.on("error", () => {});
      resolve({
        address: address.transport === "ipc"
          ? address
          : { transport: "tcp", host: address.host, port: (server.address() as net.AddressInfo).port },
        close: () => {
          // Its own links are not the server's any more, so it does not wait for them.
          server.close();
          return Promise.resolve();
        },
      });
    };
    if (address.transport === "ipc") server.listen({ path: address.path }, listening);
    else server.listen({ host: address.host, port: address.port, backlog: BACKLOG }, listening);
  });
}

function connect(
  address: Address,
  options: LinkOptions,
  open: (link: Link) => LinkEvents,
  failed: (error: Error) => void,
): () => void {
  const link = new NodeLink(endpointText(address));
  const target = address.transport === "ipc"
    ? { path: address.path }
    : { host: address.host, port: address.port };
  const socket = net.connect(
    { ...target, allowHalfOpen: true, onread: link.onread } as unknown as net.NetConnectOpts,
  );
  const refuse = (error: Error) => failed(systemError(error, endpointText(address)));
  socket.once("error", refuse);
  let connected = false;
  socket.once("connect", () => {
    connected = true;
    socket.off("error", refuse);
    link.start(socket);
    setOptions(socket, options);
    if (address.transport === "tcp") link.askForUnacknowledged();
    link.events = open(link);
  });
  return () => {
    if (connected) return;
    socket.off("error", refuse);
    socket.on("error", () => {/* cancelled: nobody waits for it */});
    socket.destroy();
  };
}

/** Node sets the idle time of keep-alive; interval, count and buffers stay the system's. */
function setOptions(socket: net.Socket, options: LinkOptions): void {
  const alive = options.keepAlive;
  socket.setKeepAlive(alive !== null, alive === null ? 0 : alive.idleSeconds * 1000);
}

const PYTHON_NOTIFY = `
import os, socket, sys
name = os.environ["NOTIFY_SOCKET"]
name = "\\0" + name[1:] if name.startswith("@") else name
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), name)
`;

/** Node has no Unix datagrams and no calls to libc: a helper sends. systemd's own waits until it has been heard. */
async function notify(socket: string, text: string): Promise<boolean> {
  return await sends("systemd-notify", text.split("\n"), socket) ||
    await sends("python3", ["-c", PYTHON_NOTIFY, text], socket);
}

function sends(command: string, args: string[], socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: "ignore", env: { ...process.env, NOTIFY_SOCKET: socket } });
    child.on("error", () => resolve(false));
    child.on("exit", (code) => resolve(code === 0));
  });
}
