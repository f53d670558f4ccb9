/** What is right in a config, and perhaps not meant. */
import { isLoopback, parseEndpoint } from "../endpoint.ts";
import type { Diagnostic } from "./diagnostics.ts";
import type { ServerConfig } from "./reader.ts";
import type { ServerOptions } from "./server_options.ts";

/** What a server says of its options when it starts, and `ccserver check` before that: the option, and a sentence. */
export function optionAdvice(options: ServerOptions): readonly (readonly [keyof ServerOptions, string])[] {
  const found: (readonly [keyof ServerOptions, string])[] = [];
  const { "cc-role": role, "cc-socket": socket, "http-listen": http, zmq_nthreads: threads } = options;
  if (role === "insecure") {
    found.push(["cc-role", "cc-role is insecure: every handler may run. Say local or remote"]);
  }
  if (role === "local" && !isLoopback(parseEndpoint(socket, "bind"))) {
    found.push(["cc-socket", `cc-role is local, but ${socket} can be reached from other hosts`]);
  }
  if (options["cc-stats"] === 0) found.push(["cc-stats", "cc-stats is 0: nothing is counted"]);
  if (threads > 1) {
    found.push([
      "zmq_nthreads",
      `zmq_nthreads is ${threads}, but one thread serves everything: more would bring little and cost order ` +
      "(docs/decisions/0009-one-thread.md). For more, run a second server on another port",
    ]);
  }
  if (http !== null && !isLoopback({ transport: "tcp", ...http })) {
    found.push([
      "http-listen",
      `http-listen is on ${http.host}: other hosts can read message types and endpoints there`,
    ]);
  }
  return found;
}

/** The same with their lines, and the handlers that no message can reach. */
export function adviceOn(config: ServerConfig): Diagnostic[] {
  const { file, lines, options, routes, handlers } = config;
  const warning = (line: number, message: string): Diagnostic => ({
    file,
    line,
    message,
    severity: "warning",
  });
  const reached = new Set(routes.flatMap(({ handlers }) => handlers));
  // A set that grows is walked to its end.
  for (const name of reached) for (const next of handlers.get(name)?.edges ?? []) reached.add(next);
  return [
    ...optionAdvice(options).map(([option, text]) =>
      warning(lines.get(option) ?? lines.get("ccserver") ?? 1, text)
    ),
    // Those that run alone are told by the reader.
    ...[...handlers.values()].filter(({ name, definition }) => !reached.has(name) && !definition.runsAlone)
      .map(({ name, line }) =>
        warning(
          line,
          `no route leads to [${name}], by itself or through other handlers: no message reaches it`,
        )
      ),
  ];
}
