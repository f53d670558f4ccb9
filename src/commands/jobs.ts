/** `ccserver jobs`: the jobs of a server that runs, and what is done with them. */
import { statSync } from "node:fs";
import process from "node:process";
import { controlSocketOf } from "../config/server_options.ts";
import { placeOf } from "../config/reader.ts";
import type { Program } from "../contracts/command.ts";
import type { Clock } from "../contracts/environment.ts";
import type { JobAction, JobState, JobView } from "../contracts/jobs.ts";
import { codeOf, errnoText, errorText } from "../errors.ts";
import { CONTROL_ANSWER_MAX_MS } from "../limits.ts";
import { holderOf } from "../process/pidfile.ts";
import { printable } from "../text.ts";
import type { Configs } from "./config.ts";
import { type Answers, ControlClient, ControlError } from "./control_client.ts";
import { defineCommand } from "./define.ts";
import { EXIT, Exit, UsageError } from "./exit.ts";

const ACTIONS: readonly string[] = ["start", "stop", "restart"] satisfies JobAction[];
/** How long the list of jobs may take. */
const LIST_MAX_MS = 10_000;
/** What an action may take longer than the server gives it. */
const ANSWER_EXTRA_MS = 5000;
const WATCH_MS = 1000;
/** A server that lives, and at which many ask at once, may let nobody in for a moment. */
const CONNECT_AGAIN_MS = 50;
const CONNECT_TRIES = 20;

export const jobs = (configs: () => Configs) =>
  defineCommand({
    names: ["jobs"],
    summary: "the jobs of the server that runs; starts, stops and restarts them",
    operands: "CONFIG.ini|CONTROL-SOCKET [start|stop|restart NAME …]",
    examples: ["jobs local.ini", "jobs local.ini restart one d:two", "jobs --watch /run/cc/local.ctl"],
    flags: {
      json: { kind: "flag", doc: "print one line of JSON: an array of jobs" },
      watch: { kind: "flag", doc: "print them anew each second, until Ctrl-C" },
    },
    async run(flags, [where, action, ...names], program) {
      if (where === undefined) throw new UsageError("a config file or a control socket is needed");
      checkAction(action, names, flags.watch);
      const asking = new Asking(await placeOfServer(where, configs()), program);
      if (flags.watch) return await watch(asking, flags.json, program);
      const found = action === undefined
        ? await asking.list()
        : await asking.act(action, names.map((name) => /^[dh]:/.test(name) ? name : `d:${name}`));
      show(found, flags.json, program);
      if (action === undefined) return EXIT.ok;
      const wanted: JobState = action === "stop" ? "stopped" : "running";
      return found.every(({ state }) => state === wanted) ? EXIT.ok : EXIT.failed;
    },
  });

/** @throws {UsageError} */
function checkAction(action: string | undefined, names: readonly string[], watching: boolean): void {
  if (action === undefined) return;
  if (!ACTIONS.includes(action)) throw new UsageError(`expected start, stop or restart, not "${action}"`);
  if (names.length === 0) throw new UsageError(`${action} needs the names of jobs`);
  if (watching) throw new UsageError(`--watch and ${action} exclude each other`);
}

/** Where a server is asked, and the file by which it is known whether one runs. */
interface Place {
  readonly path: string;
  readonly pidfile: string | null;
}

/** @throws {Exit} There is none. */
async function placeOfServer(where: string, configs: Configs): Promise<Place> {
  try {
    if (statSync(where).isSocket()) return { path: where, pidfile: null };
  } catch (error) {
    if (!where.endsWith(".ini")) {
      const why = codeOf(error) === "ENOENT" ? "no such file" : errnoText(codeOf(error)) ?? errorText(error);
      throw new Exit(
        EXIT.unavailable,
        printable(
          `ccserver: ${where}: ${why}: neither a config nor the control socket of a server that runs`,
        ),
      );
    }
  }
  const config = await configs.readToFind(where, ["control-socket", "pidfile"]);
  const { options } = config;
  const path = controlSocketOf(options);
  if (path !== null) return { path, pidfile: options.pidfile };
  const why = options["control-socket"] === null
    ? '[ccserver] needs the option "control-socket", or "pidfile": jobs asks the server there'
    : "control-socket is none: the server cannot be asked";
  throw new Exit(EXIT.config, `${placeOf(config, "control-socket")}: ${why}`);
}

