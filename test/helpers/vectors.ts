/** An arena, and lists for `writev()` in it, whose addresses mean something here: tests can read what is listed. */
import assert from "node:assert/strict";
import { Arena, READ_BLOCK_BYTES } from "../../src/memory/arena.ts";
import { ENTRY_BYTES, LIST_BYTES, Vectors } from "../../src/memory/vectors.ts";

/** The list that `writev` writes, with addresses of our own. */
export class TestVectors extends Vectors {
  readonly #arena: Arena;
  readonly #addresses: Addresses;

  constructor(arena: Arena) {
    const addresses = new Addresses(arena.buf);
    super(arena, arena.take(LIST_BYTES)!, (buf, at) => addresses.of(buf, at));
    this.#arena = arena;
    this.#addresses = addresses;
  }

  *pieces(first: number, count: number): Iterable<Uint8Array> {
    for (let i = first; i < first + count; i++) yield this.#addresses.bytes(this.address(i), this.bytes(i));
  }

  /** Entries hold until they are written. */
  forget(): void {
    this.#addresses.clear();
    const at = this.at;
    this.#arena.buf.fill(0, at, at + 4 * ENTRY_BYTES);
  }
}

class Addresses {
  readonly #arena: Uint8Array;
  readonly #others: Uint8Array[] = [];

  constructor(arena: Uint8Array) {
    this.#arena = arena;
  }

  of(buf: Uint8Array, at: number): number {
    if (buf.buffer === this.#arena.buffer) return 0x1_0000_0000 + buf.byteOffset + at;
    this.#others.push(buf);
    return (this.#others.length + 1) * 0x1_0000_0000 + at;
  }

  bytes(address: number, size: number): Uint8Array {
    const number = Math.floor(address / 0x1_0000_0000) - 2;
    const at = address % 0x1_0000_0000;
    const buf = number < 0 ? this.#arena : this.#others[number];
    assert.ok(buf !== undefined && at + size <= buf.length, "an address of memory that is there");
    return buf.subarray(at, at + size);
  }

  clear(): void {
    this.#others.length = 0;
  }
}

/** What the tests of one process use, one after the other; each gives back what it took. */
export const ARENA = new Arena();
/** Where chunks lie. */
export const READ_BLOCK = ARENA.take(READ_BLOCK_BYTES)!;
export const VECTORS = new TestVectors(ARENA);
