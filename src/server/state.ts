/** What a server shows of itself to those that tell about it: heartbeat, infofile, metrics, health. */
import type { ClosedReason, DropReason, Drops } from "../socket/types.ts";
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
  /** As many as there may be; null: there is no bound, or no socket yet. */
  readonly peersMax: number | null;
  /** Clients that were closed for a reason of ours. */
  readonly closed: ReadonlyMap<ClosedReason, number>;
  /** What the listening socket dropped. */
  readonly drops: Drops | null;
  readonly upstreams: readonly UpstreamState[];
  /** Messages dropped by upstreams that a reload has ended. */
  readonly pastDrops: PastDrops;
  /** By handler: messages of upstreams whose arrival is unknown, those of ended ones too. */
  readonly unconfirmed: ReadonlyMap<string, number>;
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

/** What was lost, as the statistics name it: `drops.REASON`, all sockets together, and `unconfirmed`. */
export function lossesOf({ drops, upstreams, pastDrops, unconfirmed }: ServerState): Map<string, number> {
  const losses = new Map<string, number>();
  const add = (name: string, count: number) => {
    if (count > 0) losses.set(name, (losses.get(name) ?? 0) + count);
  };
  for (
    const byReason of [
      ...(drops === null ? [] : [drops.byReason]),
      ...upstreams.map(({ upstream }) => upstream.dealer.drops.byReason),
      ...pastDrops.values(),
    ]
  ) {
    for (const [reason, count] of byReason) add(`drops.${reason}`, count);
  }
  for (const count of unconfirmed.values()) add("unconfirmed", count);
  return losses;
}

function totalOf(drops: PastDrops): number {
  let total = 0;
  for (const byReason of drops.values()) for (const count of byReason.values()) total += count;
  return total;
}
