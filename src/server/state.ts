/** What a server shows of itself to those that tell about it: heartbeat, infofile, metrics, health. */
import type { Expiry } from "../contracts/seal.ts";
import { EXPIRY_WARNING_MS } from "../limits.ts";
import { dateText } from "../text.ts";
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
type PastDrops = ReadonlyMap<string, ReadonlyMap<DropReason, number>>;

/** What was lost so far. */
export interface Losses {
  /** What the listening socket dropped. */
  readonly drops: Drops | null;
  readonly upstreams: readonly UpstreamState[];
  /** Messages dropped by upstreams that a reload has ended. */
  readonly pastDrops: PastDrops;
  /** By handler: messages of upstreams whose arrival is unknown, those of ended ones too. */
  readonly unconfirmed: ReadonlyMap<string, number>;
}

/** A moment of a server's life. */
export interface ServerState extends Losses {
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
  /** Why the server is not ready; empty when it is. */
  readonly unready: readonly string[];
  /** Certificates and CRLs that are used, and until when they hold. */
  readonly expiries: readonly Expiry[];
}

/** What is to be said of certificates and CRLs: those that have expired, and those that soon will. */
export function expiryTexts(
  expiries: readonly Expiry[],
  nowMs: number,
): { readonly expired: readonly string[]; readonly soon: readonly string[] } {
  const texts = (of: readonly Expiry[], verb: string) =>
    of.map(({ name, until }) => `${name} ${verb} on ${dateText(until)}`);
  return {
    expired: texts(expiries.filter(({ until }) => until < nowMs), "has expired"),
    soon: texts(
      expiries.filter(({ until }) => until >= nowMs && until - nowMs < EXPIRY_WARNING_MS),
      "expires",
    ),
  };
}

/** The connections of these handlers. */
export function upstreamsOf(hosts: Iterable<Host>): UpstreamState[] {
  return [...hosts].flatMap((host) => host.upstreams.map((upstream) => ({ handler: host.name, upstream })));
}

/** Messages dropped since the start, by reason: of the listening socket (`router`), and of each handler's. */
export function dropsBySocket(
  { drops, upstreams, pastDrops }: Losses,
): Map<string, Map<DropReason, number>> {
  const sums = new Map<string, Map<DropReason, number>>();
  const add = (socket: string, byReason: ReadonlyMap<DropReason, number>) => {
    const sum = sums.get(socket) ?? new Map<DropReason, number>();
    sums.set(socket, sum);
    for (const [reason, count] of byReason) sum.set(reason, (sum.get(reason) ?? 0) + count);
  };
  if (drops !== null) add("router", drops.byReason);
  for (const { handler, upstream } of upstreams) add(handler, upstream.dealer.drops.byReason);
  for (const [handler, byReason] of pastDrops) add(handler, byReason);
  return sums;
}

/** Messages dropped by all sockets since the start. */
export function dropsOf(losses: Losses): number {
  let total = 0;
  for (const byReason of dropsBySocket(losses).values()) {
    for (const count of byReason.values()) total += count;
  }
  return total;
}

/** What was lost, as the statistics name it: `drops.REASON`, all sockets together, and `unconfirmed`. */
export function lossesOf(losses: Losses): Map<string, number> {
  const sums = new Map<string, number>();
  const add = (name: string, count: number) => {
    if (count > 0) sums.set(name, (sums.get(name) ?? 0) + count);
  };
  for (const byReason of dropsBySocket(losses).values()) {
    for (const [reason, count] of byReason) add(`drops.${reason}`, count);
  }
  for (const count of losses.unconfirmed.values()) add("unconfirmed", count);
  return sums;
}
