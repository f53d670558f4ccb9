/** Processes of the machine, by `node:child_process` and `/proc`: the same on all runtimes. */
import { type ChildProcess, execFile, spawn as spawnProcess } from "node:child_process";
import { closeSync, fstatSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import process from "node:process";
import { Writable } from "node:stream";
import type { Child, Exit, Processes, ProcessInfo } from "../contracts/environment.ts";
import { CCError, codeOf, systemError } from "../errors.ts";

/** Ticks a second in /proc: the same on all Linux. */
export const TICKS = 100;

/** What {@link Processes} has about other processes. Where there is no `/proc`, it sees none. */
export const OTHERS: Pick<
  Processes,
  "spawn" | "takeSecret" | "signal" | "look" | "userOf" | "findUser" | "list" | "environmentOf"
> = {
  spawn(command, { cwd, env, output, secret }) {
    const taken = typeof output === "function";
    const to = taken ? "ignore" : output ?? "ignore";
    try {
      // Detached, it leads a session and a group of its own: so it is on all runtimes.
      const child = spawnProcess(command[0], command.slice(1), {
        cwd,
        env,
        detached: true,
        stdio: ["ignore", taken ? "pipe" : to, to, ...(secret === undefined ? [] : ["pipe" as const])],
      });
      if (secret !== undefined) give(child, secret);
      return {
        pid: child.pid ?? null,
        exited: exitOf(child),
        outputEnded: taken ? takeOutput(child, output) : Promise.resolve(),
        closeOutput: () => void child.stdout?.destroy(),
      };
    } catch (error) {
      // Some errors are thrown, which ones depends on the runtime: E2BIG, say.
      return unstarted(error);
    }
  },

  takeSecret() {
    try {
      const stats = fstatSync(SECRET_FD);
      if (!stats.isSocket() && !stats.isFIFO()) return null;
      const bytes = new Uint8Array(SECRET_MAX_BYTES);
      let size = 0;
      for (let n = -1; n !== 0 && size < bytes.length; size += n) {
        n = readSync(SECRET_FD, bytes, size, bytes.length - size, null);
      }
      closeSync(SECRET_FD);
      return size === 0 ? null : bytes.subarray(0, size);
    } catch {
      return null; // nobody has given us any
    }
  },

  signal(pid, signal) {
    // 0 would be our own group, and -1 all that we may reach.
    if (!Number.isInteger(pid) || pid === 0 || pid === -1) {
      throw new CCError("EINVAL", `cannot send a signal to ${pid}`);
    }
    try {
      return process.kill(pid, signal);
    } catch (error) {
      const code = codeOf(error);
      if (code === "ESRCH") return false;
      if (code === "EPERM") {
        throw new CCError("EPERM", `cannot send a signal to ${pid}: it is another user's`);
      }
      throw systemError(error, `cannot send a signal to ${pid}`);
    }
  },

  look,

  userOf(pid) {
    return statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid ?? null;
  },

  findUser(name) {
    return new Promise((resolve) => {
      execFile("id", ["-u", "--", name], (error, stdout) => {
        const uid = Number(stdout);
        resolve(error === null && Number.isInteger(uid) ? uid : null);
      });
    });
  },

  *list() {
    for (const name of pids()) {
      const found = look(Number(name));
      if (found !== null) yield found;
    }
  },

  environmentOf(pid, name) {
    const begin = `${name}=`;
    const found = textOf(`/proc/${pid}/environ`, "utf8").split("\0").find((text) => text.startsWith(begin));
    return found?.slice(begin.length) ?? null;
  },
};

/** The first behind the standard ones. */
const SECRET_FD = 3;
const SECRET_MAX_BYTES = 4096;

let bootId: string | undefined;

/** {@link Processes.bootId} */
export function readBootId(): string {
  return bootId ??= textOf("/proc/sys/kernel/random/boot_id").trim();
}

let pageBytes: number | undefined;

/** Empty where it cannot be read. */
function textOf(file: string, encoding: "latin1" | "utf8" = "latin1"): string {
  try {
    return readFileSync(file, encoding);
  } catch {
    return "";
  }
}

function exitOf(child: ChildProcess): Promise<Exit> {
  return new Promise((resolve) => {
    child.on("error", (error) => resolve(errorExit(error)));
    child.on("exit", (code, signal) => {
      if (child.pid !== undefined) resolve({ code, signal, error: null });
    });
  });
}

function takeOutput({ stdout }: ChildProcess, take: (chunk: Uint8Array) => void): Promise<void> {
  return new Promise((resolve) => {
    // One that was not started has none, on some runtimes.
    if (!stdout) return resolve();
    stdout.on("data", take);
    stdout.on("error", () => {/* the close that follows tells */});
    stdout.on("close", () => resolve());
  });
}

/** Whether it reads that or not, nothing of it stays open here. */
function give({ stdio: { 3: pipe } }: ChildProcess, secret: Uint8Array): void {
  // One that was not started has none, on some runtimes.
  if (!(pipe instanceof Writable)) return;
  pipe.on("error", () => {/* it has ended, or has closed it */});
  pipe.end(secret, () => void pipe.destroy());
}

function unstarted(error: unknown): Child {
  const ended = Promise.resolve();
  return { pid: null, exited: Promise.resolve(errorExit(error)), outputEnded: ended, closeOutput() {} };
}

function errorExit(error: unknown): Exit {
  return { code: null, signal: null, error: systemError(error, "").code };
}

function look(pid: number): ProcessInfo | null {
  const text = textOf(`/proc/${pid}/stat`);
  // The program's name, second, may have blanks and brackets in it; proc(5) counts from 1, and the state is 3.
  const end = text.lastIndexOf(")");
  if (end === -1) return null;
  const fields = text.slice(end + 2).split(" ");
  const field = (number: number) => Number(fields[number - 3]);
  return {
    pid,
    state: fields[0],
    parent: field(4),
    group: field(5),
    session: field(6),
    started: field(22),
    cpuSeconds: (field(14) + field(15)) / TICKS,
    residentBytes: field(24) * (pageBytes ??= pageSize()),
  };
}

function pids(): string[] {
  try {
    return readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name));
  } catch {
    return []; // not on this system
  }
}

/** From the auxiliary vector, getauxval(3): pairs of a key and a value, 64 bits each. Not all have pages of 4096 bytes. */
function pageSize(): number {
  const AT_PAGESZ = 6n;
  try {
    const pairs = new BigUint64Array(new Uint8Array(readFileSync("/proc/self/auxv")).buffer);
    for (let i = 0; i + 1 < pairs.length; i += 2) if (pairs[i] === AT_PAGESZ) return Number(pairs[i + 1]);
  } catch {
    // not to be read: what nearly all have
  }
  return 4096;
}
