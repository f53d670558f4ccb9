/**
 * What the sockets of one program share: links, clock, randomness, log, egress buffers, and the list of those that
 * have something to flush. Everything from outside is a parameter, so that a whole network can run under a seed.
 */
import type { Arena, Piece } from "../runtime/arena.ts";
import type { Transport } from "../runtime/types.ts";
import type { Vectors } from "../runtime/vectors.ts";
import type { Logger } from "../log.ts";
import { POOL } from "../zmtp/pool.ts";
import { Relay, type RelayLimits, TABLE_BYTES } from "../zmtp/relay.ts";

/** Time, replaceable in tests. */
export interface Clock {
  /** Milliseconds; only differences count. */
  now(): number;
  /** Calls `f` after `ms`; the returned function cancels it. */
  after(ms: number, f: () => void): () => void;
}

/** What a context is made of. */
export interface Environment {
  transport: Transport;
  clock: Clock;
  /** In [0, 1), as `Math.random`. */
  random: () => number;
  /** All IP addresses of a host name, asked anew at each call. */
  resolve: (host: string) => Promise<string[]>;
  log: Logger;
}

/** Something with bytes to send. */
export interface Flushable {
  flush(): void;
}

/** Something that holds parts of a chunk, without a copy, until the chunk's end. */
export interface Borrower {
  /** The chunk ends: what is still needed of it is copied. */
  settle(): void;
}

/** A relay, and the memory of its table. */
export interface TakenRelay {
  readonly relay: Relay;
  readonly table: Piece;
}

/** Sizes of egress blocks: a peer starts with the smallest and gets larger ones while it fills them. */
export const BLOCK_BYTES = [4 * 1024, 32 * 1024, 192 * 1024, 1024 * 1024] as const;
/** Free blocks kept of each size, of those that are not the arena's. */
const BLOCKS_KEPT = [128, 16, 8, 4] as const;

export class Context {
  readonly environment: Environment;
  readonly clock: Clock;
  readonly log: Logger;
  readonly copy: Transport["copy"];
  #depth = 0;
  /** What is being taken in, as far as it stays as it is until the end. */
  #chunk: Uint8Array | null = null;
  #chunkStart = 0;
  #chunkEnd = 0;
  #borrowers: Borrower[] = [];
  #scheduled = false;
  #flushing = false;
  #dirty: Flushable[] = [];
  readonly arena: Arena | null;
  /** What {@link Link.writev} writes; null where no link has that. */
  readonly vectors: Vectors | null;
  readonly #free: Piece[][] = BLOCK_BYTES.map(() => []);

  constructor(environment: Environment) {
    this.environment = environment;
    this.clock = environment.clock;
    this.log = environment.log;
    this.copy = environment.transport.copy;
    this.arena = environment.transport.arena ?? null;
    this.vectors = environment.transport.vectors ?? null;
  }

  /**
   * A chunk is being taken in: what it causes to be sent is flushed once, by {@link leave}. Until then `chunk[start, end)`
   * stays as it is.
   */
  enter(chunk: Uint8Array | null = null, start = 0, end = 0): void {
    if (this.#depth++ > 0) return;
    this.#chunk = chunk;
    this.#chunkStart = start;
    this.#chunkEnd = end;
  }

  leave(): void {
    if (--this.#depth > 0) return;
    try {
      this.flush();
    } finally {
      // Whatever failed: nothing of a chunk is kept beyond its end.
      this.#chunk = null;
      const borrowers = this.#borrowers;
      for (let i = 0; i < borrowers.length; i++) borrowers[i].settle();
      borrowers.length = 0;
    }
  }

  /** Does `buf[start, end)` lie in the chunk that is being taken in? Who borrows it says so by {@link borrow}. */
  lends(buf: Uint8Array, start: number, end: number): boolean {
    return buf === this.#chunk && start >= this.#chunkStart && end <= this.#chunkEnd;
  }

  borrow(borrower: Borrower): void {
    this.#borrowers.push(borrower);
  }

  /** Remembers who has something to send; it is flushed at the chunk's end, outside of one in this turn. */
  mark(flushable: Flushable): void {
    this.#dirty.push(flushable);
    if (this.#depth === 0) this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(this.#flushScheduled);
  }

  readonly #flushScheduled = (): void => {
    this.#scheduled = false;
    this.flush();
  };

  flush(): void {
    // A flush may mark others, or come back here: they join the list that is being walked.
    if (this.#flushing) return;
    this.#flushing = true;
    const dirty = this.#dirty;
    let i = 0;
    try {
      for (; i < dirty.length; i++) dirty[i].flush();
      dirty.length = 0;
    } finally {
      this.#flushing = false;
      // One has failed: the others still have their turn.
      if (dirty.length > 0) {
        dirty.splice(0, i + 1);
        this.#schedule();
      }
    }
  }

  /** An egress block of this size class. */
  takeBlock(size: number): Piece {
    const bytes = BLOCK_BYTES[size];
    return this.arena?.take(bytes) ?? this.#free[size].pop() ??
      { buf: new Uint8Array(bytes), start: 0, end: bytes };
  }

  /** Gives a block back, once all that share it have. */
  returnBlock(block: Piece): void {
    if (block.shares) {
      block.shares--;
      return;
    }
    if (this.arena !== null && block.buf === this.arena.buf) {
      this.arena.give(block);
      return;
    }
    const size = BLOCK_BYTES.findIndex((bytes) => bytes === block.buf.length);
    if (this.#free[size].length < BLOCKS_KEPT[size]) this.#free[size].push(block);
  }

  /** Gives memory that nobody uses now back to the system. Not while a chunk is being taken in. */
  trim(): void {
    POOL.trim();
    this.environment.transport.trim?.();
  }

  /** The relay kernel with a table of its own; null where it does not run, or no table is left. */
  takeRelay(limits: RelayLimits): TakenRelay | null {
    const arena = this.arena;
    const table = arena?.take(TABLE_BYTES);
    if (!arena?.memory || !table) return null;
    const relay = Relay.make(arena.memory, arena.buf, table.start, limits, this.vectors?.run ?? null);
    if (relay !== null) return { relay, table };
    arena.give(table);
    return null;
  }

  returnRelay({ table }: TakenRelay): void {
    this.arena?.give(table);
  }
}

/** The clock of the machine. */
export const SYSTEM_CLOCK: Clock = {
  now: () => performance.now(),
  after(ms, f) {
    const timer = setTimeout(f, ms);
    return () => clearTimeout(timer);
  },
};
