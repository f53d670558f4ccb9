/** The built-in daemons, a line each. */
import type { DaemonDefinition } from "../contracts/daemon.ts";
import { infoscript } from "./infoscript.ts";

/** A definition, whatever the types of its options. */
// deno-lint-ignore no-explicit-any -- each definition has options of its own types; the reader checks the values
export type AnyDaemonDefinition = DaemonDefinition<any>;

export const DAEMONS: readonly AnyDaemonDefinition[] = [infoscript];

/** The daemon that `module = cc.daemon.NAME` names; undefined: there is none. */
export function daemonOf(module: string): AnyDaemonDefinition | undefined {
  return DAEMONS.find(({ name }) => module === `cc.daemon.${name}`);
}

/** Daemons of the original that are not part of this version. */
export const UNBUILT_DAEMONS: readonly string[] = [
  "infosender",
  "logtail",
  "pg_logforward",
  "skylog",
  "taskrunner",
  "udp_listener",
].map((name) => `cc.daemon.${name}`);
