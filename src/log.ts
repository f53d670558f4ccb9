/**
 * Log lines as the configuration reference gives them, and the rate limiter for warnings that a peer can cause.
 */
import { RATE_LIMITED_SUBJECTS } from "./limits.ts";
import { printable } from "./text.ts";

/** How grave a line is; a logger writes its own level and those above. */
export type Level = "TRACE" | "DEBUG" | "INFO" | "WARNING" | "ERROR" | "CRITICAL";
/** From the least to the most grave. */
export const LEVELS: readonly Level[] = ["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

/** How a line is written: for people, or as one JSON object for programs. */
export type LogFormat = "text" | "json";

/** Takes finished lines, without their newline. */
export type LogSink = (line: string) => void;

/** The part of a clock that a logger needs. */
export interface LogClock {
  /** Milliseconds since 1970, for the lines. */
  time(): number;
  /** Milliseconds, monotonic, for the limits. */
  now(): number;
  /** Calls `f` once, after `ms`; what it returns ends that. Missing: what was held back is told with the next of its kind. */
  after?(ms: number, f: () => void): () => void;
}

/** What a warning says of so many occurrences; a string says it of one. */
export type RareText = string | ((times: number) => string);

const MACHINE_CLOCK: LogClock = { time: () => Date.now(), now: () => performance.now() };

/** What every logger of one program shares: where lines go, from which level on, how warnings are limited. */
export interface LogOptions {
  /** Lines go here. */
  sink: LogSink;
  /** Lines below are not written. Default `INFO`. */
  level?: Level;
  /** Default `text`. */
  format?: LogFormat;
  /** What time it is, and how much has passed. Default: the machine's. */
  clock?: LogClock;
  /** Process id in each line. */
  pid: number;
  /** How long a repeated warning is held back. Default 10 000 ms. */
  repeatMs?: number;
}

interface Shared {
  sink: LogSink;
  level: number;
  format: LogFormat;
  clock: LogClock;
  pid: number;
  repeatMs: number;
  held: Map<string, Held>;
  /** Ends the wait for the next of them to be told, and when that is; null: nothing is held back. */
  cancel: (() => void) | null;
  tellAt: number;
}

/** A subject of {@link Logger.warnRarely}. */
interface Held {
  /** When a line of it was written last. */
  since: number;
  /** How often it has happened since. */
  count: number;
  readonly log: Logger;
  readonly where: string;
  text: RareText;
}

/**
 * Writes log lines for one part of the program.
 *
 * @example
 * ```ts
 * const log = new Logger("CCServer", { sink: console.error, pid: 1 });
 * log.info("startup", "listening"); // 2026-11-22 07:09:26,967 1 INFO CCServer.startup: listening
 * ```
 */
export class Logger {
  /** Which part of the program speaks. */
  readonly name: string;
  readonly #shared: Shared;

  /** A logger of its own, or one that shares all but the name with another. */
  constructor(name: string, options: LogOptions | Logger) {
    this.name = name;
    this.#shared = options instanceof Logger ? options.#shared : {
      sink: options.sink,
      level: LEVELS.indexOf(options.level ?? "INFO"),
      format: options.format ?? "text",
      clock: options.clock ?? MACHINE_CLOCK,
      pid: options.pid,
      repeatMs: options.repeatMs ?? 10_000,
      held: new Map(),
      cancel: null,
      tellAt: Infinity,
    };
  }

  /** A logger of another name that shares sink, level and limits. */
  child(name: string): Logger {
    return new Logger(name, this);
  }

  /** From now on lines below are not written, of all loggers that share this one's sink. */
  set level(level: Level) {
    this.#shared.level = LEVELS.indexOf(level);
  }

  /** Is a line of this level written? Ask before building a costly text. */
  enabled(level: Level): boolean {
    return LEVELS.indexOf(level) >= this.#shared.level;
  }

  /** Writes a line of level TRACE: `where` in the part of the program it was. */
  trace(where: string, text: string): void {
    this.write("TRACE", where, text);
  }
  /** Writes a line of level DEBUG. */
  debug(where: string, text: string): void {
    this.write("DEBUG", where, text);
  }
  /** Writes a line of level INFO. */
  info(where: string, text: string): void {
    this.write("INFO", where, text);
  }
  /** Writes a line of level WARNING. */
  warn(where: string, text: string): void {
    this.write("WARNING", where, text);
  }
  /** Writes a line of level ERROR. */
  error(where: string, text: string): void {
    this.write("ERROR", where, text);
  }

  /** Writes one line, whatever is in `text`: it is escaped and cut here. */
  write(level: Level, where: string, text: string, fields?: Readonly<Record<string, number>>): void {
    if (this.enabled(level)) this.#shared.sink(this.line(level, where, text, fields));
  }

  /**
   * The line that {@link write} would write, whatever the level.
   *
   * @param fields Figures that programs want; in JSON only, so `text` says them too.
   */
  line(level: Level, where: string, text: string, fields?: Readonly<Record<string, number>>): string {
    const { format, level: least, clock, pid } = this.#shared;
    const ms = clock.time();
    const logger = `${this.name}.${where}`;
    const msg = printable(text);
    if (format === "json") {
      return JSON.stringify({ time: new Date(ms).toISOString(), pid, level, logger, msg, ...fields });
    }
    const { date, time } = LINES.text(ms);
    return least < LEVELS.indexOf("INFO")
      ? `${time} ${level} ${logger}: ${msg}`
      : `${date} ${time} ${pid} ${level} ${logger}: ${msg}`;
  }

  /**
   * A warning that something outside can cause at will: the first of a subject is written, later ones are counted, and
   * told in one line when `repeatMs` has passed, or by {@link tellHeld}.
   *
   * @param subject What repeats: kind and peer, say.
   * @param text A function is called for a line that is written, now or later.
   * @param times How often it has happened.
   */
  warnRarely(where: string, subject: string, text: RareText, times = 1): void {
    const { held, repeatMs } = this.#shared;
    const now = this.#shared.clock.now();
    let key = `${this.name}.${where} ${subject}`;
    if (!held.has(key) && held.size >= RATE_LIMITED_SUBJECTS) {
      // Subjects are kept by their age. While even the oldest is young, someone makes them up: they share one.
      const [oldest] = held.values();
      if (now - oldest.since < repeatMs) {
        key = `${this.name}.${where}`;
        const one = typeof text === "string" ? text : text(times);
        text = (all) => all === times ? one : `${one} (and others: ${all - times} more)`;
      }
    }
    const last = held.get(key);
    if (last !== undefined) {
      last.count += times;
      last.text = text;
      if (now - last.since >= repeatMs) this.#tell(key, last, now);
      else this.#tellLater(last.since + repeatMs - now);
      return;
    }
    this.write("WARNING", where, typeof text === "string" ? text : text(times));
    const count = typeof text === "string" ? times - 1 : 0;
    held.set(key, { since: now, count, log: this, where, text });
    if (count > 0) this.#tellLater(repeatMs);
    if (held.size > RATE_LIMITED_SUBJECTS) this.#forgetOldest(now);
  }

  /** Tells all that was held back: a program that ends has nothing more to wait for. */
  tellHeld(): void {
    const shared = this.#shared;
    shared.cancel?.();
    shared.cancel = null;
    const now = shared.clock.now();
    for (const [key, held] of [...shared.held]) this.#tell(key, held, now);
  }

  /** Writes what was held back of a subject, which has become the youngest then. */
  #tell(key: string, held: Held, now: number): void {
    const { count, text, log, where } = held;
    if (count === 0) return;
    held.count = 0;
    held.since = now;
    this.#shared.held.delete(key);
    this.#shared.held.set(key, held);
    const line = typeof text === "string" ? `${text} (${count} more like this held back)` : text(count);
    log.write("WARNING", where, line, { held_back: count });
  }

  #forgetOldest(now: number): void {
    const { held } = this.#shared;
    const [[key, oldest]] = held;
    this.#tell(key, oldest, now);
    held.delete(key);
  }

  #tellLater(ms: number): void {
    const shared = this.#shared;
    const at = shared.clock.now() + ms;
    if (shared.cancel !== null && at >= shared.tellAt) return;
    shared.cancel?.();
    shared.cancel = shared.clock.after?.(ms, this.#tellDue) ?? null;
    shared.tellAt = at;
  }

  /** Tells what has been held back for long enough; others have their time to come. */
  readonly #tellDue = (): void => {
    const shared = this.#shared;
    shared.cancel = null;
    const now = shared.clock.now();
    let next = Infinity;
    for (const [key, held] of [...shared.held]) {
      if (held.count === 0) continue;
      const due = held.since + shared.repeatMs - now;
      if (due <= 0) this.#tell(key, held, now);
      else next = Math.min(next, due);
    }
    if (next < Infinity) this.#tellLater(next);
  };
}

