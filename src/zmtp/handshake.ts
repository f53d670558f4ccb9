/**
 * How two peers find out which ZMTP they speak, and who the other is: 3.0 and 3.1 with the mechanism NULL (RFC 23, RFC 37), 2.0
 * (RFC 15) and 1.0 (RFC 13); and the commands of a running connection. Bytes in, bytes and a result out; no clock, no socket.
 *
 * ```
 *   we send       signature          revision      3.x: the rest of the greeting, then READY
 *                 (10 bytes)         (3)           2.0: the socket type, then the identity as a frame
 *   after                      its signature  its revision
 *
 *   a signature is how 1.0 begins a long frame, of a length that ours has: that of our identity. Of a peer that sends none only
 *   the identity follows.
 * ```
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
  /** ZMTP version of the peer: `1.0`, `2.0`, `3.0`, `3.1`. */
  version: string;
  /** Empty where it does not say: 1.0. */
  socketType: string;
  /** Empty where the peer gave none. */
  identity: Uint8Array;
}

/** Versions that a peer may be asked for at least. */
export type MinVersion = "1.0" | "2.0" | "3.0";

/** Socket types by their numbers in 2.0. */
const TYPES_2_0: readonly SocketType[] = [
  "PAIR",
  "PUB",
  "SUB",
  "REQ",
  "REP",
  "DEALER",
  "ROUTER",
  "PULL",
  "PUSH",
];

const SIGNATURE_BYTES = 10;

export const GREETING_BYTES = 64;

/** Version 3.1, mechanism NULL, not as server. */
export const GREETING: Uint8Array = makeGreeting();
const REVISION = GREETING.subarray(SIGNATURE_BYTES, SIGNATURE_BYTES + 1);

/** Which types may talk to each other (RFC 23, "Socket-Type"). */
const COMPATIBLE: Record<"DEALER" | "ROUTER", readonly string[]> = {
  DEALER: ["REP", "DEALER", "ROUTER"],
  ROUTER: ["REQ", "DEALER", "ROUTER"],
};

