/** What a server shows of itself to those that tell about it: heartbeat, infofile, metrics, health. */
import type { DropReason, Drops } from "../socket/types.ts";
import type { Host } from "./host.ts";
import type { HandlerUpstream } from "./upstream.ts";

/** A connection that a handler made. */
export interface UpstreamState {
  /** `h:name` */
  readonly handler: string;
  readonly upstream: HandlerUpstream;
}

/** Messages dropped by upstreams that have ended, by handler and reason. */
export type PastDrops = ReadonlyMap<string, ReadonlyMap<DropReason, number>>;

/** A moment of a server's life. */
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
  readonly upstreams: readonly UpstreamState[];
  /** Messages dropped by upstreams that a reload has ended. */
  readonly pastDrops: PastDrops;
  /** Why the server is not ready; empty when it is. */
  readonly unready: readonly string[];
}

/** The connections of these handlers. */
export function upstreamsOf(hosts: Iterable<Host>): UpstreamState[] {
  return [...hosts].flatMap((host) => host.upstreams.map((upstream) => ({ handler: host.name, upstream })));
}

/** Messages dropped by all sockets since the start. */
export function dropsOf(state: ServerState): number {
  return state.upstreams.reduce(
    (sum, { upstream }) => sum + upstream.dealer.drops.total,
    totalOf(state.pastDrops) + (state.drops?.total ?? 0),
  );
}

function totalOf(drops: PastDrops): number {
  let total = 0;
  for (const byReason of drops.values()) for (const count of byReason.values()) total += count;
  return total;
}