/** A second in local time, as text; most lines are of the second that the last one was of. */
class LocalSecond {
  #second = NaN;
  #date = "";
  #time = "";

  /** `2026-11-22`, and `07:09:26,967` */
  text(ms: number): { date: string; time: string } {
    const second = Math.floor(ms / 1000);
    if (second !== this.#second) {
      const d = new Date(second * 1000);
      this.#date = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
      this.#time = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
      this.#second = second;
    }
    const millis = Math.floor(ms - second * 1000);
    return {
      date: this.#date,
      time: `${this.#time},${millis < 10 ? "00" : millis < 100 ? "0" : ""}${millis}`,
    };
  }
}

const LINES = new LocalSecond();
const TIMES = new LocalSecond();

/** The furthest times that there are dates for. */
const DATE_MAX_MS = 8.64e15;

/** `2026-11-28 07:09:26,967`, in local time, as lines of a log begin. */
export function timeText(ms: number): string {
  const { date, time } = LINES.text(ms);
  return `${date} ${time}`;
}

/** `07:09:26,967`, in local time; of what is no time, dashes. */
export function timeOfDay(ms: number): string {
  if (!(Math.abs(ms) < DATE_MAX_MS)) return "--:--:--,---";
  return TIMES.text(ms).time;
}

function two(n: number): string {
  return n < 10 ? `0${n}` : String(n);
}
