/** `ccserver CONFIG.ini`: runs a server until a signal ends it. */
import process from "node:process";
import exampleText from "../../examples/local.ini" with { type: "text" };
import { ConfigError } from "../config/diagnostics.ts";
import { loadConfig, readConfig, type ServerConfig } from "../config/config.ts";
import { BUILTIN_HANDLERS } from "../handlers/registry.ts";
import { type Level, Logger, reason } from "../log.ts";
import { Server, StartError } from "../server/server.ts";
import { makeEngine, systemContext } from "../socket/system.ts";
import { VERSION } from "../version.ts";
import { EXIT, Exit } from "./exit.ts";
import { LineWriter, openLog } from "./output.ts";
import { writePidfile } from "./pidfile.ts";

/** The example that is part of the program. */
export const EXAMPLE_CONFIG: string = exampleText;

/** @throws {Exit} With every finding, one a line. */
export function configOrExit(read: () => ServerConfig): ServerConfig {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new Exit(EXIT.config, error.message);
  }
}

/**
 * Runs a server.
 *
 * @param file Null: the example config.
 * @param self How this program is called, for the example's hints.
 */
export async function serve(file: string | null, level: Level, self: string): Promise<number> {
  const config = configOrExit(() =>
    file === null ? readConfig(EXAMPLE_CONFIG, "example.ini") : loadConfig(file)
  );
  const { options } = config;
  const writer = options.logfile === null ? new LineWriter(2) : openLogOrExit(config, options.logfile);
  const log = new Logger("CCServer", { sink: writer.sink, level, pid: process.pid });
  const context = systemContext(log);
  const server = new Server(config, {
    context,
    engine: () => makeEngine(options["zmq-engine"], context),
    handlers: BUILTIN_HANDLERS,
  });
  const stopped = stopOnSignals(server, log);
  const removePidfile = options.pidfile === null ? () => {} : pidfileOrExit(options.pidfile, config.file);
  try {
    const endpoint = await server.start();
    if (file === null) console.log(welcome(endpoint, self));
    await stopped;
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    throw new Exit(EXIT.unavailable, `ccserver: ${config.file}: ${error.message}`);
  } finally {
    removePidfile();
    writer.flush();
  }
}

/** Resolves when the server has stopped because of a signal; a second one ends the program at once. */
function stopOnSignals(server: Server, log: Logger): Promise<void> {
  return new Promise((resolve) => {
    let stopping = false;
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.on(signal, () => {
        if (stopping) process.exit(128 + (signal === "SIGINT" ? 2 : 15));
        stopping = true;
        log.info("shutdown", `${signal}: stopping`);
        server.stop().then(resolve, (error) => {
          log.error("shutdown", reason(error));
          resolve();
        });
      });
    }
  });
}

function openLogOrExit(config: ServerConfig, path: string): LineWriter {
  try {
    return openLog(path).writer;
  } catch (error) {
    throw new Exit(
      EXIT.unavailable,
      `ccserver: ${config.file}: cannot open logfile ${path}: ${reason(error)}`,
    );
  }
}

function pidfileOrExit(path: string, file: string): () => void {
  try {
    return writePidfile(path);
  } catch (error) {
    throw new Exit(EXIT.unavailable, `ccserver: ${file}: ${reason(error)}`);
  }
}

function welcome(endpoint: string, self: string): string {
  return `
CC ${VERSION} listens on ${endpoint} with its example config: it answers echo and writes log messages below.

Try, in another terminal:
  ${self} ping ${endpoint}
  ${self} send ${endpoint} log.info "log_msg=hello from here"

Your own config: ${self} --ini > my.ini, edit it, ${self} --check my.ini, ${self} my.ini
Ctrl-C stops the server.
`;
}
