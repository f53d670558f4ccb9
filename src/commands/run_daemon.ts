/**
 * `ccserver daemon cc.daemon.NAME CONFIG.ini d:name`: runs a built-in daemon, as jobmgr does, or by hand.
 *
 * It reads the server's config file, connects to the server under its own name, and logs through it. The server of a job
 * tells it its options (`job.config`), and sends them again when a reload has changed them; SIGHUP reads the file again.
 * Other options start the daemon's work anew, in this process. SIGINT and SIGTERM end it; a second one at once.
 */
import { resolve } from "node:path";
import { Client } from "../client/client.ts";
import { ConfigError, formatDiagnostic } from "../config/diagnostics.ts";
import { readTexts } from "../config/options.ts";
import { modulePath, type ServerConfig } from "../config/reader.ts";
import type { Program } from "../contracts/command.ts";
import type { Cancel, Environment, Processes } from "../contracts/environment.ts";
import type { ServerOptions } from "../config/server_options.ts";
import type { SectionRead } from "../contracts/handler.ts";
import type { Seal } from "../contracts/seal.ts";
import {
  type AnyDaemonDefinition,
  daemonOf,
  daemonOfSection,
  DAEMONS,
  UNBUILT_DAEMONS,
} from "../daemons/index.ts";
import { MODULE_OPTIONS } from "../jobs/options.ts";
import { JOB_CONFIG } from "../jobs/provide.ts";
import { reachable } from "../endpoint.ts";
import { errorStack, errorText } from "../errors.ts";
import { DAEMON_LOG_QUEUE } from "../limits.ts";
import { type Level, Logger, timeText } from "../log.ts";
import { LineWriter } from "../process/log_file.ts";
import { takeVariable } from "../process/notify.ts";
import { EarlySignals } from "../process/signals.ts";
import { logDraft } from "../message/log_fields.ts";
import { IDENTITY } from "../seal/identity.ts";
import { didYouMean } from "../text.ts";
import { type Configs, exitOf } from "./config.ts";
import { defineCommand, LOG_FLAGS } from "./define.ts";
import { EXIT, Exit, UsageError } from "./exit.ts";
import { openSeal } from "./seal.ts";
import { levelOf } from "./serve.ts";

/** The server is waited for so long at the start. */
const READY_MS = 1000;
/** And its answer to what this daemon is to do. */
const TOLD_MS = 300;
/** What is queued has so long when the daemon ends, and the daemon's work too. */
const LINGER_MS = 2000;
const STOP_MAX_MS = 8000;

export const runDaemon = (configs: () => Configs) =>
  defineCommand({
    names: ["daemon"],
    summary: "run a daemon of this program, as jobmgr does",
    operands: "cc.daemon.NAME|FILE CONFIG.ini d:NAME",
    examples: ["daemon cc.daemon.infoscript local.ini d:df"],
    flags: LOG_FLAGS,
    async run(flags, operands, program) {
      const [module, file, section, more] = operands;
      if (section === undefined || more !== undefined) {
        throw new UsageError("daemon needs a daemon's name, a config file and a section");
      }
      if (!isFile(module) && daemonOf(module) === undefined) throw new UsageError(unknown(module));
      const run = new DaemonRun({
        module,
        file,
        section,
        configs: configs(),
        level: levelOf(flags),
        program,
      });
      return await run.run();
    },
  });

function unknown(module: string): string {
  if (UNBUILT_DAEMONS.includes(module)) return `${module} is not part of this version`;
  return `unknown daemon "${module}"${didYouMean(module, DAEMONS.map(({ name }) => `cc.daemon.${name}`))}`;
}

function isFile(module: string): boolean {
  return module.includes("/") || /\.[mc]?[jt]s$/.test(module);
}

interface DaemonRunParts {
  /** As it was named. */
  readonly module: string;
  readonly file: string;
  readonly section: string;
  readonly configs: Configs;
  readonly level: Level;
  readonly program: Program;
}

class DaemonRun {
  readonly #parts: DaemonRunParts;
  readonly #environment: Environment;
  /** The same for the daemon's work: what that has started ends with this process, also where that ends at once. */
  readonly #tracked: Environment;
  readonly #signals: EarlySignals;
  readonly #writer: LineWriter;
  /** Aborts when the process is to end. */
  readonly #end = new AbortController();
  /** Aborts when the work is to start anew. */
  #work = new AbortController();
  #goneSince: number;
  #options: Readonly<Record<string, unknown>> = {};
  /** By which the server knows this process; null: it is no job. */
  readonly #token: string | null;
  readonly #endpoint: string | undefined;
  /** Where it says that it lives. */
  readonly #noticesFile: string | null;
  readonly #watchdogMs: number;

