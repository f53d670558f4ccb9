/**
 * One job: a process that is started, watched, started again, and ended.
 *
 * ```
 *                   start                    it has lived for start-seconds
 *   stopped ───────────────────▶ starting ──────────────────────────────────▶ running
 *      ▲                         ▲     │ it ends, or cannot be started           │ it ends
 *      │        the wait is over │     ▼                                         │
 *      │                         └── backoff ◀───────────────────────────────────┤ restart says: again
 *      │ all its processes                                                       │ restart says: no more
 *      │ have gone                                                               ▼
 *   stopping ◀── stop, restart, other options, in any state           stopped (it was well), failed
 * ```
 *
 * A job is a loop that waits for one thing at a time and is woken by whatever happens: so a stop that comes in the middle of
 * a start, or a reload in the middle of a restart, finds it where it can act on that, and nothing runs twice.
 */
import type { Cancel, Child, Environment, Exit, SignalName } from "../contracts/environment.ts";
import type { JobState, JobView } from "../contracts/jobs.ts";
import type { ReturnPath } from "../contracts/message.ts";
import { errorText } from "../errors.ts";
import type { Logger } from "../log.ts";
import { counted, utf8 } from "../text.ts";
import { type JobConfig, LEFT_WAIT_MS, restartDelayMs, stopMsOf } from "./config.ts";
import { exitText, startText, WELL } from "./exits.ts";
import type { Digest } from "./digest.ts";
import type { Gate } from "./gate.ts";
import { JobFiles } from "./job_files.ts";
import { JobOutput, type JobOutputParts } from "./job_output.ts";
import { Notices } from "./notices.ts";
import { isLeader, isMember, isSame, type Scanner, send } from "./processes.ts";
import { type JobRecord, leaderOf } from "./state_file.ts";
import { environmentOf, wrapped } from "./wrapper.ts";

/** One that ends at once is not started more often than this, whatever its formula says. */
const RESTART_LEAST_MS = 1000;
/** One that has not lived so long has ended at once, though start-seconds be 0. */
const AT_ONCE_MS = 100;
/** How often a process that is not our child is looked at, and a script's pidfile. */
const LOOK_MS = 1000;
const SCRIPT_LOOK_MS = 20;
const GONE_LOOK_MS = 20;
/** A daemon of this program asks for its options once it is connected, within so long. */
const ASK_WITHIN_MS = 10_000;
/** One that starts is looked at so often for whether it is ready. */
const READY_LOOK_MS = 50;
/** A timer that is so late was not late alone: nothing of this program ran. */
const STOOD_STILL_MS = 1000;
/** Variables of the server's own that are not for its jobs. */
const NOT_INHERITED = [
  "NOTIFY_SOCKET",
  "WATCHDOG_PID",
  "WATCHDOG_USEC",
  "LISTEN_FDS",
  "LISTEN_FDNAMES",
  "LISTEN_PID",
];

/** What a job needs of its supervisor. */
export interface JobParts extends JobOutputParts {
  readonly log: Logger;
  readonly gate: Gate;
  readonly scanner: Scanner;
  readonly digest: Digest;
  /** Can its process ask for its options by a message? */
  isAsked(): boolean;
  /** What it waits for before it starts: in words; null: nothing. */
  waitsFor(job: JobConfig): string | null;
  /** Its state has changed. */
  changed(): void;
}

/** The process of a job. */
interface Running {
  readonly pid: number;
  readonly started: number;
  /** All of its group may be signalled at once. */
  readonly leads: boolean;
  readonly sinceMs: number;
  /** Null: it was taken over, or put itself into the background. */
  readonly child: Child | null;
  /** How it ended; null: it has not. */
  exit: Exit | null;
}

/** What it took when it was looked at last, all processes of its session together. */
export interface Figures {
  readonly cpuSeconds: number;
  readonly memoryBytes: number;
}

