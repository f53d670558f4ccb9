/**
 * What the sockets of one program share: links, clock, randomness, log, egress buffers, and the list of those that
 * have something to flush. Everything from outside is a parameter, so that a whole network can run under a seed.
 */
import type { Arena, Transport } from "../runtime/types.ts";
import type { Logger } from "../log.ts";

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

/** A piece of memory that egress fills. */
export interface Block {
  readonly buf: Uint8Array;
  /** It is `buf[start, end)`. */
  readonly start: number;
  readonly end: number;
  /** Its size class. */
  readonly size: number;
}

/** Something with bytes to send. */
export interface Flushable {
  flush(): void;
}

/** Sizes of egress blocks: a peer starts with the smallest and gets larger ones while it fills them. */
export const BLOCK_BYTES = [4 * 1024, 32 * 1024, 512 * 1024] as const;
/** Free blocks kept of each size; where the driver has an arena, so many lie in it. */
const BLOCKS_KEPT = [128, 16, 4] as const;

export class Context {
  readonly environment: Environment;
  readonly clock: Clock;
  readonly log: Logger;
  readonly copy: Transport["copy"];
  #depth = 0;
  #scheduled = false;
  #flushing = false;
  #dirty: Flushable[] = [];
  readonly #free: Block[][] = BLOCK_BYTES.map(() => []);

  constructor(environment: Environment) {
    this.environment = environment;
    this.clock = environment.clock;
    this.log = environment.log;
    this.copy = environment.transport.copy;
    this.#carve(environment.transport.arena);
  }

  /** Cuts the arena's free part into blocks, the largest first. */
  #carve(arena: Arena | undefined): void {
    if (arena === undefined) return;
    let start = arena.egressStart;
    for (let size = BLOCK_BYTES.length - 1; size >= 0; size--) {
      for (let i = 0; i < BLOCKS_KEPT[size] && start + BLOCK_BYTES[size] <= arena.buf.length; i++) {
        this.#free[size].push({ buf: arena.buf, start, end: start + BLOCK_BYTES[size], size });
        start += BLOCK_BYTES[size];
      }
    }
  }

  /** A chunk is being taken in: what it causes to be sent is flushed once, by {@link leave}. */
  enter(): void {
    this.#depth++;
  }

  leave(): void {
    if (--this.#depth === 0) this.flush();
  }

  /** Remembers who has something to send; it is flushed at the chunk's end, outside of one in this turn. */
  mark(flushable: Flushable): void {
    this.#dirty.push(flushable);
    if (this.#depth === 0 && !this.#scheduled) {
      this.#scheduled = true;
      queueMicrotask(this.#flushScheduled);
    }
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
    try {
      for (let i = 0; i < dirty.length; i++) dirty[i].flush();
    } finally {
      dirty.length = 0;
      this.#flushing = false;
    }
  }

  /** An egress block of this size class. */
  takeBlock(size: number): Block {
    const bytes = BLOCK_BYTES[size];
    return this.#free[size].pop() ?? { buf: new Uint8Array(bytes), start: 0, end: bytes, size };
  }

  returnBlock(block: Block): void {
    const free = this.#free[block.size];
    if (free.length < BLOCKS_KEPT[block.size]) free.push(block);
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
