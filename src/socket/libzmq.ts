/**
 * The second engine: libzmq by way of the npm package `zeromq`, behind the same two interfaces. It is the oracle that
 * our own is compared with, so it is kept plain; every message is put together from frames and taken apart again.
 */
import type { Buffer } from "node:buffer";
import type { LoadedLibzmq } from "../contracts/links.ts";
import { CCError, codeOf, errnoText, errorText } from "../errors.ts";
import { RECONNECT_MAX_MS, RECONNECT_MIN_MS } from "../limits.ts";
import { Block } from "../memory/block.ts";
import { hex, latin1 } from "../text.ts";
import { copyOf, decodeFrames, encodeFrame, encodeFrames, MORE } from "../zmtp/frame.ts";
import type { SocketContext } from "./context.ts";
import { boundPassed } from "./bounds.ts";
import { DropCounter } from "./drops.ts";
import { parseEndpoint } from "../endpoint.ts";
import { PausedSources } from "./paused.ts";
import type {
  ClosedReason,
  DealerEvents,
  DealerOptions,
  DealerSocket,
  Engine,
  MessageSink,
  RouterOptions,
  RouterSocket,
  SendResult,
  SocketOptions,
  Source,
} from "./types.ts";

type Libzmq = typeof import("zeromq");
/** The package, loaded. */
interface Loaded {
  zmq: Libzmq;
  pollMs: number | null;
}
type Socket = InstanceType<Libzmq["Router"]> | InstanceType<Libzmq["Dealer"]>;

const NO_IDENTITY = new Uint8Array(0);
/** When nothing has come for so long, nothing more is expected. */
const DRAINED_MS = 20;

export function libzmqEngine(context: SocketContext, library: LoadedLibzmq): Engine {
  const loaded: Loaded = { zmq: library.zmq as Libzmq, pollMs: library.pollMs };
  return {
    name: "libzmq",
    description: `libzmq ${loaded.zmq.version}`,
    router: (options, sink) => new LibzmqRouter(context, loaded, options, sink),
    dealer: (endpoint, options, sink, events) =>
      new LibzmqDealer(context, loaded, endpoint, options, sink, events ?? {}),
  };
}

function configure(socket: Socket, options: SocketOptions): void {
  socket.sendHighWaterMark = options.hwm;
  socket.receiveHighWaterMark = options.hwm;
  socket.linger = 0; // close() below waits for its own queue and gives libzmq the rest
  socket.maxMessageSize = options.messageMaxBytes;
  if (options.receiveBufferBytes > 0) socket.receiveBufferSize = options.receiveBufferBytes;
  if (options.sendBufferBytes > 0) socket.sendBufferSize = options.sendBufferBytes;
  const alive = options.keepAlive;
  socket.tcpKeepalive = alive === null ? 0 : 1;
  if (alive !== null) {
    socket.tcpKeepaliveIdle = alive.idleSeconds;
    socket.tcpKeepaliveInterval = alive.intervalSeconds;
    socket.tcpKeepaliveCount = alive.count;
  }
}

/** What both sockets do: a queue of messages that libzmq takes one by one, and a loop that receives. */
abstract class LibzmqSocket<S extends Socket> {
  readonly drops: DropCounter;
  protected readonly socket: S;
  protected readonly context: SocketContext;
  readonly #sink: MessageSink;
  readonly #pollMs: number | null;
  #queue: Uint8Array[][] = [];
  #sending = false;
  #receiving = true;
  #pauses = 0;
  #resume: (() => void) | null = null;
  protected onroom: (() => void) | null = null;
  /** Messages so far. */
  protected received = 0;
  #onempty: (() => void) | null = null;

  constructor(
    context: SocketContext,
    socket: S,
    pollMs: number | null,
    options: SocketOptions,
    sink: MessageSink,
  ) {
    this.context = context;
    this.socket = socket;
    this.#pollMs = pollMs;
    if (pollMs !== null) socket.receiveTimeout = socket.sendTimeout = 0;
    this.#sink = sink;
    this.drops = new DropCounter(context.log);
    configure(socket, options);
  }

  get queued(): number {
    return this.#queue.length + (this.#sending ? 1 : 0);
  }

  stopReceiving(): void {
    this.#receiving = false;
  }

