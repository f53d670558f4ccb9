/** What is right in a config, and perhaps not meant: for `ccserver check`. */
import { parseEndpoint } from "../endpoint.ts";
import type { Diagnostic } from "./diagnostics.ts";
import type { ServerConfig } from "./reader.ts";

const ALL_ADDRESSES: ReadonlySet<string> = new Set(["*", "0.0.0.0", "::"]);

/** Warnings, in the order of their lines. */
export function adviceOn(config: ServerConfig): Diagnostic[] {
  const { file, lines, options } = config;
  const found: Diagnostic[] = [];
  const warn = (line: number, message: string) => found.push({ file, line, message, severity: "warning" });
  const lineOf = (option: string) => lines.get(option) ?? lines.get("ccserver") ?? 1;

  const socket = parseEndpoint(options["cc-socket"], "bind");
  const role = options["cc-role"];
  if (socket.transport === "tcp" && ALL_ADDRESSES.has(socket.host) && role !== "remote") {
    const who = role === "insecure" ? "all handlers may run" : "its handlers are for this host";
    warn(
      lineOf("cc-socket"),
      `cc-socket listens on all addresses and cc-role is ${role}: ${who}, and every host can reach them. ` +
        "For other hosts take cc-role = remote, for this one tcp://127.0.0.1 or ipc://",
    );
  }
  const http = options["http-listen"];
  if (http !== null && ALL_ADDRESSES.has(http.host)) {
    warn(
      lineOf("http-listen"),
      "http-listen is on all addresses: whoever reaches this host reads the statistics. 127.0.0.1 is for this host alone",
    );
  }
  const reached = new Set(config.routes.flatMap(({ handlers }) => handlers));
  // A set that grows is walked to its end.
  for (const name of reached) for (const next of config.handlers.get(name)?.edges ?? []) reached.add(next);
  for (const { name, definition, line } of config.handlers.values()) {
    if (reached.has(name) || definition.runsAlone === true) continue;
    warn(line, `no route leads to [${name}], by itself or through other handlers: no message reaches it`);
  }
  return found.sort((a, b) => a.line - b.line);
}
