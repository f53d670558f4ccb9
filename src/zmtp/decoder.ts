/**
 * Bytes in, messages out. Every chunking gives the same messages.
 *
 * A message that lies whole in a chunk is handed on where it lies. Only one whose chunk ends in its middle is put
 * together again, in a buffer of its own; when the length of a frame is known, room for all of it is made at once.
 *
 * ```
 *   chunk   ...m1][m2 .....][m3 ..|            m1, m2: views of the chunk
 *   next                          |....][m4    m3: copied into the partial buffer, then m4 again a view
 * ```
 *
 * The partial buffer keeps room in front of the message for one frame, the identity of the peer, so that a large message
 * can be forwarded as one piece, without another copy.
 */
import type { Block } from "../memory/block.ts";
import { POOL } from "../memory/pool.ts";
import { checkFlags, COMMAND, LONG, longSize, MORE, ProtocolError } from "./frame.ts";
import { Skip } from "./skip.ts";

/** Takes the messages that a decoder finds. */
export interface FrameSink<S> {
  /**
   * A whole message: `buf[start, end)`, borrowed until this returns.
   *
   * @param source What the decoder was made with: whose messages these are.
   * @param delimiter Where the first empty frame's header stands; -1 where there is none.
   * @param framesAfterDelimiter How many there are.
   * @param block The block that this message alone lies in, the decoder's identity frame right in front of `start`: who
   *   retains it needs no copy. Null where the bytes are borrowed.
   */
  message(
    source: S,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    framesAfterDelimiter: number,
    block: Block | null,
  ): void;
  /**
   * Messages that follow in `buf[at, end)`, right behind the one just handed on: a sink that does with many what it did
   * with that one takes them at once.
   *
   * @returns Where the first message stands that it did not take; `at` when none.
   */
  run?(source: S, buf: Uint8Array, at: number, end: number): number;
}

/** Takes what a decoder finds besides messages. */
export interface DecoderOwner {
  /** A command: its body, name first. */
  command(buf: Uint8Array, start: number, end: number): void;
  /**
   * A message that is larger than it may be, once: it is passed over.
   *
   * @param buf Its beginning is `buf[start, end)`, borrowed until this returns.
   * @param bytes It has at least so many.
   */
  oversized(buf: Uint8Array, start: number, end: number, bytes: number): void;
  /** Again {@link LOOK_MESSAGES} or so are handed on one by one, of the chunk that is being taken: it may say {@link Decoder.pause}. */
  look(): void;
}

/** Messages handed on one by one, commands too, until the owner is asked whether that takes too long; a KiB counts as one. */
export const LOOK_MESSAGES = 64;
/** From here on a message is mostly blob, which nobody reads. */
const LOOK_LARGE_BYTES = 64 * 1024;

/** The bounds a decoder keeps. */
export interface DecoderLimits {
  messageMaxBytes: number;
  /** One that is larger than that, but not than this, is passed over; beyond, the stream ends. */
  skipMaxBytes: number;
  messageMaxFrames: number;
  commandMaxBytes: number;
  announcedMaxBytes: number;
}

/** Fewer bytes that follow are no run. */
const RUN_MIN_BYTES = 512;

/** After so many runs in a row that did not come about, one of `2 ** RUN_MISSES_MAX` messages tries again. */
const RUN_MISSES_MAX = 5;

/** A partial buffer up to this size is kept for the next message; an idle peer holds no more. A larger one is the pool's. */
const KEPT_MAX_BYTES = 4 * 1024;

export class Decoder<S extends DecoderOwner> {
  /** Stands in front of every message that has a block of its own; see {@link FrameSink.message}. */
  readonly identityFrame: Uint8Array;
  readonly #source: S;
  #sink: FrameSink<S>;
  readonly #limits: DecoderLimits;
  readonly #maxBytes: number;
  readonly #maxFrames: number;
  /** Found by the last scan that reached a message's end. */
  #delimiter = -1;
  #framesAfterDelimiter = 0;
  #command = false;
  /** Bytes from the message's start that the next scan needs at least. */
  #need = 0;
  /** The message whose chunk ended in its middle: the identity frame, then `#have` bytes. */
  #partial: Uint8Array | null = null;
  /** Where it lies, when that is the pool's. */
  #block: Block | null = null;
  #have = 0;
  /** Bytes asked for when the partial buffer was made; the pool may have given one that is larger. */
  #room = 0;
  /** The message that is being passed over. */
  #skip: Skip | null = null;
  #paused = false;
  #untilLook = LOOK_MESSAGES;
  #lastBytes = 0;
  /** Messages to hand on one by one before the next run is tried; grows while none comes about. */
  #runWait = 0;
  #runMisses = 0;

  /**
   * @param source Takes commands, and goes with each message to the sink.
   * @param identityFrame Stands in front of every message that has a block of its own.
   */
  constructor(
    source: S,
    sink: FrameSink<S>,
    limits: DecoderLimits,
    identityFrame: Uint8Array = new Uint8Array(0),
  ) {
    this.#source = source;
    this.#sink = sink;
    this.#limits = limits;
    this.#maxBytes = limits.messageMaxBytes;
    this.#maxFrames = limits.messageMaxFrames;
    this.identityFrame = identityFrame;
  }

