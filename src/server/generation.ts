/** The handlers and routes of one config. A reload makes another; what both have is the same object in both. */
import type { ServerConfig } from "../config/reader.ts";
import type { Host, Hosts } from "./host.ts";
import { RouteTable } from "./routes.ts";

export interface Generation {
  readonly config: ServerConfig;
  readonly routes: RouteTable;
  /** Handlers that messages can reach, by routes or by other such handlers, and those that run alone. */
  readonly hosts: Hosts;
}

/** The handlers of a config that messages can reach, and those that run even so. */
export function neededHandlers(config: ServerConfig): Set<string> {
  const names = new RouteTable(config.routes).handlers;
  for (const { name, definition } of config.handlers.values()) if (definition.runsAlone) names.add(name);
  // A set that grows is walked to its end.
  for (const name of names) for (const next of config.handlers.get(name)?.edges ?? []) names.add(next);
  return names;
}

/**
 * Hosts in the order in which they should end: those that pass messages on come before those that they name, so that what
 * they still hold finds its way. Those of one list may end at once.
 */
export function endingOrder(hosts: readonly Host[]): Host[][] {
  const byName = new Map(hosts.map((host) => [host.name, host]));
  const depths = new Map<Host, number>();
  // The config has no circles.
  const depthOf = (host: Host): number => {
    const known = depths.get(host);
    if (known !== undefined) return known;
    const next = host.config.edges.flatMap((name) => byName.get(name) ?? []);
    const depth = 1 + Math.max(-1, ...next.map(depthOf));
    depths.set(host, depth);
    return depth;
  };
  for (const host of hosts) depthOf(host);
  const levels = [...new Set(depths.values())].sort((a, b) => b - a);
  return levels.map((level) => hosts.filter((host) => depths.get(host) === level));
}

/** Ends handlers within linger, those that pass messages on first. One that asks for longer by its `stopMs` gets it. */
export async function endAll(
  hosts: readonly Host[],
  lingerMs: number,
  now: () => number,
): Promise<void> {
  const until = now() + lingerMs;
  for (const level of endingOrder(hosts)) {
    const rest = Math.max(0, until - now());
    await Promise.all(level.map((host) => host.end(rest)));
  }
}
