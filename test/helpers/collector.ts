/** The two ends of a chain of servers, in the test's own hands: clients that flood, and a ROUTER that notes what comes. */
import { Buffer } from "node:buffer";
import net from "node:net";
import { OldPeer } from "./old_peer.ts";
import { GREETING, message, RawPeer, ready } from "./raw.ts";

/** A ROUTER that notes the beginning of the body of every message, by the identity of the client that sent it. */
export class Collector {
  readonly bodies = new Map<string, string[]>();
  readonly #server: net.Server;
  readonly #peers: RawPeer[] = [];
  #deafLinks = 0;
  #frameMaxBytes = Infinity;

  constructor() {
    this.#server = net.createServer((socket) => {
      const peer = new RawPeer(socket);
      this.#peers.push(peer);
      peer.write(GREETING, ready("ROUTER"));
      void this.#collect(peer);
    });
  }
  get links(): RawPeer[] {
    return this.#peers;
  }
  async #collect(peer: RawPeer): Promise<void> {
    const deaf = this.#peers.length <= this.#deafLinks;
    try {
      await peer.handshake();
    } catch {
      return; // it came to nothing
    }
    if (deaf) return void peer.socket.pause();
    const take = () => {
      for (let frames = peer.take(); frames !== null; frames = peer.take()) {
        const delimiter = frames.findIndex(({ length }) => length === 0);
        // A ping of the last server.
        if (delimiter === 0) continue;
        // The first server of the chain put it there.
        const client = frames[delimiter - 1].toString("latin1");
        const bodies = this.bodies.get(client) ?? [];
        this.bodies.set(client, bodies);
        bodies.push(frames[delimiter + 2].toString("latin1", 0, 40));
      }
      if (announced(peer.rest()) > this.#frameMaxBytes) peer.socket.resetAndDestroy();
    };
    peer.socket.on("data", take);
    take();
  }
  /**
   * @param deafLinks So many of the first links are not read from, once their handshake is done.
   * @param frameMaxBytes A link that announces a larger frame is closed, as libzmq does.
   */
  async listen({ deafLinks = 0, frameMaxBytes = Infinity } = {}): Promise<string> {
    this.#deafLinks = deafLinks;
    this.#frameMaxBytes = frameMaxBytes;
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `tcp://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }
  /** The links that are there now. */
  get open(): RawPeer[] {
    return this.#peers.filter(({ closed }) => !closed);
  }
  get count(): number {
    return [...this.bodies.values()].reduce((sum, { length }) => sum + length, 0);
  }
  [Symbol.dispose](): void {
    for (const peer of this.#peers) peer.close();
    this.#server.close();
  }
}

/** Bytes of the last frame whose header has come, at the beginning of a message. */
function announced(bytes: Buffer): number {
  let size = 0;
  for (let at = 0; at + 9 <= bytes.length; at += size + (bytes[at] & 2 ? 9 : 2)) {
    size = bytes[at] & 2 ? Number(bytes.readBigUInt64BE(at + 1)) : bytes[at + 1];
  }
  return size;
}

/** A ROUTER that answers each message with a body of the test's own, without reading what came. */
export class Answering {
  asked = 0;
  readonly #server: net.Server;
  readonly #peers: RawPeer[] = [];

  private constructor(body: () => Buffer) {
    this.#server = net.createServer((socket) => {
      const peer = new RawPeer(socket);
      this.#peers.push(peer);
      peer.write(GREETING, ready("ROUTER"));
      const answer = () => {
        for (let frames = peer.take(); frames !== null; frames = peer.take()) {
          this.asked++;
          peer.write(message(frames[0], "", "big.response", body()));
        }
      };
      peer.handshake().then(() => {
        socket.on("data", answer);
        answer();
      }, () => {/* it came to nothing */});
    });
  }
  static async listen(body: () => Buffer): Promise<Answering> {
    const answering = new Answering(body);
    await new Promise<void>((resolve) => answering.#server.listen(0, "127.0.0.1", resolve));
    return answering;
  }
  get endpoint(): string {
    return `tcp://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }
  [Symbol.dispose](): void {
    for (const peer of this.#peers) peer.close();
    this.#server.close();
  }
}

/** Numbered messages, until it is told to stop. */
export class Flood {
  sent = 0;
  readonly #peer: RawPeer | OldPeer;
  readonly #type: string;
  #stopped = false;
  readonly done: Promise<void>;

  /** @param ends The peer ends its side when the server does, as ZeroMQ's sockets do. */
  constructor(peer: RawPeer | OldPeer, type: string, ends = true) {
    this.#peer = peer;
    this.#type = type;
    peer.socket.on("end", () => {
      if (ends) this.stop();
    });
    peer.socket.on("close", () => this.#stopped = true);
    this.done = this.#run();
  }
  async #run(): Promise<void> {
    const { socket } = this.#peer;
    const encode = (...frames: string[]) =>
      this.#peer instanceof OldPeer ? this.#peer.encode(...frames) : message(...frames);
    while (!this.#stopped) {
      const chunk = Array.from({ length: 50 }, () => encode("", this.#type, `{"n":${this.sent++}}`, ""));
      if (socket.write(Buffer.concat(chunk))) await new Promise((resolve) => setImmediate(resolve));
      else await Promise.race([once(socket, "drain"), once(socket, "close"), once(socket, "end")]);
    }
  }
  /** Nothing more is sent than what was written. */
  stop(): void {
    this.#stopped = true;
    this.#peer.socket.end();
  }
}

function once(socket: net.Socket, event: string): Promise<void> {
  return new Promise((resolve) => void socket.once(event, () => resolve()));
}

/** The numbers in bodies, in order. */
export const numbers = (bodies: string[] | undefined) =>
  (bodies ?? []).map((body) => Number(/"n":(\d+)/.exec(body)![1]));
