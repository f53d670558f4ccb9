/** The parts that an egress queue is made of, and their order. */
import type { Block } from "../memory/block.ts";

export class Segment {
  next: Segment | null = null;
  readonly buf: Uint8Array;
  /** The block that `buf` is of, released when the segment is written; null: none. */
  readonly block: Block | null;
  /** Goes before `buf[start, end)`, which is borrowed from the chunk being taken in; null: `buf` is ours. */
  readonly identityFrame: Uint8Array | null;
  start: number;
  end: number;
  messages: number;

  constructor(
    buf: Uint8Array,
    block: Block | null,
    start: number,
    end: number,
    messages: number,
    identityFrame: Uint8Array | null = null,
  ) {
    this.buf = buf;
    this.block = block;
    this.start = start;
    this.end = end;
    this.messages = messages;
    this.identityFrame = identityFrame;
  }

  get bytes(): number {
    return this.end - this.start + (this.identityFrame === null ? 0 : this.identityFrame.length);
  }

  get borrowed(): boolean {
    return this.identityFrame !== null;
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
    if (segment.borrowed) this.borrowed += sign;
  }
}
