/** What a server shows of itself to those that tell about it: heartbeat, infofile, metrics, health. */
import type { Handler } from "../handler.ts";
import type { DealerSocket, Drops } from "../socket/types.ts";

/** A connection that a handler made. */
export interface Upstream {
  /** `h:name` */
  readonly handler: string;
  /** The handler itself; null until it is made. */
  readonly owner: () => Handler | null;
  readonly endpoint: string;
  readonly dealer: DealerSocket;
  /** The latest one; null where nothing was pinged, or nothing answered yet. */
  roundTripSeconds: number | null;
}

export interface ServerState {
  /** Where it listens; null when it does not. */
  readonly endpoint: string | null;
  readonly stopping: boolean;
  /** The engine, in one line. */
  readonly engine: string;
  /** Clients whose handshake is done. */
  readonly peers: number;
  /** What the listening socket dropped. */
  readonly drops: Drops | null;
  readonly upstreams: readonly Upstream[];
  /** Messages dropped by upstreams that a reload has ended. */
  readonly pastDrops: number;
}

/** Messages dropped by all sockets since the start. */
export function dropsOf(state: ServerState): number {
  return state.upstreams.reduce(
    (sum, { dealer }) => sum + dealer.drops.total,
    state.pastDrops + (state.drops?.total ?? 0),
  );
}