  async close(lingerMs: number): Promise<void> {
    const { clock } = this.context;
    this.stopReceiving();
    if (this.queued > 0 && lingerMs > 0) {
      await new Promise<void>((resolve) => {
        const cancel = clock.after(lingerMs, resolve);
        this.#onempty = () => {
          cancel();
          resolve();
        };
      });
    }
    this.drops.add("linger", this.peerName, this.queued);
    this.#queue = [];
    if (this.socket.closed) return;
    this.socket.linger = lingerMs;
    this.socket.close();
  }

  protected abstract readonly peerName: string;
  /** Who sent these frames, and which of them are the message. */
  protected abstract sourceOf(frames: Uint8Array[]): { source: Source; frames: Uint8Array[] };
  protected abstract failed(error: unknown): void;

  protected async receive(): Promise<void> {
    try {
      for (;;) {
        const received: Uint8Array[] = await this.#ready(() => this.socket.receive());
        while (this.#pauses > 0) await new Promise<void>((resolve) => this.#resume = resolve);
        if (!this.#receiving) continue;
        this.received++;
        const { source, frames } = this.sourceOf(received);
        if (frames.length === 0) continue;
        const message = encodeFrames(frames);
        const buf = new Uint8Array(source.identityFrame.length + message.length);
        buf.set(source.identityFrame, 0);
        buf.set(message, source.identityFrame.length);
        const empty = frames.findIndex((frame) => frame.length === 0);
        const delimiter = empty < 0 ? -1 : empty === 0 ? 0 : encodeFrames(frames.slice(0, empty)).length;
        const start = source.identityFrame.length;
        this.context.flusher.beginChunk();
        this.#sink.message(
          source,
          buf,
          start,
          buf.length,
          empty < 0 ? -1 : start + delimiter,
          frames.length - empty - 1,
          new Block(buf, 0, buf.length, null),
        );
        this.#sink.chunkEnd();
        this.context.flusher.endChunk();
      }
    } catch (error) {
      if (!this.socket.closed) this.failed(error);
    }
  }

  /** Nothing more is received until {@link resumeReceiving}; counted. */
  protected pauseReceiving(): void {
    this.#pauses++;
  }

  protected resumeReceiving(): void {
    if (--this.#pauses > 0) return;
    this.#resume?.();
    this.#resume = null;
  }

  /** Queues frames; they are copied, since libzmq reads them later. */
  protected push(frames: Uint8Array[]): void {
    this.#queue.push(frames.map((frame) => copyOf(frame)));
    if (!this.#sending) this.#send().catch((error) => this.failed(error));
  }

  async #send(): Promise<void> {
    this.#sending = true;
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      try {
        await this.#ready(() => this.socket.send(next as Buffer[]));
      } catch (error) {
        if (this.socket.closed) break;
        this.unsendable(next, error);
      }
      this.onroom?.();
    }
    this.#sending = false;
    this.#onempty?.();
  }

  /** Does what waits for the socket; where libzmq is not told that it is ready, by trying again. */
  async #ready<T>(act: () => Promise<T>): Promise<T> {
    const pollMs = this.#pollMs;
    if (pollMs === null) return await act();
    for (;;) {
      try {
        return await act();
      } catch (error) {
        if (codeOf(error) !== "EAGAIN") throw error;
        await new Promise<void>((resolve) => void this.context.clock.after(pollMs, resolve));
      }
    }
  }

  protected unsendable(_frames: Uint8Array[], error: unknown): void {
    this.failed(error);
  }
}

class LibzmqRouter extends LibzmqSocket<InstanceType<Libzmq["Router"]>> implements RouterSocket {
  readonly peersMax = null;
  readonly rests = false;
  /** libzmq does not tell what has come. */
  readonly idle = true;
  readonly closed: ReadonlyMap<ClosedReason, number> = new Map();
  protected override readonly peerName = "clients";
  readonly #sources = new Map<string, Source>();
  #path: string | null = null;
  #bound: string | null = null;
  #peers = 0;
  readonly #hwm: number;

