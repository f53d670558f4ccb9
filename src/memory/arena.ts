/**
 * Memory that reads, egress and the relay kernel share: one WebAssembly memory, so that the kernel reaches all of it, cut
 * into blocks of a few sizes. Pages that nobody has used yet are not resident.
 */
import { Block, type BlockHome } from "./block.ts";

const KIB = 1024;
const PAGE_BYTES = 64 * KIB;

/** Bytes of a block that a link reads into. */
export const READ_BLOCK_BYTES: number = 512 * KIB;

/** Bytes of the block that a busy link is read into, where one serves all. */
export const SHARED_READ_BYTES: number = 2 * 1024 * KIB;

/** Bytes of the scratch block. */
const SCRATCH_BYTES = 256 * KIB;

/** How many blocks there are of each size; who finds none takes memory of its own. */
const BLOCKS: readonly (readonly [bytes: number, count: number])[] = [
  [4 * KIB, 256],
  [32 * KIB, 32],
  [128 * KIB, 4],
  [192 * KIB, 16],
  [READ_BLOCK_BYTES, 8],
  [SCRATCH_BYTES, 1],
  [SHARED_READ_BYTES, 1],
  [1024 * KIB, 12],
];

/** A memory of WebAssembly; those who instantiate a module with it know it as that. */
export interface ArenaMemory {
  /** All of it. */
  readonly buffer: ArrayBufferLike;
}

/** Blocks of one memory, by their sizes. */
export class Arena implements BlockHome {
  /** All of it; null where the runtime has no WebAssembly. */
  readonly memory: ArenaMemory | null;
  /** All of it as bytes. */
  readonly buf: Uint8Array;
  /** Where bytes from elsewhere are brought to be worked on; null while somebody does. */
  scratch: Block | null;
  /** Blocks that somebody holds, the scratch block among them. */
  taken = 0;
  readonly #free = new Map<number, Block[]>();

  constructor() {
    // The kernel reads and writes a few bytes past a block: a page in front and one behind are nobody's.
    let bytes = 2 * PAGE_BYTES;
    for (const [size, count] of BLOCKS) bytes += size * count;
    const pages = bytes / PAGE_BYTES;
    this.memory = typeof WebAssembly === "undefined"
      ? null
      : new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.buf = new Uint8Array(this.memory?.buffer ?? new ArrayBuffer(bytes));
    let at = PAGE_BYTES;
    for (const [size, count] of BLOCKS) {
      const blocks: Block[] = [];
      // The first is given out first, so that those in use lie together.
      for (let i = count - 1; i >= 0; i--) {
        blocks.push(new Block(this.buf, at + i * size, at + (i + 1) * size, this));
      }
      this.#free.set(size, blocks);
      at += size * count;
    }
    this.scratch = this.take(SCRATCH_BYTES);
  }

  /** Is a block of exactly this size free? */
  has(bytes: number): boolean {
    return this.#free.get(bytes)!.length > 0;
  }

  /** A block of exactly this size, held once; null when all of them are in use. */
  take(bytes: number): Block | null {
    const block = this.#free.get(bytes)?.pop();
    if (block === undefined) return null;
    block.holders = 1;
    this.taken++;
    return block;
  }

  /** A block is free again. */
  takeBack(block: Block): void {
    this.taken--;
    this.#free.get(block.size)!.push(block);
  }

  /**
   * A piece of shared memory cannot be given away.
   *
   * @throws {Error} Always.
   */
  lose(): void {
    throw new Error("a block of the arena cannot be disowned: its memory is shared");
  }

  /** Every free block of at least so many bytes. */
  *freeBlocks(leastBytes: number): Iterable<Block> {
    for (const [bytes, blocks] of this.#free) if (bytes >= leastBytes) yield* blocks;
  }
}
