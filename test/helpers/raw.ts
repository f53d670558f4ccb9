/**
 * A peer that speaks ZMTP byte by byte, so that it can speak it wrong, slowly or not at all. Written apart from the
 * code under test.
 */
import { Buffer } from "node:buffer";
import net from "node:net";
import { until } from "./env.ts";

export const GREETING = Buffer.concat([
  Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 1]),
  Buffer.from("NULL"),
  Buffer.alloc(48),
]);

/** READY of a socket of this type. */
export function ready(type: string, identity = ""): Buffer {
  const body = Buffer.concat([
    Buffer.from("\x05READY"),
    property("Socket-Type", type),
    property("Identity", identity),
  ]);
  return Buffer.concat([Buffer.from([4, body.length]), body]);
}

function property(name: string, value: string): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32BE(Buffer.byteLength(value, "latin1"));
  return Buffer.concat([Buffer.from([name.length]), Buffer.from(name), size, Buffer.from(value, "latin1")]);
}

/** Frames of one message. */
export function message(...frames: (Uint8Array | string)[]): Buffer {
  return Buffer.concat(frames.map((frame, i) => {
    const body = Buffer.from(frame);
    const more = i + 1 < frames.length ? 1 : 0;
    if (body.length < 256) return Buffer.concat([Buffer.from([more, body.length]), body]);
    const head = Buffer.alloc(9);
    head[0] = more | 2;
    head.writeBigUInt64BE(BigInt(body.length), 1);
    return Buffer.concat([head, body]);
  }));
}

export class RawPeer {
  readonly socket: net.Socket;
  /** All that came and was not taken yet, the greeting and READY of the other side included. */
  bytes: Buffer = Buffer.alloc(0);
  closed = false;
  #chunks: Buffer[] = [];

  constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on("data", (chunk) => this.#chunks.push(chunk as Buffer));
    socket.on("error", () => {});
    socket.on("close", () => this.closed = true);
    socket.on("end", () => this.closed = true);
  }

  /** A connection without a handshake. */
  static async connect(port: number, allowHalfOpen = false): Promise<RawPeer> {
    const socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen });
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    socket.setNoDelay(true);
    return new RawPeer(socket);
  }

  /**
   * A connection with its handshake done on both sides.
   *
   * @param allowHalfOpen It does not end by itself when the other side does.
   */
  static async open(
    port: number,
    type = "DEALER",
    identity = "",
    allowHalfOpen = false,
  ): Promise<RawPeer> {
    const peer = await RawPeer.connect(port, allowHalfOpen);
    peer.write(GREETING, ready(type, identity));
    await peer.handshake();
    return peer;
  }

  /** The same over a Unix socket. */
  static async overFile(path: string): Promise<RawPeer> {
    const socket = net.connect(path);
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    const peer = new RawPeer(socket);
    peer.write(GREETING, ready("DEALER"));
    await peer.handshake();
    return peer;
  }

  /** Waits for the other side's greeting and READY, and takes them off. */
  async handshake(): Promise<void> {
    await until(
      "greeting and READY",
      () => this.#gather().length >= 66 && this.bytes.length >= 66 + this.bytes[65],
    );
    this.bytes = this.bytes.subarray(66 + this.bytes[65]);
  }

  write(...chunks: Uint8Array[]): void {
    this.socket.write(Buffer.concat(chunks));
  }

  /** The next message's frames. */
  async receive(timeoutMs = 10_000): Promise<Buffer[]> {
    return await until("a message", () => {
      const frames = this.take();
      if (frames === null && this.closed) throw new Error("the connection has ended");
      return frames;
    }, timeoutMs);
  }

  /** A message's frames, if one has come whole. */
  take(): Buffer[] | null {
    const bytes = this.#gather();
    const frames: Buffer[] = [];
    for (let at = 0;;) {
      if (bytes.length - at < 2) return null;
      const long = (bytes[at] & 2) !== 0;
      if (long && bytes.length - at < 9) return null;
      const size = long ? Number(bytes.readBigUInt64BE(at + 1)) : bytes[at + 1];
      const body = at + (long ? 9 : 2);
      if (bytes.length < body + size) return null;
      frames.push(bytes.subarray(body, body + size));
      const more = (bytes[at] & 1) !== 0;
      at = body + size;
      if (more) continue;
      this.bytes = bytes.subarray(at);
      return frames;
    }
  }

  /** All that has come and was not taken. */
  rest(): Buffer {
    return this.#gather();
  }

  #gather(): Buffer {
    if (this.#chunks.length > 0) this.bytes = Buffer.concat([this.bytes, ...this.#chunks.splice(0)]);
    return this.bytes;
  }

  close(): void {
    this.socket.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
