/**
 * Frames of ZMTP 1.0 (RFC 13), translated: what comes into frames of 3.x, what goes out of them. Only the headers differ:
 *
 * ```
 *   1.0   short: length(1) flags(1) body        long: 0xff length(8, big endian) flags(1) body
 *         length: of flags and body             flags: bit 0 MORE, the rest zero
 * ```
 */
import { bodyStart, frameEnd, longSize, MORE, ProtocolError, writeHeader, writeSize } from "./frame.ts";

/** A long header. */
const HEAD_MAX_BYTES = 10;
const LONG_LENGTH = 0xff;
/** A body of more bytes has a long header. */
const SHORT_BODY_MAX = 0xff - 2;

/** From here on a body is sent from where it lies. */
export const PASSED_MIN_BYTES: number = 16 * 1024;

/** Copies `from[start, end)` to `to` at `at`. */
export type Copy = (from: Uint8Array, start: number, end: number, to: Uint8Array, at: number) => void;

/** The same; a few bytes are copied sooner than a call is made. */
function copyBody(
  copy: Copy,
  from: Uint8Array,
  start: number,
  end: number,
  to: Uint8Array,
  at: number,
): void {
  if (end - start > 64) copy(from, start, end, to, at);
  else while (start < end) to[at++] = from[start++];
}

/** Reads a stream of 1.0, in any chunks. */
export class From10 {
  readonly #copy: Copy;
  /** The header that has not come whole. */
  readonly #head = new Uint8Array(HEAD_MAX_BYTES);
  #have = 0;
  /** Of the frame whose header has come, the bytes that have not. */
  #left = 0;
  #more = false;
  #error: ProtocolError | null = null;

  constructor(copy: Copy) {
    this.#copy = copy;
  }

  /** Is the stream between two messages? */
  get idle(): boolean {
    return this.#have === 0 && this.#left === 0 && !this.#more;
  }

  /** Why the stream cannot go on. */
  get error(): ProtocolError | null {
    return this.#error;
  }

  /** Bytes that so many of the stream become at most. */
  room(bytes: number): number {
    return this.#have + bytes;
  }

  /**
   * Puts the same in frames of 3.x, as far as it has come, into `out` at `to`; returns where that ends. Behind an
   * {@link error} nothing comes.
   */
  push(chunk: Uint8Array, at: number, end: number, out: Uint8Array, to: number): number {
    while (at < end && this.#error === null) {
      if (this.#left > 0) {
        const take = Math.min(this.#left, end - at);
        copyBody(this.#copy, chunk, at, at + take, out, to);
        this.#left -= take;
        to += take;
        at += take;
        continue;
      }
      const head = this.#head;
      head[this.#have++] = chunk[at++];
      const long = head[0] === LONG_LENGTH;
      if (this.#have < (long ? HEAD_MAX_BYTES : 2)) continue;
      const flags = head[this.#have - 1];
      this.#have = 0;
      try {
        this.#left = bodySize(head, long, flags);
      } catch (error) {
        this.#error = error as ProtocolError;
        break;
      }
      this.#more = flags === MORE;
      to = writeHeader(out, to, this.#left, flags);
    }
    return to;
  }
}

/** Of a frame with this header. @throws {ProtocolError} */
function bodySize(head: Uint8Array, long: boolean, flags: number): number {
  const length = long ? longSize(head, 0) : head[0];
  if (length === 0) throw new ProtocolError("length", "a frame of no bytes, not even its flags");
  if ((flags & ~MORE) !== 0) {
    throw new ProtocolError("reserved-flags", `reserved flag bits in 0x${flags.toString(16)}`);
  }
  return length - 1;
}

/** Bytes of a frame in 1.0 whose body has so many. */
function frameSize(body: number): number {
  return (body > SHORT_BODY_MAX ? HEAD_MAX_BYTES : 2) + body;
}

/** Translates whole frames of 3.x, `buf[at, end)`, piece by piece. */
export class To10 {
  readonly buf: Uint8Array;
  /** What comes next. */
  at: number;
  readonly end: number;
  readonly #copy: Copy;
  /** Where the body ends that is being sent as it lies; 0: none is. */
  #bodyEnd = 0;

  constructor(buf: Uint8Array, at: number, end: number, copy: Copy) {
    this.#copy = copy;
    this.buf = buf;
    this.at = at;
    this.end = end;
  }

  get done(): boolean {
    return this.at >= this.end;
  }

  /** Passes a large body by, whose head was the last of a piece: it is to be sent from where it lies, up to {@link at}; else false. */
  passBody(): boolean {
    if (this.#bodyEnd === 0) return false;
    this.at = this.#bodyEnd;
    this.#bodyEnd = 0;
    return true;
  }

  /** Puts the next piece into `out[to, most)`, which has room for {@link PASSED_MIN_BYTES} and a head; returns where it ends. */
  fill(out: Uint8Array, to: number, most: number): number {
    const { buf, end } = this;
    while (this.at < end) {
      const next = frameEnd(buf, this.at);
      const start = bodyStart(buf, this.at);
      const body = next - start;
      const passes = body >= PASSED_MIN_BYTES;
      if (to + (passes ? HEAD_MAX_BYTES : frameSize(body)) > most) break;
      const flags = buf[this.at] & MORE;
      if (body > SHORT_BODY_MAX) {
        out[to] = LONG_LENGTH;
        writeSize(out, to + 1, body + 1);
        out[to + 9] = flags;
        to += HEAD_MAX_BYTES;
      } else {
        out[to] = body + 1;
        out[to + 1] = flags;
        to += 2;
      }
      if (passes) {
        this.at = start;
        this.#bodyEnd = next;
        break;
      }
      copyBody(this.#copy, buf, start, next, out, to);
      to += body;
      this.at = next;
    }
    return to;
  }
}

/** Of `buf[at, end)`, how many bytes had gone when so many had of what {@link To10} makes of it. */
export function gone10(buf: Uint8Array, at: number, end: number, written: number): number {
  const from = at;
  while (at < end && written > 0) {
    const next = frameEnd(buf, at);
    const size = frameSize(next - bodyStart(buf, at));
    // Counted from the frame's end, as only its head is of another size.
    if (written < size) return at - from + Math.max(0, next - at - (size - written));
    written -= size;
    at = next;
  }
  return at - from;
}
