/** `ccserver CONFIG.ini`: runs a server until a signal ends it. */
import process from "node:process";
import exampleText from "../../examples/local.ini" with { type: "text" };
import { ConfigError } from "../config/diagnostics.ts";
import { loadConfig, placeOf, readConfig, type ServerConfig } from "../config/config.ts";
import { BUILTIN_HANDLERS } from "../handlers/registry.ts";
import { type Level, Logger, reason } from "../log.ts";
import { Server, StartError } from "../server/server.ts";
import { makeEngine, systemContext } from "../socket/system.ts";
import { VERSION } from "../version.ts";
import { EXIT, Exit } from "./exit.ts";
import { Notifier } from "./notify.ts";
import { LineWriter, LogFile } from "./output.ts";
import { claimPidfile, type Pidfile } from "./pidfile.ts";

/** The example that is part of the program. */
export const EXAMPLE_CONFIG: string = exampleText;

/** @throws {Exit} With every finding, one a line. */
export function configOrExit(read: () => ServerConfig): ServerConfig {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new Exit(
      error.diagnostics.every(({ ofHost }) => ofHost) ? EXIT.unavailable : EXIT.config,
      error.message,
    );
  }
}

/** How a server is run. */
export interface ServeOptions {
  /** Null: the example config. */
  file: string | null;
  level: Level;
  /** How this program is called, for the example's hints. */
  self: string;
  /** Called once, when the server listens. */
  onListen?: () => void;
}

/** Runs a server until a signal ends it; SIGHUP opens the log file again and reads the config anew. */
export async function serve({ file, level, self, onListen }: ServeOptions): Promise<number> {
  const config = configOrExit(() =>
    file === null ? readConfig(EXAMPLE_CONFIG, "example.ini") : loadConfig(file, { files: true })
  );
  const { options } = config;
  const { writer, pidfile } = filesOrExit(config);
  const log = new Logger("CCServer", {
    sink: writer.sink,
    level,
    format: options["log-format"],
    pid: process.pid,
  });
  writer.lostLine = (count) => log.line("WARNING", "log", lostText(count), { lost: count });
  if (pidfile?.stale) {
    log.warn("startup", `pidfile ${options.pidfile} was stale, ${pidfile.stale}: taken over`);
  }
  const notifier = new Notifier(log);
  const context = systemContext(log);
  const server = new Server(config, {
    context,
    engine: () => makeEngine(options["zmq-engine"], context),
    handlers: BUILTIN_HANDLERS,
  });
  const stopped = stopOnSignals(server, log, notifier);
  reloadOnSignal({ log, notifier, writer, server, file });
  try {
    const endpoint = await server.start();
    notifier.ready(`listening on ${endpoint}`);
    onListen?.();
    if (file === null) console.log(welcome(endpoint, self));
    await stopped;
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    throw new Exit(EXIT.unavailable, `ccserver: ${config.file}: ${error.message}`);
  } finally {
    await notifier.end();
    writer.flush();
    pidfile?.remove();
  }
}

/** Resolves when the server has stopped because of a signal; a second one ends the program at once. */
function stopOnSignals(server: Server, log: Logger, notifier: Notifier): Promise<void> {
  return new Promise((resolve) => {
    let stopping = false;
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.on(signal, () => {
        if (stopping) process.exit(128 + (signal === "SIGINT" ? 2 : 15));
        stopping = true;
        log.info("shutdown", `${signal}: stopping`);
        notifier.stopping();
        server.stop().then(resolve, (error) => {
          log.error("shutdown", reason(error));
          resolve();
        });
      });
    }
  });
}

interface Reloaded {
  log: Logger;
  notifier: Notifier;
  writer: LineWriter;
  server: Server;
  file: string | null;
}

/** One reload after the other, whatever fails in one; none before the server listens. */
function reloadOnSignal({ log, notifier, writer, server, file }: Reloaded): void {
  const reload = async () => {
    if (writer instanceof LogFile) {
      try {
        writer.reopen();
        log.info("reload", "SIGHUP: the log file is open again");
      } catch (error) {
        log.error("reload", `SIGHUP: lines go to the old log file, as the new one fails: ${reason(error)}`);
      }
    }
    if (server.endpoint === null || file === null) return;
    notifier.reloading();
    await reloadConfig(server, file, log);
    notifier.ready(`listening on ${server.endpoint}`);
  };
  let last = Promise.resolve();
  process.on("SIGHUP", () => last = last.then(reload));
}

/** Reads the config again, whole: what is wrong with it is logged, and then nothing changes. */
async function reloadConfig(server: Server, file: string, log: Logger): Promise<void> {
  try {
    await server.reload(loadConfig(file));
  } catch (error) {
    if (!(error instanceof ConfigError || error instanceof StartError)) throw error;
    for (const line of error.message.split("\n")) log.error("reload", line);
    log.error("reload", `nothing has changed: the server goes on with the config it has`);
  }
}

/**
 * Opens the log file and claims the pidfile.
 *
 * @throws {Exit} With all that is wrong with them.
 */
function filesOrExit(config: ServerConfig): { writer: LineWriter; pidfile: Pidfile | null } {
  const { logfile, pidfile } = config.options;
  const findings: string[] = [];
  const attempt = <T>(option: "logfile" | "pidfile", make: () => T): T | null => {
    try {
      return make();
    } catch (error) {
      findings.push(`${placeOf(config, option)}: ${reason(error)}`);
      return null;
    }
  };
  const writer = attempt("logfile", () => logfile === null ? new LineWriter(2) : new LogFile(logfile));
  const claimed = attempt("pidfile", () => pidfile === null ? null : claimPidfile(pidfile));
  if (writer !== null && findings.length === 0) return { writer, pidfile: claimed };
  claimed?.remove();
  throw new Exit(EXIT.unavailable, findings.join("\n"));
}

function lostText(count: number): string {
  return `${count} log ${count === 1 ? "line was" : "lines were"} lost: they could not be written`;
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
