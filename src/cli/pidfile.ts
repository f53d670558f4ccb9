/** The file with the server's process id. */
import { readFileSync, unlinkSync, writeFileSync } from "node:fs";
import process from "node:process";
import { reason } from "../log.ts";

/**
 * Writes the process id; returns what removes the file again.
 *
 * @throws {Error} Another server runs with this file, or it cannot be written.
 */
export function writePidfile(path: string): () => void {
  const other = runningPid(path);
  if (other !== null) throw new Error(`pidfile ${path}: a server runs already, process ${other}`);
  try {
    writeFileSync(path, `${process.pid}\n`);
  } catch (error) {
    throw new Error(`cannot write pidfile ${path}: ${reason(error)}`);
  }
  return () => {
    try {
      if (readPid(path) === process.pid) unlinkSync(path);
    } catch {
      // gone already
    }
  };
}

/** The process that a pidfile names, when it lives and is a CC server; null otherwise. */
export function runningPid(path: string): number | null {
  const pid = readPid(path);
  if (pid === null || pid === process.pid) return null;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as { code?: string }).code !== "EPERM") return null;
  }
  return isOurs(pid) ? pid : null;
}

function readPid(path: string): number | null {
  try {
    const pid = Number(readFileSync(path, "utf8").trim());
    return Number.isInteger(pid) && pid > 0 ? pid : null;
  } catch {
    return null;
  }
}

/** Numbers are used again: a living process of another program is no server. Where that cannot be told, it is one. */
function isOurs(pid: number): boolean {
  try {
    return /ccserver|main\.[tm]?[jt]s/.test(readFileSync(`/proc/${pid}/cmdline`, "latin1"));
  } catch {
    return true;
  }
}
