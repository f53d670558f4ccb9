/** All jobs of a server: which there are, in what order they start and stop, and what is told of them. */
import type { Cancel, Environment, Pipe } from "../contracts/environment.ts";
import type { Counter, Meter } from "../contracts/handler.ts";
import type { JobAction, JobView } from "../contracts/jobs.ts";
import type { Draft, Outcome, ReturnPath } from "../contracts/message.ts";
import { CCError, errorText } from "../errors.ts";
import { JOBS_MAX } from "../limits.ts";
import type { Logger } from "../log.ts";
import { logDraft } from "../message/log_fields.ts";
import { counted, printable } from "../text.ts";
import { type JobConfig, longestStopMs, stopMsOf } from "./config.ts";
import type { Digest } from "./digest.ts";
import { Gate } from "./gate.ts";
import { Job, type JobParts } from "./job.ts";
import { OutputReader } from "./output.ts";
import { isLeader, isMember, Scanner } from "./processes.ts";
import { JOB_CONFIG, provided } from "./provide.ts";
import { type JobRecord, leaderOf, readRecord } from "./state_file.ts";

/** How often memory and processor time of all jobs are looked at: where they are bounded, and where they are only told. */
const BOUNDED_MS = 5000;
const TOLD_MS = 15_000;
/** What an operator sees is not older than this. */
const FIGURES_FRESH_MS = 500;
/** An operator who starts jobs waits for what becomes of that, looking so often. */
const START_LOOK_MS = 20;
const START_EXTRA_MS = 5000;
/** So many jobs are named in a line, and so much is shown of a name that an operator has sent. */
const NAMES_TOLD_MAX = 20;
const NAME_MAX_CHARS = 64;
/** Strangers that carry the name of a job that is not there any more have so long. */
const STRAY_WAIT_MS = 5000;

/** What a supervisor needs of its handler. */
export interface SupervisorParts {
  readonly environment: Environment;
  readonly log: Logger;
  readonly meter: Meter;
  readonly digest: Digest;
  /** Do messages of this type reach jobs' handler? */
  isRouted(type: string): boolean;
  /** Which sections' jobs it ends where an earlier server has left them and the config has them no more. */
  isOurs(section: string): boolean;
  publish(draft: Draft): Outcome | Promise<Outcome>;
  send(to: ReturnPath, draft: Draft): Outcome | Promise<Outcome>;
}

export class Supervisor {
  readonly #parts: SupervisorParts;
  readonly #environment: Environment;
  readonly #gate: Gate;
  readonly #scanner: Scanner;
  readonly #output: OutputReader;
  /** In the order of the config. */
  #jobs = new Map<string, Job>();
  /** Jobs that the config does not have any more, while they end. */
  readonly #leaving = new Set<Job>();
  readonly #lost: Counter;
  readonly #refused: Counter;
  readonly #metered = new Set<string>();
  /** Jobs of which what an earlier server left has not been ended yet, and when that is done. */
  readonly #clearing = new Map<Job, Promise<void>>();
  /** Pending while it is not known which processes of an earlier server go on as jobs; null: it is known. */
  #knowing: Promise<void> | null;
  #known: () => void = () => {};
  /** Pidfiles of the jobs that it began with, while what is left of all others is being ended; null: that is done. */
  #begunWith: ReadonlySet<string> | null = null;
  /** The taking over and ending of what an earlier server left. */
  #beginning: Promise<void> = Promise.resolve();
  #stopping = false;
  #pipesWanted: { path: string; opened: (pipe: Pipe | CCError) => void }[] = [];
  #looksAgain = false;
  #cancelFigures: Cancel = () => {};
  #figuresAt = -Infinity;
  #looking: Promise<void> | null = null;