function makeGreeting(): Uint8Array {
  const greeting = new Uint8Array(GREETING_BYTES);
  greeting[0] = 0xff;
  greeting[8] = 1;
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

/** What the PING in `buf[start, end)` says: without a byte for so many milliseconds its sender is gone; 0: it does not say. */
export function pingTtlMs(buf: Uint8Array, start: number, end: number): number {
  const at = start + 1 + 4;
  return at + 2 > end ? 0 : 100 * (buf[at] << 8 | buf[at + 1]);
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

/** What a handshake is made with. */
export interface HandshakeOptions {
  readonly own: "DEALER" | "ROUTER";
  /** Ours. */
  readonly identity: Uint8Array;
  readonly minVersion: MinVersion;
  readonly metadataMaxBytes: number;
  readonly identityMaxBytes: number;
  /** Sends bytes to the peer. */
  readonly send: (bytes: Uint8Array) => void;
}

/**
 * The peer's side of a handshake, and ours but for READY. Feed it what comes; when {@link push} returns true, {@link peer} is
 * known and {@link rest} holds the bytes that came behind.
 */
export class Handshake {
  peer: PeerProperties | null = null;
  rest: Uint8Array = new Uint8Array(0);
  readonly #options: HandshakeOptions;
  #held: Uint8Array = new Uint8Array(0);
  #version: "1.0" | "2.0" | "3" | null = null;
  #sentRevision = false;
  #greeted = false;
  #minor = 0;

  constructor(options: HandshakeOptions) {
    this.#options = options;
    options.send(signatureOf(options.identity));
  }

  /** Has the greeting of a peer of 3.0 and later come whole? It waits for READY then. */
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
    if (this.#version === null && !this.#negotiated()) return false;
    switch (this.#version) {
      case "1.0":
        return this.#identity1();
      case "2.0":
        return this.#greeting2();
      default:
        return (this.#greeted || this.#greeting()) && this.#ready();
    }
  }

  /** Looks at the greeting as far as it has come, so that a peer of another kind is not waited for. */
  #negotiated(): boolean {
    const held = this.#held;
    if (held.length === 0) return false;
    if (held[0] !== 0xff) return this.#unversioned(1);
    if (held.length < SIGNATURE_BYTES) return false;
    // An identity of 255 bytes and more begins like that, too: its length takes eight bytes, and its flags are zero.
    if ((held[9] & 1) === 0) return this.#unversioned(9);
    if (held[9] !== 0x7f) {
      throw new ProtocolError("bad-greeting", `signature ends with ${hexByte(held[9])} instead of 0x7f`);
    }
    if (!this.#sentRevision) {
      this.#sentRevision = true;
      this.#options.send(REVISION);
    }
    if (held.length === SIGNATURE_BYTES) return false;
    const revision = held[SIGNATURE_BYTES];
    if (revision === 0) {
      throw new ProtocolError("old-version", "peer speaks a draft of ZMTP 2.0, which nobody else does");
    }
    if (revision < 3) {
      this.#begin("2.0");
      const { own, identity, send } = this.#options;
      send(Uint8Array.of(TYPES_2_0.indexOf(own)));
      send(encodeFrame(identity, 0));
    } else {
      this.#begin("3");
      this.#options.send(GREETING.subarray(SIGNATURE_BYTES + 1));
    }
    return true;
  }

  /** 1.0 opens with a frame, the identity: `flagsAt` is where its flags are, which are zero. */
  #unversioned(flagsAt: number): boolean {
    const held = this.#held;
    const possible = held[0] > 0 && (held.length <= flagsAt || held[flagsAt] === 0);
    if (!possible) {
      throw new ProtocolError("not-zmtp", `peer does not speak ZMTP, its first byte is ${hexByte(held[0])}`);
    }
    if (held.length <= flagsAt) return false;
    this.#begin("1.0");
    // What it takes for the head of our identity it has.
    const { identity, send } = this.#options;
    if (identity.length > 0) send(identity);
    return true;
  }

  #begin(version: "1.0" | "2.0" | "3"): void {
    const { minVersion } = this.#options;
    if (version !== "3" && version < minVersion) {
      throw new ProtocolError(
        "old-version",
        `peer speaks ZMTP ${version}, zmtp-min-version = ${minVersion} wants a later one`,
      );
    }
    this.#version = version;
  }

  #identity1(): boolean {
    const held = this.#held;
    const long = held[0] === 0xff;
    const start = long ? 10 : 2;
    // The length is that of the flags too.
    const size = (long ? longSize(held, 0) : held[0]) - 1;
    if (size < 0) throw new ProtocolError("length", "a frame of no bytes");
    this.#checkIdentitySize(size);
    if (held.length < start + size) return false;
    return this.#done("1.0", "", copyOf(held, start, start + size), start + size);
  }

  #greeting2(): boolean {
    const held = this.#held;
    const at = SIGNATURE_BYTES + 1;
    if (held.length < at + 3) return false;
    const socketType = TYPES_2_0[held[at]] ?? `type-${held[at]}`;
    const flags = held[at + 1];
    if ((flags & ~LONG) !== 0) {
      throw new ProtocolError("bad-handshake", `flags ${hexByte(flags)} of an identity`);
    }
    if (flags === LONG && held.length < at + 10) return false;
    const start = at + (flags === LONG ? 10 : 3);
    const size = flags === LONG ? longSize(held, at + 1) : held[at + 2];
    this.#checkIdentitySize(size);
    if (held.length < start + size) return false;
    return this.#done("2.0", socketType, copyOf(held, start, start + size), start + size);
  }

  #greeting(): boolean {
    const held = this.#held;
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
    this.#held = held.subarray(GREETING_BYTES);
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
    if (size > this.#options.metadataMaxBytes) {
      throw new ProtocolError("bad-metadata", `READY of ${size} bytes`);
    }
    const start = long ? 9 : 2;
    if (held.length < start + size) return false;
    const name = commandName(held, start, start + size);
    if (name === "ERROR") {
      throw new ProtocolError("peer-error", `peer refused: ${errorReason(held, start, start + size)}`);
    }
    if (name !== "READY") throw new ProtocolError("bad-handshake", `command ${name} before READY`);
    const { version, socketType, identity } = this.#properties(held, start + 6, start + size);
    return this.#done(version, socketType, identity, start + size);
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
    return peer;
  }

  /** The peer is known, and `held[restAt...]` came behind. */
  #done(version: string, socketType: string, identity: Uint8Array, restAt: number): true {
    const { own, identityMaxBytes } = this.#options;
    // 1.0 does not say.
    if (version !== "1.0" && !COMPATIBLE[own].includes(socketType)) {
      throw new ProtocolError("socket-type", `a ${socketType || "nameless"} socket cannot talk to a ${own}`);
    }
    if (identity.length > identityMaxBytes) {
      throw new ProtocolError("bad-identity", `identity of ${identity.length} bytes`);
    }
    if (identity.length > 0 && identity[0] === 0) {
      // Those are what a ROUTER makes for peers without one; a peer that claims one would get another's replies.
      throw new ProtocolError("bad-identity", "identity starts with a zero byte, which is reserved");
    }
    this.peer = { version, socketType, identity };
    this.rest = this.#held.subarray(restAt);
    this.#held = new Uint8Array(0);
    return true;
  }

  /** Before it has come: more is not waited for. */
  #checkIdentitySize(size: number): void {
    if (size <= this.#options.identityMaxBytes) return;
    throw new ProtocolError("bad-identity", `identity of ${size} bytes`);
  }
}

/** A signature that is the head of our identity to who speaks 1.0. */
function signatureOf(identity: Uint8Array): Uint8Array {
  const signature = GREETING.slice(0, SIGNATURE_BYTES);
  signature[7] = identity.length + 1 >>> 8;
  signature[8] = identity.length + 1 & 0xff;
  return signature;
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
