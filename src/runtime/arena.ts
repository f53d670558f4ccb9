/**
 * Memory that reads, egress and the relay kernel share: one WebAssembly memory, so that the kernel reaches all of it, cut
 * into pieces of a few sizes. Pages that nobody has used yet are not resident.
 */

/** A piece of memory: `buf[start, end)`. */
export interface Piece {
  readonly buf: Uint8Array;
  readonly start: number;
  readonly end: number;
  /** Who uses it besides the one that took it. */
  shares?: number;
}

const KIB = 1024;
const PAGE_BYTES = 64 * KIB;

/** Bytes of a piece that a link reads into. */
export const READ_PIECE_BYTES: number = 512 * KIB;

/** Bytes of the piece that a busy link is read into, where one serves all. */
export const PULL_PIECE_BYTES: number = 2 * 1024 * KIB;

/** Bytes of the stage. */
const STAGE_BYTES = 256 * KIB;

/** How many pieces there are of each size; who finds none takes memory of its own. */
const PIECES: readonly (readonly [bytes: number, count: number])[] = [
  [4 * KIB, 256],
  [32 * KIB, 32],
  [128 * KIB, 4],
  [192 * KIB, 16],
  [READ_PIECE_BYTES, 8],
  [STAGE_BYTES, 1],
  [PULL_PIECE_BYTES, 1],
  [1024 * KIB, 12],
];

export class Arena {
  /** All of it; null where the runtime has no WebAssembly. */
  readonly memory: WebAssembly.Memory | null;
  readonly buf: Uint8Array;
  /** Where bytes from elsewhere are brought to be worked on; null while somebody does. */
  stage: Piece | null;
  readonly #free = new Map<number, Piece[]>();

  constructor() {
    // The kernel reads and writes a few bytes past a piece: a page in front and one behind are nobody's.
    let bytes = 2 * PAGE_BYTES;
    for (const [size, count] of PIECES) bytes += size * count;
    const pages = bytes / PAGE_BYTES;
    this.memory = typeof WebAssembly === "undefined"
      ? null
      : new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.buf = new Uint8Array(this.memory?.buffer ?? new ArrayBuffer(bytes));
    let at = PAGE_BYTES;
    for (const [size, count] of PIECES) {
      const pieces: Piece[] = [];
      // The first is given out first, so that those in use lie together.
      for (let i = count - 1; i >= 0; i--) {
        pieces.push({ buf: this.buf, start: at + i * size, end: at + (i + 1) * size });
      }
      this.#free.set(size, pieces);
      at += size * count;
    }
    this.stage = this.take(STAGE_BYTES);
  }

  /** Is a piece of exactly this size free? */
  has(bytes: number): boolean {
    return this.#free.get(bytes)!.length > 0;
  }

  /** A piece of exactly this size; null when all of them are in use. */
  take(bytes: number): Piece | null {
    return this.#free.get(bytes)?.pop() ?? null;
  }

  /** Every free piece of at least so many bytes. */
  *freePieces(leastBytes: number): Iterable<Piece> {
    for (const [bytes, pieces] of this.#free) if (bytes >= leastBytes) yield* pieces;
  }

  /** Gives a piece back; those of other memory are ignored. */
  give(piece: Piece): void {
    if (piece.buf === this.buf) this.#free.get(piece.end - piece.start)!.push(piece);
  }
}
