/** How a daemon is written: as a definition whose types follow from its table of options. */
import type { DaemonDefinition } from "../contracts/daemon.ts";
import type { Options } from "../contracts/schema.ts";

/** Gives a definition back as it is; TypeScript then knows the types of its options. */
export function defineDaemon<O extends Options>(definition: DaemonDefinition<O>): DaemonDefinition<O> {
  return definition;
}
