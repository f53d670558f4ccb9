/**
 * A job's state file, `NAME.state` beside its pidfile: which process the job is, so that the next server takes over the one
 * that is meant, and nothing else. It is written before a process is started, and again when its pid is known: a server
 * that is killed in between leaves a process that its environment names.
 */
import type { Environment } from "../contracts/environment.ts";
import { codeOf, errorText } from "../errors.ts";
import { JOB_FILE_MAX_BYTES } from "../limits.ts";
import type { Logger } from "../log.ts";
import { utf8 } from "../text.ts";
import type { Target } from "./processes.ts";

/** What the file holds. */
export interface JobRecord {
  /** Null: it is about to be started. */
  readonly pid: number | null;
  /** Of that process, as the system counts; with `boot`, no other one has it. */
  readonly started: number | null;
  /** The machine's start that `started` is of. */
  readonly boot: string;
  /** The config file of its server, the job's section, and its pidfile. */
  readonly config: string;
  readonly section: string;
  readonly pidfile: string;
  /** What the config asked for. */
  readonly fingerprint: string;
  /** Milliseconds since 1970. */
  readonly since: number;
  /** Starts that the wait before a restart is worked out from, and all restarts. */
  readonly starts: number;
  readonly restarts: number;
  /** A digest of the token that this process asks with; null: it has none. */
  readonly token: string | null;
  /** It counted as running. */
  readonly ready: boolean;
}

/** Reads a state file; null: there is none, or none that can be read. */
export async function readRecord(
  { files, processes }: Environment,
  path: string,
  log: Logger,
): Promise<JobRecord | null> {
  let text: string;
  try {
    const owner = await files.ownerOf(path);
    if (owner === null) return null;
    // Who may write it may say which process is signalled.
    if (owner !== processes.user) {
      log.warn("start", `${path} is another user's: it is not used`);
      return null;
    }
    text = new TextDecoder().decode(await files.read(path, JOB_FILE_MAX_BYTES));
  } catch (error) {
    if (codeOf(error) !== "ENOENT") log.warn("start", errorText(error));
    return null;
  }
  try {
    const record: unknown = JSON.parse(text);
    if (isRecord(record)) {
      return {
        ...record,
        section: record.section ?? "d:",
        token: record.token ?? null,
        ready: record.ready ?? true,
      };
    }
  } catch {
    // Told below.
  }
  log.warn("start", `${path} holds no state of a job: it is not used`);
  return null;
}

export async function writeRecord({ files }: Environment, path: string, record: JobRecord): Promise<void> {
  await files.replace(path, utf8(`${JSON.stringify(record)}\n`), { mode: 0o600 });
}

/** The process of a record, alive or not; null where the machine has been started anew since. */
export function leaderOf({ pid, started, boot }: JobRecord, bootId: string): Target | null {
  return pid === null || started === null || boot !== bootId ? null : { pid, started };
}

function isRecord(value: unknown): value is JobRecord {
  const { pid, started, boot, config, pidfile, fingerprint, since, starts, restarts, section, token, ready } =
    (value ?? {}) as Record<
      string,
      unknown
    >;
  const natural = (n: unknown) => Number.isSafeInteger(n) && n as number >= 0;
  return (pid === null || natural(pid) && pid as number > 1) && (started === null || natural(started)) &&
    typeof boot === "string" && typeof config === "string" && typeof pidfile === "string" &&
    typeof fingerprint === "string" && natural(since) && natural(starts) &&
    natural(restarts) && (ready === undefined || typeof ready === "boolean") &&
    (section === undefined || typeof section === "string") &&
    (token === undefined || token === null || typeof token === "string");
}
