/**
 * What waits for one peer, in order.
 *
 * ```
 *   control ─┐
 *            ├─▶ in flight ─▶ link        one write at a time
 *   segments ┘
 *   [block, full] ▶ [large message] ▶ [borrowed message] ▶ [block, being filled]
 * ```
 *
 * Small messages are copied into the block at the end, which comes from a pool and goes back when it is written; a
 * large message that owns its buffer is a segment of its own, not copied. One that lies in the chunk being taken in is
 * borrowed from it, where the link can write many pieces at once: by the chunk's end it is written, or copied. A segment
 * always starts and ends at a message's bound, so that control frames may go between two, and a broken link can be taken
 * up at one.
 */
import type { Piece } from "../runtime/arena.ts";
import type { Link } from "../runtime/types.ts";
import { POOL } from "../zmtp/pool.ts";
import { lastBoundary } from "../zmtp/frame.ts";
import { AHEAD, ENTRIES } from "../runtime/vectors.ts";
import { BLOCK_BYTES, type Borrower, type Context, type Flushable } from "./context.ts";
import { Segment, SegmentQueue } from "./segment.ts";

/** From here on a message that owns its buffer is not copied. */
const REFERENCE_MIN_BYTES = 64 * 1024;
/** From here on a message that lies in the chunk being taken in is written from there, where the link can. */
export const BORROW_MIN_BYTES: number = 8 * 1024;
const LARGEST = BLOCK_BYTES.length - 1;
/** From here on a run for several queues is not copied for each. */
const SHARE_MIN_BYTES = 64 * 1024;
/** A block with less room takes no run of messages. */
const RUN_MIN_BYTES = 2 * 1024;
/** Control frames that may wait; a peer that asks for more without reading gets none. */
const CONTROL_MAX = 8;

/** The bounds of an egress queue. */
export interface EgressOptions {
  /** Messages that may wait. */
  hwm: number;
  /** Bytes below which the queue never counts as full: they stand in for the kernel's buffer. */
  floorBytes: number;
  /** Bytes from which on it does, whatever the number of messages; `maxBytes` when missing. */
  fullBytes?: number;
  /** Bytes at which nothing more may be put there. */
  maxBytes: number;
}

export class Egress implements Flushable, Borrower {
  /** Called when a queue that was full (see {@link watch}) has drained to half. */
  ondrained: (() => void) | null = null;
  /** Called when nothing waits and nothing is in flight. */
  onempty: (() => void) | null = null;

  readonly #context: Context;
  readonly #options: EgressOptions;
  readonly #floorBytes: number;
  readonly #fullBytes: number;
  readonly #copy: Context["copy"];
  #link: Link | null = null;
  #open = false;
  #dirty = false;
  #inFlight: Segment | null = null;
  /** Bytes of it that had gone before it was given to the link. */
  #skipped = 0;
  /** What waits is being put in order: nothing is sent meanwhile. */
  #settling = false;
  /** Bytes that the last {@link #list} listed. */
  #listedBytes = 0;
  #control: Uint8Array[] = [];
  #queue = new SegmentQueue();
  /** The block being filled, not yet in the queue. */
  #block: Piece | null = null;
  /** Size class of the next one. */
  #blockSize = 0;
  /** Where it starts, and where its next message goes. */
  #blockStart = 0;
  #fill = 0;
  #blockMessages = 0;
  #watched = false;
  #written = 0;

  constructor(context: Context, options: EgressOptions) {
    this.#context = context;
    this.#options = options;
    this.#floorBytes = options.floorBytes;
    this.#fullBytes = options.fullBytes ?? options.maxBytes;
    this.#copy = context.copy;
  }

  /** Messages that wait, without those in flight. */
  get messages(): number {
    return this.#queue.messages + this.#blockMessages;
  }

  /** Their bytes. */
  get bytes(): number {
    return this.#queue.bytes + this.#fill - this.#blockStart;
  }

