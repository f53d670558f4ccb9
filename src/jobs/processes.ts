/** Finding and ending processes of jobs: never one that is not theirs. */
import type { Environment, ProcessInfo, SignalName } from "../contracts/environment.ts";
import { codeOf } from "../errors.ts";

/** Processes of the machine are looked at for so long at a time, so that no message waits for that. */
const SLICE_MS = 1;
const GONE_LOOK_MS = 20;
/** What is forked while it is looked for is found by another look, at most so often. */
const ROUNDS_MAX = 10;

/**
 * The pidfiles of all jobs that a process belongs to, a line each, the innermost last: a job may be a server with jobs of its
 * own.
 */
export const CHAIN = "CC_JOB_CHAIN";

/** A process that is to end, told from one that gets its number later. */
export interface Target {
  readonly pid: number;
  readonly started: number;
}

/** Sees every process of the machine; `chain`: the jobs that its environment says it belongs to. */
export type Visitor = (info: ProcessInfo, chain: () => readonly string[]) => void;

/** Looks at all processes of the machine: once for all who ask in the meantime, some in each turn of the event loop. */
export class Scanner {
  readonly #environment: Environment;
  #waiting: { visit: Visitor; done: () => void; failed: (error: unknown) => void }[] = [];
  #scanning = false;

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  /** Settles when `visit` has seen all processes that were there all the time from now on. */
  each(visit: Visitor): Promise<void> {
    return new Promise((done, failed) => {
      this.#waiting.push({ visit, done, failed });
      if (!this.#scanning) void this.#scan();
    });
  }

  async #scan(): Promise<void> {
    const { processes, clock, host } = this.#environment;
    this.#scanning = true;
    while (this.#waiting.length > 0) {
      // Those who ask in this turn are seen by one look.
      await new Promise<void>((resolve) => clock.nextTurn(resolve));
      const visitors = this.#waiting;
      this.#waiting = [];
      let until = clock.now() + SLICE_MS;
      for (const info of processes.list()) {
        if (info.pid !== host.pid && info.state !== "Z") {
          let chain: readonly string[] | null = null;
          const chainOf = () =>
            chain ??= (processes.environmentOf(info.pid, CHAIN) ?? "").split("\n").filter(Boolean);
          for (const visitor of visitors) {
            try {
              visitor.visit(info, chainOf);
            } catch (error) {
              visitor.failed(error);
            }
          }
        }
        if (clock.now() < until) continue;
        await new Promise<void>((resolve) => clock.nextTurn(resolve));
        until = clock.now() + SLICE_MS;
      }
      for (const { done } of visitors) done();
    }
    this.#scanning = false;
  }

  /** Processes that are wanted. */
  async find(wanted: (info: ProcessInfo, chain: () => readonly string[]) => boolean): Promise<Target[]> {
    const found: Target[] = [];
    await this.each((info, chain) => {
      if (wanted(info, chain)) found.push({ pid: info.pid, started: info.started });
    });
    return found;
  }

  /**
   * Ends all processes that are wanted, also those that they fork meanwhile.
   *
   * @param found Called with those that were there at first.
   * @returns Those that are still there.
   */
  async end(
    wanted: (info: ProcessInfo, chain: () => readonly string[]) => boolean,
    signals: readonly SignalName[],
    waitMs: number,
    found: (targets: readonly Target[]) => void,
  ): Promise<Target[]> {
    let left: Target[] = [];
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const targets = await this.find(wanted);
      if (targets.length === 0) return [];
      if (round === 0) found(targets);
      left = await endTargets(this.#environment, targets, round === 0 ? signals : ["SIGKILL"], waitMs);
    }
    return left;
  }
}

/** Is it this one? */
export function isLeader({ pid, started }: ProcessInfo, leader: Target): boolean {
  return pid === leader.pid && started === leader.started;
}

/** Is it of the session or group that this one leads, or led? Nobody joins one from before it began. */
export function isMember({ pid, session, group, started }: ProcessInfo, leader: Target): boolean {
  return pid !== leader.pid && (session === leader.pid || group === leader.pid) && started >= leader.started;
}

/** Is this the process that was started then, and has it not ended? */
export function isSame({ processes }: Environment, pid: number, started: number): boolean {
  const info = processes.look(pid);
  return info !== null && info.started === started && info.state !== "Z";
}

/** Sends a signal; false where there is nobody, or where it is another user's. */
export function send({ processes }: Environment, pid: number, signal: SignalName | 0): boolean {
  try {
    return processes.signal(pid, signal);
  } catch (error) {
    if (codeOf(error) === "EPERM") return signal === 0;
    throw error;
  }
}

/** Ends processes: a signal, then another, each with so long. @returns Those that are still there. */
async function endTargets(
  environment: Environment,
  targets: readonly Target[],
  signals: readonly SignalName[],
  waitMs: number,
): Promise<Target[]> {
  const { clock } = environment;
  const there = ({ pid, started }: Target) => isSame(environment, pid, started);
  let left = targets.filter(there);
  for (const signal of signals) {
    if (left.length === 0) break;
    for (const target of left) {
      if (!there(target)) continue;
      send(environment, target.pid, signal);
      if (signal !== "SIGKILL") send(environment, target.pid, "SIGCONT");
    }
    const until = clock.now() + waitMs;
    for (;;) {
      left = left.filter(there);
      if (left.length === 0 || clock.now() >= until) break;
      await new Promise<void>((resolve) => void clock.after(GONE_LOOK_MS, resolve));
    }
  }
  return left;
}
