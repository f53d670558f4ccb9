/**
 * The job manager beside supervisord: how soon a job runs again, what 200 of them cost, what a kill of the supervisor leaves,
 * and what other messages of our server wait meanwhile. Each supervisor is seen from outside, by the processes it starts.
 */
import { Buffer } from "node:buffer";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { encodeFrames } from "../src/zmtp/frame.ts";
import { encodeReady, GREETING } from "../src/zmtp/handshake.ts";
import { Child, folder, type Forwarder, ROOT } from "./forwarders.ts";
import { cpuSeconds, load, median, SHAPES } from "./load.ts";
import { progress, type Table } from "./report.ts";

const MANY = 200;
/** Jobs that are killed one after the other, to see each one's first restart. */
const KILLED = 8;
/** Both supervisors count a job as running after one second: then it is killed. */
const RUNS_AFTER_MS = 1500;
const IDLE_MS = 20_000;
/** What a supervisor may take for anything here. */
const WAIT_MAX_MS = 60_000;
const POLL_MS = 5;
/** After a new supervisor's jobs are there: it may still end, or start, others. */
const SETTLE_MS = 3000;
/** The echoes of a light client: a second and a half is not counted, then so many that the 99.9th percentile is the largest. */
const ECHO = { rate: 500, warmUp: 750, counted: 1000 };

/** One that starts and watches processes. */
interface Supervisor {
  name: string;
  /** Writes its config with these command lines as jobs; returns how it is started. */
  configure(at: string, commands: string[]): string[];
}

/** Our server with these jobs; and a proxy to port `to`; 0: none. */
function serverIni(at: string, commands: string[], to = 0): string {
  return [
    "[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local",
    `pidfile = ${at}/%(job_name)s.pid`,
    "[routes]\necho = h:echo\njob = h:job",
    ...(to > 0 ? [`pub = h:to\n[h:to]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:${to}`] : []),
    "[h:echo]\nhandler = echo",
    `[h:job]\nhandler = jobmgr\ndaemons = ${commands.map((_, i) => `d:j${i}`).join(", ")}`,
    ...commands.map((command, i) => `[d:j${i}]\ncommand = ${command}\nstop-signal = SIGTERM`),
    "",
  ].join("\n");
}

const OURS: Supervisor = {
  name: "ccserver",
  configure(at, commands) {
    const file = join(at, "server.ini");
    writeFileSync(file, serverIni(at, commands));
    return [join(ROOT, "dist", "ccserver"), file];
  },
};

/** What is its own default where that is no matter of taste: stderr goes with stdout, as ours does. */
const THEIRS: Supervisor = {
  name: "supervisord",
  configure(at, commands) {
    const file = join(at, "supervisord.conf");
    const lines = [
      `[supervisord]\nnodaemon = true\nlogfile = ${at}/log\npidfile = ${at}/pid\nchildlogdir = ${at}\nminfds = 4096`,
      ...commands.map((command, i) =>
        `[program:j${i}]\ncommand = ${command}\nautorestart = true\nstartsecs = 1\nredirect_stderr = true`
      ),
      "",
    ];
    writeFileSync(file, lines.join("\n"));
    return ["supervisord", "-s", "-n", "-c", file];
  },
};

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function until(what: string, done: () => boolean): Promise<void> {
  const deadline = performance.now() + WAIT_MAX_MS;
  while (!done()) {
    if (performance.now() > deadline) throw new Error(`${what} did not come within ${WAIT_MAX_MS / 1000} s`);
    await sleep(POLL_MS);
  }
}

/** Marks this run's processes: seconds to sleep that no other program's are. */
const MARK = `86${process.pid}`;
let runs = 0;

/** Command lines that sleep long, by whose words each job's processes are known. */
class Sleepers {
  readonly #mark = `${MARK}${String(++runs).padStart(3, "0")}`;
  readonly commands: string[];

  constructor(count: number) {
    this.commands = Array.from({ length: count }, (_, i) => `sleep ${this.argument(i)}`);
  }

  argument(i: number): string {
    return `${this.#mark}.${1000 + i}`;
  }

  /** Those that live: which job's, and their pids. */
  living(): { pid: number; job: string }[] {
    return living(`sleep\0${this.#mark}.`).map(({ pid, line }) => ({ pid, job: line }));
  }

  /** Are there this many jobs that have a process? */
  reached(count: number): boolean {
    return new Set(this.living().map(({ job }) => job)).size >= count;
  }
}

function living(start: string): { pid: number; line: string }[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const line = readFileSync(`/proc/${name}/cmdline`, "latin1");
      return line.startsWith(start) ? [{ pid: Number(name), line }] : [];
    } catch {
      return []; // it has ended meanwhile
    }
  });
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** A supervisor that runs. */
class Started {
  readonly pid: number;
  /** Its end. */
  readonly ended: Promise<void>;
  #running = true;