  constructor(parts: DaemonRunParts) {
    this.#parts = parts;
    this.#environment = parts.program.environment;
    const { processes, clock } = this.#environment;
    this.#signals = new EarlySignals(processes);
    const { tracked, end } = trackChildren(this.#environment);
    this.#tracked = tracked;
    this.#signals.onEnd = end;
    this.#writer = LineWriter.ofStandard(2, processes.setNonBlocking);
    this.#goneSince = clock.now();
    // None of it is for what this process starts.
    const secret = takeVariable("CC_TOKEN_FD") === undefined ? null : processes.takeSecret();
    this.#endpoint = processes.env.CC_JOB_PIDFILE === undefined ? undefined : processes.env.CC_ENDPOINT;
    this.#noticesFile = takeVariable("CC_NOTIFY") ?? null;
    takeVariable("NOTIFY_SOCKET");
    this.#watchdogMs = Number(takeVariable("WATCHDOG_USEC") ?? 0) / 1000;
    this.#token = secret === null ? null : new TextDecoder().decode(secret);
  }

  async run(): Promise<number> {
    const { configs, file, section, level } = this.#parts;
    const { clock, host } = this.#environment;
    const config = await configs.readWithoutHandlers(file).catch((error) => {
      throw exitOf(error);
    });
    const read = this.#sectionOf(config);
    const definition = daemonOfSection(read)!;
    this.#options = read.values;
    const name = `${config.jobName}.${section}`;
    const log = new DaemonLog({ name, section, level, environment: this.#environment, writer: this.#writer });
    // jobmgr says it so that it holds in whatever folder this runs.
    const endpoint = this.#endpoint ?? reachable(config.options["cc-socket"]);
    const client = new Client(endpoint, {
      name,
      environment: this.#environment,
      seal: await this.#seal(config, read, log.local),
      log: log.local,
      onChange: (up) => {
        this.#goneSince = clock.now();
        if (up) this.#ask(client);
      },
    });
    log.client = client;
    let gone = false;
    const cancelGone = clock.every(1000, () => {
      const goneMs = Number(this.#options["server-gone-timeout"]) * 1000;
      if (this.#end.signal.aborted || client.up || clock.now() - this.#goneSince < goneMs) return;
      gone = true;
      log.logger.error("server", `the server has been away for ${goneMs / 1000} s: ending`);
      this.#end.abort();
    });
    this.#signals.onStop((signal) => {
      log.logger.info("stop", `${signal}: ending`);
      this.#end.abort();
    });
    this.#signals.onReload(async () => {
      const next = await this.#reloaded(log.logger);
      if (next !== null) this.#take(next, "SIGHUP: the options have changed", log.logger);
    });
    const told = this.#hear(client, definition, log.logger);
    const cancelPing = this.#ping();
    // Its first lines go to the server too, where that is there, and it begins with what the server says.
    await client.ready({ timeoutMs: READY_MS, signal: this.#end.signal }).then(
      () => Promise.race([told, new Promise<void>((resolve) => void clock.after(TOLD_MS, resolve))]),
      () => {/* it goes on without */},
    );
    log.logger.info("start", `${definition.name} runs, process ${host.pid}`);
    this.#say("READY=1");
    try {
      while (!this.#end.signal.aborted) {
        await this.#once(definition, name, client, log.logger);
        // Called anew at once, it might do so without end.
        if (!this.#end.signal.aborted && !this.#work.signal.aborted) {
          log.logger.error("run", "run has returned, and nobody has told it to end: this process ends");
          return EXIT.failed;
        }
      }
      return gone ? EXIT.unavailable : EXIT.ok;
    } catch (error) {
      log.logger.error("run", errorStack(error));
      return EXIT.failed;
    } finally {
      cancelGone();
      cancelPing();
      await client.close(LINGER_MS);
      await this.#writer.drained();
    }
  }

  /** Signs as its section says, or as its server does; what the server tells it is proved by the token. */
  async #seal(config: ServerConfig, { values }: SectionRead, log: Logger): Promise<Seal> {
    const own = Object.entries(values).filter(([name, value]) => name.startsWith("cms-") && value !== null);
    const options: ServerOptions = {
      ...config.options,
      ...Object.fromEntries(own),
      "cms-verify-ca": null,
      "cms-decrypt": null,
      "cms-time-window": 0,
    };
    const seal = await openSeal({ ...config, options }, this.#environment, log).catch((error) => {
      throw exitOf(error);
    });
    return {
      asynchronous: seal.asynchronous,
      open: (parts) => IDENTITY.open(parts),
      seal: (draft) => draft.type === JOB_CONFIG ? IDENTITY.seal(draft) : seal.seal(draft),
      reload: () => seal.reload(),
    };
  }