/** Asks one server, each time over a connection of its own: who watches takes no place from others. */
class Asking {
  readonly #place: Place;
  readonly #clock: Clock;

  constructor(place: Place, { environment }: Program) {
    this.#place = place;
    this.#clock = environment.clock;
  }

  /** @throws {Exit} */
  async list(): Promise<JobView[]> {
    return await this.#ask("jobs", {}, LIST_MAX_MS) ?? [];
  }

  /** @throws {Exit} */
  async act(action: string, names: readonly string[]): Promise<JobView[]> {
    const found = await this.#ask("job", { action, names }, CONTROL_ANSWER_MAX_MS + ANSWER_EXTRA_MS);
    if (found !== null) return found;
    throw new Exit(EXIT.usage, printable(`ccserver: ${names.join(", ")}: this server has no jobs`));
  }

  /** Null: no handler keeps jobs. */
  async #ask(verb: string, fields: Answers, timeoutMs: number): Promise<JobView[] | null> {
    let client: ControlClient | null = null;
    try {
      client = await this.#connect();
      return jobsOf(await client.ask(verb, fields, timeoutMs));
    } catch (error) {
      if (!(error instanceof ControlError)) throw error;
      if (error.code === "unknown-verb") return null;
      throw this.#exitOf(error);
    } finally {
      client?.close();
    }
  }

  /** @throws {ControlError} */
  async #connect(): Promise<ControlClient> {
    for (let tries = 1;; tries++) {
      try {
        return await ControlClient.connect(this.#place.path, this.#clock);
      } catch (error) {
        const again = codeOf(error) === "unreachable" && tries < CONNECT_TRIES && this.#holder() !== null;
        if (!again) throw error;
        await new Promise<void>((resolve) => void this.#clock.after(CONNECT_AGAIN_MS, resolve));
      }
    }
  }

  /** The process that runs on this config; null: none does, or nobody knows. */
  #holder(): number | null {
    const { pidfile } = this.#place;
    return pidfile === null ? null : holderOf(pidfile).pid;
  }

  #exitOf({ code, message }: ControlError): Exit {
    const text = printable(message);
    switch (code) {
      case "unreachable": {
        const pid = this.#holder();
        return new Exit(
          EXIT.unavailable,
          pid === null
            ? `ccserver: no server runs: ${text}`
            : `ccserver: process ${pid} runs, but ${text}: was control-socket changed, or its file removed?`,
        );
      }
      case "closed":
      case "busy":
      case "stopped":
      case "EACCES":
        return new Exit(EXIT.unavailable, `ccserver: ${text}`);
      case "unknown-job":
        return new Exit(EXIT.usage, `ccserver: ${text}`);
      default:
        return new Exit(EXIT.failed, `ccserver: ${text} (${printable(code, 64)})`);
    }
  }
}

/** All jobs of all handlers that have answered. @throws {ControlError} */
function jobsOf(answers: Answers): JobView[] {
  const found = Object.values(answers).flatMap((answer) => (answer as { jobs?: unknown } | null)?.jobs ?? []);
  if (found.every(isJob)) return found;
  throw new ControlError("bad-reply", "the answer cannot be read");
}

/** Whoever listens there may say anything. */
function isJob(value: unknown): value is JobView {
  if (typeof value !== "object" || value === null) return false;
  const job = value as Record<keyof JobView, unknown>;
  const isText = (text: unknown) => text === null || typeof text === "string";
  const isNumber = (number: unknown) => number === null || Number.isFinite(number);
  return typeof job.name === "string" && typeof job.state === "string" && isNumber(job.pid) &&
    Number.isFinite(job.since) && Number.isFinite(job.restarts) && isNumber(job.cpuSeconds) &&
    isNumber(job.memoryBytes) && isText(job.lastExit) && isText(job.detail);
}

function show(
  found: readonly JobView[],
  json: boolean,
  { print, tell, environment: { clock } }: Program,
): void {
  if (json) print(`${JSON.stringify(found)}\n`);
  else if (found.length === 0) tell("ccserver: this server has no jobs");
  else print(`${tableOf(found, clock.time()).join("\n")}\n`);
}

/**
 * A terminal shows the state of now in its place; elsewhere one follows the other. A server that is away, once it has been
 * asked, may come again: why it is not asked is shown meanwhile.
 */
