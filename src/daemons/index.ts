/** The built-in daemons, a line each. */
import type { DaemonDefinition } from "../contracts/daemon.ts";
import type { SectionRead } from "../contracts/handler.ts";
import { infoscript } from "./infoscript.ts";

/** A definition, whatever the types of its options. */
// deno-lint-ignore no-explicit-any -- each definition has options of its own types; the reader checks the values
export type AnyDaemonDefinition = DaemonDefinition<any>;

export const DAEMONS: readonly AnyDaemonDefinition[] = [infoscript];

/** The daemon that `module = cc.daemon.NAME` names; undefined: there is none. */
export function daemonOf(module: string): AnyDaemonDefinition | undefined {
  return DAEMONS.find(({ name }) => module === `cc.daemon.${name}`);
}

/** The daemon of a section with the option `module`: a built-in one, or what its file exports; undefined: it is none. */
export function daemonOfSection(
  { values, modulePath, module }: Pick<SectionRead, "values" | "modulePath" | "module">,
): AnyDaemonDefinition | undefined {
  if (modulePath === null) return typeof values.module === "string" ? daemonOf(values.module) : undefined;
  const definition = module as Partial<AnyDaemonDefinition> | null | undefined;
  if (typeof definition?.run !== "function") return undefined;
  return {
    ...definition,
    name: definition.name ?? modulePath.replace(/^.*\/|\.[^.]*$/g, ""),
    summary: definition.summary ?? "",
    options: definition.options ?? {},
    run: definition.run,
  };
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