  constructor(parts: SupervisorParts) {
    this.#parts = parts;
    this.#environment = parts.environment;
    this.#knowing = new Promise((resolve) => {
      this.#known = () => {
        this.#knowing = null;
        resolve();
      };
    });
    this.#gate = new Gate(parts.environment.clock);
    this.#scanner = new Scanner(parts.environment);
    this.#output = new OutputReader(parts.environment.clock);
    this.#lost = parts.meter.counter("jobs.output.dropped");
    this.#refused = parts.meter.counter("jobs.config.refused");
  }

  /** Takes over what an earlier server left, ends what that may not be, and starts the others. */
  start(configs: readonly JobConfig[]): void {
    const jobs = configs.map((config) => this.#add(config));
    const { host, processes } = this.#environment;
    if (host.pid === 1 && !processes.collectsOrphans) {
      this.#parts.log.warn(
        "start",
        "as process 1 this runtime does not collect what daemons leave: start the container with --init",
      );
    }
    const begin = this.#begin(jobs).catch((error) => {
      this.#parts.log.error("start", `what an earlier server left cannot be looked for: ${errorText(error)}`);
    }).finally(() => this.#known());
    for (const job of jobs) {
      this.#clearing.set(job, begin);
      // It waits for that.
      job.resume();
    }
    this.#beginning = begin;
    this.#cancelFigures = this.#environment.clock.every(BOUNDED_MS, () => {
      const bounded = [...this.#jobs.values()].some(({ config }) => config.values["max-memory"] !== null);
      if (bounded || this.#environment.clock.now() - this.#figuresAt >= TOLD_MS) void this.#lookAtFigures();
    });
  }

  /** Also where the server is to stop already: what was left is ended then. */
  async #begin(jobs: readonly Job[]): Promise<void> {
    const records = await Promise.all(
      jobs.map((job) => readRecord(this.#environment, job.config.stateFile, job.log)),
    );
    this.#begunWith = new Set(jobs.map(({ config }) => config.pidfile));
    const unknown = this.#clearUnknown(jobs).finally(() => {
      this.#begunWith = null;
      this.#lookAgain();
    });
    const taken = jobs.map(async (job, i) => {
      const record = records[i];
      return record !== null && await job.takeOver(record);
    });
    void Promise.allSettled(taken).then(() => this.#known());
    await Promise.all(jobs.map(async (job, i) => {
      if (!await taken[i]) await job.clear(records[i]);
      this.#clearing.delete(job);
      // Somebody may have stopped it meanwhile.
      if (!job.wanted) await job.stop();
      this.#lookAgain();
    }));
    await unknown;
  }

  /** Ends processes of jobs that this config does not have any more: an earlier server of it has left them. */
  async #clearUnknown(jobs: readonly Job[]): Promise<void> {
    if (jobs.length === 0) return;
    const { processes } = this.#environment;
    const { CC_CONFIG: config, CC_JOB_CHAIN: own } = jobs[0].config.facts;
    const known = new Set(jobs.map((job) => job.config.pidfile));
    const forgotten = await this.#forgotten(jobs, config);
    const leaders = forgotten.flatMap(({ record }) => leaderOf(record, processes.bootId) ?? []);
    // As long as the chain of this server's own jobs: those of servers that are jobs here have longer ones.
    const length = own.split("\n").length;
    const names = new Set<string>();
    const stay = await this.#scanner.end(
      (info, chain) => {
        const [pidfile] = chain().slice(length - 1);
        const ours = chain().length === length && !known.has(pidfile) &&
          processes.environmentOf(info.pid, "CC_CONFIG") === config &&
          this.#parts.isOurs(processes.environmentOf(info.pid, "CC_SECTION") ?? "");
        if (!ours) {
          // One that has no name in its environment may have emptied that.
          return chain().length === 0 &&
            leaders.some((leader) => isLeader(info, leader) || isMember(info, leader));
        }
        names.add(processes.environmentOf(info.pid, "CC_JOB") ?? pidfile);
        return true;
      },
      ["SIGINT", "SIGTERM", "SIGKILL"],
      STRAY_WAIT_MS,
      (targets) => {
        const of = names.size === 0 ? "daemons" : [...names].join(", ");
        this.#parts.log.warn(
          "start",
          `an earlier server left ${counted(targets.length, "process", "processes")} of ${of}, ` +
            `which the config does not have any more: ending ${targets.length === 1 ? "it" : "them"}`,
        );
      },
    );
    for (const { pid } of stay) {
      this.#parts.log.error("start", `process ${pid} does not end, by SIGKILL either`);
    }
    if (stay.length > 0) return;
    for (const file of forgotten.flatMap(({ files }) => files)) {
      await this.#environment.files.remove(file).catch(() => {/* it stays */});
    }
  }

  /** Records of jobs of this config that it does not have any more. */
  async #forgotten(jobs: readonly Job[], config: string): Promise<Forgotten[]> {
    const { files } = this.#environment;
    const known = new Set(jobs.map((job) => job.config.stateFile));
    const found: Forgotten[] = [];
    for (const folder of new Set(jobs.map((job) => job.config.folder))) {
      const names = (await files.list(folder)).filter((name) => name.endsWith(".state"));
      for (const path of names.slice(0, 2 * JOBS_MAX).map((name) => `${folder}/${name}`)) {
        if (known.has(path)) continue;
        const record = await readRecord(this.#environment, path, this.#parts.log);
        if (record?.config !== config || !this.#parts.isOurs(record.section)) continue;
        found.push({
          record,
          files: [path, record.pidfile, path.replace(/state$/, "out"), path.replace(/state$/, "notify")],
        });
      }
    }
    return found;
  }

  /** Other jobs, or others as they were: those that are untouched are not touched. */
  reconfigure(configs: readonly JobConfig[]): void {
    const before = this.#jobs;
    const fresh: Job[] = [];
    const changed: string[] = [];
    this.#jobs = new Map();
    for (const config of configs) {
      const old = before.get(config.name);
      const settings = old?.config.settings;
      if (old !== undefined && (settings === config.settings || this.#reconfigured(old, config))) {
        if (settings !== config.settings) changed.push(config.name);
        this.#jobs.set(config.name, old);
        before.delete(config.name);
      } else fresh.push(this.#add(config));
    }
    const tell = (what: string, names: string[]) => {
      if (names.length > 0) this.#parts.log.info("reload", `daemons ${what}: ${names.join(", ")}`);
    };
    tell(
      "added",
      fresh.filter(({ config: { name } }) => !before.has(name)).map(({ config: { name } }) => name),
    );
    tell("changed while they run", changed);
    tell(
      "changed",
      fresh.filter(({ config: { name } }) => before.has(name)).map(({ config: { name } }) => name),
    );
    tell("removed", [...before.keys()].filter((name) => !this.#jobs.has(name)));
    const left = [...before.values()];
    for (const job of left) this.#leaving.add(job);
    const stops = new Map<Job, Promise<void>>();
    for (const job of left) {
      void this.#stop(job, left, stops).then(() => job.dispose()).finally(() => {
        this.#leaving.delete(job);
        this.#lookAgain();
      });
    }
    // Each waits until the one of its name has gone.
    for (const job of fresh) job.start();
  }

  /** False: its process must be another for that. */
  #reconfigured(job: Job, config: JobConfig): boolean {
    return job.reconfigure(config, (to) => this.#parts.send(to, provided(config)) === "ok");
  }

  /** Pending until {@link find} knows the processes of an earlier server too; null: it does. */
  get knowing(): Promise<void> | null {
    return this.#knowing;
  }

  /** The job of this name. */
  find(name: string): Job | undefined {
    return this.#jobs.get(name);
  }

  /** Somebody has asked for the options of a job without its token. */
  refused(name: string): void {
    this.#refused.add();
    this.#parts.log.warnRarely(
      "config",
      "refused",
      `somebody asked for the options of ${printable(name, 64)} without its token: refused`,
    );
  }

  #add(config: JobConfig): Job {
    const parts: JobParts = {
      environment: this.#environment,
      log: this.#parts.log,
      gate: this.#gate,
      scanner: this.#scanner,
      digest: this.#parts.digest,
      isAsked: () => this.#parts.isRouted(JOB_CONFIG),
      output: this.#output,
      openPipe: (path) => this.#openPipe(path),
      route: (job, line) => this.#route(job, line),
      waitsFor: (job) => this.#waitsFor(job),
      changed: () => this.#lookAgain(),
    };
    const job = new Job(config, parts);
    this.#jobs.set(config.name, job);
    this.#measure(config.name);
    return job;
  }

  /** Pipes that are wanted in one turn are opened together, as making them may need a process. */
  #openPipe(path: string): Promise<Pipe> {
    return new Promise((resolve, reject) => {
      this.#pipesWanted.push({
        path,
        opened: (pipe) => pipe instanceof CCError ? reject(pipe) : resolve(pipe),
      });
      if (this.#pipesWanted.length === 1) this.#environment.clock.nextTurn(() => void this.#openPipes());
    });
  }

  async #openPipes(): Promise<void> {
    const wanted = this.#pipesWanted;
    this.#pipesWanted = [];
    const pipes = await this.#environment.files.openPipes(wanted.map(({ path }) => path));
    for (const [i, { opened }] of wanted.entries()) opened(pipes[i]);
  }

  #waitsFor({ name, pidfile, values }: JobConfig): string | null {
    if (this.#stopping) return "the server is stopping";
    const mine = this.#jobs.get(name);
    if (mine !== undefined && this.#clearing.has(mine)) return "what an earlier server left of it still ends";
    if (this.#begunWith?.has(pidfile) === false) return "what an earlier server left still ends";
    if ([...this.#leaving].some(({ config: old }) => old.name === name || old.pidfile === pidfile)) {
      return "its process of before still ends";
    }
    const missing = values.after.map((other) => this.#jobs.get(other)).filter((job) =>
      job?.state !== "running"
    );
    if (missing.length === 0) return null;
    return `waits for ${missing.map((job) => `${job?.config.name}, which is ${job?.state}`).join(", ")}`;
  }

  /** A job's state has changed: others may wait for that. Told after what runs now. */
  #lookAgain(): void {
    if (this.#looksAgain) return;
    this.#looksAgain = true;
    this.#environment.clock.soon(() => {
      this.#looksAgain = false;
      for (const job of this.#jobs.values()) if (job.state === "starting") job.look();
    });
  }

  /** Ends a job of these, those that run after it first. Jobs of one config do not wait for each other in a circle. */
  #stop(job: Job, jobs: readonly Job[], stops: Map<Job, Promise<void>>): Promise<void> {
    let stopped = stops.get(job);
    if (stopped === undefined) {
      stopped = (async () => {
        await Promise.all(behind(job, jobs).map((other) => this.#stop(other, jobs, stops)));
        // It may still be taken over.
        await this.#clearing.get(job);
        await job.stop();
      })();
      stops.set(job, stopped);
    }
    return stopped;
  }

  /** Milliseconds that {@link stop} may take. */
  get stopMs(): number {
    const jobs = [...this.#jobs.values(), ...this.#leaving];
    const clearing = Math.max(0, ...[...this.#clearing.keys()].map(({ config }) => stopMsOf(config.values)));
    return clearing + longestStopMs(jobs, (job) => job.stopMs, (job) => behind(job, jobs)) +
      (this.#clearing.size > 0 ? 3 * STRAY_WAIT_MS : 0);
  }

  /** Ends all jobs, side by side but in the reverse of `after`. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#cancelFigures();
    // A job that is still to be taken over is ended then.
    await this.#beginning;
    const jobs = [...this.#jobs.values()];
    const stops = new Map<Job, Promise<void>>();
    await Promise.all([
      ...jobs.map((job) => this.#stop(job, jobs, stops)),
      ...[...this.#leaving].map((job) => job.stop()),
    ]);
    await Promise.all(jobs.map((job) => job.dispose()));
  }

  /** Why the server is not ready; null where all that should run does. */
  unready(): string | null {
    const reasons = [...this.#jobs.values()].flatMap((job) => job.unready ?? []);
    return reasons.length === 0 ? null : reasons.join(", ");
  }

  /** What an operator sees. */
  async view(): Promise<JobView[]> {
    await this.#freshFigures();
    return [...this.#jobs.values()].map((job) => job.view);
  }

  /**
   * Starts, stops or restarts jobs by their names.
   *
   * @returns What became of them: of one that a reload has changed meanwhile, the job in its place.
   * @throws {CCError} `unknown-job`, `unknown-action`; `stopped`: the server stops, and the jobs with it.
   */
  async act(action: string, names: readonly string[]): Promise<JobView[]> {
    if (!isAction(action)) {
      throw new CCError(
        "unknown-action",
        `expected start, stop or restart, not "${printable(action, NAME_MAX_CHARS)}"`,
      );
    }
    if (this.#stopping) throw stopped();
    const jobs = [...new Set(names.map((name) => this.#named(name)))];
    this.#parts.log.info("control", `an operator asks: ${action} ${namesText(jobs)}`);
    if (action === "stop") await Promise.all(jobs.map((job) => job.stop()));
    else {
      for (const job of jobs) job[action]();
      await Promise.all(jobs.map((job) => this.#started(job)));
    }
    await this.#freshFigures();
    return jobs.map((job) => this.#whatBecameOf(job));
  }

  /** Waits until it runs, or has ended, so long as it needs for that. @throws {CCError} `stopped` */
  async #started(job: Job): Promise<void> {
    const { clock } = this.#environment;
    const { config: { name } } = job;
    for (let current: Job | undefined = job, until = 0, looked: Job | null = null; current !== undefined;) {
      if (current !== looked) {
        looked = current;
        until = clock.now() + current.stopMs + current.config.values["start-seconds"] * 1000 + START_EXTRA_MS;
      }
      await new Promise<void>((resolve) => void clock.after(START_LOOK_MS, resolve));
      if (this.#stopping) throw stopped();
      if (current.settled || this.#waitsInVain(current) || clock.now() >= until) {
        if (this.#jobs.get(name) === current) return;
      }
      // A reload may have put another in its place, or none.
      current = this.#jobs.get(name);
    }
  }

  /** Does it wait for one that is not to run? */
  #waitsInVain({ state, pid, config: { values } }: Job): boolean {
    return state === "starting" && pid === null && values.after.some((name) => {
      const other = this.#jobs.get(name);
      return other !== undefined && other.state !== "running" && (!other.wanted || this.#waitsInVain(other));
    });
  }

  #whatBecameOf(job: Job): JobView {
    const current = this.#jobs.get(job.config.name);
    return current?.view ?? { ...job.view, detail: "a reload has removed it from the config" };
  }

  #named(name: string): Job {
    const job = this.#jobs.get(name) ?? this.#jobs.get(`d:${name}`);
    if (job !== undefined) return job;
    const known = namesText([...this.#jobs.values()]);
    throw new CCError(
      "unknown-job",
      `there is no job "${printable(name, NAME_MAX_CHARS)}": there are ${known}`,
    );
  }

  async #freshFigures(): Promise<void> {
    if (this.#environment.clock.now() - this.#figuresAt > FIGURES_FRESH_MS) await this.#lookAtFigures();
  }

  /** One look at all processes of the machine, for all jobs. */
  #lookAtFigures(): Promise<void> {
    return this.#looking ??= this.#look().finally(() => this.#looking = null);
  }

  async #look(): Promise<void> {
    const { processes, clock } = this.#environment;
    const sums = new Map<number, { cpuSeconds: number; memoryBytes: number }>();
    const jobs = new Map<number, Job>();
    for (const job of this.#jobs.values()) {
      const session = job.pid === null ? undefined : processes.look(job.pid)?.session;
      if (session !== undefined) jobs.set(session, job);
    }
    if (jobs.size > 0) {
      await this.#scanner.each(({ session, cpuSeconds, residentBytes }) => {
        if (!jobs.has(session)) return;
        const sum = sums.get(session) ?? { cpuSeconds: 0, memoryBytes: 0 };
        sum.cpuSeconds += cpuSeconds;
        sum.memoryBytes += residentBytes;
        sums.set(session, sum);
      });
    }
    this.#figuresAt = clock.now();
    for (const [session, job] of jobs) job.figures = sums.get(session) ?? null;
  }

  /** Gauges by the job's name: those of one that is gone tell nothing. */
  #measure(name: string): void {
    if (this.#metered.has(name)) return;
    this.#metered.add(name);
    const { meter } = this.#parts;
    const gauge = (what: string, read: (job: Job) => number | null) =>
      meter.gauge(
        what,
        () => {
          const job = this.#jobs.get(name);
          return job === undefined ? null : read(job);
        },
        { job: name },
      );
    gauge("job_up", (job) => job.state === "running" ? 1 : 0);
    gauge("job_restarts", (job) => job.restarts);
    gauge("job_uptime_seconds", (job) => job.uptimeSeconds);
    gauge("job_memory_bytes", (job) => job.figures?.memoryBytes ?? null);
    gauge("job_cpu_seconds", (job) => job.figures?.cpuSeconds ?? null);
  }

  #route({ name, fullName }: JobConfig, line: string): void {
    const { clock } = this.#environment;
    const draft = logDraft({
      level: "INFO",
      service: name,
      job: fullName,
      text: line,
      timeMs: clock.time(),
      pid: this.#jobs.get(name)?.pid ?? 0,
      where: "output",
    });
    void Promise.resolve(this.#parts.publish(draft)).then((outcome) => {
      if (outcome !== "ok") this.#lost.add();
    }, () => this.#lost.add());
  }
}

function isAction(action: string): action is JobAction {
  return (["start", "stop", "restart"] satisfies JobAction[] as string[]).includes(action);
}

function stopped(): CCError {
  return new CCError("stopped", "the server is stopping, and its jobs with it");
}

/** The first of them, and how many more there are. */
function namesText(jobs: readonly Job[]): string {
  const names = jobs.slice(0, NAMES_TOLD_MAX).map(({ config }) => config.name).join(", ");
  return jobs.length > NAMES_TOLD_MAX ? `${names} and ${jobs.length - NAMES_TOLD_MAX} more` : names;
}

/** A job that the config does not have any more: what it was, and its files. */
interface Forgotten {
  readonly record: JobRecord;
  readonly files: readonly string[];
}

/** Those of these jobs that run after this one. */
function behind({ config: { name } }: Job, jobs: readonly Job[]): Job[] {
  return jobs.filter(({ config }) => config.name !== name && config.values.after.includes(name));
}
