/**
 * Peers of ZMTP 1.0 and 2.0, byte by byte: they speak as libzmq 2.x and 3.2 do, and throw at what those would not understand.
 * Written apart from the code under test.
 */
import { Buffer } from "node:buffer";
import net from "node:net";
import { until } from "./env.ts";
import { message } from "./raw.ts";

export type OldVersion = "1.0" | "2.0";

const TYPES = { DEALER: 5, ROUTER: 6 };
const SIGNATURE_BYTES = 10;

/** Frames of one message, as libzmq 2.x writes them. */
export function oldMessage(...frames: (Uint8Array | string)[]): Buffer {
  return Buffer.concat(frames.map((frame, i) => {
    const body = Buffer.from(frame);
    const flags = i + 1 < frames.length ? 1 : 0;
    const size = body.length + 1;
    if (size < 255) return Buffer.concat([Buffer.from([size, flags]), body]);
    const head = Buffer.alloc(10, 0xff, "latin1");
    head[0] = 0xff;
    head.writeBigUInt64BE(BigInt(size), 1);
    head[9] = flags;
    return Buffer.concat([head, body]);
  }));
}

export class OldPeer {
  readonly socket: net.Socket;
  readonly version: OldVersion;
  /** What the other side has said of itself. */
  identity = "";
  closed = false;
  #bytes: Buffer = Buffer.alloc(0);
  #chunks: Buffer[] = [];

  constructor(socket: net.Socket, version: OldVersion) {
    this.socket = socket;
    this.version = version;
    socket.setNoDelay(true);
    socket.on("data", (chunk) => this.#chunks.push(chunk as Buffer));
    socket.on("error", () => {});
    socket.on("close", () => this.closed = true);
  }

  /** A connection, its handshake done. */
  static async open(
    port: number,
    version: OldVersion,
    identity = "",
    allowHalfOpen = false,
  ): Promise<OldPeer> {
    const socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen });
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    const peer = new OldPeer(socket, version);
    await peer.handshake("DEALER", identity);
    return peer;
  }

  /** In the order in which libzmq says it. */
  async handshake(type: keyof typeof TYPES, identity = ""): Promise<void> {
    const own = Buffer.from(identity);
    if (this.version === "1.0") {
      // It knows of no greeting: a frame with its identity, and what comes first is the other's.
      this.socket.write(oldMessage(own));
      await this.#wait(SIGNATURE_BYTES);
      const size = this.#bytes[0] === 0xff ? Number(this.#bytes.readBigUInt64BE(1)) - 1 : this.#bytes[0] - 1;
      const start = this.#bytes[0] === 0xff ? SIGNATURE_BYTES : 2;
      await this.#wait(start + size);
      this.identity = this.#bytes.toString("latin1", start, start + size);
      this.#bytes = this.#bytes.subarray(start + size);
      return;
    }
    const signature = Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, own.length + 1, 0x7f]);
    this.socket.write(signature);
    await this.#wait(SIGNATURE_BYTES);
    if (this.#bytes[0] !== 0xff || this.#bytes[9] !== 0x7f) throw new Error("no signature");
    this.socket.write(Buffer.from([1, TYPES[type]]));
    await this.#wait(SIGNATURE_BYTES + 1);
    if (this.#bytes[SIGNATURE_BYTES] < 1) throw new Error("no revision");
    this.socket.write(Buffer.concat([Buffer.from([0, own.length]), own]));
    const at = SIGNATURE_BYTES + 1;
    await this.#wait(at + 3);
    if (this.#bytes[at] !== (type === "DEALER" ? TYPES.ROUTER : TYPES.DEALER)) {
      throw new Error("a wrong type");
    }
    if (this.#bytes[at + 1] !== 0) throw new Error("no identity");
    const end = at + 3 + this.#bytes[at + 2];
    await this.#wait(end);
    this.identity = this.#bytes.toString("latin1", at + 3, end);
    this.#bytes = this.#bytes.subarray(end);
  }

  send(...frames: (Uint8Array | string)[]): void {
    this.write(this.encode(...frames));
  }

  encode(...frames: (Uint8Array | string)[]): Buffer {
    return this.version === "1.0" ? oldMessage(...frames) : message(...frames);
  }

  write(bytes: Uint8Array): void {
    this.socket.write(bytes);
  }

  /** The next message's frames. @throws {Error} It is none, as it understands that. */
  async receive(timeoutMs = 10_000): Promise<Buffer[]> {
    return await until("a message", () => {
      const frames = this.take();
      if (frames === null && this.closed) throw new Error("the connection has ended");
      return frames;
    }, timeoutMs);
  }

  take(): Buffer[] | null {
    const bytes = this.#gather();
    const frames: Buffer[] = [];
    for (let at = 0;;) {
      const head = this.version === "1.0" ? head10(bytes, at) : head20(bytes, at);
      if (head === null || bytes.length < head.start + head.size) return null;
      at = head.start + head.size;
      frames.push(bytes.subarray(head.start, at));
      if ((head.flags & ~1) !== 0) throw new Error(`flags ${head.flags}, which it does not know`);
      if (head.flags === 1) continue;
      this.#bytes = bytes.subarray(at);
      return frames;
    }
  }

  #gather(): Buffer {
    this.#bytes = Buffer.concat([this.#bytes, ...this.#chunks.splice(0)]);
    return this.#bytes;
  }

  async #wait(size: number): Promise<void> {
    await until(`${size} bytes`, () => this.#gather().length >= size || this.closed);
    if (this.#bytes.length < size) throw new Error("the connection has ended");
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

interface Head {
  start: number;
  size: number;
  flags: number;
}

function head10(bytes: Buffer, at: number): Head | null {
  if (bytes.length - at < 2) return null;
  if (bytes[at] !== 0xff) return { start: at + 2, size: bytes[at] - 1, flags: bytes[at + 1] };
  if (bytes.length - at < 10) return null;
  return { start: at + 10, size: Number(bytes.readBigUInt64BE(at + 1)) - 1, flags: bytes[at + 9] };
}

function head20(bytes: Buffer, at: number): Head | null {
  if (bytes.length - at < 2) return null;
  const flags = bytes[at] & ~2;
  if ((bytes[at] & 2) === 0) return { start: at + 2, size: bytes[at + 1], flags };
  if (bytes.length - at < 9) return null;
  return { start: at + 9, size: Number(bytes.readBigUInt64BE(at + 1)), flags };
}

/** Listens as a ROUTER of an old libzmq; each client that has shaken hands is given on. */
export async function oldRouter(
  version: OldVersion,
  taken: (peer: OldPeer, n: number) => void,
): Promise<{ port: number; peers: OldPeer[]; [Symbol.dispose](): void }> {
  const peers: OldPeer[] = [];
  const server = net.createServer((socket) => {
    const peer = new OldPeer(socket, version);
    peers.push(peer);
    const n = peers.length - 1;
    peer.handshake("ROUTER").then(() => taken(peer, n), () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  return {
    port,
    peers,
    [Symbol.dispose]() {
      server.close();
      for (const { socket } of peers) socket.destroy();
    },
  };
}
