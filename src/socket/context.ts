/**
 * What the sockets of one program share: links, clock, randomness, log, egress buffers, and the list of those that
 * have something to flush. Everything from outside is a parameter, so that a whole network can run under a seed.
 */
import type { Transport } from "../runtime/types.ts";
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

/** Something with bytes to send. */
export interface Flushable {
  flush(): void;
}

/** Sizes of egress blocks: a peer starts with the smallest and gets larger ones while it fills them. */
export const BLOCK_BYTES = [4 * 1024, 32 * 1024, 256 * 1024] as const;
/** Free blocks kept of each size. */
const BLOCKS_KEPT = [256, 32, 8] as const;

export class Context {
  readonly environment: Environment;
  readonly clock: Clock;
  readonly log: Logger;
  #depth = 0;
  #scheduled = false;
  #dirty: Flushable[] = [];
  readonly #free: Uint8Array[][] = BLOCK_BYTES.map(() => []);

  constructor(environment: Environment) {
    this.environment = environment;
    this.clock = environment.clock;
    this.log = environment.log;
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
    // A flush may mark others (a source released, say): they join the same list.
    const dirty = this.#dirty;
    for (let i = 0; i < dirty.length; i++) dirty[i].flush();
    dirty.length = 0;
  }

  /** An egress block of this size class. */
  takeBlock(size: number): Uint8Array {
    return this.#free[size].pop() ?? new Uint8Array(BLOCK_BYTES[size]);
  }

  returnBlock(size: number, block: Uint8Array): void {
    const free = this.#free[size];
    if (free.length < BLOCKS_KEPT[size]) free.push(block);
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