  /** Does more wait than should? */
  get full(): boolean {
    const { bytes } = this;
    if (bytes < this.#floorBytes) return false;
    return this.messages >= this.#options.hwm || bytes >= this.#fullBytes;
  }

  /** Twice over the bounds: nothing more should be put here. */
  get overfull(): boolean {
    const { hwm, floorBytes, maxBytes } = this.#options;
    return (this.messages >= 2 * hwm && this.bytes >= 2 * floorBytes) || this.bytes >= maxBytes;
  }

  get empty(): boolean {
    return this.#inFlight === null && this.messages === 0;
  }

  /** Messages that have not been written whole. */
  get unwritten(): number {
    return this.messages + (this.#inFlight?.messages ?? 0);
  }

  /** Bytes the link took since the start; does it move? */
  get progress(): number {
    const taken = this.#inFlight !== null && this.#link !== null ? this.#link.taken() : 0;
    return this.#written + this.#skipped + Math.max(0, taken);
  }

  /** Writes go here from now on: control frames at once, messages after {@link open}. */
  attach(link: Link): void {
    this.#link = link;
    this.#open = false;
  }

  /** The handshake is done: messages may go. */
  open(): void {
    this.#open = true;
    this.#mark();
  }

  /**
   * The link is destroyed. What the kernel did not take whole waits for the next one, from the start of its message.
   *
   * @returns How many messages are lost, because the runtime cannot tell how much of them the kernel took.
   */
  detach(): number {
    const link = this.#link;
    const segment = this.#inFlight;
    this.#link = null;
    this.#open = false;
    this.#control = [];
    this.#inFlight = null;
    const skipped = this.#skipped;
    this.#skipped = 0;
    if (link === null || segment === null || segment.messages === 0) return 0;
    const taken = link.taken();
    const { at, messages } = taken < 0
      ? { at: segment.end, messages: 0 }
      : lastBoundary(segment.buf, segment.start, segment.end, segment.start + skipped + taken);
    if (messages === 0) {
      this.#release(segment);
      return taken < 0 ? segment.messages : 0;
    }
    segment.start = at;
    segment.messages = messages;
    this.#queue.unshift(segment);
    return 0;
  }

  /** Drops everything that waits, its link being destroyed; returns how many messages that were. */
  clear(): number {
    const dropped = this.unwritten;
    for (let s = this.#queue.head; s !== null; s = s.next) this.#release(s);
    this.#queue = new SegmentQueue();
    if (this.#block !== null) this.#context.returnBlock(this.#block);
    this.#block = null;
    this.#fill = this.#blockStart = this.#blockMessages = 0;
    if (this.#inFlight !== null) this.#release(this.#inFlight);
    this.#inFlight = null;
    this.#skipped = 0;
    this.#link = null;
    this.onempty?.();
    return dropped;
  }

  /** A frame that goes before the messages, such as a greeting or PONG. */
  control(frame: Uint8Array): void {
    if (this.#control.length >= CONTROL_MAX) return;
    this.#control.push(frame);
    this.#mark();
  }

  /** Puts a message at the end: `prefix`, then `buf[start, end)`. */
  append(prefix: Uint8Array, buf: Uint8Array, start: number, end: number, owned: boolean): void {
    const size = prefix.length + end - start;
    if (!this.#dirty) this.#mark();
    if (owned && size >= REFERENCE_MIN_BYTES && standsBefore(prefix, buf, start)) {
      this.#seal();
      POOL.hold(buf);
      this.#queue.push(new Segment(buf, null, start - prefix.length, end, 1));
      return;
    }
    if (size >= BORROW_MIN_BYTES && this.#canGather && this.#context.lends(buf, start, end)) {
      this.#seal();
      if (this.#queue.borrowed === 0) this.#context.borrow(this);
      this.#queue.push(new Segment(buf, null, start, end, 1, prefix));
      return;
    }
    this.#copyIn(prefix, buf, start, end);
  }

  /** Can several pieces be written at once, now? */
  get #canGather(): boolean {
    return this.#open && this.#inFlight === null && this.#link?.writev !== undefined;
  }

  #copyIn(prefix: Uint8Array, buf: Uint8Array, start: number, end: number): void {
    const size = prefix.length + end - start;
    let block = this.#block;
    if (block === null || block.end - this.#fill < size) {
      block = this.#room(size);
      if (block === null) {
        const copy = POOL.take(size);
        copy.set(prefix, 0);
        copy.set(buf.subarray(start, end), prefix.length);
        this.#queue.push(new Segment(copy, null, 0, size, 1));
        return;
      }
    }
    const to = block.buf;
    let at = this.#fill;
    for (let i = 0; i < prefix.length; i++) to[at++] = prefix[i];
    if (to === buf) to.copyWithin(at, start, end);
    else this.#copy(buf, start, end, to, at);
    this.#fill = at + end - start;
    this.#blockMessages++;
  }

  /**
   * Makes room for a run of messages, at {@link runAt}.
   *
   * @returns How many bytes may be put there before the queue could be full; 0 when none.
   */
  runRoom(): number {
    let block = this.#block;
    if (block === null || block.end - this.#fill < RUN_MIN_BYTES) {
      block = this.#room(RUN_MIN_BYTES);
      if (block === null) return 0;
    }
    return Math.min(block.end - this.#fill, this.runLimit());
  }
  /** Bytes that may come before the queue could be full. */
  runLimit(): number {
    return Math.max(0, this.#floorBytes - this.bytes);
  }
  /** The block for the run, and where in its memory. */
  get runBlock(): Piece | null {
    return this.#block;
  }
  get runAt(): number {
    return this.#fill;
  }
  /** So many messages and bytes were put there. */
  ran(messages: number, bytes: number): void {
    if (!this.#dirty) this.#mark();
    this.#fill += bytes;
    this.#blockMessages += messages;
  }

  /** A run that another queue has in its block: a long one is written from there, a short one copied. */
  ranAs(block: Piece, at: number, messages: number, bytes: number): void {
    if (bytes < SHARE_MIN_BYTES && this.runRoom() >= bytes && this.#block!.buf === block.buf) {
      block.buf.copyWithin(this.#fill, at, at + bytes);
      this.ran(messages, bytes);
      return;
    }
    if (!this.#dirty) this.#mark();
    this.#seal();
    block.shares = (block.shares ?? 0) + 1;
    this.#queue.push(new Segment(block.buf, block, at, at + bytes, messages));
  }

  /** Would a run be written at once, from where it lies? Then {@link ranListed} takes it. */
  get writesNow(): boolean {
    return this.#canGather && this.#control.length === 0 && 2 * this.#queue.length + 2 <= AHEAD;
  }

  /** A run is listed behind {@link AHEAD}: it is written, behind what waits. What the link does not take is copied. */
  ranListed(prefix: Uint8Array, messages: number, bytes: number): void {
    const context = this.#context;
    const vectors = context.vectors!;
    this.#seal();
    const ahead = this.#list(0, AHEAD);
    vectors.move(0, ahead, AHEAD - ahead);
    let taken = this.#link!.writev!(AHEAD - ahead, ahead + 2 * messages);
    const waiting = this.#listedBytes;
    this.#took(Math.min(taken, waiting));
    taken -= waiting;
    if (taken === bytes) {
      this.#written += bytes;
      return;
    }
    this.settle();
    const { buf } = context.arena!;
    for (let i = AHEAD + 1, left = messages; left > 0; i += 2, left--) {
      const size = vectors.bytes(i);
      if (taken >= prefix.length + size) {
        taken -= prefix.length + size;
        this.#written += prefix.length + size;
        continue;
      }
      if (taken > 0) this.#skipped = taken;
      taken = 0;
      const start = vectors.address(i) - vectors.base;
      this.#copyIn(prefix, buf, start, start + size);
    }
    if (this.#inFlight === null) this.#send();
  }

  /** Asks for {@link ondrained} once the queue, full now, has room again. */
  watch(): void {
    this.#watched = true;
  }

  flush(): void {
    this.#dirty = false;
    if (this.#inFlight === null) this.#send();
  }

  /** The same, and what is in flight is tried again first: somebody would have to be held back otherwise. */
  press(): void {
    this.flush();
    if (this.full) this.#link?.retry?.();
  }

  /** The write in flight is done. */
  written(): void {
    const segment = this.#inFlight;
    if (segment === null) return;
    this.#inFlight = null;
    this.#written += segment.bytes;
    this.#skipped = 0;
    this.#release(segment);
    this.#send();
  }

  #send(): void {
    const link = this.#link;
    if (link === null) return;
    if (this.#open && this.#queue.borrowed > 0) this.#sendBorrowed(link);
    for (;;) {
      const segment = this.#next();
      if (segment === null) break;
      this.#inFlight = segment;
      if (!link.write(segment.buf, segment.start + this.#skipped, segment.end)) break;
      if (this.#link !== link) return;
      this.#inFlight = null;
      this.#skipped = 0;
      this.#written += segment.bytes;
      this.#release(segment);
    }
    if (this.#watched && this.#drained()) {
      this.#watched = false;
      this.ondrained?.();
    }
    if (this.onempty !== null && this.empty) this.onempty();
  }

  /** All that waits, at once. Of what is borrowed, that which the link does not take is copied: there is time then. */
  #sendBorrowed(link: Link): void {
    this.#seal();
    while (this.#queue.borrowed > 0 && this.#control.length === 0) {
      const entries = this.#list(0, ENTRIES);
      const bytes = this.#listedBytes;
      const taken = link.writev!(0, entries);
      this.#took(taken);
      if (taken < bytes) break;
    }
    this.settle();
  }

  /** Lists what waits in entries of {@link Context.vectors} from `i` on, as far as they go; returns how many. */
  #list(i: number, end: number): number {
    const vectors = this.#context.vectors!;
    const from = i;
    this.#listedBytes = 0;
    for (let s = this.#queue.head; s !== null && i + 2 <= end; s = s.next) {
      if (s.prefix !== null && s.prefix.length > 0) vectors.set(i++, s.prefix, 0, s.prefix.length);
      vectors.set(i++, s.buf, s.start, s.end);
      this.#listedBytes += s.bytes;
    }
    return i - from;
  }

  /** So many bytes of the queue have gone; of the segment at its head perhaps only a part. */
  #took(bytes: number): void {
    const queue = this.#queue;
    for (let s = queue.head; s !== null && bytes >= s.bytes; s = queue.head) {
      bytes -= s.bytes;
      this.#written += s.bytes;
      queue.shift();
      this.#release(s);
    }
    this.#skipped = bytes;
  }

  settle(): void {
    if (this.#queue.borrowed === 0) return;
    this.#settling = true;
    this.#seal();
    const before = this.#queue;
    this.#queue = new SegmentQueue();
    for (let s = before.shift(); s !== null; s = before.shift()) {
      if (s.prefix === null) {
        this.#seal();
        this.#queue.push(s);
      } else {
        this.#copyIn(s.prefix, s.buf, s.start, s.end);
      }
    }
    this.#settling = false;
  }

  #drained(): boolean {
    const { hwm, floorBytes } = this.#options;
    return (this.messages * 2 <= hwm || this.bytes * 2 <= floorBytes) && this.bytes * 2 <= this.#fullBytes;
  }

  /** What is written next: control frames, then the queue, then the block as far as it is filled. */
  #next(): Segment | null {
    // Nothing goes between the parts of a segment.
    if (this.#control.length > 0 && this.#skipped === 0) {
      const frame = this.#control.shift()!;
      return new Segment(frame, null, 0, frame.length, 0);
    }
    if (!this.#open) return null;
    if (this.#queue.head === null) this.#seal();
    return this.#queue.shift();
  }

  /** A block with room for `size` bytes at its end; null when no block is large enough. */
  #room(size: number): Piece | null {
    // One that is full asks for a larger one next time; one that a smaller would have done for, for that.
    const wasFull = this.#block !== null && this.#fill > this.#blockStart;
    this.#seal();
    if (wasFull) {
      // The link may take the full one at once: then the same memory, still in the cache, is filled again.
      if (this.#open && this.#inFlight === null && !this.#settling) {
        this.#send();
        // What was borrowed and did not go has been copied to a block.
        this.#seal();
      }
      if (this.#blockSize < LARGEST) this.#blockSize++;
    }
    while (BLOCK_BYTES[this.#blockSize] < size) {
      if (this.#blockSize === LARGEST) return null;
      this.#blockSize++;
    }
    this.#block = this.#context.takeBlock(this.#blockSize);
    this.#fill = this.#blockStart = this.#block.start;
    return this.#block;
  }

  /** Puts the block, as far as it is filled, into the queue. */
  #seal(): void {
    const block = this.#block;
    if (block === null) return;
    if (this.#fill === block.start) {
      // Room was made for a run that did not come about.
      this.#context.returnBlock(block);
      this.#block = null;
      this.#fill = this.#blockStart = 0;
      return;
    }
    this.#queue.push(new Segment(block.buf, block, block.start, this.#fill, this.#blockMessages));
    if (this.#blockSize > 0 && this.#fill - block.start <= BLOCK_BYTES[this.#blockSize - 1]) {
      this.#blockSize--;
    }
    this.#block = null;
    this.#fill = this.#blockStart = this.#blockMessages = 0;
  }

  #release(segment: Segment): void {
    if (segment.block !== null) this.#context.returnBlock(segment.block);
    else if (segment.prefix === null) POOL.release(segment.buf);
  }

  #mark(): void {
    if (this.#dirty) return;
    this.#dirty = true;
    this.#context.mark(this);
  }
}

/** Do the bytes of `prefix` stand right in front of `start`? */
function standsBefore(prefix: Uint8Array, buf: Uint8Array, start: number): boolean {
  const from = start - prefix.length;
  if (from < 0) return false;
  for (let i = 0; i < prefix.length; i++) if (buf[from + i] !== prefix[i]) return false;
  return true;
}
