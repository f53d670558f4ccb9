/** `ccserver CONFIG.ini`: runs a server until a signal ends it. */
import { ConfigError } from "../config/diagnostics.ts";
import { placeOf, type ServerConfig } from "../config/reader.ts";
import type { Program } from "../contracts/command.ts";
import type { FlagValues } from "../contracts/command.ts";
import { errorStack, errorText } from "../errors.ts";
import { type Level, Logger } from "../log.ts";
import { monitoredServer } from "../observe/monitor.ts";
import { startTeller } from "../process/detach.ts";
import { LineWriter, LogFile, type SetNonBlocking } from "../process/log_file.ts";
import { Notifier } from "../process/notify.ts";
import { collectOrphans } from "../process/orphans.ts";
import { claimPidfile, type Pidfile } from "../process/pidfile.ts";
import { EarlySignals } from "../process/signals.ts";
import { makeFolders } from "../process/writable.ts";
import { StartError } from "../server/errors.ts";
import type { Server } from "../server/server.ts";
import { counted } from "../text.ts";
import { VERSION } from "../version.ts";
import { type Configs, exitOf } from "./config.ts";
import { configOperand, defineCommand, LOG_FLAGS } from "./define.ts";
import { EXIT, Exit, UsageError } from "./exit.ts";
import { openSeal } from "./seal.ts";

export const serve = (configs: () => Configs) =>
  defineCommand({
    names: ["run", "serve"],
    summary: "run a server",
    operands: "CONFIG.ini",
    examples: ["local.ini", "-v local.ini"],
    flags: {
      ...LOG_FLAGS,
      detached: {
        kind: "flag",
        doc: "tell the process that started this one how the start went",
        hidden: true,
      },
    },
    async run(flags, operands, program) {
      const file = configOperand(operands);
      const serving = (onListen: () => void) =>
        runServer({ configs: configs(), file, level: flagLevelOf(flags), program, onListen });
      return flags.detached ? await detached(serving) : await serving(() => {});
    },
  });

export const example = (configs: () => Configs) =>
  defineCommand({
    names: ["--example"],
    summary: "run a server on the example config",
    operands: "[ENDPOINT]",
    examples: ["--example", "--example tcp://127.0.0.1:*"],
    flags: LOG_FLAGS,
    async run(flags, [endpoint, ...more], program) {
      if (more.length > 0) throw new UsageError(`one endpoint is expected, not "${more[0]}" too`);
      try {
        return await runServer({
          configs: configs(),
          file: null,
          endpoint,
          level: flagLevelOf(flags),
          program,
          onListen: () => {},
        });
      } catch (error) {
        if (!(error instanceof Exit) || endpoint !== undefined) throw error;
        throw new Exit(
          error.exitCode,
          `${error.message}\nTry another port: ${program.name} --example tcp://127.0.0.1:*`,
        );
      }
    },
  });

/** How loud a log is, by its flags. */
export function levelOf(flags: FlagValues<typeof LOG_FLAGS>): Level {
  return flagLevelOf(flags) ?? "INFO";
}

/** The same; null: they say nothing, and the config does. */
function flagLevelOf({ verbose, quiet }: FlagValues<typeof LOG_FLAGS>): Level | null {
  return quiet ? "WARNING" : ([null, "DEBUG"] as const)[verbose] ?? (verbose > 1 ? "TRACE" : null);
}

function configLevelOf({ options }: ServerConfig): Level {
  return options["log-level"].toUpperCase() as Level;
}

/** How a server is run. */
interface ServeOptions {
  readonly configs: Configs;
  /** Null: the example config. */
  readonly file: string | null;
  /** Where the example config listens, instead of what it says. */
  readonly endpoint?: string;
  /** Null: the config says it. */
  readonly level: Level | null;
  readonly program: Program;
  /** Called once, when the server listens. */
  readonly onListen: () => void;
}

/** Tells the process that waits for it how the start of a server in the background went. */
async function detached(run: (onListen: () => void) => Promise<number>): Promise<number> {
  const tell = startTeller();
  try {
    return await run(() => tell({ code: EXIT.ok, message: "" }));
  } catch (error) {
    if (error instanceof Exit) tell({ code: error.exitCode, message: error.message });
    else tell({ code: EXIT.unavailable, message: `ccserver: ${errorText(error)}` });
    throw error;
  }
}