async function watch(asking: Asking, json: boolean, program: Program): Promise<number> {
  const { environment: { clock, processes }, print, tell } = program;
  let running = true;
  let stop = () => {};
  const interrupted = new Promise<null>((resolve) => stop = () => resolve(null));
  processes.onSignal("SIGINT", () => {
    running = false;
    stop();
  });
  // Loaded where it is wanted: it costs every start of the program 19 ms.
  const { isatty } = await import("node:tty");
  const redraws = !json && isatty(1);
  let asked = false;
  let told = "";
  while (running) {
    let found: JobView[] | null;
    let away = "";
    try {
      found = await Promise.race([asking.list(), interrupted]);
      if (found === null) break;
      asked = true;
    } catch (error) {
      if (!asked || !(error instanceof Exit)) throw error;
      away = error.message;
      found = [];
    }
    if (redraws) {
      const lines = away !== ""
        ? [away]
        : found.length === 0
        ? ["this server has no jobs"]
        : tableOf(found, clock.time());
      print(screenOf(lines, process.stdout));
    } else if (away === "") show(found, json, program);
    else if (away !== told) tell(away);
    told = away;
    await Promise.race([interrupted, new Promise<void>((resolve) => void clock.after(WATCH_MS, resolve))]);
  }
  if (redraws) print("\n");
  return EXIT.ok;
}

/**
 * What makes a terminal show these lines and nothing else: written over what was there, so that nothing flickers.
 *
 * @param size Of the terminal; 0 where it does not know.
 */
export function screenOf(
  lines: readonly string[],
  { columns, rows }: { readonly columns?: number; readonly rows?: number },
): string {
  const high = rows || 24;
  const wide = columns || 80;
  const shown = lines.length <= high
    ? lines
    : [...lines.slice(0, high - 1), `… ${lines.length - high + 1} more`];
  // No newline at the end: it would move all lines up.
  return `\x1b[H${shown.map((line) => `\x1b[K${line.slice(0, wide)}`).join("\n")}\x1b[J`;
}

/** A column: its head, what it says of a job, and whether it is a number. */
type Column = readonly [head: string, of: (job: JobView, now: number) => string, right?: "right"];

const COLUMNS: readonly Column[] = [
  ["NAME", ({ name }) => name],
  ["STATE", ({ state }) => state],
  ["PID", ({ pid }) => pid === null ? "-" : String(pid), "right"],
  ["SINCE", ({ since }, now) => age((now - since) / 1000), "right"],
  ["RESTARTS", ({ restarts }) => String(restarts), "right"],
  ["CPU", ({ cpuSeconds }) => cpuSeconds === null ? "-" : cpuTime(cpuSeconds), "right"],
  ["MEMORY", ({ memoryBytes }) => memoryBytes === null ? "-" : bytesText(memoryBytes), "right"],
  ["LAST EXIT", ({ lastExit }) => lastExit ?? "-"],
  ["DETAIL", ({ detail }) => detail ?? ""],
];

/** A head and a line each; columns as wide as they need to be. */
function tableOf(found: readonly JobView[], now: number): string[] {
  const columns = COLUMNS.filter(([head]) => head !== "DETAIL" || found.some(({ detail }) => detail));
  const cells = [
    columns.map(([head]) => head),
    ...found.map((job) => columns.map(([, of]) => printable(String(of(job, now)), 256))),
  ];
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i].length)));
  return cells.map((row) =>
    row.map((cell, i) => columns[i][2] === "right" ? cell.padStart(widths[i]) : cell.padEnd(widths[i])).join(
      "  ",
    )
      .trimEnd()
  );
}

/** `3d 4h`, `5h 7m`, `12m 5s`, `9s` */
function age(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${s % 60}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h ${Math.floor(s / 60) % 60}m`;
  return `${Math.floor(s / 86_400)}d ${Math.floor(s / 3600) % 24}h`;
}

function cpuTime(seconds: number): string {
  return seconds < 60 ? `${seconds.toFixed(1)}s` : age(seconds);
}

/** `820 K`, `45.1 M`, `1.2 G`, counted by 1024. */
function bytesText(bytes: number): string {
  let value = bytes / 1024;
  for (const unit of ["K", "M", "G"]) {
    if (value < 1024 || unit === "G") {
      return `${value < 100 && unit !== "K" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    }
    value /= 1024;
  }
  return "";
}
