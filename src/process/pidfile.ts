/**
 * The file with the server's process id. A server keeps it open for as long as it lives: so a number that the system
 * has given to another process since is told from a server, whatever program that is.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import process from "node:process";
import { codeOf, errorText } from "../errors.ts";

/** So often is a file taken over that others want too. */
const CLAIMS_MAX = 100;

/** A pidfile of this process. */
export interface Pidfile {
  /** What the file held that was taken over, for the operator; null when there was none. */
  readonly stale: string | null;
  remove(): void;
}

/** What a pidfile tells. */
export type Holder =
  /** A server that runs. */
  | { pid: number }
  /** None, and why. */
  | { pid: null; why: string };

/**
 * Claims the pidfile for this process. Of two servers that start at once, one gets it.
 *
 * @throws {Error} Another server runs with this file, or it cannot be written.
 */
export function claimPidfile(path: string): Pidfile {
  const own = `${path}.${process.pid}`;
  let fd: number;
  try {
    rmSync(own, { force: true });
    fd = openSync(own, "wx", 0o644);
  } catch (error) {
    throw new Error(`cannot write pidfile ${path}: ${errorText(error)}`);
  }
  try {
    // Whole before it has its name, and open before others can ask who holds it.
    writeSync(fd, `${process.pid}\n`);
    const stale = link(own, path);
    return { stale, remove: () => remove(path, fd) };
  } catch (error) {
    closeSync(fd);
    throw error;
  } finally {
    unlinkSync(own);
  }
}

/** Gives the file its name, which only one can have; returns what was wrong with the one that had it. */
function link(own: string, path: string): string | null {
  let stale: string | null = null;
  for (let i = 0; i < CLAIMS_MAX; i++) {
    try {
      linkSync(own, path);
      return stale;
    } catch (error) {
      if (codeOf(error) !== "EEXIST") {
        throw new Error(`cannot write pidfile ${path}: ${errorText(error)}`);
      }
    }
    const found = holderOf(path);
    if (found.pid !== null) throw new Error(`pidfile ${path}: a server runs already, process ${found.pid}`);
    stale = found.why;
    takeAway(path, `${own}.stale`);
  }
  throw new Error(`cannot write pidfile ${path}: others write it all the time`);
}

/** Removes a stale pidfile, unless another server has put its own there since. */
function takeAway(path: string, aside: string): void {
  try {
    renameSync(path, aside);
  } catch {
    return; // someone was faster
  }
  try {
    if (holderOf(aside).pid !== null) linkSync(aside, path);
  } catch {
    // A third has the name by now; the next look tells who.
  }
  unlinkSync(aside);
}

function remove(path: string, fd: number): void {
  try {
    if (statSync(path).ino === fstatSync(fd).ino) unlinkSync(path);
  } catch {
    // gone already
  }
  closeSync(fd);
}

/** The server that a pidfile names, or why there is none. */
export function holderOf(path: string): Holder {
  let text: string;
  try {
    text = readFileSync(path, "utf8").trim();
  } catch (error) {
    return { pid: null, why: codeOf(error) === "ENOENT" ? "there is no such file" : errorText(error) };
  }
  const pid = Number(text);
  if (!Number.isInteger(pid) || pid <= 0) return { pid: null, why: "it holds no process id" };
  if (!isAlive(pid)) return { pid: null, why: `process ${pid} is gone` };
  if (!holds(pid, path)) return { pid: null, why: `process ${pid} is another program` };
  return { pid };
}

/** Does this process run? One that has ended and waits for its parent to notice does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return codeOf(error) === "EPERM";
  }
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    // Gone in this moment; or a system without /proc, where the signal has told.
    return !existsSync("/proc/self/stat");
  }
}

/** Has this process the file open? Where that cannot be seen, its command line must do. */
function holds(pid: number, path: string): boolean {
  const { dev, ino } = statSync(path);
  let fds: string[];
  try {
    fds = readdirSync(`/proc/${pid}/fd`);
  } catch {
    return looksLikeServer(pid);
  }
  return fds.some((fd) => {
    try {
      const open = statSync(`/proc/${pid}/fd/${fd}`);
      return open.ino === ino && open.dev === dev;
    } catch {
      return false;
    }
  });
}

function looksLikeServer(pid: number): boolean {
  try {
    return /ccserver|main\.[tm]?[jt]s/.test(readFileSync(`/proc/${pid}/cmdline`, "latin1"));
  } catch {
    return true;
  }
}
