/** The parts that an egress queue is made of, and their order. */
import type { Piece } from "../runtime/arena.ts";

export class Segment {
  next: Segment | null = null;
  readonly buf: Uint8Array;
  /** The block that `buf` is of, to be given back; null: none. */
  readonly block: Piece | null;
  /** Goes before `buf[start, end)`, which is borrowed from the chunk being taken in; null: `buf` is ours. */
  readonly prefix: Uint8Array | null;
  start: number;
  end: number;
  messages: number;

  constructor(
    buf: Uint8Array,
    block: Piece | null,
    start: number,
    end: number,
    messages: number,
    prefix: Uint8Array | null = null,
  ) {
    this.buf = buf;
    this.block = block;
    this.start = start;
    this.end = end;
    this.messages = messages;
    this.prefix = prefix;
  }

  get bytes(): number {
    return this.end - this.start + (this.prefix === null ? 0 : this.prefix.length);
  }
}

/** Segments in order, counted. */
export class SegmentQueue {
  head: Segment | null = null;
  #tail: Segment | null = null;
  length = 0;
  messages = 0;
  bytes = 0;
  /** Of them, those that are borrowed. */
  borrowed = 0;

  push(segment: Segment): void {
    this.#add(segment, 1);
    if (this.#tail === null) this.head = segment;
    else this.#tail.next = segment;
    this.#tail = segment;
  }

  unshift(segment: Segment): void {
    this.#add(segment, 1);
    segment.next = this.head;
    this.head = segment;
    this.#tail ??= segment;
  }

  shift(): Segment | null {
    const segment = this.head;
    if (segment === null) return null;
    this.head = segment.next;
    if (this.head === null) this.#tail = null;
    segment.next = null;
    this.#add(segment, -1);
    return segment;
  }

  #add(segment: Segment, sign: 1 | -1): void {
    this.length += sign;
    this.messages += sign * segment.messages;
    this.bytes += sign * segment.bytes;
    if (segment.prefix !== null) this.borrowed += sign;
  }
}
