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

/** Reads a stream of 1.0, in any chunks. */
export class From10 {
  /** The header that has not come whole. */
  readonly #head = new Uint8Array(HEAD_MAX_BYTES);
  #have = 0;
  /** Of the frame whose header has come, the bytes that have not. */
  #left = 0;
  #more = false;
  #error: ProtocolError | null = null;

  /** Is the stream between two messages? */
  get idle(): boolean {
    return this.#have === 0 && this.#left === 0 && !this.#more;
  }

  /** Why the stream cannot go on. */
  get error(): ProtocolError | null {
    return this.#error;
  }

  /**
   * The same in frames of 3.x, as far as it has come: bytes of its own, at most as many, and a header. Behind an
   * {@link error} nothing comes.
   */
  push(chunk: Uint8Array, at: number, end: number): Uint8Array {
    const out = new Uint8Array(this.#have + end - at);
    let size = 0;
    while (at < end && this.#error === null) {
      if (this.#left > 0) {
        const take = Math.min(this.#left, end - at);
        out.set(chunk.subarray(at, at + take), size);
        this.#left -= take;
        size += take;
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
      size = writeHeader(out, size, this.#left, flags);
    }
    return out.subarray(0, size);
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

/** Whole frames of 3.x, `buf[at, end)`, in 1.0. */
export function to10(buf: Uint8Array, at: number, end: number): Uint8Array {
  let size = 0;
  for (let from = at; from < end; from = frameEnd(buf, from)) {
    size += frameSize(frameEnd(buf, from) - bodyStart(buf, from));
  }
  const out = new Uint8Array(size);
  let to = 0;
  while (at < end) {
    const next = frameEnd(buf, at);
    const start = bodyStart(buf, at);
    const body = next - start;
    const flags = buf[at] & MORE;
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
    out.set(buf.subarray(start, next), to);
    to += body;
    at = next;
  }
  return out;
}

/** Of `buf[at, end)`, how many bytes had gone when so many of {@link to10} had. */
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
