/**
 * `ccserver daemon cc.daemon.NAME CONFIG.ini d:name`: runs a built-in daemon, as jobmgr does, or by hand.
 *
 * It reads the server's config file, connects to the server under its own name, and logs through it. SIGHUP reads the file
 * again: other options start the daemon's work anew, in this process. SIGINT and SIGTERM end it; a second one at once.
 */
import { Client } from "../client/client.ts";
import { ConfigError } from "../config/diagnostics.ts";
import type { ServerConfig } from "../config/reader.ts";
import type { Program } from "../contracts/command.ts";
import type { Environment } from "../contracts/environment.ts";
import { type AnyDaemonDefinition, daemonOf, DAEMONS, UNBUILT_DAEMONS } from "../daemons/index.ts";
import { reachable } from "../endpoint.ts";
import { errorStack, errorText } from "../errors.ts";
import { DAEMON_LOG_QUEUE } from "../limits.ts";
import { type Level, Logger } from "../log.ts";
import { LineWriter } from "../process/log_file.ts";
import { EarlySignals } from "../process/signals.ts";
import { logDraft } from "../message/log_fields.ts";
import { IDENTITY } from "../seal/identity.ts";
import { didYouMean } from "../text.ts";
import type { Configs } from "./config.ts";
import { defineCommand, LOG_FLAGS } from "./define.ts";
import { EXIT, Exit, UsageError } from "./exit.ts";
import { levelOf } from "./serve.ts";

/** The server is waited for so long at the start. */
const READY_MS = 1000;
/** What is queued has so long when the daemon ends, and the daemon's work too. */
const LINGER_MS = 2000;
const STOP_MAX_MS = 8000;

export const runDaemon = (configs: () => Configs) =>
  defineCommand({
    names: ["daemon"],
    summary: "run a daemon of this program, as jobmgr does",
    operands: "cc.daemon.NAME CONFIG.ini d:NAME",
    examples: ["daemon cc.daemon.infoscript local.ini d:df"],
    flags: LOG_FLAGS,
    async run(flags, operands, program) {
      const [module, file, section, more] = operands;
      if (section === undefined || more !== undefined) {
        throw new UsageError("daemon needs a daemon's name, a config file and a section");
      }
      const definition = daemonOf(module);
      if (definition === undefined) throw new UsageError(unknown(module));
      const run = new DaemonRun({
        definition,
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

interface DaemonRunParts {
  readonly definition: AnyDaemonDefinition;
  readonly file: string;
  readonly section: string;
  readonly configs: Configs;
  readonly level: Level;
  readonly program: Program;
}

class DaemonRun {
  readonly #parts: DaemonRunParts;
  readonly #environment: Environment;
  readonly #signals: EarlySignals;
  readonly #writer: LineWriter;
  /** Aborts when the process is to end. */
  readonly #end = new AbortController();
  /** Aborts when the work is to start anew. */
  #work = new AbortController();
  #goneSince: number;

  constructor(parts: DaemonRunParts) {
    this.#parts = parts;
    this.#environment = parts.program.environment;
    const { processes, clock } = this.#environment;
    this.#signals = new EarlySignals(processes);
    this.#writer = LineWriter.ofStandard(2, processes.setNonBlocking);
    this.#goneSince = clock.now();
  }

  async run(): Promise<number> {
    const { configs, file, section, definition, level } = this.#parts;
    const { clock, host } = this.#environment;
    const config = await configs.readOrExit(file);
    let options = this.#optionsOf(config);
    const name = `${config.jobName}.${section}`;
    const log = new DaemonLog({ name, section, level, environment: this.#environment, writer: this.#writer });
    const client = new Client(reachable(config.options["cc-socket"]), {
      name,
      environment: this.#environment,
      seal: IDENTITY,
      log: log.local,
      onChange: () => this.#goneSince = clock.now(),
    });
    log.client = client;
    const goneMs = Number(options["server-gone-timeout"] ?? 300) * 1000;
    let gone = false;
    const cancelGone = clock.every(1000, () => {
      if (client.up || clock.now() - this.#goneSince < goneMs) return;
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
      if (next === null || JSON.stringify(next) === JSON.stringify(options)) return;
      options = next;
      log.logger.info("reload", "SIGHUP: the options have changed");
      this.#work.abort();
    });
    // Its first lines go to the server too, where that is there.
    await client.ready({ timeoutMs: READY_MS, signal: this.#end.signal }).catch(
      () => {/* it goes on without */},
    );
    log.logger.info("start", `${definition.name} runs, process ${host.pid}`);
    try {
      while (!this.#end.signal.aborted) await this.#once(name, options, client, log.logger);
      return gone ? EXIT.unavailable : EXIT.ok;
    } catch (error) {
      log.logger.error("run", errorStack(error));
      return EXIT.failed;
    } finally {
      cancelGone();
      await client.close(LINGER_MS);
      await this.#writer.drained();
    }
  }

  /** The work, until it is to end or to start anew. */
  async #once(
    name: string,
    options: Readonly<Record<string, unknown>>,
    client: Client,
    log: Logger,
  ): Promise<void> {
    this.#work = new AbortController();
    const signal = AbortSignal.any([this.#end.signal, this.#work.signal]);
    const figures = new Map<string, number>();
    const work = this.#parts.definition.run({
      name,
      options,
      log,
      environment: this.#environment,
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
  #optionsOf(config: ServerConfig): Readonly<Record<string, unknown>> {
    const { section, file, definition } = this.#parts;
    const read =
      [...config.handlers.values()].flatMap(({ sectionsRead }) => sectionsRead.get(section) ?? [])[0];
    const module = `cc.daemon.${definition.name}`;
    if (read?.values.module === module) return read.values;
    throw new Exit(
      EXIT.config,
      read === undefined
        ? `ccserver: ${file}: there is no section [${section}] that a jobmgr reads`
        : `ccserver: ${file}: [${section}] has no "module = ${module}"`,
    );
  }

  async #reloaded(log: Logger): Promise<Readonly<Record<string, unknown>> | null> {
    try {
      return this.#optionsOf(await this.#parts.configs.read(this.#parts.file));
    } catch (error) {
      if (!(error instanceof ConfigError || error instanceof Exit)) throw error;
      log.error("reload", `SIGHUP: nothing has changed: ${errorText(error)}`);
      return null;
    }
  }
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
    if (away || this.#alone) this.#writer.sink(`${time} ${pid} ${level} ${logger}: ${msg}`);
    if (away) return;
    this.#waiting++;
    client.publish(logDraft({
      level: level as Level,
      ...this.#speaker,
      text: msg,
      timeMs: Date.parse(time),
      pid: Number(pid),
      where,
    })).catch(() => this.#writer.sink(`${time} ${pid} ${level} ${logger}: ${msg}`))
      .finally(() => this.#waiting--);
  }
}
