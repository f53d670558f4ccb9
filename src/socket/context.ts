/** What the sockets of one program share: the world around them, the log, memory, and who has something to flush. */
import type { Clock, Environment } from "../contracts/environment.ts";
import type { Logger } from "../log.ts";
import type { Arena } from "../memory/arena.ts";
import { Blocks } from "../memory/blocks.ts";
import { POOL } from "../memory/pool.ts";
import type { Vectors } from "../memory/vectors.ts";
import { type RelayLimits, RelayTable } from "../relay/table.ts";
import { Flusher } from "./flusher.ts";
import { Gather } from "./gather.ts";
import { Queues } from "./queues.ts";
import { TurnSlices } from "./slices.ts";

export class SocketContext {
  readonly environment: Environment;
  readonly clock: Clock;
  readonly log: Logger;
  readonly flusher: Flusher;
  readonly arena: Arena | null;
  /** What `Link.writev` writes; null where no link has that. */
  readonly vectors: Vectors | null;
  /** Lists for it what waits in a queue. */
  readonly gather: Gather | null;
  /** For what waits to be written. */
  readonly blocks: Blocks;
  /** Chunks that take long. */
  readonly slices: TurnSlices;
  /** What waits for upstreams. */
  readonly upstreams: Queues = new Queues();
  /** Copies `from[start, end)` to `to` at `at`, in the way that is fastest here. */
  readonly copy: (from: Uint8Array, start: number, end: number, to: Uint8Array, at: number) => void;

  constructor(environment: Environment, log: Logger) {
    const { clock, links } = environment;
    this.environment = environment;
    this.clock = clock;
    this.log = log;
    this.flusher = new Flusher(clock.soon);
    this.slices = new TurnSlices(clock);
    this.arena = links.arena ?? null;
    this.vectors = links.vectors ?? null;
    this.gather = this.vectors === null ? null : new Gather(this.vectors);
    this.blocks = new Blocks(this.arena);
    this.copy = links.copy;
  }

  /** A table of types that are relayed; null where the kernel does not run, or the arena has no room for another. */
  relayTable(limits: RelayLimits): RelayTable | null {
    return this.arena === null ? null : RelayTable.make(this.arena, limits, this.vectors?.run ?? null);
  }

  /** Gives memory that nobody uses now back to the system. Not while a chunk is being taken in. */
  trim(): void {
    POOL.trim();
    this.environment.links.trim?.();
  }
}