  constructor([command, ...args]: string[]) {
    const child = spawn(command, args, { cwd: folder, stdio: "ignore" });
    if (child.pid === undefined) throw new Error(`${command} cannot be started`);
    this.pid = child.pid;
    this.ended = new Promise((resolve) =>
      child.once("exit", () => {
        this.#running = false;
        resolve();
      })
    );
  }

  /** Tells it to end, and waits until it has. */
  async stop(): Promise<void> {
    if (this.#running) kill(this.pid, "SIGTERM");
    await until("a supervisor's end", () => !this.#running);
  }

  async kill(): Promise<void> {
    if (this.#running) kill(this.pid, "SIGKILL");
    await this.ended;
  }
}

/** Does something with a folder and supervisors, of which nothing is left. */
async function clean<T>(run: (at: string, start: (argv: string[]) => Started) => Promise<T>): Promise<T> {
  const at = mkdtempSync(join(folder, "jobs-"));
  const started: Started[] = [];
  try {
    return await run(at, (argv) => {
      started.push(new Started(argv));
      return started.at(-1)!;
    });
  } finally {
    for (const one of started) await one.kill();
    endSleepers();
    rmSync(at, { recursive: true, force: true });
  }
}

function endSleepers(): void {
  for (const { pid } of living(`sleep\0${MARK}`)) kill(pid, "SIGKILL");
}

/** Milliseconds from the kill of a job to the start of the next, of several jobs one after the other. */
function restarts(supervisor: Supervisor): Promise<number[]> {
  return clean(async (at, start) => {
    const sleepers = new Sleepers(KILLED);
    const script = join(at, "job.sh");
    writeFileSync(script, `echo $$ $(date +%s%N) >> "$1"\nexec sleep "$2"\n`);
    const file = (i: number) => join(at, `started${i}`);
    const commands = sleepers.commands.map((_, i) => `/bin/sh ${script} ${file(i)} ${sleepers.argument(i)}`);
    const one = start(supervisor.configure(at, commands));
    await until("the jobs", () => sleepers.reached(KILLED));
    await sleep(RUNS_AFTER_MS);
    const times: number[] = [];
    for (let i = 0; i < KILLED; i++) {
      const lines = () => readFileSync(file(i), "utf8").trim().split("\n");
      const killed = Date.now();
      kill(Number(lines()[0].split(" ")[0]), "SIGKILL");
      await until("a restart", () => lines().length > 1);
      times.push(Number(lines()[1].split(" ")[1]) / 1e6 - killed);
      // At another moment of the supervisor's own clock.
      await sleep(130);
    }
    await one.stop();
    return times;
  });
}

/** What watching so many jobs costs. */
interface Cost {
  startMs: number;
  residentMiB: number;
  privateMiB: number;
  cpuPercent: number;
  stopMs: number;
}

function cost(supervisor: Supervisor, count: number): Promise<Cost> {
  return clean(async (at, start) => {
    const sleepers = new Sleepers(count);
    const argv = supervisor.configure(at, sleepers.commands);
    const begin = performance.now();
    const one = start(argv);
    await until("the jobs", () => sleepers.reached(count));
    const startMs = performance.now() - begin;
    await sleep(SETTLE_MS);
    const before = cpuSeconds(one.pid);
    await sleep(IDLE_MS);
    const cpuPercent = (cpuSeconds(one.pid) - before) / (IDLE_MS / 1000) * 100;
    const rollup = readFileSync(`/proc/${one.pid}/smaps_rollup`, "utf8");
    const mib = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+)`, "m").exec(rollup)![1]) / 1024;
    const stopping = performance.now();
    await one.stop();
    await until("the end of the jobs", () => sleepers.living().length === 0);
    return {
      startMs,
      residentMiB: mib("Rss"),
      privateMiB: mib("Private_Clean") + mib("Private_Dirty"),
      cpuPercent,
      stopMs: performance.now() - stopping,
    };
  });
}

/** What the kill of a supervisor and the start of the next do to its jobs, in processes. */
interface Orphans {
  /** More than one of a job, when the next has started. */
  twice: number;
  /** Those of the first that go on. */
  kept: number;
  /** Those that live after the clean stop of the next. */
  left: number;
}

function orphans(supervisor: Supervisor): Promise<Orphans> {
  return clean(async (at, start) => {
    const sleepers = new Sleepers(MANY);
    const argv = supervisor.configure(at, sleepers.commands);
    const first = start(argv);
    await until("the jobs", () => sleepers.reached(MANY));
    await sleep(SETTLE_MS);
    const before = new Set(sleepers.living().map(({ pid }) => pid));
    await first.kill();
    const second = start(argv);
    await sleep(SETTLE_MS);
    await until("the jobs", () => sleepers.reached(MANY));
    await sleep(SETTLE_MS);
    const after = sleepers.living();
    const twice = after.length - new Set(after.map(({ job }) => job)).size;
    const kept = after.filter(({ pid }) => before.has(pid)).length;
    await second.stop();
    return { twice, kept, left: sleepers.living().length };
  });
}

/** Echoes of a light client, in microseconds. */
interface Echoes {
  p99: number;
  max: number;
}

/** Our server's echoes while nothing happens, and while something is done that `during` starts. */
async function echoes(
  tool: string,
  port: number,
  during: () => void | Promise<void> = () => {},
  warm = true,
): Promise<Echoes> {
  const none = new Uint8Array(0);
  const hello = join(folder, "jobs-hello");
  writeFileSync(hello, Buffer.concat([GREETING, encodeReady("DEALER", none)]));
  const message = join(folder, "jobs-echo");
  const body = JSON.stringify({ req: "echo.request", target: "me" });
  writeFileSync(message, encodeFrames([none, Buffer.from("echo.request"), Buffer.from(body), none]));
  const warmUp = warm ? ECHO.warmUp : 0;
  const client = new Child(
    tool,
    ["light", ...[port, ECHO.rate, warmUp + ECHO.counted].map(String), hello, message],
    {
      HELLO_REPLY: String(GREETING.length + encodeReady("ROUTER", none).length),
      WARM_UP_MESSAGES: String(warmUp),
    },
  );
  try {
    await client.match(/^ready/);
    client.go();
    await sleep((warmUp / ECHO.rate + 0.1) * 1000);
    await during();
    const { p99, p999 } = JSON.parse((await client.match(/^\{.*\}$/))[0]) as { p99: number; p999: number };
    return { p99, max: p999 };
  } finally {
    await client.stop();
  }
}

const ECHOES = [
  ["1 job", "beside 1 job"],
  ["starting", `while a reload starts ${MANY}`],
  ["rest", `beside ${MANY} jobs`],
  ["killed", `while ${MANY} are killed at once, and start again`],
  ["cold1", "in the first 2 s of a server with 1 job"],
  ["cold", `in the first 2 s of a server with ${MANY}`],
] as const;
type EchoesOf = Record<typeof ECHOES[number][0], Echoes>;

async function echoesBeside(tool: string): Promise<EchoesOf> {
  const one = new Sleepers(1);
  const many = new Sleepers(MANY);
  const start = async (at: string, commands: string[]) => {
    const [command, ...args] = OURS.configure(at, commands);
    const child = new Child(command, args, {}, "stderr");
    const [, port] = await child.match(/listening on tcp:\/\/127\.0\.0\.1:(\d+),/);
    return { child, port: Number(port) };
  };
  const end = async (child: Child) => {
    child.process.kill("SIGTERM");
    await until("the server's end", () => child.process.exitCode !== null);
  };
  return {
    ...await clean(async (at) => {
      const { child, port } = await start(at, one.commands);
      try {
        const alone = await echoes(tool, port);
        const starting = await echoes(tool, port, () => {
          OURS.configure(at, many.commands);
          child.process.kill("SIGHUP");
        });
        await until("the jobs", () => many.reached(MANY));
        await sleep(RUNS_AFTER_MS);
        const rest = await echoes(tool, port);
        const before = many.living().map(({ pid }) => pid);
        const killed = await echoes(tool, port, () => {
          for (const pid of before) kill(pid, "SIGKILL");
        });
        await until("the restarts", () => many.reached(MANY));
        await end(child);
        return { "1 job": alone, starting, rest, killed };
      } finally {
        await child.stop();
      }
    }),
    ...await clean(async (at) => {
      const found: Echoes[] = [];
      for (const { commands } of [one, many]) {
        const { child, port } = await start(at, commands);
        try {
          found.push(await echoes(tool, port, undefined, false));
          await end(child);
        } finally {
          await child.stop();
        }
      }
      return { cold1: found[0], cold: found[1] };
    }),
  };
}

/** Millions of messages a second that our server forwards beside so many jobs that sleep. */
function forwarding(tool: string, count: number, seconds: number): Promise<number> {
  return clean(async (at) => {
    const sleepers = new Sleepers(count);
    const forwarder: Forwarder = {
      name: `ccserver with ${count} jobs`,
      missing: null,
      guess: 10_000_000,
      wire: "zmtp",
      async start(to) {
        const [command, file] = OURS.configure(at, []);
        writeFileSync(file, serverIni(at, sleepers.commands, to));
        const child = new Child(command, [file], {}, "stderr");
        const [, port] = await child.match(/listening on tcp:\/\/127\.0\.0\.1:(\d+),/);
        await child.match(/ is up/);
        await until("the jobs", () => sleepers.reached(count));
        await sleep(RUNS_AFTER_MS);
        return { port: Number(port), pid: child.process.pid!, stop: () => child.stop() };
      },
    };
    const options = { shape: SHAPES.small, clients: 1, handlers: 1, seconds };
    return (await load(tool, forwarder, options)).messagesPerSecond / 1e6;
  });
}

/** What one supervisor showed in all rounds. */
interface Found {
  restartMs: number[];
  one: Cost[];
  many: Cost[];
  orphans: Orphans[];
}

/**
 * Our job manager and supervisord in turn.
 *
 * @returns Why it was not measured, or the table.
 */
export async function jobs(tool: string, rounds: number, seconds: number): Promise<Table | string> {
  if (spawnSync("supervisord", ["--version"]).status !== 0) {
    return "jobs: supervisord (Debian package supervisor) is missing";
  }
  // Jobs outlive a supervisor that an error has ended.
  process.on("exit", endSleepers);
  const found = new Map<Supervisor, Found>(
    [OURS, THEIRS].map((one) => [one, { restartMs: [], one: [], many: [], orphans: [] }]),
  );
  const echoed: EchoesOf[] = [];
  const rates: [none: number, many: number][] = [];
  for (let round = 0; round < rounds; round++) {
    for (const [supervisor, so] of found) {
      progress(`jobs: round ${round + 1}, ${supervisor.name}`);
      so.restartMs.push(...await restarts(supervisor));
      so.one.push(await cost(supervisor, 1));
      so.many.push(await cost(supervisor, MANY));
      so.orphans.push(await orphans(supervisor));
    }
    progress(`jobs: round ${round + 1}, messages`);
    echoed.push(await echoesBeside(tool));
    rates.push([await forwarding(tool, 1, seconds), await forwarding(tool, MANY, seconds)]);
  }
  progress(null);

  const row = (
    what: string,
    of: (so: Found) => string,
  ) => [what, of(found.get(OURS)!), of(found.get(THEIRS)!)];
  const costs = (what: string, of: (so: Found) => number[], digits: number) =>
    row(what, (so) => median(of(so)).toFixed(digits));
  const many = (key: keyof Cost) => (so: Found) => so.many.map((cost) => cost[key]);
  const one = (key: keyof Cost) => (so: Found) => so.one.map((cost) => cost[key]);
  const left = (key: keyof Orphans) => (so: Found) => so.orphans.map((one) => one[key]);
  const ms = (micros: number) => (micros / 1000).toFixed(1);
  return {
    title: `Jobs, beside supervisord, medians of ${rounds} rounds`,
    head: ["what", OURS.name, THEIRS.name],
    rows: [
      row(
        "kill of a job to its next start, median and most, ms",
        ({ restartMs }) => `${median(restartMs).toFixed(0)}, ${Math.max(...restartMs).toFixed(0)}`,
      ),
      costs(`start until ${MANY} run, ms`, many("startMs"), 0),
      costs(`stop until ${MANY} and the supervisor have ended, ms`, many("stopMs"), 0),
      costs("resident memory with 1 job, MiB", one("residentMiB"), 1),
      costs(`resident memory with ${MANY}, MiB`, many("residentMiB"), 1),
      costs("private memory with 1 job, MiB", one("privateMiB"), 1),
      costs(`private memory with ${MANY}, MiB`, many("privateMiB"), 1),
      costs("CPU with 1 job at rest, % of a core", one("cpuPercent"), 2),
      costs(`CPU with ${MANY} at rest, % of a core`, many("cpuPercent"), 2),
      costs("kill -9 of the supervisor, then a new one: processes that go on", left("kept"), 0),
      costs("… processes too many: their job runs twice", left("twice"), 0),
      costs("… processes left after its clean stop", left("left"), 0),
      ...ECHOES.map(([key, when]) => {
        const max = echoed.map((one) => one[key].max);
        const p99 = median(echoed.map((one) => one[key].p99));
        return [
          `echo ${when}: p99, max (worst round), ms`,
          `${ms(p99)}, ${ms(median(max))} (${ms(Math.max(...max))})`,
          "–",
        ];
      }),
      ...([["1 job", 0], [`${MANY} jobs`, 1]] as const).map(([what, i]) => [
        `forwarding beside ${what}, M messages/s`,
        median(rates.map((rate) => rate[i])).toFixed(2),
        "–",
      ]),
    ],
  };
}
