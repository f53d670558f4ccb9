/** `ccserver --check` and `--routes`: what a config would do, without doing it. */
import { type ServerConfig } from "../config/config.ts";
import { isType } from "../message/type.ts";
import { reason } from "../log.ts";
import { RouteTable } from "../server/routes.ts";
import { loadHandlerModule } from "../server/server.ts";
import { EXIT, Exit } from "./exit.ts";

/** Checks handlers of one's own too: they must load. */
export async function check(config: ServerConfig): Promise<number> {
  const findings: string[] = [];
  for (const handler of config.handlers.values()) {
    if (handler.kind !== "module") continue;
    await loadHandlerModule(handler).catch((error) => {
      findings.push(`${config.file}:${handler.line}: [${handler.name}]: ${reason(error)}`);
    });
  }
  if (findings.length > 0) throw new Exit(EXIT.config, findings.join("\n"));
  console.log(`${config.file}: ok, ${config.routes.length} routes, ${config.handlers.size} handlers`);
  return EXIT.ok;
}

/** Prints the handlers that a type would reach, in order. */
export function routes(type: string, config: ServerConfig): number {
  if (!isType(type)) {
    throw new Exit(
      EXIT.usage,
      `ccserver: "${type}" is not a message type, expected dotted names such as pub.infofile`,
    );
  }
  const matches = new RouteTable(config.routes).match(type);
  if (matches.length === 0) {
    console.log(`${type} reaches no handler: it would be dropped`);
    return EXIT.failed;
  }
  for (const { route, handler } of matches) {
    const of = config.handlers.get(handler);
    console.log(`${handler} (${of?.handler ?? "?"}), by the route "${route}"`);
  }
  return EXIT.ok;
}