  /** Is the stream between two messages? */
  get idle(): boolean {
    return this.#have === 0 && this.#skip === null;
  }

  /** Bytes of the message handed on last: those that follow are often alike. */
  get lastBytes(): number {
    return this.#lastBytes;
  }

  /** Of {@link reserved}, what is the pool's: a small buffer is kept between messages. */
  get pooled(): number {
    return this.#block?.size ?? 0;
  }

  /** Bytes reserved for a message that has not come whole. */
  get reserved(): number {
    return this.#partial === null ? 0 : this.#room;
  }

  /** Hands on nothing more until {@link resume}; a sink may say so in the middle of a chunk. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
  }

  /** What comes from now on goes to another sink. */
  divert(sink: FrameSink<S>): void {
    this.#sink = sink;
  }

  /** Forgets the message that has not come whole. */
  clear(): void {
    // Not back to the pool: a driver may still be reading into what readTarget() gave it.
    this.#block?.disown();
    this.#partial = this.#block = this.#skip = null;
    this.#have = this.#need = 0;
  }

  /**
   * Takes the bytes `chunk[at, end)`.
   *
   * @returns How far it came: `end`, or where the first message stands that was not handed on because of
   *   {@link pause}. Those bytes are to be given again.
   * @throws {ProtocolError} The stream cannot go on. What came whole before has been handed on.
   */
  push(chunk: Uint8Array, at: number, end: number): number {
    // Of each chunk anew: where most are taken in runs, the time that it takes says nothing of them.
    this.#untilLook = LOOK_MESSAGES;
    if (this.#have > 0) at = this.#complete(chunk, at, end);
    if (this.#skip !== null) at = this.#passOver(chunk, at, end);
    const sink = this.#sink;
    const source = this.#source;
    while (at < end) {
      if (this.#paused) return at;
      const next = this.#scan(chunk, at, end);
      if (next < 0) {
        if (this.#skip === null) {
          this.#keepPartial(chunk, at, end);
          return end;
        }
        at = this.#passOver(chunk, at, end);
        continue;
      }
      this.#untilLook -= next - at < LOOK_LARGE_BYTES ? 1 + ((next - at) >> 10) : 1;
      if (this.#untilLook <= 0) {
        this.#untilLook = LOOK_MESSAGES;
        source.look();
      }
      if (this.#command) {
        this.#emitCommand(chunk, at, next);
      } else {
        this.#lastBytes = next - at;
        sink.message(source, chunk, at, next, this.#delimiter, this.#framesAfterDelimiter, null);
        if (this.#runWait > 0) this.#runWait--;
        else if (end - next >= RUN_MIN_BYTES && !this.#paused) {
          at = this.#run(chunk, next, end);
          continue;
        }
      }
      at = next;
    }
    return at;
  }

  /** Offers what follows as a run; where it does not come about, less and less often. */
  #run(chunk: Uint8Array, at: number, end: number): number {
    if (this.#sink.run === undefined) {
      this.#runWait = Infinity;
      return at;
    }
    const next = this.#sink.run(this.#source, chunk, at, end);
    if (next > at) {
      this.#runMisses = 0;
    } else {
      if (this.#runMisses < RUN_MISSES_MAX) this.#runMisses++;
      this.#runWait = (1 << this.#runMisses) - 1;
    }
    return next;
  }

  /**
   * Where the next bytes of a large message belong, for a runtime that reads into a buffer of ours: they need
   * no second copy then. Null when there is no such message. Tell {@link commitRead} how many were put there.
   */
  readTarget(minBytes: number): Uint8Array | null {
    const partial = this.#partial;
    if (partial === null || this.#need - this.#have < minBytes) return null;
    const from = this.identityFrame.length + this.#have;
    const to = Math.min(partial.length, this.identityFrame.length + this.#need);
    return to - from >= minBytes ? partial.subarray(from, to) : null;
  }

  /** `n` bytes were put where {@link readTarget} said. */
  commitRead(n: number): void {
    this.#have += n;
    if (this.#have >= this.#need) this.#rescan();
  }

  /** Takes what the partial message still needs from the chunk; returns where the next one starts. */
  #complete(chunk: Uint8Array, at: number, end: number): number {
    while (at < end && this.#have > 0 && !this.#paused) {
      const take = Math.min(this.#need - this.#have, end - at);
      this.#reserve(this.#have + take);
      copy(chunk, at, at + take, this.#partial!, this.identityFrame.length + this.#have);
      this.#have += take;
      at += take;
      if (this.#have >= this.#need) this.#rescan();
    }
    return at;
  }

  #rescan(): void {
    const base = this.identityFrame.length;
    const partial = this.#partial!;
    const end = base + this.#have;
    const next = this.#scan(partial, base, end);
    if (this.#skip !== null) {
      this.#passOver(partial, base, end);
      this.#block?.release();
      this.#partial = this.#block = null;
      this.#have = this.#need = 0;
      return;
    }
    if (next < 0) {
      this.#reserve(this.#have);
      return;
    }
    // The scan asks for no byte beyond a message's end, so next === end.
    this.#have = 0;
    this.#need = 0;
    if (this.#command) {
      this.#emitCommand(partial, base, next);
      return;
    }
    const block = this.#block;
    if (block !== null) this.#partial = this.#block = null;
    this.#lastBytes = next - base;
    try {
      this.#sink.message(
        this.#source,
        partial,
        base,
        next,
        this.#delimiter,
        this.#framesAfterDelimiter,
        block,
      );
    } finally {
      block?.release();
    }
  }

  /** The next scan's bytes are passed over; returns -1. */
  #tooLarge(buf: Uint8Array, start: number, end: number, bytes: number): number {
    const { messageMaxBytes, messageMaxFrames, skipMaxBytes } = this.#limits;
    const most = Math.max(skipMaxBytes, messageMaxBytes);
    if (bytes > most) throw new ProtocolError("too-large", `message of more than ${most} bytes`);
    this.#skip = new Skip(skipMaxBytes, messageMaxFrames);
    this.#source.oversized(buf, start, end, bytes);
    return -1;
  }

  /** Returns where the next message starts; `chunk[at, end)` goes on where the last bytes ended. */
  #passOver(chunk: Uint8Array, at: number, end: number): number {
    const skip = this.#skip!;
    const next = skip.push(chunk, at, end);
    if (skip.done) this.#skip = null;
    return next;
  }

  #keepPartial(chunk: Uint8Array, at: number, end: number): void {
    this.#reserve(end - at);
    copy(chunk, at, end, this.#partial!, this.identityFrame.length);
    this.#have = end - at;
  }

  /** Makes the partial buffer large enough for `bytes`, and for all that is announced, within bounds. */
  #reserve(bytes: number): void {
    const base = this.identityFrame.length;
    const announced = Math.min(this.#need, Math.max(this.#limits.announcedMaxBytes, 2 * this.#have));
    const room = base + Math.max(bytes, announced);
    const before = this.#partial;
    if (before !== null && before.length >= room) return;
    const block = room > KEPT_MAX_BYTES ? POOL.take(room) : null;
    const larger = block?.buf ?? new Uint8Array(room < 1024 ? 1024 : room);
    larger.set(this.identityFrame, 0);
    if (before !== null && this.#have > 0) copy(before, base, base + this.#have, larger, base);
    this.#block?.release();
    this.#partial = larger;
    this.#block = block;
    this.#room = room;
  }

  #emitCommand(buf: Uint8Array, at: number, end: number): void {
    this.#source.command(buf, at + (buf[at] & LONG ? 9 : 2), end);
  }

  /** Finds the end of the message that starts at `start`; -1 when it is not all there, with `#need` set. */
  #scan(buf: Uint8Array, start: number, end: number): number {
    const maxEnd = start + this.#maxBytes;
    const maxFrames = this.#maxFrames;
    let at = start;
    let delimiter = -1;
    let frames = 0;
    let delimiterFrame = 0;
    for (;;) {
      if (end - at < 2) {
        this.#need = at - start + 2;
        return -1;
      }
      const flags = buf[at];
      let size = buf[at + 1];
      let body = at + 2;
      if (flags > MORE) {
        checkFlags(flags, frames);
        if (flags & LONG) {
          if (end - at < 9) {
            this.#need = at - start + 9;
            return -1;
          }
          size = longSize(buf, at);
          body = at + 9;
        }
        if (flags & COMMAND) {
          if (size > this.#limits.commandMaxBytes) {
            throw new ProtocolError("bad-command", `command of ${size} bytes`);
          }
          if (body + size > end) {
            this.#need = body + size - start;
            return -1;
          }
          this.#command = true;
          return body + size;
        }
      }
      if (size === 0 && delimiter < 0) {
        delimiter = at;
        delimiterFrame = frames;
      }
      if (++frames > maxFrames) {
        throw new ProtocolError("too-many-frames", `message of more than ${frames - 1} frames`);
      }
      at = body + size;
      if (at > maxEnd) return this.#tooLarge(buf, start, end, at - start);
      if (at > end) {
        this.#need = at - start;
        return -1;
      }
      if ((flags & MORE) === 0) {
        this.#command = false;
        this.#delimiter = delimiter;
        this.#framesAfterDelimiter = frames - delimiterFrame - 1;
        return at;
      }
    }
  }
}

/** Copies small ranges in a loop, which allocates no view; large ones natively. */
function copy(from: Uint8Array, start: number, end: number, to: Uint8Array, at: number): void {
  if (end - start <= 64) {
    while (start < end) to[at++] = from[start++];
  } else {
    to.set(start === 0 && end === from.length ? from : from.subarray(start, end), at);
  }
}
