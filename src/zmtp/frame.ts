/**
 * Frames of ZMTP 3 (RFC 23, RFC 37): their headers, and whole messages as the bytes of their frames.
 *
 * ```
 *  short: flags(1) size(1) body        long: flags(1) size(8, big endian) body
 *  flags: bit 0 MORE, bit 1 LONG, bit 2 COMMAND, the rest zero
 * ```
 *
 * Everywhere in this program a message *is* the bytes of its frames, headers included: `buf[start, end)`.
 */
import { CCError } from "../errors.ts";

export const MORE = 1;
export const LONG = 2;
export const COMMAND = 4;
export const RESERVED = 0xf8;

/** What a peer sent is not ZMTP, or passes a bound. The connection ends; `code` names what it was. */
export class ProtocolError extends CCError {
  override name = "ProtocolError";
  declare readonly code: ProtocolErrorCode;
  constructor(code: ProtocolErrorCode, message: string) {
    super(code, message);
  }
}

/** Names of what can be wrong with a peer's bytes; they stand in logs and in the documentation. */
export type ProtocolErrorCode =
  | "not-zmtp"
  | "old-version"
  | "unknown-mechanism"
  | "bad-greeting"
  | "bad-handshake"
  | "bad-metadata"
  | "bad-identity"
  | "identity-in-use"
  | "socket-type"
  | "peer-error"
  | "reserved-flags"
  | "length"
  | "command-in-message"
  | "bad-command"
  | "too-many-frames"
  | "too-large";

/** Bytes of a frame's header. */
export function headerSize(size: number): number {
  return size < 256 ? 2 : 9;
}

/** Writes a frame's header at `at` and returns where its body starts. */
export function writeHeader(buf: Uint8Array, at: number, size: number, flags: number): number {
  if (size < 256) {
    buf[at] = flags;
    buf[at + 1] = size;
    return at + 2;
  }
  buf[at] = flags | LONG;
  writeSize(buf, at + 1, size);
  return at + 9;
}

/** Writes a size as eight bytes, big endian. */
export function writeSize(buf: Uint8Array, at: number, size: number): void {
  const high = Math.floor(size / 0x1_0000_0000);
  buf[at] = high >>> 24;
  buf[at + 1] = high >>> 16;
  buf[at + 2] = high >>> 8;
  buf[at + 3] = high;
  buf[at + 4] = size >>> 24;
  buf[at + 5] = size >>> 16;
  buf[at + 6] = size >>> 8;
  buf[at + 7] = size;
}

/** One frame as bytes. */
export function encodeFrame(body: Uint8Array, flags: number): Uint8Array {
  const out = new Uint8Array(headerSize(body.length) + body.length);
  out.set(body, writeHeader(out, 0, body.length, flags));
  return out;
}

/** A message of these frames as bytes. An empty list is refused: ZMTP has no message without a frame. */
export function encodeFrames(frames: readonly Uint8Array[]): Uint8Array {
  if (frames.length === 0) throw new RangeError("A message has at least one frame");
  let size = 0;
  for (const frame of frames) size += headerSize(frame.length) + frame.length;
  const out = new Uint8Array(size);
  let at = 0;
  for (let i = 0; i < frames.length; i++) {
    at = writeHeader(out, at, frames[i].length, i + 1 < frames.length ? MORE : 0);
    out.set(frames[i], at);
    at += frames[i].length;
  }
  return out;
}

/** A copy of `buf[start, end)`. Not `slice`: on Node's and Bun's Buffer that is a view. */
export function copyOf(buf: Uint8Array, start = 0, end: number = buf.length): Uint8Array {
  return new Uint8Array(buf.subarray(start, end));
}

/** The size in a long header, refused from 2^53 on: beyond, a number is not exact. */
export function longSize(buf: Uint8Array, at: number): number {
  const high = ((buf[at + 1] << 24) | (buf[at + 2] << 16) | (buf[at + 3] << 8) | buf[at + 4]) >>> 0;
  const low = ((buf[at + 5] << 24) | (buf[at + 6] << 16) | (buf[at + 7] << 8) | buf[at + 8]) >>> 0;
  if (high >= 0x20_0000) throw new ProtocolError("length", "frame length of 2^53 or more");
  return high * 0x1_0000_0000 + low;
}

/** Refuses flags that no frame has here; `frames` of the message came before. */
export function checkFlags(flags: number, frames: number): void {
  if (flags & RESERVED) {
    throw new ProtocolError("reserved-flags", `reserved flag bits in 0x${flags.toString(16)}`);
  }
  if (flags & COMMAND) {
    if (frames > 0) throw new ProtocolError("command-in-message", "command inside a multipart message");
    if (flags & MORE) throw new ProtocolError("bad-command", "command with the MORE flag");
  }
}

/** Where the body of the frame at `at` starts. The frame must be whole and valid. */
export function bodyStart(buf: Uint8Array, at: number): number {
  return at + (buf[at] & LONG ? 9 : 2);
}

/** Where the frame at `at` ends. The frame must be whole and valid. */
export function frameEnd(buf: Uint8Array, at: number): number {
  if ((buf[at] & LONG) === 0) return at + 2 + buf[at + 1];
  const high = ((buf[at + 1] << 24) | (buf[at + 2] << 16) | (buf[at + 3] << 8) | buf[at + 4]) >>> 0;
  const low = ((buf[at + 5] << 24) | (buf[at + 6] << 16) | (buf[at + 7] << 8) | buf[at + 8]) >>> 0;
  return at + 9 + high * 0x1_0000_0000 + low;
}

/** Where the message at `at` ends. It must be whole and valid. */
export function messageEnd(buf: Uint8Array, at: number): number {
  while ((buf[at] & MORE) !== 0) at = frameEnd(buf, at);
  return frameEnd(buf, at);
}

/** The bodies of the frames in `buf[start, end)`: views, not copies. The bytes must be whole, valid frames. */
export function decodeFrames(buf: Uint8Array, start: number, end: number): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let at = start; at < end;) {
    const next = frameEnd(buf, at);
    frames.push(buf.subarray(bodyStart(buf, at), next));
    at = next;
  }
  return frames;
}

/** Messages that lie whole in `buf[start, end)`, which starts with one. */
export function countMessages(buf: Uint8Array, start: number, end: number): number {
  let messages = 0;
  for (let at = start; at < end;) {
    const next = frameEnd(buf, at);
    if (next <= end && (buf[at] & MORE) === 0) messages++;
    at = next;
  }
  return messages;
}

/**
 * The last place at or before `limit` where a message starts in `buf[start, end)`, and how many messages
 * lie between it and `end`. For a link that broke in the middle of a write: what was begun is sent whole again.
 */
export function lastBoundary(
  buf: Uint8Array,
  start: number,
  end: number,
  limit: number,
): { at: number; messages: number } {
  let boundary = start;
  let messages = 0;
  let first = start;
  for (let at = start; at < end;) {
    const next = frameEnd(buf, at);
    if ((buf[at] & MORE) === 0) {
      if (next <= limit) boundary = next;
      else messages++;
      first = next;
    }
    at = next;
  }
  return { at: Math.min(boundary, first), messages };
}
