/**
 * Pieces of memory that one system call writes, listed as writev() takes them: address and length, 64 bits each.
 *
 * ```
 *   [ ahead: what waits already ][ a run of messages, listed by the relay kernel ... ]
 *                               ^ AHEAD                                              ^ ENTRIES
 * ```
 *
 * One list serves all links: it is written at once, and nothing stays in it.
 */
import type { Arena } from "./arena.ts";
import type { Block } from "./block.ts";

/** Bytes of an entry. */
export const ENTRY_BYTES = 16;
/** Entries of a list, as many as Linux takes at once. */
export const ENTRIES = 1024;
/** Entries in front of a run. */
export const AHEAD = 32;
/** Bytes of a list. */
export const LIST_BYTES: number = 32 * 1024;

const WORDS = ENTRY_BYTES / 4;

/** A list of pieces, filled and written at once. */
export class Vectors {
  /** Where the list begins in the arena. */
  readonly at: number;
  /** Where in it a run is listed. */
  readonly run: { readonly at: number; readonly end: number; readonly base: number };
  /** The address of the arena's first byte. */
  readonly base: number;
  readonly #words: Uint32Array;
  readonly #addressOf: (buf: Uint8Array, at: number) => number;

  /**
   * A list in a block.
   *
   * @param block {@link LIST_BYTES} of the arena, the list's alone.
   * @param addressOf The address of a byte of any buffer.
   */
  constructor(arena: Arena, block: Block, addressOf: (buf: Uint8Array, at: number) => number) {
    this.at = block.start;
    this.base = addressOf(arena.buf, 0);
    this.run = { at: this.at + AHEAD * ENTRY_BYTES, end: this.at + ENTRIES * ENTRY_BYTES, base: this.base };
    this.#words = new Uint32Array(arena.buf.buffer, block.start, ENTRIES * WORDS);
    this.#addressOf = addressOf;
  }

  /** Entry `i` is `buf[start, end)`; the buffer must live until it is written. */
  set(i: number, buf: Uint8Array, start: number, end: number): void {
    const address = this.#addressOf(buf, start);
    const word = i * WORDS;
    this.#words[word] = address;
    this.#words[word + 1] = address / 0x1_0000_0000;
    this.#words[word + 2] = end - start;
    this.#words[word + 3] = 0;
  }

  /** Moves `count` entries. */
  move(from: number, count: number, to: number): void {
    this.#words.copyWithin(to * WORDS, from * WORDS, (from + count) * WORDS);
  }

  /** The address of entry `i`. */
  address(i: number): number {
    return this.#words[i * WORDS + 1] * 0x1_0000_0000 + this.#words[i * WORDS];
  }

  /** The bytes of entry `i`. */
  bytes(i: number): number {
    return this.#words[i * WORDS + 2];
  }
}
