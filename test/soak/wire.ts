/** Messages of a soak: each carries its client's number and its own, which are read off at the other end. */
import { Buffer } from "node:buffer";
import net from "node:net";
import { GREETING, ready } from "../helpers/raw.ts";

/** `{"at":"0000000012-0000000345","x":"` */
const AT = '{"at":"';
const DIGITS = 10;
const HEAD_BYTES = AT.length + 2 * DIGITS + 1;
const FILLING = Buffer.alloc(1024 * 1024, "x");

export function mark(client: number, n: number): string {
  return `${String(client).padStart(DIGITS, "0")}-${String(n).padStart(DIGITS, "0")}`;
}

export interface Shape {
  readonly type: string;
  readonly client: number;
  readonly n: number;
  /** At most 1 MiB, of the body. */
  readonly padBytes: number;
  /** 0: no blob. */
  readonly blobBytes?: number;
}

/** One message's bytes, from a DEALER. */
export function messageOf({ type, client, n, padBytes, blobBytes = 0 }: Shape): Buffer {
  const start = `${AT}${mark(client, n)}","x":"`;
  const bodyBytes = start.length + padBytes + 2;
  const size = 2 + 2 + type.length + 9 + bodyBytes + 2 + (blobBytes > 0 ? 9 + blobBytes : 0);
  const out = Buffer.allocUnsafe(size);
  out.set([1, 0, 1, type.length]);
  let at = 4 + out.write(type, 4, "latin1");
  at = header(out, at, bodyBytes, 1);
  at += out.write(start, at, "latin1");
  at += FILLING.copy(out, at, 0, padBytes);
  at += out.write('"}', at, "latin1");
  out.set([blobBytes > 0 ? 1 : 0, 0], at);
  at += 2;
  if (blobBytes === 0) return out;
  at = header(out, at, blobBytes, 0);
  for (let left = blobBytes; left > 0;) {
    const part = FILLING.copy(out, at, 0, Math.min(left, FILLING.length));
    at += part;
    left -= part;
  }
  return out;
}

function header(out: Buffer, at: number, size: number, more: number): number {
  out[at] = more | 2;
  out.writeBigUInt64BE(BigInt(size), at + 1);
  return at + 9;
}

/** Reads a link of ZMTP as it comes, and keeps nothing of a message but its numbers. */
export class Reading {
  readonly #message: (client: number, n: number) => void;
  readonly #head = Buffer.alloc(9);
  #headBytes = 0;
  /** Bytes of the greeting, or of the frame, that are still to come; -1: a header comes. */
  #left = 64;
  #flags = 0;
  /** Frames since the delimiter: 1 is the type, 2 the body; -1: it has not come. */
  #field = -1;
  readonly #body = Buffer.alloc(HEAD_BYTES);
  #bodyBytes = 0;

  constructor(message: (client: number, n: number) => void) {
    this.#message = message;
  }

  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length || this.#left === 0;) {
      if (this.#left < 0) {
        this.#head[this.#headBytes++] = chunk[at++];
        this.#header();
        continue;
      }
      const size = Math.min(this.#left, chunk.length - at);
      if (this.#field === 2) this.#keep(chunk, at, size);
      at += size;
      this.#left -= size;
      if (this.#left === 0) this.#frame();
    }
  }

  #header(): void {
    const head = this.#head;
    const long = (head[0] & 2) !== 0;
    if (this.#headBytes < (long ? 9 : 2)) return;
    this.#headBytes = 0;
    this.#flags = head[0];
    this.#left = long ? Number(head.readBigUInt64BE(1)) : head[1];
    if (this.#field >= 0) this.#field++;
    else if (this.#left === 0) this.#field = 0;
  }

  #keep(chunk: Uint8Array, at: number, size: number): void {
    const part = Math.min(size, HEAD_BYTES - this.#bodyBytes);
    for (let i = 0; i < part; i++) this.#body[this.#bodyBytes++] = chunk[at + i];
  }

  #frame(): void {
    this.#left = -1;
    if ((this.#flags & 1) !== 0) return;
    if (this.#field >= 2 && this.#bodyBytes === HEAD_BYTES) {
      this.#message(this.#number(AT.length), this.#number(AT.length + DIGITS + 1));
    }
    this.#field = -1;
    this.#bodyBytes = 0;
  }

  #number(at: number): number {
    let number = 0;
    for (let i = at; i < at + DIGITS; i++) number = number * 10 + this.#body[i] - 48;
    return number;
  }
}

/** A ROUTER at the end of a path, which may rest, and break off. */
export class Sink {
  readonly #message: (client: number, n: number) => void;
  readonly #sockets = new Set<net.Socket>();
  #server: net.Server | null = null;
  #rests = false;
  port = 0;

  constructor(message: (client: number, n: number) => void) {
    this.#message = message;
  }

  async listen(): Promise<void> {
    const server = net.createServer((socket) => {
      const reading = new Reading(this.#message);
      this.#sockets.add(socket);
      socket.on("data", (chunk) => reading.push(chunk as Uint8Array));
      socket.on("error", () => {}).on("close", () => this.#sockets.delete(socket));
      socket.write(Buffer.concat([GREETING, ready("ROUTER")]));
      if (this.#rests) socket.pause();
    });
    await new Promise<void>((resolve, reject) =>
      server.once("error", reject).listen(this.port, "127.0.0.1", resolve)
    );
    this.port = (server.address() as net.AddressInfo).port;
    this.#server = server;
  }

  /** Nothing is read until `go`. */
  rest(): void {
    this.#rests = true;
    for (const socket of this.#sockets) socket.pause();
  }

  go(): void {
    this.#rests = false;
    for (const socket of this.#sockets) socket.resume();
  }

  /** Bytes that were taken off the system, and not read. */
  get unreadBytes(): number {
    return [...this.#sockets].reduce((sum, { readableLength }) => sum + readableLength, 0);
  }

  get closed(): boolean {
    return this.#server === null;
  }

  /** Breaks off, and listens no more. */
  close(): void {
    this.#server?.close();
    this.#server = null;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }
}
