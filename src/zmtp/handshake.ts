/**
 * Greeting and READY of ZMTP 3.0 and 3.1 with the NULL mechanism (RFC 23, RFC 37), and the commands of a running
 * connection. Bytes in, a result out; no clock, no socket.
 */
import { latin1, latin1Bytes } from "../text.ts";
import { COMMAND, copyOf, encodeFrame, LONG, longSize, MORE, ProtocolError } from "./frame.ts";

/** The socket types that ZMTP knows. */
export type SocketType =
  | "REQ"
  | "REP"
  | "DEALER"
  | "ROUTER"
  | "PUB"
  | "XPUB"
  | "SUB"
  | "XSUB"
  | "PUSH"
  | "PULL"
  | "PAIR";

/** What a peer told about itself. */
export interface PeerProperties {
  /** ZMTP version of the peer: 3.0 or 3.1. */
  version: string;
  socketType: string;
  /** Empty where the peer gave none. */
  identity: Uint8Array;
}

export const GREETING_BYTES = 64;

/** Version 3.1, mechanism NULL, not as server. */
export const GREETING: Uint8Array = makeGreeting();

/** Which types may talk to each other (RFC 23, "Socket-Type"). */
const COMPATIBLE: Record<"DEALER" | "ROUTER", readonly string[]> = {
  DEALER: ["REP", "DEALER", "ROUTER"],
  ROUTER: ["REQ", "DEALER", "ROUTER"],
};

function makeGreeting(): Uint8Array {
  const greeting = new Uint8Array(GREETING_BYTES);
  greeting[0] = 0xff;
  greeting[9] = 0x7f;
  greeting[10] = 3;
  greeting[11] = 1;
  greeting.set(latin1Bytes("NULL"), 12);
  return greeting;
}

/** The READY command of a socket, as a frame. */
export function encodeReady(socketType: SocketType, identity: Uint8Array): Uint8Array {
  return encodeCommand("READY", [
    ...property("Socket-Type", latin1Bytes(socketType)),
    ...property("Identity", identity),
  ]);
}

/** PONG for the PING in `buf[start, end)` (body of the command): it carries the context back. */
export function encodePong(buf: Uint8Array, start: number, end: number): Uint8Array {
  const context = start + 1 + 4 + 2;
  if (context > end) throw new ProtocolError("bad-command", "PING without its time to live");
  if (end - context > 16) throw new ProtocolError("bad-command", "PING with a context of more than 16 bytes");
  return encodeCommand("PONG", buf.subarray(context, end));
}

/** Asks a peer of ZMTP 3.1 and later for a sign of life. */
export const PING: Uint8Array = encodeCommand("PING", [0, 0]);

/** Tells a peer why it is not taken, before READY or instead of it. */
export function encodeError(reason: string): Uint8Array {
  const text = latin1Bytes(reason.slice(0, 255));
  return encodeCommand("ERROR", [text.length, ...text]);
}

/** The name of the command in `buf[start, end)`. */
export function commandName(buf: Uint8Array, start: number, end: number): string {
  const size = start < end ? buf[start] : 0;
  if (size === 0 || start + 1 + size > end) throw new ProtocolError("bad-command", "command without a name");
  const name = latin1(buf, start + 1, start + 1 + size);
  if (!/^[\x20-\x7e]*$/.test(name)) {
    throw new ProtocolError("bad-command", "command name with unprintable characters");
  }
  return name;
}

function encodeCommand(name: string, data: ArrayLike<number>): Uint8Array {
  const body = new Uint8Array(1 + name.length + data.length);
  body[0] = name.length;
  body.set(latin1Bytes(name), 1);
  body.set(data, 1 + name.length);
  return encodeFrame(body, COMMAND);
}

function property(name: string, value: Uint8Array): number[] {
  const size = value.length;
  return [
    name.length,
    ...latin1Bytes(name),
    size >>> 24,
    (size >>> 16) & 0xff,
    (size >>> 8) & 0xff,
    size & 0xff,
    ...value,
  ];
}

/** The bounds a handshake keeps. */
export interface HandshakeLimits {
  metadataMaxBytes: number;
  identityMaxBytes: number;
}

/**
 * The peer's side of a handshake. Feed it what comes; when {@link push} returns true, {@link peer} is known and
 * {@link rest} holds the bytes that came behind.
 */
export class Handshake {
  peer: PeerProperties | null = null;
  rest: Uint8Array = new Uint8Array(0);
  readonly #own: "DEALER" | "ROUTER";
  readonly #limits: HandshakeLimits;
  #held: Uint8Array = new Uint8Array(0);
  #greeted = false;
  #minor = 0;

  constructor(own: "DEALER" | "ROUTER", limits: HandshakeLimits) {
    this.#own = own;
    this.#limits = limits;
  }

  /** Has the peer's greeting come whole? READY is sent then. */
  get greeted(): boolean {
    return this.#greeted;
  }

