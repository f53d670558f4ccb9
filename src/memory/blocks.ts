/** Blocks for what waits to be written, in a few sizes: the arena's, as long as it has some, else memory of our own. */
import type { Arena } from "./arena.ts";
import { Block, type BlockHome } from "./block.ts";

/** Sizes of egress blocks: a peer starts with the smallest and gets larger ones while it fills them. */
export const BLOCK_BYTES = [4 * 1024, 32 * 1024, 192 * 1024, 1024 * 1024] as const;
/** Free blocks kept of each size, of those that are not the arena's. */
const KEPT = [128, 16, 8, 4] as const;

export class Blocks implements BlockHome {
  readonly #arena: Arena | null;
  readonly #free: Block[][] = BLOCK_BYTES.map(() => []);
  /** Blocks of our own that somebody holds. */
  taken = 0;

  constructor(arena: Arena | null) {
    this.#arena = arena;
  }

  /** A block of this size class, held once. */
  take(sizeClass: number): Block {
    const bytes = BLOCK_BYTES[sizeClass];
    const shared = this.#arena?.take(bytes) ?? null;
    if (shared !== null) return shared;
    const block = this.#free[sizeClass].pop() ?? new Block(new Uint8Array(bytes), 0, bytes, this);
    block.holders = 1;
    this.taken++;
    return block;
  }

  takeBack(block: Block): void {
    this.taken--;
    const sizeClass = BLOCK_BYTES.findIndex((bytes) => bytes === block.size);
    if (this.#free[sizeClass].length < KEPT[sizeClass]) this.#free[sizeClass].push(block);
  }

  lose(): void {
    this.taken--;
  }
}