export class Job {
  #config: JobConfig;
  readonly log: Logger;
  readonly #parts: JobParts;
  readonly #environment: Environment;
  #state: JobState = "stopped";
  #since: number;
  #detail: string | null = null;
  /** When a wait in backoff is over. */
  #until = 0;
  /** The wait before it is started again; null: it is not. Known as soon as it has ended. */
  #nextMs: number | null = null;
  #lastExit: string | null = null;
  /** Starts since it was counted anew, and restarts since it was first started. */
  #starts = 0;
  #restarts = 0;
  #launched = false;
  /** Should it run? A job that has ended for good should, if nobody has stopped it. */
  #should = false;
  /** Does its loop go on? */
  #wanted = false;
  /** It is to be ended, and started anew at once. */
  #again = false;
  #loop: Promise<void> | null = null;
  /** Those who wait for it to have been stopped. */
  readonly #stops: (() => void)[] = [];
  #current: Running | null = null;
  /** It has not lived for start-seconds. */
  #endedEarly = false;
  #livedMs = 0;
  readonly #files: JobFiles;
  readonly #output: JobOutput;
  readonly #notices: Notices;
  /** Of the token that its process asks with. */
  #tokenDigest: string | null = null;
  /** Where its process is reached, once it has asked for its options. */
  #reachedBy: ReturnPath | null = null;
  /** When this server began to watch its process. */
  #beganAt = 0;
  #wakeUp: () => void = () => {};
  #figures: Figures | null = null;

  constructor(config: JobConfig, parts: JobParts) {
    this.#config = config;
    this.#parts = parts;
    this.#environment = parts.environment;
    this.log = parts.log.child(config.name);
    this.#since = this.#environment.clock.time();
    this.#files = new JobFiles(config, parts.environment, this.log);
    this.#output = new JobOutput(config, parts, this.#files, this.log);
    this.#notices = new Notices(config, parts, () => this.#wakeUp());
  }

  get config(): JobConfig {
    return this.#config;
  }

  get state(): JobState {
    return this.#state;
  }

  get pid(): number | null {
    return this.#current?.pid ?? null;
  }

  get restarts(): number {
    return this.#restarts;
  }

  get uptimeSeconds(): number | null {
    return this.#current === null ? null : (this.#environment.clock.time() - this.#current.sinceMs) / 1000;
  }

  get figures(): Figures | null {
    return this.#current === null ? null : this.#figures;
  }