  /**
   * Takes the bytes `chunk[at, end)`; true when the handshake is done.
   *
   * @throws {ProtocolError} Not a peer for us; the message says why.
   */
  push(chunk: Uint8Array, at: number, end: number): boolean {
    const held = new Uint8Array(this.#held.length + end - at);
    held.set(this.#held, 0);
    held.set(chunk.subarray(at, end), this.#held.length);
    this.#held = held;
    if (!this.#greeted) {
      if (!this.#greeting(held)) return false;
      this.#held = held.subarray(GREETING_BYTES);
    }
    return this.#ready();
  }

  /** Checks the greeting as far as it has come, so that a peer of another kind is not waited for. */
  #greeting(held: Uint8Array): boolean {
    if (held.length > 0 && held[0] !== 0xff) {
      // ZMTP 1.0 opens with a frame: the length of an identity, then zero flags.
      const maybeOld = held[0] > 0 && held[0] < 0x20;
      if (maybeOld && held.length < 2) return false;
      throw maybeOld && held[1] === 0
        ? new ProtocolError("old-version", "peer speaks ZMTP 1.0, 3.0 or later is needed")
        : new ProtocolError("not-zmtp", `peer does not speak ZMTP, its first byte is ${hexByte(held[0])}`);
    }
    if (held.length > 9 && (held[9] & 1) === 0) {
      throw new ProtocolError("old-version", "peer speaks ZMTP 1.0, 3.0 or later is needed");
    }
    if (held.length > 9 && held[9] !== 0x7f) {
      throw new ProtocolError("bad-greeting", `signature ends with ${hexByte(held[9])} instead of 0x7f`);
    }
    if (held.length > 10 && held[10] < 3) {
      throw new ProtocolError(
        "old-version",
        `peer speaks ZMTP ${held[10] === 0 ? "1.0" : "2.0"}, 3.0 or later is needed`,
      );
    }
    if (held.length < GREETING_BYTES) return false;
    const mechanism = held.subarray(12, 32);
    const size = mechanism.indexOf(0) < 0 ? 20 : mechanism.indexOf(0);
    const name = latin1(mechanism, 0, size);
    if (name !== "NULL" || mechanism.subarray(size).some((b) => b !== 0)) {
      throw new ProtocolError("unknown-mechanism", `peer wants the mechanism "${name}", only NULL is known`);
    }
    if (held[32] !== 0) {
      // NULL has no server role (RFC 23): whoever sets it means another mechanism.
      throw new ProtocolError("bad-greeting", "as-server is set, which the mechanism NULL does not know");
    }
    this.#minor = held[11];
    this.#greeted = true;
    return true;
  }

  #ready(): boolean {
    const held = this.#held;
    if (held.length === 0) return false;
    if ((held[0] & ~LONG) !== COMMAND) {
      throw new ProtocolError(
        "bad-handshake",
        held[0] & MORE || held[0] === 0 ? "message before READY" : `flags ${hexByte(held[0])} before READY`,
      );
    }
    const long = (held[0] & LONG) !== 0;
    if (held.length < (long ? 9 : 2)) return false;
    const size = long ? longSize(held, 0) : held[1];
    if (size > this.#limits.metadataMaxBytes) {
      throw new ProtocolError("bad-metadata", `READY of ${size} bytes`);
    }
    const start = long ? 9 : 2;
    if (held.length < start + size) return false;
    const name = commandName(held, start, start + size);
    if (name === "ERROR") {
      throw new ProtocolError("peer-error", `peer refused: ${errorReason(held, start, start + size)}`);
    }
    if (name !== "READY") throw new ProtocolError("bad-handshake", `command ${name} before READY`);
    this.peer = this.#properties(held, start + 6, start + size);
    this.rest = held.subarray(start + size);
    this.#held = new Uint8Array(0);
    return true;
  }

  #properties(buf: Uint8Array, at: number, end: number): PeerProperties {
    const peer: PeerProperties = {
      version: `3.${this.#minor}`,
      socketType: "",
      identity: new Uint8Array(0),
    };
    while (at < end) {
      const nameEnd = at + 1 + buf[at];
      if (buf[at] === 0 || nameEnd + 4 > end) {
        throw new ProtocolError("bad-metadata", "metadata is cut short");
      }
      const name = latin1(buf, at + 1, nameEnd).toLowerCase();
      const size = new DataView(buf.buffer, buf.byteOffset + nameEnd, 4).getUint32(0);
      const valueEnd = nameEnd + 4 + size;
      if (valueEnd > end) throw new ProtocolError("bad-metadata", "metadata is cut short");
      const value = copyOf(buf, nameEnd + 4, valueEnd);
      if (name === "socket-type") peer.socketType = latin1(value.subarray(0, 16));
      if (name === "identity") peer.identity = value;
      at = valueEnd;
    }
    if (!COMPATIBLE[this.#own].includes(peer.socketType)) {
      throw new ProtocolError(
        "socket-type",
        `a ${peer.socketType || "nameless"} socket cannot talk to a ${this.#own}`,
      );
    }
    if (peer.identity.length > this.#limits.identityMaxBytes) {
      throw new ProtocolError("bad-identity", `identity of ${peer.identity.length} bytes`);
    }
    if (peer.identity.length > 0 && peer.identity[0] === 0) {
      // Those are what a ROUTER makes for peers without one; a peer that claims one would get another's replies.
      throw new ProtocolError("bad-identity", "identity starts with a zero byte, which is reserved");
    }
    return peer;
  }
}

/** The reason in an ERROR command. */
export function errorReason(buf: Uint8Array, start: number, end: number): string {
  const at = start + 6;
  if (at >= end) return "no reason given";
  return latin1(buf, at + 1, Math.min(end, at + 1 + buf[at]));
}

function hexByte(byte: number): string {
  return `0x${byte.toString(16).padStart(2, "0")}`;
}
