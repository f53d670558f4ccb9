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
 *
 * ```
 *               attach               open            shut, detach, clear
 *   no link ──────────▶ handshake ──────────▶ open ──────────────────────▶ no link
 *   messages wait       control frames go     messages go too              what was not written whole waits
 * ```
 */
import type { Link } from "../contracts/links.ts";
import type { Block } from "../memory/block.ts";
import { BLOCK_BYTES } from "../memory/blocks.ts";
import { POOL } from "../memory/pool.ts";
import { AHEAD, ENTRIES } from "../memory/vectors.ts";
import type { RunQueue, RunSpace } from "../relay/group.ts";
import { lastBoundary, messageEnd } from "../zmtp/frame.ts";
import { BlockWriter } from "./block_writer.ts";
import type { SocketContext } from "./context.ts";
import type { Borrower, Flushable, Flusher } from "./flusher.ts";
import { Segment, SegmentQueue } from "./segment.ts";
import { SentMarks } from "./sent_marks.ts";

/** From here on a message that owns its buffer is not copied. */
const REFERENCE_MIN_BYTES = 64 * 1024;
/** From here on a message that lies in the chunk being taken in is written from there, where the link can. */
export const BORROW_MIN_BYTES: number = 8 * 1024;
/** From here on a run for several queues is not copied for each. */
const SHARE_MIN_BYTES = 64 * 1024;
/** A block with less room takes no run of messages. */
const RUN_MIN_BYTES = 2 * 1024;
/** Control frames that may wait; a peer that asks for more without reading gets none. */
const CONTROL_MAX = 8;
const LARGEST_BLOCK_BYTES = BLOCK_BYTES[BLOCK_BYTES.length - 1];

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
  /** Can it tell {@link Egress.messagesBehind}? That takes 8 KiB. */
  marksSent?: boolean;
}

export class Egress implements Flushable, Borrower, RunQueue {
  /** Called when a queue that was full (see {@link watch}) has drained to half. */
  ondrained: (() => void) | null = null;
  /** Called when nothing waits and nothing is in flight. */
  onempty: (() => void) | null = null;

  readonly #context: SocketContext;
  readonly #flusher: Flusher;
  /** Messages that may wait. */
  hwm: number;
  readonly #floorBytes: number;
  readonly #fullBytes: number;
  readonly #maxBytes: number;
  readonly #writer: BlockWriter;
  #link: Link | null = null;
  /** The same, unless messages are translated. */
  #controlLink: Link | null = null;
  #open = false;
  #dirty = false;
  #inFlight: Segment | null = null;
  /** Bytes of it that had gone before it was given to the link. */
  #skipped = 0;
  /** What waits is being put in order: nothing is sent meanwhile. */
  #copying = false;
  #control: Uint8Array[] = [];
  #queue = new SegmentQueue();
  #watched = false;
  /** Bytes of all that has been written whole: where the first message that waits stands in the stream. */
  #written = 0;
  readonly #sent: SentMarks | null;
  /** Where it stood when a link broke while a message was written, and how many links did so there. */
  #brokeAt = -1;
  #breaks = 0;

  constructor(context: SocketContext, options: EgressOptions) {
    this.#context = context;
    this.#flusher = context.flusher;
    this.hwm = options.hwm;
    this.#floorBytes = options.floorBytes;
    this.#fullBytes = options.fullBytes ?? options.maxBytes;
    this.#maxBytes = options.maxBytes;
    this.#sent = options.marksSent ? new SentMarks() : null;
    this.#writer = new BlockWriter(context.blocks, context.copy);
  }

  /** Messages that wait, without those in flight. */
  get messages(): number {
    return this.#queue.messages + this.#writer.messages;
  }

  /** Their bytes. */
  get bytes(): number {
    return this.#queue.bytes + this.#writer.bytes;
  }

