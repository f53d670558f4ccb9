/**
 * The file with the server's process id. A server keeps it open for as long as it lives: so a number that the system
 * has given to another process since is told from a server, whatever program that is.
 */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  type Stats,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import process from "node:process";
import { codeOf, errorText } from "../errors.ts";
import { wrongKind } from "./kinds.ts";
import { standStill } from "./sleep.ts";

/** So often is a file looked at that others want too, */
const CLAIMS_MAX = 200;

/** with this pause while another process takes it over. */
const CLAIM_WAIT_MS = 5;

/** Locks on a lock: one for each process that was killed while it took a file over. */
const LOCKS_MAX = 8;

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
  const wrong = wrongKind(path, "whole");
  if (wrong !== null) throw new Error(`cannot write pidfile ${path}: ${wrong}`);
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
    if (linked(own, path)) return stale;
    const found = takeAway(own, path, 0);
    if (found === null) continue;
    if (found.pid !== null) throw new Error(`pidfile ${path}: a server runs already, process ${found.pid}`);
    stale = found.why;
  }
  throw new Error(`cannot write pidfile ${path}: others write it all the time`);
}

/** Did the file get the name? Not when another has it. */
function linked(own: string, path: string): boolean {
  try {
    linkSync(own, path);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw new Error(`cannot write pidfile ${path}: ${errorText(error)}`);
  }
}

/**
 * Removes a pidfile that no server holds, and returns what it was; null: look again. Between a look and a removal
 * another server may put its file there: so whoever removes holds a lock, which is a pidfile itself. A lock whose
 * process has died is removed in the same way, under a lock of its own.
 */
function takeAway(own: string, path: string, depth: number): Holder | null {
  const found = holderOf(path);
  if (found.pid !== null) return found;
  const lock = `${path}.lock`;
  if (!linked(own, lock)) {
    if (depth === LOCKS_MAX || takeAway(own, lock, depth + 1)?.pid) standStill(CLAIM_WAIT_MS);
    return null;
  }
  try {
    const fd = openSync(path, "r");
    try {
      const holder = judge(fd);
      // A server that has just ended has removed it itself, and the name may be another's by now.
      if (holder.pid === null) {
        if (!names(path, fd)) return null;
        unlinkSync(path);
      }
      return holder;
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw new Error(`cannot write pidfile ${path}: ${errorText(error)}`);
  } finally {
    unlinkSync(lock);
  }
}

function remove(path: string, fd: number): void {
  try {
    if (names(path, fd)) unlinkSync(path);
  } catch {
    // gone already
  }
  closeSync(fd);
}

/** Is this name that of the open file? */
function names(path: string, fd: number): boolean {
  const named = statSync(path);
  const open = fstatSync(fd);
  return named.ino === open.ino && named.dev === open.dev;
}

/** The server that a pidfile names, or why there is none. */
export function holderOf(path: string): Holder {
  let fd: number;
  try {
    // A pipe would hold us up.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    return { pid: null, why: codeOf(error) === "ENOENT" ? "there is no such file" : errorText(error) };
  }
  try {
    return judge(fd);
  } catch (error) {
    return { pid: null, why: errorText(error) };
  } finally {
    closeSync(fd);
  }
}

/** The same of an open file: so the process id and who holds it are the same file's. */
function judge(fd: number): Holder {
  const pid = Number(readFileSync(fd, "utf8").trim());
  if (!Number.isInteger(pid) || pid <= 0) return { pid: null, why: "it holds no process id" };
  if (!isAlive(pid)) return { pid: null, why: `process ${pid} is gone` };
  if (!holds(pid, fstatSync(fd))) return { pid: null, why: `process ${pid} is another program` };
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
function holds(pid: number, { dev, ino }: Stats): boolean {
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