/** Runs a server until a signal ends it; SIGHUP opens the log file again and reads the config anew. */
async function runServer(
  { configs, file, endpoint, level, program, onListen }: ServeOptions,
): Promise<number> {
  const { environment } = program;
  const { clock, processes, host } = environment;
  const config = file === null ? configs.example(endpoint) : await configs.readOrExit(file, true);
  const { options } = config;
  // Before the pidfile says that there is a process to be signalled.
  const signals = new EarlySignals(processes);
  const { writer, pidfile } = filesOrExit(config, processes.setNonBlocking);
  writer.lingerMs = options["log-linger"] * 1000;
  signals.onEnd = () => writer.lingerMs = 0;
  const log = new Logger("CCServer", {
    sink: writer.sink,
    level: level ?? configLevelOf(config),
    format: options["log-format"],
    pid: host.pid,
    clock,
  });
  writer.lostLine = (count) => log.line("WARNING", "log", lostText(count), { lost: count });
  if (pidfile?.stale) {
    log.warn("startup", `pidfile ${options.pidfile} was stale, ${pidfile.stale}: taken over`);
  }
  processes.onUncaught((error) => {
    log.warnRarely(
      "uncaught",
      errorText(error),
      `an error that no handler caught, in code that cannot be told: ${errorStack(error)}`,
    );
  });
  const notifier = new Notifier(processes.serviceManager, clock, log);
  const server = monitoredServer(config, {
    environment,
    log,
    seal: (config, before) => openSeal(config, environment, log, before),
  });
  const stopped = new Promise<void>((resolve) => {
    signals.onStop((signal) => {
      log.info("shutdown", `${signal}: stopping`);
      notifier.stopping();
      server.stop().catch((error) => log.error("shutdown", errorStack(error))).finally(resolve);
    });
  });
  const cancelOrphans = collectOrphans(environment);
  try {
    const endpoint = await server.start();
    notifier.ready(`listening on ${endpoint}`);
    // Whoever waits for the start finds it in the log.
    await writer.written();
    onListen();
    // The config may have changed since it was read: a SIGHUP that came meanwhile counts.
    signals.onReload(() => reload({ configs, log, level, notifier, writer, server, file }));
    if (file === null) greet(program, endpoint, log);
    await stopped;
    return EXIT.ok;
  } catch (error) {
    if (error instanceof ConfigError) throw exitOf(error);
    if (!(error instanceof StartError)) throw error;
    // Whoever stopped it in the middle of its start wanted just that.
    if (error.code === "stopped") return EXIT.ok;
    throw new Exit(EXIT.unavailable, `ccserver: ${config.file}: ${error.message}`);
  } finally {
    cancelOrphans();
    await notifier.end();
    log.tellHeld();
    await writer.drained();
    pidfile?.remove();
  }
}

interface Reloaded {
  readonly configs: Configs;
  readonly log: Logger;
  readonly level: Level | null;
  readonly notifier: Notifier;
  readonly writer: LineWriter;
  readonly server: Server;
  readonly file: string | null;
}

/** Whatever fails in one reload, the next one works. */
async function reload({ configs, log, level, notifier, writer, server, file }: Reloaded): Promise<void> {
  if (writer instanceof LogFile) {
    try {
      writer.reopen();
      log.info("reload", "SIGHUP: the log file is open again");
    } catch (error) {
      log.error("reload", `SIGHUP: lines go to the old log file, as the new one fails: ${errorText(error)}`);
    }
  }
  if (file === null) return;
  notifier.reloading();
  await reloadConfig(configs, server, file, log, level);
  notifier.ready(`listening on ${server.endpoint}`);
}

/** Reads the config again, whole: what is wrong with it is logged, and then nothing changes. */
async function reloadConfig(
  configs: Configs,
  server: Server,
  file: string,
  log: Logger,
  level: Level | null,
): Promise<void> {
  try {
    const config = await configs.read(file);
    await server.reload(config);
    log.level = level ?? configLevelOf(config);
    await tellChangedModules(configs, config, log);
  } catch (error) {
    const expected = error instanceof ConfigError || error instanceof StartError;
    const text = expected ? error.message : errorStack(error);
    for (const line of text.split("\n")) log.error("reload", line);
    log.error("reload", `nothing has changed: the server goes on with the config it has`);
  }
}

/** A module stays as it was loaded: half of it new would be worse than old. */
async function tellChangedModules(configs: Configs, { handlers }: ServerConfig, log: Logger): Promise<void> {
  const modules = new Map<string, string[]>();
  const add = (module: string | null, name: string) => {
    if (module !== null) modules.set(module, [...modules.get(module) ?? [], name]);
  };
  for (const { name, module, sectionsRead } of handlers.values()) {
    add(module, name);
    for (const section of sectionsRead.values()) add(section.modulePath, section.name);
  }
  for (const { module, file } of await configs.modules.changed(modules.keys())) {
    const what = module === file ? file : `${file}, which ${module} imports,`;
    const names = modules.get(module)!;
    const then = names.every((name) => name.startsWith("d:"))
      ? "it runs when the daemon is started anew, by the options that this server knows"
      : "the old code runs on until a restart";
    log.warn("reload", `${names}: ${what} has changed: ${then}`);
  }
}

/**
 * Opens the log file and claims the pidfile.
 *
 * @throws {Exit} With all that is wrong with them.
 */
function filesOrExit(
  config: ServerConfig,
  setNonBlocking: SetNonBlocking,
): { writer: LineWriter; pidfile: Pidfile | null } {
  const { logfile, pidfile } = config.options;
  makeFolders(config.options);
  const findings: string[] = [];
  const attempt = <T>(option: "logfile" | "pidfile", make: () => T): T | null => {
    try {
      return make();
    } catch (error) {
      findings.push(`${placeOf(config, option)}: ${errorText(error)}`);
      return null;
    }
  };
  const writer = attempt(
    "logfile",
    () => logfile === null ? LineWriter.ofStandard(2, setNonBlocking) : new LogFile(logfile, setNonBlocking),
  );
  const claimed = attempt("pidfile", () => pidfile === null ? null : claimPidfile(pidfile));
  if (writer !== null && findings.length === 0) return { writer, pidfile: claimed };
  claimed?.remove();
  throw new Exit(EXIT.unavailable, findings.join("\n"));
}

function lostText(count: number): string {
  return `${counted(count, "log line was", "log lines were")} lost: they could not be written`;
}

/** A server whose words of welcome nobody reads serves all the same. */
function greet({ print, name }: Program, endpoint: string, log: Logger): void {
  try {
    print(`${welcome(endpoint, name)}\n`);
  } catch (error) {
    log.warn("startup", errorText(error));
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
