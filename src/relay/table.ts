/**
 * The face of the relay kernel (`kernel/relay.ts`): a run of messages of one group is copied at once, in WebAssembly, at
 * about 10 ns a message where JavaScript takes 40 to 55 (`npm run bench -- --only=micro`).
 *
 * A table tells the kernel which types belong to which group, and counts their messages:
 *
 * ```
 *   slot = hash(type bytes) % SLOTS ──▶ { length, group, count, bytes } and the type's bytes
 * ```
 *
 * The messages are copied, each behind the identity frame of its peer, or listed for writev() where they lie.
 */
import type { Arena } from "../memory/arena.ts";
import type { Block } from "../memory/block.ts";
import { RELAY_WASM } from "./wasm.ts";

/** Slots of a table; a power of two. */
export const SLOTS = 1024;
/** The longest type that a table takes. */
const TYPE_BYTES = 64;
/** Bytes of a table. */
const TABLE_BYTES = 128 * 1024;

/** The layout of a table; the same numbers stand in `kernel/relay.ts`. */
const TAKEN = 0;
const TOUCHED_COUNT = 4;
const IDENTITY = 16;
const TOUCHED = 512;
const SLOTS_AT = 4096;
const SLOT_BYTES = 32;
const TYPES_AT = 36864;
const GROUP = 4;
const COUNT = 8;
const BYTES = 16;

/** The kernel's `base` that says: count, and do nothing else. */
const SKIP = -1;
const NO_IDENTITY = new Uint8Array(0);

type Kernel = (
  table: number,
  from: number,
  end: number,
  to: number,
  toEnd: number,
  identitySize: number,
  group: number,
  framesMax: number,
  messageMax: number,
  base: number,
) => number;

let module: WebAssembly.Module | null | undefined;

/** Null where the kernel does not run: without WebAssembly, or without its vectors (a CPU from before 2011). */
function compile(): WebAssembly.Module | null {
  try {
    return new WebAssembly.Module(Uint8Array.from(atob(RELAY_WASM), (c) => c.charCodeAt(0)));
  } catch {
    return null;
  }
}

/** The bounds of a message that a relay takes; all within those of the decoder in front of it. */
export interface RelayLimits {
  messageMaxBytes: number;
  messageMaxFrames: number;
}

/** A list of vectors, as writev() takes them: address and length, 64 bits each. */
export interface RunList {
  /** Where in memory the entries of a run go: `[at, end)`. */
  readonly at: number;
  readonly end: number;
  /** The address of the memory's first byte, for the system; not 0. */
  readonly base: number;
}

export class RelayTable {
  /** Messages that the last {@link run} or {@link list} took. */
  taken = 0;
  /** All of the memory: what is relayed lies here. */
  readonly buf: Uint8Array;
  readonly #kernel: Kernel;
  readonly #block: Block;
  /** Where the table lies in the memory. */
  readonly #table: number;
  readonly #words: Uint32Array;
  readonly #limits: RelayLimits;
  readonly #list: RunList | null;
  #identityFrame: Uint8Array | null = null;

  private constructor(kernel: Kernel, block: Block, limits: RelayLimits, list: RunList | null) {
    this.#kernel = kernel;
    this.#block = block;
    this.buf = block.buf;
    this.#table = block.start;
    this.#words = new Uint32Array(block.buf.buffer);
    this.#limits = limits;
    this.#list = list;
    this.clear();
  }

  /**
   * A table in the arena, which whoever asks for it ends by {@link close}.
   *
   * @param list Where {@link list} lists runs; null: nowhere.
   * @returns Null where the kernel does not run, or the arena has no room for another table.
   */
  static make(arena: Arena, limits: RelayLimits, list: RunList | null = null): RelayTable | null {
    if (module === undefined) module = compile();
    const { memory } = arena;
    const block = module === null || memory === null ? null : arena.take(TABLE_BYTES);
    if (module === null || memory === null || block === null) return null;
    const { exports } = new WebAssembly.Instance(module, { env: { memory: memory as WebAssembly.Memory } });
    return new RelayTable(exports.relay as Kernel, block, limits, list);
  }

  /** Gives the table's memory back. */
  close(): void {
    this.#block.release();
  }

