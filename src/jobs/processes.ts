/** Finding and ending processes of jobs: never one that is not theirs. */
import type { Environment, ProcessInfo, SignalName } from "../contracts/environment.ts";
import { codeOf } from "../errors.ts";

/** Processes of the machine are looked at for so long at a time, so that no message waits for that. */
const SLICE_MS = 1;
const GONE_LOOK_MS = 20;

/** Calls `visit` for every process of the machine, some in each turn of the event loop. */
export async function eachProcess(
  { processes, clock }: Environment,
  visit: (info: ProcessInfo) => void,
): Promise<void> {
  let until = clock.now() + SLICE_MS;
  for (const info of processes.list()) {
    visit(info);
    if (clock.now() < until) continue;
    await new Promise<void>((resolve) => clock.nextTurn(resolve));
    until = clock.now() + SLICE_MS;
  }
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

/** A process that is to end, told from one that gets its number later. */
export interface Target {
  readonly pid: number;
  readonly started: number;
}

/** Those of a session or group whose leader has ended, zombies left out. */
export async function membersOf(environment: Environment, leader: number): Promise<Target[]> {
  const found: Target[] = [];
  await eachProcess(environment, ({ pid, started, session, group, state }) => {
    if ((session === leader || group === leader) && state !== "Z") found.push({ pid, started });
  });
  return found;
}

/**
 * Processes that carry this name in the environment they were started with.
 *
 * @param wanted Asked with its value, and the process.
 */
export async function carriersOf(
  environment: Environment,
  name: string,
  wanted: (value: string, info: ProcessInfo) => boolean,
): Promise<Target[]> {
  const { processes, host } = environment;
  const found: Target[] = [];
  await eachProcess(environment, (info) => {
    const { pid, started, state } = info;
    if (pid === host.pid || state === "Z") return;
    const value = processes.environmentOf(pid, name);
    if (value !== null && wanted(value, info)) found.push({ pid, started });
  });
  return found;
}

/** Ends processes: a signal, then another, each with so long. @returns Those that are still there. */
export async function endAll(
  environment: Environment,
  targets: readonly Target[],
  signals: readonly (SignalName | ((target: Target) => SignalName))[],
  waitMs: number,
): Promise<Target[]> {
  const { clock } = environment;
  let left = targets.filter(({ pid, started }) => isSame(environment, pid, started));
  for (const which of signals) {
    if (left.length === 0) break;
    for (const target of left) {
      const { pid, started } = target;
      if (!isSame(environment, pid, started)) continue;
      const signal = typeof which === "string" ? which : which(target);
      send(environment, pid, signal);
      if (signal !== "SIGKILL") send(environment, pid, "SIGCONT");
    }
    const until = clock.now() + waitMs;
    for (;;) {
      left = left.filter(({ pid, started }) => isSame(environment, pid, started));
      if (left.length === 0 || clock.now() >= until) break;
      await new Promise<void>((resolve) => void clock.after(GONE_LOOK_MS, resolve));
    }
  }
  return left;
}
