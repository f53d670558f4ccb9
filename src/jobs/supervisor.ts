/** All jobs of a server: which there are, in what order they start and stop, and what is told of them. */
import type { Cancel, Environment, Pipe, SignalName } from "../contracts/environment.ts";
import type { Counter, Meter } from "../contracts/handler.ts";
import type { JobView } from "../contracts/jobs.ts";
import type { Draft } from "../contracts/message.ts";
import { CCError, errorText } from "../errors.ts";
import type { Logger } from "../log.ts";
import { counted, didYouMean } from "../text.ts";
import { type JobConfig, longestStopMs } from "./config.ts";
import { Gate } from "./gate.ts";
import { type Figures, Job, type JobParts } from "./job.ts";
import { OutputReader } from "./output.ts";
import { carriersOf, eachProcess, endAll } from "./processes.ts";
import { readRecord } from "./state_file.ts";

/** How often memory and processor time of all jobs are looked at: where they are bounded, and where they are only told. */
const BOUNDED_MS = 5000;
const TOLD_MS = 15_000;
/** What an operator sees is not older than this. */
const FIGURES_FRESH_MS = 500;
/** Strangers that carry the name of a job that is not there any more have so long. */
const STRAY_WAIT_MS = 5000;

/** What a supervisor needs of its handler. */
export interface SupervisorParts {
  readonly environment: Environment;
  readonly log: Logger;
  readonly meter: Meter;
  publish(draft: Draft): unknown;
}

export class Supervisor {
  readonly #parts: SupervisorParts;
  readonly #environment: Environment;
  readonly #gate: Gate;
  readonly #output: OutputReader;
  /** In the order of the config. */
  #jobs = new Map<string, Job>();
  /** Jobs that the config does not have any more, while they end. */
  readonly #leaving = new Set<Job>();
  readonly #lost: Counter;
  readonly #metered = new Set<string>();
  /** What an earlier server left has been ended, or taken over. */
  #cleared = false;
  #stopping = false;
  /** Made all at once, as that may need a process, and taken by the jobs one by one. */
  readonly #pipes = new Map<string, Pipe | CCError>();
  #looksAgain = false;
  #cancelFigures: Cancel = () => {};
  #figuresAt = -Infinity;
  #looking: Promise<void> | null = null;
  #clearing: Promise<void> = Promise.resolve();

  constructor(parts: SupervisorParts) {
    this.#parts = parts;
    this.#environment = parts.environment;
    this.#gate = new Gate(parts.environment.clock);
    this.#output = new OutputReader(parts.environment.clock);
    this.#lost = parts.meter.counter("jobs.output.dropped");
  }

  /** Takes over what an earlier server left, and starts the others. Resolves when the jobs are known, not when they run. */
  async start(configs: readonly JobConfig[]): Promise<void> {
    for (const config of configs) this.#add(config);
    const jobs = [...this.#jobs.values()];
    const records = await Promise.all(
      jobs.map((job) => readRecord(this.#environment, job.config.stateFile, job.log)),
    );
    await this.#openPipes(jobs);
    for (const [i, job] of jobs.entries()) {
      const record = records[i];
      if (record !== null) await job.takeOver(record);
    }
    if (this.#stopping) return;
    for (const job of jobs) job.start();
    this.#clearing = this.#clear().catch((error) => {
      this.#parts.log.error("start", `what an earlier server left cannot be looked for: ${errorText(error)}`);
    }).finally(() => {
      this.#cleared = true;
      this.#lookAgain();
    });
    this.#cancelFigures = this.#environment.clock.every(BOUNDED_MS, () => {
      const bounded = [...this.#jobs.values()].some(({ config }) => config.values["max-memory"] !== null);
      if (bounded || this.#environment.clock.now() - this.#figuresAt >= TOLD_MS) void this.#lookAtFigures();
    });
  }

  /**
   * Ends processes that an earlier server of this config has left: all that carry its name and that nobody took over.
   * One look at all processes of the machine, as there may be many jobs.
   */
  async #clear(): Promise<void> {
    const jobs = [...this.#jobs.values()];
    if (jobs.length === 0) return;
    const config = jobs[0].config.environment.CC_CONFIG;
    const { processes } = this.#environment;
    const sessions = new Set(
      jobs.flatMap(({ pid }) => pid === null ? [] : processes.look(pid)?.session ?? []),
    );
    const names = new Set<string>();
    const signals = new Map(jobs.map(({ config: { pidfile, stopSignal } }) => [pidfile, stopSignal]));
    const first = new Map<number, SignalName>();
    const left = await carriersOf(this.#environment, "CC_JOB_PIDFILE", (pidfile, { pid, session }) => {
      if (sessions.has(session)) return false;
      if (!signals.has(pidfile) && processes.environmentOf(pid, "CC_CONFIG") !== config) return false;
      names.add(processes.environmentOf(pid, "CC_JOB") ?? pidfile);
      first.set(pid, signals.get(pidfile) ?? "SIGINT");
      return true;
    });
    if (left.length === 0) return;
    this.#parts.log.warn(
      "start",
      `an earlier server left ${counted(left.length, "process", "processes")} of ${
        [...names].join(", ")
      }: ending ` +
        (left.length === 1 ? "it" : "them"),
    );
    const stay = await endAll(
      this.#environment,
      left,
      [({ pid }) => first.get(pid)!, "SIGTERM", "SIGKILL"],
      STRAY_WAIT_MS,
    );
    for (const { pid } of stay) {
      this.#parts.log.error("start", `process ${pid} does not end, by SIGKILL either`);
    }
  }