  /** The slot of a type, whatever its length. */
  static slotOf(buf: Uint8Array, at: number, size: number): number {
    let h = 0x811c9dc5 ^ size;
    let i = at;
    for (const end = at + size - 3; i < end; i += 4) {
      h = Math.imul(h ^ (buf[i] | (buf[i + 1] << 8) | (buf[i + 2] << 16) | (buf[i + 3] << 24)), 0x9e3779b1);
    }
    if (i < at + size) {
      let word = 0;
      for (let shift = 0; i < at + size; i++, shift += 8) word |= buf[i] << shift;
      h = Math.imul(h ^ word, 0x9e3779b1);
    }
    return (h ^ (h >>> 15)) & (SLOTS - 1);
  }

  /** Puts a type in its slot, whoever was there; what was counted must be collected before. Group 0: not relayed. */
  set(slot: number, type: Uint8Array, group: number): void {
    const known = type.length <= TYPE_BYTES;
    const at = (this.#table + SLOTS_AT + slot * SLOT_BYTES) / 4;
    this.#words[at] = known ? type.length : 0;
    this.#words[at + GROUP / 4] = known ? group : 0;
    if (!known) return;
    const typeAt = this.#table + TYPES_AT + slot * TYPE_BYTES;
    this.buf.fill(0, typeAt, typeAt + TYPE_BYTES);
    this.buf.set(type, typeAt);
  }

  /** Forgets all types. */
  clear(): void {
    this.buf.fill(0, this.#table, this.#table + TABLE_BYTES);
    this.#identityFrame = null;
  }

  /**
   * Copies messages of one group from `buf[from, end)` to `buf[to, toEnd)`, each with `identityFrame` in front, until one
   * comes that is of another group, not plain, not whole, or does not fit. {@link taken} tells how many.
   *
   * @returns Where the first message stands that was not taken.
   */
  run(
    identityFrame: Uint8Array,
    from: number,
    end: number,
    to: number,
    toEnd: number,
    group: number,
  ): number {
    return this.#call(identityFrame, from, end, to, toEnd, group, 0);
  }

  /** Can runs be listed? */
  get lists(): boolean {
    return this.#list !== null;
  }

  /** The same, but messages are not copied: the identity frame and the message, in turn, are entries of the list. */
  list(identityFrame: Uint8Array, from: number, end: number, group: number): number {
    const { at, end: listEnd, base } = this.#list!;
    return this.#call(identityFrame, from, end, at, listEnd, group, base);
  }

  /** The same, but messages are only counted. */
  skip(from: number, end: number, group: number): number {
    return this.#call(this.#identityFrame ?? NO_IDENTITY, from, end, 0, 0, group, SKIP);
  }

  #call(
    identityFrame: Uint8Array,
    from: number,
    end: number,
    to: number,
    toEnd: number,
    group: number,
    base: number,
  ): number {
    const table = this.#table;
    if (identityFrame !== this.#identityFrame) {
      this.#identityFrame = identityFrame;
      this.buf.set(identityFrame, table + IDENTITY);
    }
    const { messageMaxFrames, messageMaxBytes } = this.#limits;
    const next = this.#kernel(
      table,
      from,
      end,
      to,
      toEnd,
      identityFrame.length,
      group,
      messageMaxFrames,
      messageMaxBytes,
      base,
    );
    this.taken = this.#words[(table + TAKEN) / 4];
    return next;
  }

  /** Types that were counted since {@link collected}. */
  get touched(): number {
    return this.#words[(this.#table + TOUCHED_COUNT) / 4];
  }
  /** The slot of the `i`th of them. */
  slot(i: number): number {
    const at = this.#table + TOUCHED + 2 * i;
    return this.buf[at] | (this.buf[at + 1] << 8);
  }
  /** Messages of a slot. */
  count(slot: number): number {
    return this.#words[(this.#table + SLOTS_AT + slot * SLOT_BYTES + COUNT) / 4];
  }
  /** Their bytes, without identity frames. */
  bytes(slot: number): number {
    const at = (this.#table + SLOTS_AT + slot * SLOT_BYTES + BYTES) / 4;
    return this.#words[at + 1] * 0x1_0000_0000 + this.#words[at];
  }
  /** Starts all counts anew. */
  collected(): void {
    for (let i = this.touched - 1; i >= 0; i--) {
      const at = (this.#table + SLOTS_AT + this.slot(i) * SLOT_BYTES) / 4;
      this.#words[at + COUNT / 4] = 0;
      this.#words[at + BYTES / 4] = 0;
      this.#words[at + BYTES / 4 + 1] = 0;
    }
    this.#words[(this.#table + TOUCHED_COUNT) / 4] = 0;
  }
}