  set figures(figures: Figures | null) {
    this.#figures = figures;
    const max = this.config.values["max-memory"];
    if (figures === null || max === null || figures.memoryBytes <= max || this.#state !== "running") return;
    const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
    this.log.warn(
      "watch",
      `it has ${mib(figures.memoryBytes)}, more than max-memory (${mib(max)}): restarting`,
    );
    this.#again = true;
    this.#wakeUp();
  }

  /** Why the server is not ready, as far as this job goes. */
  get unready(): string | null {
    return this.#should && this.#state !== "running" ? `${this.config.name} is ${this.#state}` : null;
  }

  get view(): JobView {
    return {
      name: this.config.name,
      state: this.#state,
      pid: this.pid,
      since: this.#since,
      restarts: this.#restarts,
      cpuSeconds: this.figures?.cpuSeconds ?? null,
      memoryBytes: this.figures?.memoryBytes ?? null,
      lastExit: this.#lastExit,
      detail: this.#state === "backoff"
        ? againIn(Math.max(0, this.#until - this.#environment.clock.now()))
        : this.#detail ?? (this.#current === null ? null : this.#notices.status),
    };
  }

  /** Has become of it what will, for now? */
  get settled(): boolean {
    return !this.#again && this.#state !== "starting" && this.#state !== "stopping";
  }

  /** Is it to run? */
  get wanted(): boolean {
    return this.#wanted;
  }

  /** Milliseconds that ending it may take. */
  get stopMs(): number {
    return this.#loop === null && this.#current === null ? 0 : stopMsOf(this.config.values);
  }

  /** It runs from now on; what was taken over goes on. */
  resume(): void {
    this.#should = this.#wanted = true;
    this.#go();
  }

  /** It runs from now on, its starts counted anew. */
  start(): void {
    this.#should = true;
    // One that waits starts at once, one that is being ended as soon as it has.
    const waits = this.#state === "backoff" || this.#state === "stopping" || !this.#wanted;
    if (this.#loop !== null && !waits) return;
    this.#wanted = true;
    this.#again = this.#loop !== null;
    this.#starts = 0;
    this.#tellStopped();
    this.#go();
    this.#wakeUp();
  }

  #go(): void {
    this.#loop ??= this.#supervise()
      .catch((error) => {
        this.#wanted = false;
        this.log.error("watch", `it is not watched any more: ${errorText(error)}`);
        this.#set("failed", errorText(error));
      })
      .finally(() => {
        this.#loop = null;
        // It was wanted again while it ended.
        if (this.#wanted) this.#go();
      });
  }

  /** Ends it, with all its processes; resolves when they have gone, or when somebody starts it again meanwhile. */
  async stop(): Promise<void> {
    this.#should = this.#wanted = this.#again = false;
    if (this.#current !== null) this.#go();
    this.#wakeUp();
    if (this.#loop !== null) {
      await new Promise<void>((resolve) => {
        this.#stops.push(resolve);
        void this.#loop!.then(() => resolve());
      });
    }
    if (this.#state === "failed" && !this.#wanted) this.#set("stopped");
  }

  #tellStopped(): void {
    for (const told of this.#stops.splice(0)) told();
  }

  /** Ends it and starts it anew at once. */
  restart(): void {
    if (this.#loop === null || !this.#wanted) return this.start();
    this.#again = true;
    this.#starts = 0;
    this.#wakeUp();
  }

  /** Something that it waits for may have happened. */
  look(): void {
    this.#wakeUp();
  }

  /** It stops being read, and leaves no file; after {@link stop}. */
  async dispose(): Promise<void> {
    await this.#output.dispose();
    await this.#notices.dispose();
  }

  /** Does it ask with this token, the process that is the job now? */
  isKnownBy(token: string): boolean {
    const current = this.#current;
    return current !== null && !this.#hasEnded(current) && this.#tokenDigest !== null &&
      this.#parts.digest(token) === this.#tokenDigest;
  }

  /** Its process has asked, and is told of changes there. */
  reachedBy(path: ReturnPath): void {
    this.#reachedBy = path;
  }

  /**
   * Takes over another config while its process runs: one that changes nothing for that, or only what it can be told.
   *
   * @param tell Tells it; false: it was not reached.
   * @returns False: it must be started anew.
   */
  reconfigure(config: JobConfig, tell: (to: ReturnPath) => boolean): boolean {
    const { fingerprint, base, kind } = this.#config;
    // Other options may be what lets it run.
    if (this.#current === null) return false;
    if (config.fingerprint !== fingerprint) {
      const to = this.#reachedBy;
      if (config.base !== base || config.kind !== kind) return false;
      if (to === null ? !this.#mayAsk() : !tell(to)) return false;
    }
    this.#config = this.#files.config = config;
    if (config.fingerprint !== fingerprint) void this.#writeState(this.#current);
    this.#wakeUp();
    return true;
  }

  /** Takes over the process that an earlier server started; false: it is gone, or another. */
  async takeOver(record: JobRecord): Promise<boolean> {
    const { processes } = this.#environment;
    const leader = leaderOf(record, processes.bootId);
    if (leader === null || record.fingerprint !== this.config.fingerprint) return false;
    const { pid, started } = leader;
    if (!isSame(this.#environment, pid, started)) return false;
    await this.#output.open();
    await this.#openNotices(processes.userOf(pid));
    this.#notices.begin();
    this.#notices.ready = record.ready;
    this.#tokenDigest = record.token;
    this.#starts = record.starts;
    this.#restarts = record.restarts;
    this.#launched = true;
    this.#beganAt = this.#environment.clock.now();
    this.#current = {
      pid,
      started,
      leads: processes.look(pid)?.group === pid,
      sinceMs: record.since,
      child: null,
      exit: null,
    };
    // That server may have been killed before it wrote it.
    await this.#files.writePidfile(pid);
    this.log.info("start", `process ${pid} of an earlier server goes on`);
    return true;
  }

  /** Will it ask for its options soon, and get the new ones? If it does not, it is started anew. */
  #mayAsk(): boolean {
    const { clock } = this.#environment;
    const current = this.#current;
    const waitMs = this.#beganAt + ASK_WITHIN_MS - clock.now();
    if (this.config.kind !== "module" || waitMs <= 0 || !this.#parts.isAsked()) return false;
    clock.after(waitMs, () => {
      if (this.#current !== current || this.#reachedBy !== null) return;
      this.#again = true;
      this.#wakeUp();
    });
    return true;
  }

  async #supervise(): Promise<void> {
    this.#again = false;
    while (this.#wanted) {
      const waits = this.#current === null ? this.#parts.waitsFor(this.config) : null;
      if (waits !== null) {
        this.#set("starting", waits);
        this.#again = false;
        await this.#sleep(Infinity);
        continue;
      }
      if (this.#current === null) await this.#launch();
      else await this.#watch();
      const anew = this.#again;
      this.#again = false;
      if (!this.#wanted) break;
      if (anew) continue;
      if (this.#nextMs === null) return await this.#goneForGood();
      await this.#backOff();
    }
    // Taken over, and stopped before it was watched.
    if (this.#current !== null) await this.#end(this.#current);
    await this.#removeFiles();
    this.#set("stopped");
  }

  async #removeFiles(): Promise<void> {
    // They may be those of one before, which still ends.
    if (this.#launched) await this.#files.removeBoth();
  }

  /** It has ended by itself, and is not started again. */
  async #goneForGood(): Promise<void> {
    const well = this.#lastExit === WELL;
    this.#wanted = false;
    if (well) this.#should = false;
    await this.#removeFiles();
    // Somebody may have started it meanwhile.
    if (!this.#wanted) this.#set(well ? "stopped" : "failed", `restart = ${this.config.values.restart}`);
  }

  /** Works out when it is started again, and says so. */
  #planNext(): string {
    const { values } = this.config;
    const { restart } = values;
    this.#nextMs = null;
    if (restart === "never" || restart === "on-failure" && this.#lastExit === WELL) {
      return `restart = ${restart}: it is not started again`;
    }
    const ms = restartDelayMs(values, Math.max(1, this.#starts), this.#environment.random());
    this.#nextMs = this.#endedEarly || this.#livedMs < AT_ONCE_MS ? Math.max(ms, RESTART_LEAST_MS) : ms;
    this.#until = this.#environment.clock.now() + this.#nextMs;
    return againIn(this.#nextMs);
  }

  async #backOff(): Promise<void> {
    const { clock } = this.#environment;
    this.#set("backoff");
    while (this.#wanted && !this.#again && clock.now() < this.#until) {
      await this.#sleep(this.#until - clock.now());
    }
    this.#again = false;
  }

  /** Starts it, and watches what it started. */
  async #launch(): Promise<void> {
    const { clock } = this.#environment;
    this.#set("starting");
    if (this.#launched) this.#restarts++;
    this.#launched = true;
    this.#starts++;
    this.#endedEarly = true;
    let child: Child | null;
    const { user, group } = this.config.values;
    if ((user !== null || group !== null) && this.#environment.processes.user !== 0) {
      this.#failed("it cannot be started: user and group need a server that runs as root");
      return;
    }
    try {
      await this.#prepare();
      if (!this.#wanted) return;
      child = await this.#spawn();
      if (child === null) return;
    } catch (error) {
      this.#failed(`it cannot be started: ${errorText(error)}`);
      return;
    }
    const { pid } = child;
    if (pid === null) {
      const { error } = await child.exited;
      this.#failed(`it cannot be started: ${error}`);
      return;
    }
    // A zombie still is there to be looked at, as long as nobody has waited for it.
    const started = this.#environment.processes.look(pid)?.started ?? -1;
    const running: Running = { pid, started, leads: true, sinceMs: clock.time(), child, exit: null };
    this.#notices.excuse();
    void child.exited.then((exit) => {
      running.exit = exit;
      this.#wakeUp();
    });
    this.#current = running;
    this.#beganAt = clock.now();
    this.log.info("start", `process ${pid}: ${this.config.argv.join(" ")}`);
    await this.#writeState(running);
    await this.#files.writePidfile(pid);
    await this.#watch();
  }

  /** What has to be there before the process is. */
  async #prepare(): Promise<void> {
    const { processes } = this.#environment;
    await this.#environment.files.makeFolder(this.config.folder);
    await this.#output.open();
    const { user } = this.config.values;
    const owner = user === null || !this.config.notifies ? null : await processes.findUser(user);
    await this.#openNotices(owner);
    this.#notices.begin();
    await this.#writeState(null);
    // A script's pidfile of before must not be taken for the new one.
    await this.#files.remove(this.config.pidfile);
  }

  /** @throws {CCError} It could not be opened, and it waits for what comes there. */
  async #openNotices(owner: number | null): Promise<void> {
    if (!this.config.notifies) return;
    const given = owner === this.#environment.processes.user ? null : owner;
    if (this.config.values.notify) await this.#notices.open(given);
    else await this.#files.attempt(() => this.#notices.open(given));
  }

  /** Null: it was stopped meanwhile. */
  async #spawn(): Promise<Child | null> {
    const { processes, host } = this.#environment;
    const env: Record<string, string> = { ...processes.env };
    for (const name of NOT_INHERITED) delete env[name];
    Object.assign(env, environmentOf(this.config), this.#notices.variables);
    const token = this.#parts.isAsked() ? tokenOf(this.#environment.random) : null;
    if (token !== null) env.CC_TOKEN_FD = "3";
    this.#tokenDigest = token === null ? null : this.#parts.digest(token);
    this.#reachedBy = null;
    return await this.#output.given(async (output) => {
      await this.#parts.gate.enter();
      if (!this.#wanted) return null;
      this.#again = false;
      return processes.spawn(wrapped(this.config, host.folder), {
        env,
        output,
        ...(token === null ? {} : { secret: utf8(token) }),
      });
    });
  }

  /** Waits until the process has ended, or is to be ended and has. */
  async #watch(): Promise<void> {
    const { clock } = this.#environment;
    const taken = this.#current!.child === null;
    const began = taken ? clock.now() - (clock.time() - this.#current!.sinceMs) : clock.now();
    const since = taken ? this.#current!.sinceMs : clock.time();
    // One that was to say when it is ready, and had not, still is.
    let runs = taken && (this.#notices.ready || !this.config.values.notify);
    if (runs) this.#set("running", null, since);
    else if (taken) this.#set("starting", null, since);
    for (;;) {
      const running = this.#current!;
      const { values } = this.config;
      const startSeconds = values["start-seconds"];
      const resetSeconds = values["watchdog-reset"];
      if (!runs) this.#notices.look();
      if (!this.#wanted || this.#again) {
        await this.#end(running);
        return;
      }
      if (this.#hasEnded(running)) {
        if (this.config.kind === "script" && running.exit?.code === 0) {
          if (await this.#findScript(running, clock.now() + startSeconds * 1000)) {
            runs = true;
            continue;
          }
          if (!this.#wanted || this.#again) continue;
          // It had stayed in the foreground all the time.
          if (runs) {
            await this.#ended(running, began);
            return;
          }
          await this.#ended(
            running,
            began,
            `it exited with 0, and ${this.config.pidfile} names no process of it within start-seconds`,
          );
          return;
        }
        await this.#ended(running, began);
        return;
      }
      const aliveMs = clock.now() - began;
      const upMs = values.notify ? values["ready-timeout"] * 1000 : startSeconds * 1000;
      if (!runs && (this.#notices.ready || !values.notify && aliveMs >= upMs)) {
        runs = true;
        this.#endedEarly = false;
        this.#notices.excuse();
        // Who sees it run may rely on that the next server knows it too.
        if (values.notify) await this.#writeState(running);
        this.#set("running");
      }
      if (!runs && aliveMs >= upMs) {
        return await this.#endFor(running, began, `not ready within ${upMs / 1000} s`);
      }
      if (runs && this.#notices.patienceMs <= 0) {
        // It may have spoken just now.
        this.#notices.look();
        if (this.#notices.patienceMs <= 0) {
          return await this.#endFor(running, began, `silent for ${this.config.watchdogMs / 1000} s`);
        }
      }
      const uptimeMs = clock.time() - since;
      if (runs && this.#starts > 1 && uptimeMs >= resetSeconds * 1000) this.#starts = 1;
      await this.#sleep(Math.min(
        runs ? this.#notices.patienceMs : upMs - aliveMs,
        runs || this.#notices.file === null ? Infinity : READY_LOOK_MS,
        runs && this.#starts > 1 ? resetSeconds * 1000 - uptimeMs : Infinity,
        running.child === null ? LOOK_MS : Infinity,
      ));
    }
  }

  #hasEnded(running: Running): boolean {
    if (running.child !== null) return running.exit !== null;
    return !isSame(this.#environment, running.pid, running.started);
  }

  /** A script went to the background: the process that its pidfile names is the job. */
  async #findScript(launcher: Running, until: number): Promise<boolean> {
    const { clock, processes, files, host } = this.#environment;
    const { pidfile } = this.config;
    do {
      const named = await this.#files.readPidfile();
      const info = named === null || named === host.pid ? null : processes.look(named);
      // One that was there before the script is not what it started.
      if (info !== null && info.state !== "Z" && info.started >= launcher.started) {
        const { pid, started, group } = info;
        const owner = processes.environmentOf(pid, "CC_JOB_PIDFILE");
        // One that has overwritten its environment must at least be of the user who wrote the pidfile.
        const own = owner === null
          ? processes.userOf(pid) === await files.ownerOf(pidfile)
          : owner === pidfile;
        if (own) {
          this.#current = {
            pid,
            started,
            leads: group === pid,
            sinceMs: clock.time(),
            child: null,
            exit: null,
          };
          this.#endedEarly = false;
          this.#set("running");
          this.log.info("start", `process ${pid} is in the background`);
          await this.#writeState(this.#current);
          return true;
        }
      }
      if (!this.#wanted || this.#again) return false;
      await this.#sleep(SCRIPT_LOOK_MS);
    } while (clock.now() < until);
    return false;
  }

  /** It has ended by itself: what is left of it ends too. */
  async #ended(running: Running, began: number, why?: string): Promise<void> {
    const { clock } = this.#environment;
    const last = this.#output.drain();
    this.#lastExit = why ??
      (this.#endedEarly ? startText(running.exit, this.config) : exitText(running.exit));
    this.#livedMs = clock.now() - began;
    const seconds = (this.#livedMs / 1000).toFixed(1);
    const next = this.#wanted && !this.#again ? `; ${this.#planNext()}` : "";
    const text = `process ${running.pid} has ended after ${seconds} s: ${this.#lastExit}${last}${next}`;
    if (this.#lastExit === WELL) this.log.info("exit", text);
    else this.log.warnRarely("exit", "ended", text);
    this.#current = null;
    this.#figures = null;
    this.#set(next !== "" && this.#nextMs !== null ? "backoff" : "stopping");
    await this.#endLeft(running);
  }

  /** It does not do what it should: it is ended, and counts as one that has ended badly. */
  async #endFor(running: Running, began: number, why: string): Promise<void> {
    this.log.warnRarely("watch", "ended for", `${why}: ending it`);
    await this.#end(running);
    this.#lastExit = why;
    this.#livedMs = this.#environment.clock.now() - began;
    const next = this.#planNext();
    if (this.#wanted && !this.#again) this.log.info("exit", `${why}; ${next}`);
  }

  #failed(text: string): void {
    this.#lastExit = text;
    this.#livedMs = 0;
    this.#current = null;
    this.log.warnRarely("start", "failed", `${text}; ${this.#planNext()}`);
    this.#parts.changed();
  }

  /** Ends the process and its group: the stop signal, SIGTERM, SIGKILL, each with its time. */
  async #end(running: Running): Promise<void> {
    const { clock } = this.#environment;
    const waitMs = this.config.values["stop-wait"] * 1000;
    this.#set("stopping");
    const signals = [...new Set<SignalName>([this.config.stopSignal, "SIGTERM", "SIGKILL"])];
    for (const [i, signal] of signals.entries()) {
      if (i > 0) this.log.warn("stop", `it does not end by ${signals[i - 1]}: sending ${signal}`);
      this.#signal(running, signal);
      const until = clock.now() + waitMs;
      while (!this.#groupHasEnded(running) && clock.now() < until) await this.#sleep(GONE_LOOK_MS);
      if (this.#groupHasEnded(running)) break;
      // Zombies that nobody collects keep a group alive.
      if (this.#hasEnded(running) && !await this.#hasMembers(running)) break;
    }
    if (!this.#hasEnded(running)) {
      this.log.error("stop", `process ${running.pid} does not end, by SIGKILL either`);
    }
    this.#output.drain();
    this.#lastExit = exitText(running.exit);
    this.log.info("stop", `process ${running.pid} has ended: ${this.#lastExit}`);
    this.#current = null;
    this.#figures = null;
    await this.#endLeft(running);
  }

  #signal(running: Running, signal: SignalName): void {
    const { pid, started, leads } = running;
    // Only a number that still is this process's. Of our own child it is, until we have been told of its end.
    const same = running.child !== null ? running.exit === null : isSame(this.#environment, pid, started);
    if (!same) {
      if (leads) void this.#signalMembers(running, signal);
      return;
    }
    const target = leads ? -pid : pid;
    // In the first moment the child may not be a leader yet.
    if (!send(this.#environment, target, signal)) send(this.#environment, pid, signal);
    // One that is stopped gets no signal but SIGKILL.
    if (signal !== "SIGKILL") send(this.#environment, target, "SIGCONT");
  }

  async #signalMembers(running: Running, signal: SignalName): Promise<void> {
    for (const { pid, started } of await this.#parts.scanner.find((info) => isMember(info, running))) {
      if (isSame(this.#environment, pid, started)) send(this.#environment, pid, signal);
    }
  }

  #groupHasEnded(running: Running): boolean {
    return this.#hasEnded(running) && !(running.leads && send(this.#environment, -running.pid, 0));
  }

  async #hasMembers(running: Running): Promise<boolean> {
    return (await this.#parts.scanner.find((info) => isMember(info, running))).length > 0;
  }

  /** Ends what is left of a process that has ended: members of its group, and what moved into a session of its own. */
  async #endLeft(running: Running): Promise<void> {
    const { scanner } = this.#parts;
    const { pidfile } = this.config;
    const left = await scanner.end(
      (info, chain) => isMember(info, running) && this.#mayBeOurs(chain()) || chain().includes(pidfile),
      ["SIGTERM", "SIGKILL"],
      LEFT_WAIT_MS,
      (targets) => {
        this.log.warn("exit", `it left processes: ${targets.map(({ pid }) => pid).join(", ")}; ending them`);
      },
    );
    if (left.length > 0) this.log.error("exit", `process ${left[0].pid} does not end, by SIGKILL either`);
  }

  /** One that has no name in its environment may have emptied that. */
  #mayBeOurs(chain: readonly string[]): boolean {
    return chain.length === 0 || chain.includes(this.config.pidfile);
  }

  /**
   * Ends what an earlier server has left of this job: the process of its record, that one's group, and all that have the
   * job's name in their environment.
   */
  async clear(record: JobRecord | null): Promise<void> {
    const { scanner } = this.#parts;
    const { pidfile, values, stopSignal } = this.config;
    const { bootId } = this.#environment.processes;
    const leader = record === null ? null : leaderOf(record, bootId);
    const left = await scanner.end(
      (info, chain) =>
        chain().includes(pidfile) ||
        leader !== null && this.#mayBeOurs(chain()) && (isLeader(info, leader) || isMember(info, leader)),
      [...new Set<SignalName>([stopSignal, "SIGTERM", "SIGKILL"])],
      values["stop-wait"] * 1000,
      (targets) => {
        const many = targets.length > 1;
        const why = record === null || record.fingerprint === this.config.fingerprint
          ? ""
          : ", whose section has changed";
        this.log.warn(
          "start",
          `an earlier server left ${counted(targets.length, "process", "processes")} of it${why} ` +
            `(${targets.map(({ pid }) => pid).join(", ")}): ending ${many ? "them" : "it"}`,
        );
      },
    );
    if (left.length > 0) this.log.error("start", `process ${left[0].pid} does not end, by SIGKILL either`);
    else if (record !== null) await this.#files.removeBoth();
  }

  async #writeState(running: Running | null): Promise<void> {
    await this.#files.writeState({
      pid: running?.pid ?? null,
      started: running?.started ?? null,
      since: running?.sinceMs ?? this.#environment.clock.time(),
      starts: this.#starts,
      restarts: this.#restarts,
      token: this.#tokenDigest,
      ready: !this.config.values.notify || this.#notices.ready,
    });
  }

  #set(state: JobState, detail: string | null = null, since = this.#environment.clock.time()): void {
    this.#detail = detail;
    if (this.#state === state) return;
    this.log.debug("state", `${this.#state} -> ${state}`);
    this.#state = state;
    this.#since = since;
    this.#parts.changed();
  }

  /** Waits so long, or until something happens. */
  async #sleep(ms: number): Promise<void> {
    const { clock } = this.#environment;
    const until = clock.now() + ms;
    await new Promise<void>((resolve) => {
      let cancel: Cancel = () => {};
      this.#wakeUp = () => {
        cancel();
        this.#wakeUp = () => {};
        resolve();
      };
      if (ms < Infinity) cancel = clock.after(Math.max(0, ms), () => this.#wakeUp());
    });
    // It was the server that stood still.
    if (clock.now() > until + STOOD_STILL_MS) this.#notices.excuse();
  }
}

/** 32 random bytes, in hexadecimal. */
function tokenOf(random: () => number): string {
  const words = Array.from({ length: 8 }, () => Math.floor(random() * 2 ** 32));
  return words.map((word) => word.toString(16).padStart(8, "0")).join("");
}

function againIn(ms: number): string {
  return `again in ${(ms / 1000).toFixed(1)} s`;
}
