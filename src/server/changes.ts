/** What another config changes: worked out before anything is touched, and told in words. */
import type { HandlerConfig, ServerConfig } from "../config/reader.ts";
import type { ServerOptions } from "../config/server_options.ts";

/** Options of `[ccserver]` that a running server takes over; the others need a restart. */
const RELOADABLE: ReadonlySet<string> = new Set([
  "cc-role",
  "cms-decrypt",
  "cms-encrypt",
  "cms-hostname",
  "cms-keystore",
  "cms-profile",
  "cms-sign",
  "cms-threads",
  "cms-time-window",
  "cms-verify-ca",
  "heartbeat",
  "log-level",
  "stats-period",
  "zmq_linger",
]);

/** Names by what becomes of them. */
export interface Difference {
  /** In the new config only. */
  readonly added: readonly string[];
  /** In the old one only. */
  readonly removed: readonly string[];
  /** In both, but not alike. */
  readonly changed: readonly string[];
}

/** What a reload does. */
export interface Changes {
  /** `h:name` */
  readonly handlers: Difference;
  /** Message types. */
  readonly routes: Difference;
  /** Options that are taken over. */
  readonly options: readonly string[];
  /** Options that stay as they are until the server is started anew. */
  readonly restart: readonly string[];
}

/** Works out what `after` changes. */
export function compareConfigs(before: ServerConfig, after: ServerConfig): Changes {
  const routesOf = ({ routes }: ServerConfig) =>
    new Map(routes.map(({ type, handlers }) => [type, handlers.join(", ")]));
  const differing = Object.keys(after.options).filter((name) => {
    const key = name as keyof ServerOptions;
    return JSON.stringify(before.options[key]) !== JSON.stringify(after.options[key]);
  });
  const rules = ({ allow }: ServerConfig) =>
    JSON.stringify(allow?.map(({ signer, types }) => [signer, types]));
  const allow = rules(before) === rules(after) ? [] : ["[cms-allow]"];
  return {
    handlers: difference(before.handlers, after.handlers, sameHandler),
    routes: difference(routesOf(before), routesOf(after), (a, b) => a === b),
    options: [...differing.filter((name) => RELOADABLE.has(name)), ...allow],
    restart: differing.filter((name) => !RELOADABLE.has(name)),
  };
}

/** The config that a running server goes on with: what needs a restart stays as it is. */
export function withoutRestarts(
  before: ServerConfig,
  next: ServerConfig,
  { restart }: Changes,
): ServerConfig {
  const kept = Object.fromEntries(
    restart.map((name) => [name, before.options[name as keyof ServerOptions]]),
  );
  return { ...next, options: { ...next.options, ...kept } };
}

/** The changes in words, a line each; none when nothing changes. */
export function describeChanges(changes: Changes): string[] {
  const line = (what: string, { added, removed, changed }: Difference) =>
    [["added", added] as const, ["removed", removed] as const, ["changed", changed] as const]
      .filter(([, names]) => names.length > 0)
      .map(([verb, names]) => `${what} ${verb}: ${names.join(", ")}`);
  return [
    ...line("handlers", changes.handlers),
    ...line("routes", changes.routes),
    ...(changes.options.length > 0 ? [`options changed: ${changes.options.join(", ")}`] : []),
  ];
}

/** Do two sections ask for the same handler, with the same options and the same sections that it reads? */
export function sameHandler(a: HandlerConfig, b: HandlerConfig): boolean {
  return a.definition === b.definition && whatItReads(a) === whatItReads(b);
}

function whatItReads({ options, sections, sectionsRead }: HandlerConfig): string {
  const read = [...sectionsRead.values()].map((
    { name, values, set, text, modulePath },
  ) => [name, values, [...set].sort(), text, modulePath]);
  return JSON.stringify([options, [...sections], read]);
}

function difference<T>(
  before: ReadonlyMap<string, T>,
  after: ReadonlyMap<string, T>,
  same: (a: T, b: T) => boolean,
): Difference {
  const names = [...after.keys()];
  return {
    added: names.filter((name) => !before.has(name)),
    removed: [...before.keys()].filter((name) => !after.has(name)),
    changed: names.filter((name) => before.has(name) && !same(before.get(name)!, after.get(name)!)),
  };
}
