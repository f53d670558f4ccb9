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
}

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
}

interface Held {
  since: number;
  count: number;
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
    };
  }

  /** A logger of another name that shares sink, level and limits. */
  child(name: string): Logger {
    return new Logger(name, this);
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
   * A warning that something outside can cause at will: the first of a subject is written, later ones are
   * counted, and the next one written says how many were held back.
   *
   * @param subject What repeats: kind and peer, say.
   * @param times How often it has happened.
   */
  warnRarely(where: string, subject: string, text: string, times = 1): void {
    const { held, repeatMs } = this.#shared;
    const now = this.#shared.clock.now();
    let key = `${this.name}.${where} ${subject}`;
    if (!held.has(key) && held.size >= RATE_LIMITED_SUBJECTS) {
      // Subjects are kept by their age. While even the oldest is young, someone makes them up: they share one.
      const [oldest] = held.values();
      if (now - oldest.since < repeatMs) key = `${this.name}.${where}`;
    }
    const last = held.get(key);
    if (last && now - last.since < repeatMs) {
      last.count += times;
      return;
    }
    const heldBack = last?.count ?? 0;
    held.delete(key);
    held.set(key, { since: now, count: times - 1 });
    if (held.size > RATE_LIMITED_SUBJECTS) {
      for (const oldest of held.keys()) {
        held.delete(oldest);
        break;
      }
    }
    if (heldBack === 0) this.write("WARNING", where, text);
    else {
      this.write("WARNING", where, `${text} (${heldBack} more like this held back)`, { held_back: heldBack });
    }
  }
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

/** `07:09:26,967`, in local time. */
export function timeOfDay(ms: number): string {
  return TIMES.text(ms).time;
}

function two(n: number): string {
  return n < 10 ? `0${n}` : String(n);
}