  /** Asks the server what it is to do; the answer is a message like any other. */
  #ask(client: Client): void {
    if (this.#token === null) return;
    const fields = { job_name: this.#parts.section, token: this.#token };
    client.publish({ type: JOB_CONFIG, fields }, { signal: this.#end.signal }).catch(
      () => {/* it ends, and goes by the file */},
    );
  }

  /** Takes options as the server sends them. @returns Settles when the first have come; never where it is no job. */
  #hear(client: Client, definition: AnyDaemonDefinition, log: Logger): Promise<void> {
    return new Promise((told) => {
      if (this.#token === null) return;
      void (async () => {
        for await (const { type, body } of client.messages({ signal: this.#end.signal })) {
          if (type !== JOB_CONFIG) continue;
          const texts = body.config as Readonly<Record<string, unknown>> | undefined;
          const table = { ...MODULE_OPTIONS, ...definition.options };
          const { values, wrong } = readTexts(table, texts ?? {}, this.#environment.host);
          for (const text of wrong) log.error("reload", `the server sends what is wrong: ${text}`);
          if (wrong.length === 0) {
            this.#take({ ...this.#options, ...values }, "the server has sent other options", log);
          }
          told();
        }
      })().catch((error) => {
        if (!this.#end.signal.aborted) log.error("reload", errorText(error));
      });
    });
  }

  /** Goes on with these options, anew where they are others. */
  #take(options: Readonly<Record<string, unknown>>, why: string, log: Logger): void {
    if (JSON.stringify(options) === JSON.stringify(this.#options)) return;
    const own = (values: Readonly<Record<string, unknown>>) =>
      JSON.stringify(Object.entries(values).filter(([option]) => !(option in MODULE_OPTIONS)));
    const before = own(this.#options);
    this.#options = options;
    log.info("reload", why);
    if (own(options) !== before) this.#work.abort();
  }

  /** Says every so often that this process lives. */
  #ping(): Cancel {
    if (this.#watchdogMs === 0) return () => {};
    return this.#environment.clock.every(this.#watchdogMs / 3, () => this.#say("WATCHDOG=1"));
  }

  #say(text: string): void {
    const file = this.#noticesFile;
    if (file !== null) void this.#environment.files.postTo(file, `${text}\n`);
  }

  /** The work, until it is to end or to start anew. */
  async #once(
    definition: AnyDaemonDefinition,
    name: string,
    client: Client,
    log: Logger,
  ): Promise<void> {
    this.#work = new AbortController();
    const signal = AbortSignal.any([this.#end.signal, this.#work.signal]);
    const figures = new Map<string, number>();
    const work = definition.run({
      name,
      options: this.#options,
      log,
      environment: this.#tracked,
      count: (figure, by = 1) => void figures.set(figure, (figures.get(figure) ?? 0) + by),
      tellStatistics() {
        if (figures.size === 0) return;
        log.info("stats", `{${[...figures].map(([figure, value]) => `${figure}: ${value}`).join(", ")}}`);
        figures.clear();
      },
      publish: (draft) => client.publish(draft, { signal, timeoutMs: Infinity }),
      signal,
    });
    await this.#bounded(
      work.catch((error) => {
        // What it waited for was taken away.
        if (!signal.aborted) throw error;
      }),
      signal,
    );
  }

  /** Work that does not end though it is told to is not waited for. */
  async #bounded(work: Promise<void>, signal: AbortSignal): Promise<void> {
    const { clock } = this.#environment;
    let cancel = () => {};
    const late = new Promise<void>((_, reject) => {
      signal.addEventListener("abort", () => {
        cancel = clock.after(
          STOP_MAX_MS,
          () => reject(new Error(`it has not ended within ${STOP_MAX_MS / 1000} s`)),
        );
      });
    });
    try {
      await Promise.race([work, late]);
    } finally {
      cancel();
    }
  }

  /** @throws {Exit} There is no such section. */
  #sectionOf(config: ServerConfig): SectionRead {
    const { section, file, module } = this.#parts;
    const { host } = this.#environment;
    const read =
      [...config.handlers.values()].flatMap(({ sectionsRead }) => sectionsRead.get(section) ?? [])[0];
    const path = modulePath(module, file, host);
    const isIt = path === null
      ? read?.values.module === module
      : read !== undefined && [path, resolve(host.folder, module)].includes(read.modulePath ?? "");
    if (isIt) return read!;
    throw new Exit(
      EXIT.config,
      read === undefined
        ? `ccserver: ${file}: there is no section [${section}] that a jobmgr reads`
        : `ccserver: ${file}: [${section}] has no "module = ${module}"`,
    );
  }

  async #reloaded(log: Logger): Promise<Readonly<Record<string, unknown>> | null> {
    try {
      return this.#sectionOf(await this.#parts.configs.readWithoutHandlers(this.#parts.file)).values;
    } catch (error) {
      if (!(error instanceof ConfigError || error instanceof Exit)) throw error;
      const why = error instanceof ConfigError ? wrongIn(error) : error.message.replace(/^ccserver: /, "");
      log.error("reload", `SIGHUP: nothing has changed: ${why}`);
      return null;
    }
  }
}

/** The errors alone. */
function wrongIn({ diagnostics }: ConfigError): string {
  return diagnostics.filter(({ severity }) => severity === undefined).map(formatDiagnostic).join("; ");
}

/** An environment that knows which processes it has started, and can end their groups. */
function trackChildren(environment: Environment): { tracked: Environment; end: () => void } {
  const { processes } = environment;
  const running = new Set<number>();
  const spawn: Processes["spawn"] = (command, options) => {
    const child = processes.spawn(command, options);
    const { pid } = child;
    if (pid !== null) {
      running.add(pid);
      void child.exited.then(() => running.delete(pid));
    }
    return child;
  };
  return {
    tracked: { ...environment, processes: Object.create(processes, { spawn: { value: spawn } }) },
    end: () => {
      for (const pid of running) processes.signal(-pid, "SIGKILL");
    },
  };
}

/** A daemon's log: messages to the server, as many as may wait, and lines on stderr while it is away. */
class DaemonLog {
  readonly logger: Logger;
  /** What is about the link itself: to stderr only. */
  readonly local: Logger;
  client: Client | null = null;
  readonly #speaker: { service: string; job: string };
  readonly #writer: LineWriter;
  /** Alone, at a terminal, lines are for whoever looks. */
  readonly #alone: boolean;
  #waiting = 0;

  constructor(
    { name, section, level, environment, writer }: {
      name: string;
      section: string;
      level: Level;
      environment: Environment;
      writer: LineWriter;
    },
  ) {
    const { clock, host, processes } = environment;
    this.#speaker = { service: section, job: name };
    this.#writer = writer;
    this.#alone = processes.env.CC_JOB !== name;
    this.logger = new Logger(section, {
      sink: (line) => this.#take(line),
      level,
      format: "json",
      pid: host.pid,
      clock,
    });
    this.local = new Logger(section, { sink: writer.sink, level: "WARNING", pid: host.pid, clock });
  }

  #take(line: string): void {
    const { time, pid, level, logger, msg } = JSON.parse(line) as Record<string, string>;
    const where = logger.slice(logger.lastIndexOf(".") + 1);
    const client = this.client;
    const away = client === null || !client.up || this.#waiting >= DAEMON_LOG_QUEUE;
    const timeMs = Date.parse(time);
    const text = `${timeText(timeMs)} ${pid} ${level} ${logger}: ${msg}`;
    if (away || this.#alone) this.#writer.sink(text);
    if (away) return;
    this.#waiting++;
    client.publish(logDraft({
      level: level as Level,
      ...this.#speaker,
      text: msg,
      timeMs,
      pid: Number(pid),
      where,
    })).catch(() => this.#alone || this.#writer.sink(text))
      .finally(() => this.#waiting--);
  }
}
