/** A server in this process, with handlers of the test's own, and a client of it. */
import {
  AnyBody,
  type AnyHandlerDefinition,
  CCClient,
  type Environment,
  type Handler,
  type HandlerContext,
  Logger,
  type Message,
  type Outcome,
  readConfig,
  type Seal,
  type ServerConfig,
} from "../../mod.ts";
import { MonitoredServer } from "../../src/observe/monitor.ts";
import { finish } from "../../src/observe/slices.ts";
import { values } from "../../src/observe/stats.ts";
import { MACHINE } from "../../src/runtime/machine.ts";
import { IDENTITY } from "../../src/seal/identity.ts";
import { until } from "./env.ts";

/** A section of a handler. */
export const h = (name: string, handler: string, more = "") => `[h:${name}]\nhandler = ${handler}\n${more}\n`;

/** What a handler of a test is like, besides its name. */
export interface Own extends Partial<Omit<AnyHandlerDefinition, "create">> {
  create(context: HandlerContext<Record<string, string>>): Handler<unknown, unknown>;
}

/** A definition of a test's own; its options are taken as text. */
export function own(
  name: string,
  create: Own["create"],
  more: Partial<AnyHandlerDefinition> = {},
): AnyHandlerDefinition {
  return { name, summary: "", roles: ["local", "remote"], ...more, create };
}

/** One that opens every message, whatever is in it. */
export function opening(
  name: string,
  handle: (
    message: Message,
    body: Record<string, unknown>,
    context: HandlerContext<Record<string, string>>,
  ) => Outcome | PromiseLike<Outcome>,
  more: Partial<AnyHandlerDefinition> = {},
): AnyHandlerDefinition {
  return own(
    name,
    (context) => ({
      plan: () => ({ open: AnyBody }),
      handle: (message, body) => handle(message, body as Record<string, unknown>, context),
    }),
    more,
  );
}

/** One that takes every message unread. */
export function noting(name: string, note: (type: string) => void): AnyHandlerDefinition {
  return own(name, () => ({
    plan: () => ({ raw: true }),
    handle({ type }) {
      note(type);
      return "ok";
    },
  }));
}

/** The config of a server on a free port. */
export function configOf(sections: string, handlers: AnyHandlerDefinition[] = [], file = "test.ini") {
  return readConfig(
    `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\ncc-stats = 2\n${sections}`,
    file,
    { handlers },
  );
}

/** A server whose inside a test may see, as `CCServer` has it. */
export function serverOn(
  config: ServerConfig,
  { environment = MACHINE, log = keptLog().log, seal = IDENTITY }: {
    environment?: Environment;
    log?: Logger;
    seal?: Seal;
  } = {},
): MonitoredServer {
  return new MonitoredServer(config, { environment, log, seal });
}

/** A logger that keeps its lines. */
export function keptLog(): { log: Logger; lines: string[] } {
  const lines: string[] = [];
  return { lines, log: new Logger("CC", { sink: (line) => lines.push(line), pid: 1, level: "DEBUG" }) };
}

/**
 * Starts a server on these sections, those of `[ccserver]` first where there are any; its log is kept.
 */
export async function serve(
  sections: string,
  handlers: AnyHandlerDefinition[] = [],
  environment?: Environment,
  seal?: Seal,
) {
  const { log, lines } = keptLog();
  const server = serverOn(configOf(sections, handlers), { log, environment, seal });
  const endpoint = await server.start();
  const client = new CCClient(endpoint, { environment });
  await client.ready({ timeoutMs: 5000 });
  return {
    server,
    endpoint,
    client,
    lines,
    port: Number(/:(\d+)$/.exec(endpoint)![1]),
    stats: () => finish(values(server.statistics)),
    async line(pattern: RegExp) {
      return await until(
        `${pattern} in\n${lines.join("\n")}`,
        () => lines.find((line) => pattern.test(line)),
      );
    },
    /** The same server on other sections. */
    reload: (next: string) => server.reload(configOf(next, handlers)),
    async [Symbol.asyncDispose]() {
      await client.close(0);
      await server.stop();
    },
  };
}