  /** Other jobs, or others as they were: those that are untouched are not touched. */
  reconfigure(configs: readonly JobConfig[]): void {
    const before = this.#jobs;
    const fresh: Job[] = [];
    this.#jobs = new Map();
    for (const config of configs) {
      const old = before.get(config.name);
      if (old?.config.fingerprint === config.fingerprint) {
        this.#jobs.set(config.name, old);
        before.delete(config.name);
      } else fresh.push(this.#add(config));
    }
    for (const job of before.values()) this.#leaving.add(job);
    for (const job of before.values()) {
      void this.#stop(job).then(() => job.dispose()).finally(() => {
        this.#leaving.delete(job);
        this.#lookAgain();
      });
    }
    // Each waits until the one of its name has gone.
    for (const job of fresh) job.start();
  }

  #add(config: JobConfig): Job {
    const parts: JobParts = {
      environment: this.#environment,
      log: this.#parts.log,
      gate: this.#gate,
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

  async #openPipes(jobs: readonly Job[]): Promise<void> {
    const paths = jobs.map(({ config }) => config)
      .filter(({ values: { output } }) => output === "log" || output === "route")
      .map(({ outputFile }) => outputFile);
    if (paths.length === 0) return;
    const pipes = await this.#environment.files.openPipes(paths);
    for (const [i, path] of paths.entries()) this.#pipes.set(path, pipes[i]);
  }

  async #openPipe(path: string): Promise<Pipe> {
    const made = this.#pipes.get(path);
    this.#pipes.delete(path);
    const pipe = made ?? (await this.#environment.files.openPipes([path]))[0];
    if (pipe instanceof CCError) throw pipe;
    return pipe;
  }

  #waitsFor(config: JobConfig): string | null {
    if (!this.#cleared) return "looking for what an earlier server left";
    const { pidfile, values } = config;
    if ([...this.#leaving].some((job) => job.config.pidfile === pidfile)) {
      return "its process of before still ends";
    }
    const missing = values.after.find((other) => this.#jobs.get(other)?.state !== "running");
    return missing === undefined ? null : `waits for ${missing}`;
  }

  /** A job's state has changed: others may wait for that. Told after what runs now. */
  #lookAgain(): void {
    if (this.#looksAgain) return;
    this.#looksAgain = true;
    this.#environment.clock.soon(() => {
      this.#looksAgain = false;
      for (const job of this.#jobs.values()) if (job.state === "starting" && job.pid === null) job.look();
    });
  }

  /** Ends a job, those that run after it first. */
  async #stop(job: Job): Promise<void> {
    const behind = this.#behind(job).filter((other) => this.#stopping || this.#leaving.has(other));
    await Promise.all(behind.map((other) => this.#stop(other)));
    await job.stop();
  }

  /** Those that run after it. */
  #behind({ config: { name } }: Job): Job[] {
    return [...this.#jobs.values(), ...this.#leaving].filter(({ config }) =>
      config.name !== name && config.values.after.includes(name)
    );
  }

  /** Milliseconds that {@link stop} may take. */
  get stopMs(): number {
    const jobs = [...this.#jobs.values(), ...this.#leaving];
    return longestStopMs(jobs, (job) => job.stopMs, (job) => this.#behind(job));
  }

  /** Ends all jobs, side by side but in the reverse of `after`. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#cancelFigures();
    const jobs = [...this.#jobs.values()];
    await Promise.all([...jobs, ...this.#leaving].map((job) => this.#stop(job)));
    await this.#clearing;
    await Promise.all(jobs.map((job) => job.dispose()));
    for (const pipe of this.#pipes.values()) if (!(pipe instanceof CCError)) pipe.close();
  }

  /** Why the server is not ready; null where all that should run does. */
  unready(): string | null {
    const reasons = [...this.#jobs.values()].flatMap((job) => job.unready ?? []);
    return reasons.length === 0 ? null : reasons.join(", ");
  }

  /** What an operator sees. */
  async view(names?: readonly string[]): Promise<JobView[]> {
    if (this.#environment.clock.now() - this.#figuresAt > FIGURES_FRESH_MS) await this.#lookAtFigures();
    return (names === undefined ? [...this.#jobs.values()] : names.map((name) => this.#named(name))).map((
      job,
    ) => job.view);
  }

  /**
   * Starts, stops or restarts jobs by their names.
   *
   * @throws {CCError} `unknown-job`, `unknown-action`.
   */
  async act(action: string, names: readonly string[]): Promise<JobView[]> {
    const jobs = names.map((name) => this.#named(name));
    switch (action) {
      case "start":
        for (const job of jobs) job.start();
        break;
      case "restart":
        for (const job of jobs) job.restart();
        break;
      case "stop":
        await Promise.all(jobs.map((job) => job.stop()));
        break;
      default:
        throw new CCError("unknown-action", `expected start, stop or restart, not "${action}"`);
    }
    return await this.view(jobs.map(({ config }) => config.name));
  }

  #named(name: string): Job {
    const job = this.#jobs.get(name) ?? this.#jobs.get(`d:${name}`);
    if (job !== undefined) return job;
    throw new CCError(
      "unknown-job",
      `there is no job "${name}"${didYouMean(name, [...this.#jobs.keys()].map((known) => known.slice(2)))}`,
    );
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
      await eachProcess(this.#environment, ({ session, cpuSeconds, residentBytes }) => {
        if (!jobs.has(session)) return;
        const sum = sums.get(session) ?? { cpuSeconds: 0, memoryBytes: 0 };
        sum.cpuSeconds += cpuSeconds;
        sum.memoryBytes += residentBytes;
        sums.set(session, sum);
      });
    }
    this.#figuresAt = clock.now();
    for (const [session, job] of jobs) job.figures = (sums.get(session) as Figures | undefined) ?? null;
  }

  /** Gauges by the job's name: those of one that is gone tell nothing. */
  #measure(name: string): void {
    if (this.#metered.has(name)) return;
    this.#metered.add(name);
    const { meter } = this.#parts;
    const gauge = (what: string, read: (job: Job) => number | null, labels: Record<string, string> = {}) =>
      meter.gauge(
        what,
        () => {
          const job = this.#jobs.get(name);
          return job === undefined ? null : read(job);
        },
        { job: name, ...labels },
      );
    for (const state of STATES) gauge("job_state", (job) => job.state === state ? 1 : 0, { state });
    gauge("job_restarts", (job) => job.restarts);
    gauge("job_uptime_seconds", (job) => job.uptimeSeconds);
    gauge("job_memory_bytes", (job) => job.figures?.memoryBytes ?? null);
    gauge("job_cpu_seconds", (job) => job.figures?.cpuSeconds ?? null);
  }

  #route({ name, fullName }: JobConfig, line: string): void {
    const { clock } = this.#environment;
    const fields = {
      log_level: "INFO",
      service_type: name,
      job_name: fullName,
      log_msg: line,
      log_time: clock.time() / 1000,
      log_pid: this.#jobs.get(name)?.pid ?? 0,
      log_line: 0,
      log_function: "output",
    };
    const outcome = this.#parts.publish({ type: "log.info", fields });
    if (outcome !== "ok") this.#lost.add();
  }
}

const STATES = ["starting", "running", "backoff", "stopping", "stopped", "failed"] as const;
