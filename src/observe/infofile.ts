/** The infofile: the server's state as a file, written beside its place and renamed, so that no reader sees a part. */
import type { ServerConfig } from "../config/reader.ts";
import type { Environment } from "../contracts/environment.ts";
import { systemError } from "../errors.ts";
import type { Logger } from "../log.ts";
import type { Statistics } from "../server/counts.ts";
import { printable } from "../text.ts";
import { VERSION } from "../version.ts";
import { type Averages, WINDOWS_SECONDS } from "./averages.ts";
import { type Slices, sorted, Utf8Text, type Work } from "./slices.ts";
import { formatCounter, values } from "./stats.ts";

/** What an infofile is made from. */
export interface InfofileParts {
  /** What the server runs on now. */
  readonly config: () => ServerConfig;
  readonly environment: Environment;
  readonly statistics: Statistics;
  /** Null below level 3. */
  readonly averages: Averages | null;
  readonly slices: Slices;
  readonly log: Logger;
  /** Milliseconds since 1970. */
  readonly startedMs: number;
}

/** How long the end of a server waits for the last one. */
const CLOSE_MAX_MS = 1000;

export class Infofile {
  readonly path: string;
  readonly #parts: InfofileParts;
  #engine = "";
  #last: ReadonlyMap<string, number> = new Map();
  #writing: Promise<void> | null = null;
  #opened = false;
  #closed = false;
  #failed = false;

  constructor(path: string, parts: InfofileParts) {
    this.path = path;
    this.#parts = parts;
  }

  /**
   * Writes it for the first time.
   *
   * @throws {Error} It cannot be written; the message is one line for the operator.
   */
  async open(engine: string): Promise<void> {
    this.#engine = engine;
    try {
      await this.#replace("running");
      this.#opened = true;
    } catch (error) {
      throw systemError(error, `cannot write the infofile ${this.path}`);
    }
  }

  /** Writes it again. A disk that fails is told once, and hinders nothing else. */
  write(): void {
    // One that is still being written, on a disk that hangs, is not written twice.
    this.#writing ??= this.#tryReplace("running").finally(() => this.#writing = null);
  }

  /** Writes it for the last time; one that was never opened may be another server's. A disk that hangs is not waited for. */
  async close(): Promise<void> {
    if (!this.#opened) return;
    const { clock } = this.#parts.environment;
    let cancel = () => {};
    const over = new Promise<void>((resolve) => cancel = clock.after(CLOSE_MAX_MS, resolve));
    await Promise.race([over, this.#writeLast()]);
    cancel();
    this.#closed = true;
  }

  async #writeLast(): Promise<void> {
    await this.#writing;
    // Another server may have it by now.
    if (!this.#closed) await this.#tryReplace("stopped");
  }

  async #tryReplace(status: string): Promise<void> {
    const { log } = this.#parts;
    try {
      await this.#replace(status);
      if (this.#failed) log.info("infofile", `${this.path} is written again`);
      this.#failed = false;
    } catch (error) {
      if (!this.#failed) {
        log.warnRarely("infofile", this.path, systemError(error, `cannot write ${this.path}`).message);
      }
      this.#failed = true;
    }
  }

  async #replace(status: string): Promise<void> {
    const { environment, statistics, slices } = this.#parts;
    const now = await slices.run(() => values(statistics));
    const text = await slices.run(() => infofileText(this.#parts, this.#engine, status, now, this.#last));
    await environment.files.replace(this.path, text);
    this.#last = now;
  }
}

/**
 * The whole file.
 *
 * @param values The counters now.
 * @param last The counters when it was written last.
 */
export function* infofileText(
  parts: Omit<InfofileParts, "slices">,
  engine: string,
  status: string,
  values: ReadonlyMap<string, number>,
  last: ReadonlyMap<string, number>,
): Work<Uint8Array> {
  const level = parts.config().options["infofile-level"];
  const text = new Utf8Text();
  text.add(head(parts, engine, status));
  if (level < 2) return text.bytes;
  // What has changed within a time is among these.
  const names = yield* sorted(values.keys());
  yield* section(text, "total", names, values, formatCounter);
  yield* section(text, "latest", names, yield* changed(values, last), formatCounter);
  if (level < 3 || parts.averages === null) return text.bytes;
  for (const seconds of WINDOWS_SECONDS) {
    yield* section(
      text,
      `avg:${seconds}`,
      names,
      yield* parts.averages.window(seconds),
      (name, { total, perBucket, perSecond }) =>
        `${formatCounter(name, total)} ${perBucket.toFixed(4)} ${perSecond.toFixed(4)}`,
    );
  }
  return text.bytes;
}

function head(
  { config, environment, startedMs }: Omit<InfofileParts, "slices">,
  engine: string,
  status: string,
): string {
  const { jobName, serviceName, options } = config();
  const { clock, host } = environment;
  const { userSeconds, systemSeconds, childUserSeconds, childSystemSeconds } = host.usage();
  const consumed = [userSeconds, systemSeconds, childUserSeconds, childSystemSeconds];
  const lines: [string, string | number][] = [
    ["name", jobName],
    ["version", VERSION],
    ["service", serviceName],
    ["pid", host.pid],
    ["started", timestamp(startedMs)],
    ["status", status],
    ["time-consumed", consumed.map((seconds) => seconds.toFixed(2)).join(" ")],
    ["info-period", options["stats-period"]],
    ["info-written", timestamp(clock.time())],
    ["platform", host.platform],
    ["runtime", host.runtime],
    ["zeromq", engine],
  ];
  return lines.map(([key, value]) => `${key}: ${printable(String(value))}\n`).join("");
}

function* section<T>(
  text: Utf8Text,
  title: string,
  names: readonly string[],
  entries: ReadonlyMap<string, T>,
  format: (name: string, entry: T) => string,
): Work<void> {
  text.add(`\n[${title}]\n`);
  for (const name of names) {
    yield;
    const entry = entries.get(name);
    if (entry !== undefined) text.add(`${name}: ${format(name, entry)}\n`);
  }
}

/** Who reads these finds them always. */
const ALWAYS = ["count", "bytes", "seconds"];

/** By how much counters have changed; those that stood still are left out. */
function* changed(
  values: ReadonlyMap<string, number>,
  last: ReadonlyMap<string, number>,
): Work<Map<string, number>> {
  const latest = new Map<string, number>();
  for (const [name, value] of values) {
    yield;
    const before = last.get(name) ?? 0;
    // One that is less than it was is another of that name, and began at 0.
    const by = value < before ? value : value - before;
    if (by !== 0 || ALWAYS.includes(name)) latest.set(name, by);
  }
  return latest;
}

/** `1795331366.56 (2026-11-22 07:09:26 UTC)` */
export function timestamp(ms: number): string {
  // Rounded first, so that both tell the same second.
  const rounded = Math.round(ms / 10) * 10;
  const [date, time] = new Date(rounded).toISOString().split(/[T.]/);
  return `${(rounded / 1000).toFixed(2)} (${date} ${time} UTC)`;
}