  constructor(context: SocketContext, { zmq, pollMs }: Loaded, options: RouterOptions, sink: MessageSink) {
    super(context, new zmq.Router(), pollMs, options, sink);
    this.#hwm = options.hwm;
    this.socket.mandatory = true;
    // libzmq asks nobody.
    this.socket.handover = options.identityTakeover !== "never";
    this.socket.events.on("handshake", () => this.#peers++);
    this.socket.events.on("disconnect", () => this.#peers--);
  }

  get peers(): number {
    return Math.max(0, this.#peers);
  }

  async bind(endpoint: string): Promise<string> {
    const address = parseEndpoint(endpoint, "bind");
    if (address.transport === "ipc") {
      await this.context.environment.links.prepareSocketFile(address.path);
      this.#path = address.path;
    }
    try {
      await this.socket.bind(endpoint.replace(/:0$/, ":*"));
    } catch (error) {
      const code = codeOf(error);
      throw new CCError(
        code ?? "cannot-listen",
        `cannot listen on ${endpoint}: ${errnoText(code) ?? errorText(error)}`,
      );
    }
    this.receive();
    this.#bound = this.socket.lastEndpoint;
    return this.#bound ?? endpoint;
  }

  send(buf: Uint8Array, start: number, end: number): boolean {
    if (this.queued >= 2 * this.#hwm) {
      this.drops.add("client-full", "clients");
      return false;
    }
    this.push(decodeFrames(buf, start, end));
    return true;
  }

  stopListening(): void {
    if (this.#bound !== null) this.socket.unbind(this.#bound).catch(() => {/* it is closed soon */});
    this.#bound = null;
  }

  /** Takes what comes, until nothing has come for a while. */
  async drain(ms: number): Promise<void> {
    this.stopListening();
    const { clock } = this.context;
    const until = clock.now() + ms;
    for (let before = -1; before !== this.received && clock.now() < until;) {
      before = this.received;
      await new Promise<void>((resolve) => void clock.after(DRAINED_MS, resolve));
    }
    this.stopReceiving();
  }

  override async close(lingerMs: number): Promise<void> {
    await super.close(lingerMs);
    if (this.#path !== null) this.context.environment.links.removeSocketFile(this.#path);
  }

  protected override sourceOf(received: Uint8Array[]): { source: Source; frames: Uint8Array[] } {
    const [identity, ...frames] = received;
    const key = latin1(identity);
    let source = this.#sources.get(key);
    if (source === undefined) {
      if (this.#sources.size >= 10_000) this.#sources.clear();
      source = {
        identityFrame: encodeFrame(identity, MORE),
        name: `client ${hex(identity)}`,
        pause: () => this.pauseReceiving(),
        resume: () => this.resumeReceiving(),
      };
      this.#sources.set(key, source);
    }
    return { source, frames };
  }

  protected override unsendable(_frames: Uint8Array[], error: unknown): void {
    const unreachable = codeOf(error) === "EHOSTUNREACH";
    this.drops.add(unreachable ? "no-such-peer" : "client-full", "a client");
  }

  protected override failed(error: unknown): void {
    this.context.log.error("libzmq", `the ROUTER failed: ${errorText(error)}`);
  }
}

class LibzmqDealer extends LibzmqSocket<InstanceType<Libzmq["Dealer"]>> implements DealerSocket {
  readonly runs = null;
  /** libzmq does not tell. */
  readonly unconfirmed = 0;
  protected override readonly peerName: string;
  #hwm: number;
  readonly #messageMaxBytes: number;
  readonly #paused: PausedSources;
  readonly #source: Source;
  #up = false;

  constructor(
    context: SocketContext,
    { zmq, pollMs }: Loaded,
    endpoint: string,
    options: DealerOptions,
    sink: MessageSink,
    events: DealerEvents,
  ) {
    parseEndpoint(endpoint, "connect");
    const identity = options.identity === undefined || options.identity.length === 0
      ? {}
      : { routingId: latin1(options.identity) };
    super(context, new zmq.Dealer(identity), pollMs, options, sink);
    this.peerName = endpoint;
    this.#hwm = options.hwm;
    this.#messageMaxBytes = options.messageMaxBytes;
    this.#paused = new PausedSources(() => this.queued < this.#hwm, context.clock.soon);
    this.#source = {
      identityFrame: NO_IDENTITY,
      name: endpoint,
      pause: () => this.pauseReceiving(),
      resume: () => this.resumeReceiving(),
    };
    const { socket } = this;
    socket.reconnectInterval = RECONNECT_MIN_MS;
    socket.reconnectMaxInterval = RECONNECT_MAX_MS;
    socket.events.on("handshake", () => {
      this.#up = true;
      events.up?.();
    });
    socket.events.on("disconnect", () => {
      if (!this.#up) return;
      this.#up = false;
      this.#paused.resumeAll();
      events.down?.("closed by the peer");
    });
    this.onroom = () => {
      // The one that was just taken is still counted.
      if ((this.queued - 1) * 2 <= this.#hwm) this.#paused.resume();
    };
    socket.connect(endpoint);
    this.receive();
  }

  get up(): boolean {
    return this.#up;
  }

  reconfigure(options: DealerOptions): void {
    configure(this.socket, options);
    this.#hwm = options.hwm;
    if (this.queued < this.#hwm) this.#paused.resume();
  }

  send(identityFrame: Uint8Array, buf: Uint8Array, start: number, end: number): SendResult {
    const passed = boundPassed(identityFrame, buf, start, end, this.#messageMaxBytes);
    if (passed !== null) {
      this.drops.add(passed, this.peerName);
      return "dropped";
    }
    if (!this.#up && this.queued >= this.#hwm) {
      this.drops.add("upstream-down", this.peerName);
      return "dropped";
    }
    this.push([...decodeFrames(identityFrame, 0, identityFrame.length), ...decodeFrames(buf, start, end)]);
    return this.queued < this.#hwm ? "queued" : "full";
  }

  pause(source: Source): void {
    if (this.#up && this.queued >= this.#hwm) this.#paused.add(source);
  }

  override async close(lingerMs: number): Promise<void> {
    this.#paused.resumeAll();
    await super.close(lingerMs);
  }

  protected override sourceOf(frames: Uint8Array[]): { source: Source; frames: Uint8Array[] } {
    return { source: this.#source, frames };
  }

  protected override failed(error: unknown): void {
    this.context.log.error("libzmq", `the DEALER to ${this.peerName} failed: ${errorText(error)}`);
  }
}
