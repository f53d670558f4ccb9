/** `ccserver -r`, `-s`, `-k`: signals to the server that a config's pidfile names. */
import process from "node:process";
import { placeOf, type ServerConfig } from "../config/reader.ts";
import type { SectionsRead, ServerFacts } from "../contracts/handler.ts";
import type { Program } from "../contracts/command.ts";
import { errorText } from "../errors.ts";
import { jobmgr } from "../handlers/jobmgr.ts";
import { processHandler } from "../handlers/process_handler.ts";
import { daemonsStopMs, type JobmgrValues, ownSection } from "../jobs/config.ts";
import type { JobValues } from "../jobs/options.ts";
import { holderOf, isAlive } from "../process/pidfile.ts";
import type { Configs, RunningConfig } from "./config.ts";
import { configOperand, defineCommand } from "./define.ts";
import { EXIT, Exit } from "./exit.ts";

/** Sending what is queued may take `zmq_linger`; what comes on top of it is little. */
const STOP_EXTRA_MS = 30_000;
const POLL_MS = 20;

export const reload = (configs: () => Configs) =>
  defineCommand({
    names: ["reload", "-r", "--reload"],
    summary: "make the server that runs read its config again, and open its log again (SIGHUP)",
    operands: "CONFIG.ini",
    examples: ["-r local.ini"],
    flags: {},
    async run(_flags, operands) {
      signal("SIGHUP", await configs().readOrExit(configOperand(operands)), "-r");
      return EXIT.ok;
    },
  });

export const stop = (configs: () => Configs) =>
  defineCommand({
    names: ["stop", "-s", "--stop"],
    summary: "stop it, and wait until it has gone (SIGINT)",
    operands: "CONFIG.ini",
    examples: ["-s local.ini"],
    flags: {},
    async run(_flags, operands, program) {
      return await end(
        "SIGINT",
        await configs().readToFind(configOperand(operands), ["pidfile"]),
        "-s",
        program,
      );
    },
  });

export const kill = (configs: () => Configs) =>
  defineCommand({
    names: ["kill", "-k", "--kill"],
    summary: "the same by SIGTERM",
    operands: "CONFIG.ini",
    examples: ["-k local.ini"],
    flags: {},
    async run(_flags, operands, program) {
      return await end(
        "SIGTERM",
        await configs().readToFind(configOperand(operands), ["pidfile"]),
        "-k",
        program,
      );
    },
  });

/**
 * Signals the server; returns its process id.
 *
 * @throws {Exit} There is none, or it is not ours.
 */
function signal(name: "SIGHUP" | "SIGINT" | "SIGTERM", config: RunningConfig, flag: string): number {
  const path = pidfileOf(config, `${flag} finds the server by it`);
  const found = holderOf(path);
  if (found.pid === null) {
    throw new Exit(
      EXIT.unavailable,
      `ccserver: ${config.file}: no server runs: pidfile ${path}: ${found.why}`,
    );
  }
  try {
    process.kill(found.pid, name);
  } catch (error) {
    throw new Exit(EXIT.unavailable, `ccserver: cannot signal process ${found.pid}: ${errorText(error)}`);
  }
  return found.pid;
}

/** @throws {Exit} It does not end. */
async function end(
  name: "SIGINT" | "SIGTERM",
  config: RunningConfig,
  flag: string,
  { environment: { clock } }: Program,
): Promise<number> {
  const pid = signal(name, config, flag);
  const waitMs = config.options.zmq_linger + jobsStopMs(config) + STOP_EXTRA_MS;
  const until = clock.now() + waitMs;
  while (isAlive(pid)) {
    if (clock.now() > until) {
      throw new Exit(
        EXIT.failed,
        `ccserver: process ${pid} got ${name} and still runs after ${waitMs / 1000} s`,
      );
    }
    await new Promise<void>((resolve) => void clock.after(POLL_MS, resolve));
  }
  return EXIT.ok;
}

/** What handlers of a config start: what their sections say, and those of the daemons. */
export function supervisorsOf(
  handlers: ServerConfig["handlers"],
  server: Pick<ServerFacts, "pidfile" | "jobName">,
): { values: JobmgrValues; sections: SectionsRead }[] {
  return [...handlers.values()].flatMap(({ name, definition, options, sectionsRead }) => {
    if (definition === jobmgr) {
      return [{ values: options as unknown as JobmgrValues, sections: sectionsRead }];
    }
    if (definition !== processHandler || options.command === null) return [];
    const section = ownSection(name, options as unknown as JobValues, server);
    return [{ values: { daemons: [name], pidfiledir: null }, sections: new Map([[name, section]]) }];
  });
}

/** Milliseconds that the daemons of a config may take to end. */
export function jobsStopMs({ handlers }: Pick<RunningConfig, "handlers">): number {
  // No name matters here.
  const supervisors = supervisorsOf(handlers, { pidfile: null, jobName: "" });
  return Math.max(0, ...supervisors.map(({ values, sections }) => daemonsStopMs(values, sections)));
}

/** @throws {Exit} The config has none. */
export function pidfileOf(config: RunningConfig, why: string): string {
  const { pidfile } = config.options;
  if (pidfile !== null) return pidfile;
  throw new Exit(EXIT.config, `${placeOf(config, "pidfile")}: [ccserver] needs the option "pidfile": ${why}`);
}
