/** Clients of a soak: those that send, those that ask, and those that do not behave. */
import { Buffer } from "node:buffer";
import net from "node:net";
import { message, RawPeer } from "../helpers/raw.ts";
import type { Ledger } from "./ledger.ts";
import { mark, messageOf } from "./wire.ts";

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** A host that does not read a client on for so long has a fault. */
const PATIENCE_MS = 60_000;

/** Sizes as they come: mostly lines of text, some reports, seldom a file. */
export function someBytes(random: () => number): number {
  const which = random();
  return Math.floor((which < 0.8 ? 300 : which < 0.98 ? 8000 : 60_000) * random());
}

/** A client that sends numbered messages of one type. */
export class Sender {
  readonly number: number;
  readonly peer: RawPeer;
  readonly #ledger: Ledger;
  readonly #type: string;
  count = 0;

  private constructor(peer: RawPeer, ledger: Ledger, type: string) {
    this.peer = peer;
    this.#ledger = ledger;
    this.#type = type;
    this.number = ledger.join();
  }

  static async open(port: number, ledger: Ledger, type: string): Promise<Sender> {
    return new Sender(await RawPeer.open(port), ledger, type);
  }

  /** Sends messages, held back as the host holds it back. */
  async send(count: number, padBytes: () => number, blobBytes = 0): Promise<void> {
    const chunk = Array.from({ length: count }, () => this.#message(padBytes(), blobBytes));
    await this.write(Buffer.concat(chunk));
  }

  async write(bytes: Uint8Array): Promise<void> {
    const { socket, closed } = this.peer;
    if (closed) throw new Error(`the host has closed client ${this.number} of ${this.#type}`);
    if (!socket.write(bytes)) await this.#within("takes nothing of", ["drain", "close"]);
  }

  #message(padBytes: number, blobBytes: number): Buffer {
    this.count++;
    const n = this.#ledger.next(this.number);
    return messageOf({ type: this.#type, client: this.number, n, padBytes, blobBytes });
  }

  /** FIN, behind all that was written. */
  async leave(): Promise<void> {
    const { socket } = this.peer;
    if (!socket.destroyed) {
      socket.end();
      await this.#within("does not end", ["close"]);
    }
    this.#ledger.leave(this.number, performance.now());
  }

  /** RST: what the host has not read is gone. */
  reset(): void {
    this.peer.socket.resetAndDestroy();
    this.#ledger.leave(this.number, performance.now());
  }

  /** Waits for one of these of its socket. */
  async #within(what: string, events: readonly string[]): Promise<void> {
    const { socket } = this.peer;
    await new Promise<void>((resolve, reject) => {
      const over = () => {
        clearTimeout(timer);
        for (const event of events) socket.off(event, done);
      };
      const done = () => {
        over();
        resolve();
      };
      const timer = setTimeout(() => {
        over();
        const who = `client ${this.number} of ${this.#type}`;
        reject(new Error(`the host ${what} ${who} for ${PATIENCE_MS / 1000} s`));
      }, PATIENCE_MS);
      for (const event of events) socket.on(event, done);
    });
  }
}

/** One line of a daemon's log. */
export function logMessage(client: number, n: number): Buffer {
  const body = {
    req: "log.info",
    time: Date.now() / 1000,
    hostname: "soak",
    log_level: "INFO",
    job_name: "soak",
    log_msg: `soak ${mark(client, n)} of a daemon that has something to say`,
    log_time: Date.now() / 1000,
  };
  return message("", "log.info", JSON.stringify(body), "");
}

/** A client that asks for echoes. */
export class Asker {
  readonly peer: RawPeer;
  readonly number: number;
  readonly #ledger: Ledger;
  #asked = 0;
  #answered = 0;
  #answer: (() => void) | null = null;

  private constructor(peer: RawPeer, ledger: Ledger) {
    this.peer = peer;
    this.#ledger = ledger;
    this.number = ledger.join();
    peer.socket.on("data", () => this.#take());
  }

  static async open(port: number, ledger: Ledger): Promise<Asker> {
    const peer = await RawPeer.open(port);
    peer.socket.setNoDelay(true);
    return new Asker(peer, ledger);
  }

  /** Asks, and waits for the answer; returns the milliseconds that it took. */
  async ask(): Promise<number> {
    const begin = performance.now();
    this.write(1, 0);
    await new Promise<void>((resolve, reject) => {
      const { socket } = this.peer;
      const over = () => {
        clearTimeout(timer);
        socket.off("close", closed);
      };
      const closed = () => {
        over();
        reject(new Error("the host has closed a client that asks"));
      };
      const timer = setTimeout(() => {
        over();
        reject(new Error(`an echo is not answered within ${PATIENCE_MS / 1000} s`));
      }, PATIENCE_MS);
      socket.on("close", closed);
      this.#answer = () => {
        over();
        resolve();
      };
    });
    return performance.now() - begin;
  }

  /** Asks, and does not wait. */
  write(count: number, padBytes: number): void {
    const pad = "x".repeat(padBytes);
    this.peer.write(...Array.from({ length: count }, () => {
      const target = `${mark(this.number, this.#ledger.next(this.number))}${pad}`;
      this.#asked++;
      return message("", "echo.request", JSON.stringify({ req: "echo.request", target }), "");
    }));
  }

  #take(): void {
    for (let frames = this.peer.take(); frames !== null; frames = this.peer.take()) {
      const found = /"orig_target":"(\d+)-(\d+)/.exec(frames[2]?.toString("latin1", 0, 400) ?? "");
      if (found === null) continue;
      this.#answered++;
      this.#ledger.arrive(Number(found[1]), Number(found[2]));
      if (this.#answered === this.#asked) this.#answer?.();
    }
  }

  close(): void {
    this.peer.socket.resetAndDestroy();
    this.#ledger.leave(this.number, performance.now());
  }
}

/** Bytes that are no ZMTP, or break off, or lie about what follows. */
export function badBytes(random: () => number): Buffer {
  const noise = Buffer.from(
    Array.from({ length: 1 + Math.floor(random() * 300) }, () => Math.floor(random() * 256)),
  );
  const kinds = [
    noise,
    Buffer.from("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    // A frame with reserved flags, one that is too long by far, and a message that stays a beginning.
    Buffer.from([0xf8, 1, 0]),
    Buffer.from([2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    Buffer.from([1, 0, 1, 5, 0x70]),
  ];
  return kinds[Math.floor(random() * kinds.length)];
}

/** A connection without a handshake that says something else. */
export async function stranger(port: number, bytes: Uint8Array): Promise<void> {
  const socket = net.connect({ port, host: "127.0.0.1" });
  socket.on("error", () => {});
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  socket.end(bytes);
  await Promise.race([closed, sleep(2000)]);
  socket.destroy();
}
