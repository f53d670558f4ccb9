/** `ccserver jobs`: the jobs of a server that runs, and what is done with them. */
import { statSync } from "node:fs";
import process from "node:process";
import { controlSocketOf } from "../config/server_options.ts";
import { placeOf } from "../config/reader.ts";
import type { Clock } from "../contracts/environment.ts";
import type { Program } from "../contracts/command.ts";
import type { JobAction, JobView } from "../contracts/jobs.ts";
import { CONTROL_ANSWER_MAX_MS } from "../limits.ts";
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
      const path = isSocket(where) ? where : await controlSocketOrExit(configs(), where);
      const asking = new Asking(path, program);
      try {
        if (flags.watch) return await watch(asking, flags.json, program);
        const found = action === undefined
          ? await asking.list()
          : await asking.act(action, names.map((name) => /^[dh]:/.test(name) ? name : `d:${name}`));
        show(found, flags.json, program);
        const wanted = action === "start" || action === "restart";
        return wanted && found.some(({ state }) => state !== "running") ? EXIT.failed : EXIT.ok;
      } finally {
        asking.close();
      }
    },
  });

/** @throws {UsageError} */
function checkAction(action: string | undefined, names: readonly string[], watching: boolean): void {
  if (action === undefined) return;
  if (!ACTIONS.includes(action)) throw new UsageError(`expected start, stop or restart, not "${action}"`);
  if (names.length === 0) throw new UsageError(`${action} needs the names of jobs`);
  if (watching) throw new UsageError(`--watch and ${action} exclude each other`);
}

function isSocket(path: string): boolean {
  try {
    return statSync(path).isSocket();
  } catch {
    return false; // then it is read as a config, and what is wrong with it is told
  }
}

/** @throws {Exit} It has none. */
async function controlSocketOrExit(configs: Configs, file: string): Promise<string> {
  const config = await configs.readToFind(file);
  const path = controlSocketOf(config.options);
  if (path !== null) return path;
  const why = config.options["control-socket"] === null
    ? '[ccserver] needs the option "control-socket", or "pidfile": jobs asks the server there'
    : "control-socket is none: the server cannot be asked";
  throw new Exit(EXIT.config, `${placeOf(config, "control-socket")}: ${why}`);
}

/** Asks one server, over one connection. */
class Asking {
  readonly #path: string;
  readonly #clock: Clock;
  #client: ControlClient | null = null;

  constructor(path: string, { environment }: Program) {
    this.#path = path;
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
    throw new Exit(EXIT.usage, `ccserver: ${names.join(", ")}: this server has no jobs`);
  }

  close(): void {
    this.#client?.close();
  }

  /** Null: no handler keeps jobs. */
  async #ask(verb: string, fields: Answers, timeoutMs: number): Promise<JobView[] | null> {
    try {
      this.#client ??= await ControlClient.connect(this.#path, this.#clock);
      return jobsOf(await this.#client.ask(verb, fields, timeoutMs));
    } catch (error) {
      if (!(error instanceof ControlError)) throw error;
      if (error.code === "unknown-verb") return null;
      throw this.#exitOf(error);
    }
  }

  #exitOf({ code, message }: ControlError): Exit {
    const text = printable(message);
    switch (code) {
      case "unreachable":
        return new Exit(EXIT.unavailable, `ccserver: no server runs: ${text}`);
      case "closed":
      case "busy":
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
  if (found.every((job) => typeof (job as JobView | null)?.name === "string")) return found as JobView[];
  throw new ControlError("bad-reply", "the answer cannot be read");
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

/** A terminal shows the state of now in its place; elsewhere one follows the other. */
async function watch(asking: Asking, json: boolean, program: Program): Promise<number> {
  const { environment: { clock, processes }, print } = program;
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
  while (running) {
    const found = await Promise.race([asking.list(), interrupted]);
    if (found === null) break;
    if (redraws) print(screenOf(found, clock.time()));
    else show(found, json, program);
    await Promise.race([interrupted, new Promise<void>((resolve) => void clock.after(WATCH_MS, resolve))]);
  }
  return EXIT.ok;
}

/** What makes a terminal show this and nothing else: written over what was there, so that nothing flickers. */
function screenOf(found: readonly JobView[], now: number): string {
  const { columns = 80, rows = 24 } = process.stdout;
  const lines = found.length === 0 ? ["this server has no jobs"] : tableOf(found, now);
  const shown = lines.length < rows
    ? lines
    : [...lines.slice(0, rows - 2), `… ${lines.length - rows + 2} more`];
  return `\x1b[H${shown.map((line) => `${line.slice(0, columns)}\x1b[K\n`).join("")}\x1b[J`;
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