  /** Does more wait than should? */
  get full(): boolean {
    const { bytes } = this;
    if (bytes < this.#floorBytes) return false;
    return this.messages >= this.hwm || bytes >= this.#fullBytes;
  }

  /** Twice over the bounds: nothing more should be put here. */
  get overfull(): boolean {
    return (this.messages >= 2 * this.hwm && this.bytes >= 2 * this.#floorBytes) ||
      this.bytes >= this.#maxBytes;
  }

  get empty(): boolean {
    return this.#inFlight === null && this.messages === 0;
  }

  /** Bytes of all that has not been written whole. */
  get heldBytes(): number {
    return this.bytes + (this.#inFlight?.bytes ?? 0);
  }

  /** Messages that have not been written whole. */
  get unwritten(): number {
    return this.messages + (this.#inFlight?.messages ?? 0);
  }

  /** Bytes of messages that links took since the start; does it move? */
  get progress(): number {
    const ofMessages = this.#inFlight === null || this.#inFlight.messages > 0;
    const inFlight = this.#inFlight !== null && ofMessages && this.#link !== null
      ? this.#link.writtenBytes()
      : 0;
    return this.#written + this.#skipped + Math.max(0, inFlight);
  }

  /**
   * Writes go here from now on: control frames at once, messages after {@link open}.
   *
   * @param translating Messages go this way, where the peer reads them otherwise than they lie here.
   */
  attach(link: Link, translating: Link = link): void {
    this.#link = translating;
    this.#controlLink = link;
    this.#open = false;
    this.#sent?.begin(this.#written);
  }

  /** A segment has been written whole. */
  #went(segment: Segment): void {
    // Control frames belong to their link.
    if (segment.messages > 0) this.#gone(segment.bytes, segment.messages);
    release(segment);
  }

  /** So much of the stream has been written, or given up, `messages` of it to the link. */
  #gone(bytes: number, messages: number): void {
    this.#written += bytes;
    this.#sent?.add(this.#written, messages);
  }

  /** How many messages, at most, were written whole and have bytes behind a {@link progress}; by written blocks. */
  messagesBehind(progress: number): number {
    return this.#sent === null ? 0 : this.#sent.since(progress);
  }

  /** The handshake is done: messages may go. */
  open(): void {
    this.#open = true;
    this.#scheduleFlush();
  }

  /** The link is gone: no message is written to it any more. */
  shut(): void {
    this.#open = false;
  }

  /** Sends FIN, nothing being in flight; what is put here later waits. */
  end(): void {
    this.#open = false;
    this.#control = [];
    this.#link?.end();
    this.#link = null;
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
    const written = link.writtenBytes();
    if (written < 0) {
      this.#gone(segment.bytes, 0);
      release(segment);
      return segment.messages;
    }
    const limit = segment.start + skipped + written;
    const { at, messages } = lastBoundary(segment.buf, segment.start, segment.end, limit);
    this.#gone(at - segment.start, segment.messages - messages);
    if (messages === 0) {
      release(segment);
      return 0;
    }
    segment.start = at;
    segment.messages = messages;
    this.#queue.unshift(segment);
    if (limit > at) this.#broke();
    return 0;
  }

  /** A link broke when the first message had been written in part. */
  #broke(): void {
    if (this.#brokeAt !== this.#written) this.#breaks = 0;
    this.#brokeAt = this.#written;
    this.#breaks++;
  }

  /** How many links in a row broke while the message that is now the first was written. */
  get breaks(): number {
    return this.#brokeAt === this.#written ? this.#breaks : 0;
  }

  /** Drops the first message that waits, no link being there; `tell` sees it before. */
  dropFirst(tell: (buf: Uint8Array, start: number, end: number) => void): void {
    const segment = this.#queue.shift();
    if (segment === null) return;
    const end = messageEnd(segment.buf, segment.start);
    tell(segment.buf, segment.start, end);
    this.#gone(end - segment.start, 0);
    segment.start = end;
    segment.messages--;
    if (segment.messages > 0) this.#queue.unshift(segment);
    else release(segment);
  }

  /** Drops everything that waits, its link being destroyed; returns how many messages that were. */
  clear(): number {
    const dropped = this.detach() + this.messages;
    for (let s = this.#queue.head; s !== null; s = s.next) release(s);
    this.#queue = new SegmentQueue();
    this.#writer.clear();
    this.onempty?.();
    return dropped;
  }

  /** A frame that goes before the messages, such as a greeting or PONG. */
  control(frame: Uint8Array): void {
    if (this.#control.length >= CONTROL_MAX) return;
    this.#control.push(frame);
    this.#scheduleFlush();
  }

  /**
   * Puts a message at the end: `identityFrame`, then `buf[start, end)`.
   *
   * @param block The block that the message alone lies in; null: the bytes are borrowed until this returns.
   */
  append(identityFrame: Uint8Array, buf: Uint8Array, start: number, end: number, block: Block | null): void {
    const size = identityFrame.length + end - start;
    if (!this.#dirty) this.#scheduleFlush();
    if (block !== null && size >= REFERENCE_MIN_BYTES && standsBefore(identityFrame, buf, start)) {
      this.#reference(block, start - identityFrame.length, end, 1);
    } else if (size >= BORROW_MIN_BYTES && this.#canGather && this.#flusher.isInChunk(buf, start, end)) {
      this.#borrow(identityFrame, buf, start, end);
    } else {
      this.#copyIn(identityFrame, buf, start, end);
    }
  }

  /** Puts bytes at the end that stay where they lie, in a block that is retained until they are written. */
  #reference(block: Block, start: number, end: number, messages: number): void {
    this.#closeBlock();
    block.retain();
    this.#queue.push(new Segment(block.buf, block, start, end, messages));
  }

  /** Puts a message at the end that lies in the chunk being taken in. */
  #borrow(identityFrame: Uint8Array, buf: Uint8Array, start: number, end: number): void {
    this.#closeBlock();
    if (this.#queue.borrowed === 0) this.#flusher.borrow(this);
    this.#queue.push(new Segment(buf, null, start, end, 1, identityFrame));
  }

  /** Can several pieces be written at once, now? */
  get #canGather(): boolean {
    return this.#open && this.#inFlight === null && this.#link?.writev !== undefined;
  }

  #copyIn(identityFrame: Uint8Array, buf: Uint8Array, start: number, end: number): void {
    const size = identityFrame.length + end - start;
    if (this.#writer.room < size && !this.#startBlock(size)) this.#copyLarge(identityFrame, buf, start, end);
    else this.#writer.append(identityFrame, buf, start, end);
  }

  /** No block is large enough: a buffer of its own. */
  #copyLarge(identityFrame: Uint8Array, buf: Uint8Array, start: number, end: number): void {
    const size = identityFrame.length + end - start;
    const copy = POOL.take(size);
    copy.buf.set(identityFrame, 0);
    copy.buf.set(buf.subarray(start, end), identityFrame.length);
    this.#queue.push(new Segment(copy.buf, copy, 0, size, 1));
  }

  reserveRun(): RunSpace {
    const limit = this.runLimit();
    if (limit > 0 && this.#writer.room < RUN_MIN_BYTES) {
      this.#startBlock(RUN_MIN_BYTES);
      return this.#writer.space(this.runLimit());
    }
    return this.#writer.space(limit);
  }

  runLimit(): number {
    return this.#open ? Math.max(0, this.#floorBytes - this.bytes) : 0;
  }

  commitRun(messages: number, bytes: number): void {
    if (!this.#dirty) this.#scheduleFlush();
    this.#writer.commit(messages, bytes);
  }

  /** A long run is written from the other queue's block, a short one copied. */
  shareRun(block: Block, at: number, messages: number, bytes: number): void {
    const copies = bytes < SHARE_MIN_BYTES && this.reserveRun().bytes >= bytes &&
      this.#writer.isIn(block.buf);
    if (!this.#dirty) this.#scheduleFlush();
    if (copies) this.#writer.appendRun(at, messages, bytes);
    else this.#reference(block, at, at + bytes, messages);
  }

  get writesNow(): boolean {
    return this.#canGather && this.#control.length === 0 && 2 * this.#queue.length + 2 <= AHEAD;
  }

  /** The run is listed behind {@link AHEAD}: it is written, behind what waits. What the link does not take is copied. */
  writeRun(identityFrame: Uint8Array, messages: number, bytes: number): void {
    const gather = this.#context.gather!;
    this.#closeBlock();
    const ahead = gather.listAhead(this.#queue, AHEAD);
    let written = this.#link!.writev!(AHEAD - ahead, ahead + 2 * messages);
    const waited = gather.bytes;
    this.#advance(Math.min(written, waited));
    written -= waited;
    if (written === bytes) {
      this.#gone(bytes, messages);
      return;
    }
    this.copyBorrowed();
    this.#copyRest(identityFrame, messages, written);
    if (this.#inFlight === null) this.#send();
  }

  /** Of a run that is listed, copies what the link did not take. */
  #copyRest(identityFrame: Uint8Array, messages: number, written: number): void {
    const vectors = this.#context.vectors!;
    const { buf } = this.#context.arena!;
    for (let i = AHEAD + 1, left = messages; left > 0; i += 2, left--) {
      const size = vectors.bytes(i);
      if (written >= identityFrame.length + size) {
        written -= identityFrame.length + size;
        this.#gone(identityFrame.length + size, 1);
        continue;
      }
      if (written > 0) this.#skipped = written;
      written = 0;
      const start = vectors.address(i) - vectors.base;
      this.#copyIn(identityFrame, buf, start, start + size);
    }
  }

  /** Asks for {@link ondrained} once the queue, full now, has room again. */
  watch(): void {
    this.#watched = true;
  }

  flush(): void {
    this.#dirty = false;
    if (this.#inFlight === null) this.#send();
  }

  /** The same, and what is in flight is tried again first: somebody would have to be paused otherwise. */
  flushAndRetry(): void {
    this.flush();
    if (this.full) this.#link?.retry?.();
  }

  /** The write in flight is done. */
  written(): void {
    const segment = this.#inFlight;
    if (segment === null) return;
    this.#inFlight = null;
    this.#went(segment);
    this.#skipped = 0;
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
      const to = segment.messages === 0 ? this.#controlLink! : link;
      if (!to.write(segment.buf, segment.start + this.#skipped, segment.end)) break;
      if (this.#link !== link) return;
      this.#inFlight = null;
      this.#skipped = 0;
      this.#went(segment);
    }
    if (this.#watched && this.#drained()) {
      this.#watched = false;
      this.ondrained?.();
    }
    if (this.onempty !== null && this.empty) this.onempty();
  }

  /** All that waits, at once. Of what is borrowed, that which the link does not take is copied: there is time then. */
  #sendBorrowed(link: Link): void {
    const gather = this.#context.gather!;
    this.#closeBlock();
    while (this.#queue.borrowed > 0 && this.#control.length === 0) {
      const entries = gather.list(this.#queue, 0, ENTRIES);
      const written = link.writev!(0, entries);
      this.#advance(written);
      if (written < gather.bytes) break;
    }
    this.copyBorrowed();
  }

  /** So many bytes of the queue have gone; of the segment at its head perhaps only a part. */
  #advance(bytes: number): void {
    const queue = this.#queue;
    for (let s = queue.head; s !== null && bytes >= s.bytes; s = queue.head) {
      bytes -= s.bytes;
      queue.shift();
      this.#went(s);
    }
    this.#skipped = bytes;
  }

  copyBorrowed(): void {
    if (this.#queue.borrowed === 0) return;
    this.#copying = true;
    this.#closeBlock();
    const before = this.#queue;
    this.#queue = new SegmentQueue();
    for (let s = before.shift(); s !== null; s = before.shift()) {
      if (s.identityFrame === null) {
        this.#closeBlock();
        this.#queue.push(s);
      } else {
        this.#copyIn(s.identityFrame, s.buf, s.start, s.end);
      }
    }
    this.#copying = false;
  }

  #drained(): boolean {
    const { messages, bytes } = this;
    return (messages * 2 <= this.hwm || bytes * 2 <= this.#floorBytes) && bytes * 2 <= this.#fullBytes;
  }

  /** What is written next: control frames, then the queue, then the block as far as it is filled. */
  #next(): Segment | null {
    // Nothing goes between the parts of a segment.
    if (this.#control.length > 0 && this.#skipped === 0) {
      const frame = this.#control.shift()!;
      return new Segment(frame, null, 0, frame.length, 0);
    }
    if (!this.#open) return null;
    if (this.#queue.head === null) this.#closeBlock();
    return this.#queue.shift();
  }

  /** Begins a block with room for `size` bytes; false when no block is large enough. */
  #startBlock(size: number): boolean {
    // One that is full asks for a larger one next time; one that a smaller would have done for, for that.
    const wasFull = this.#writer.bytes > 0;
    this.#closeBlock();
    if (wasFull) {
      // The link may take the full one at once: then the same memory, still in the cache, is filled again.
      if (this.#open && this.#inFlight === null && !this.#copying) {
        this.#send();
        // What was borrowed and did not go has been copied to a block.
        this.#closeBlock();
      }
      this.#writer.grow();
    }
    return size <= LARGEST_BLOCK_BYTES && this.#writer.start(size);
  }

  /** Puts the block, as far as it is filled, into the queue. */
  #closeBlock(): void {
    const segment = this.#writer.close();
    if (segment !== null) this.#queue.push(segment);
  }

  #scheduleFlush(): void {
    if (this.#dirty) return;
    this.#dirty = true;
    this.#flusher.scheduleFlush(this);
  }
}

function release({ block }: Segment): void {
  block?.release();
}

/** Do the bytes of `identityFrame` stand right in front of `start`? */
function standsBefore(identityFrame: Uint8Array, buf: Uint8Array, start: number): boolean {
  const from = start - identityFrame.length;
  if (from < 0) return false;
  for (let i = 0; i < identityFrame.length; i++) if (buf[from + i] !== identityFrame[i]) return false;
  return true;
}
