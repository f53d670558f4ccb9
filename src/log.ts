/**
 * Log lines as the configuration reference gives them, and the rate limiter for warnings that a peer can cause.
 */
import { LOG_TEXT_MAX_CHARS, RATE_LIMITED_SUBJECTS } from "./limits.ts";

/** How grave a line is; a logger writes its own level and those above. */
export const LEVELS = ["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] as const;
export type Level = typeof LEVELS[number];

/** How a line is written: for people, or as one JSON object for programs. */
export type LogFormat = "text" | "json";

/** Takes finished lines, without their newline. */
export type LogSink = (line: string) => void;

/** What every logger of one program shares: where lines go, from which level on, how warnings are limited. */
export interface LogOptions {
  /** Lines go here. */
  sink: LogSink;
  /** Lines below are not written. Default `INFO`. */
  level?: Level;
  /** Default `text`. */
  format?: LogFormat;
  /** Milliseconds since 1970. Default `Date.now`. */
  now?: () => number;
  /** Process id in each line. */
  pid: number;
  /** How long a repeated warning is held back. Default 10 000 ms. */
  repeatMs?: number;
}

interface Shared {
  sink: LogSink;
  level: number;
  format: LogFormat;
  now: () => number;
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
  readonly name: string;
  readonly #shared: Shared;

  constructor(name: string, options: LogOptions | Logger) {
    this.name = name;
    this.#shared = options instanceof Logger ? options.#shared : {
      sink: options.sink,
      level: LEVELS.indexOf(options.level ?? "INFO"),
      format: options.format ?? "text",
      now: options.now ?? Date.now,
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

  trace(where: string, text: string): void {
    this.write("TRACE", where, text);
  }
  debug(where: string, text: string): void {
    this.write("DEBUG", where, text);
  }
  info(where: string, text: string): void {
    this.write("INFO", where, text);
  }
  warn(where: string, text: string): void {
    this.write("WARNING", where, text);
  }
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
    const { format, level: least, now, pid } = this.#shared;
    const ms = now();
    const logger = `${this.name}.${where}`;
    const msg = printable(text);
    if (format === "json") {
      return JSON.stringify({ time: new Date(ms).toISOString(), pid, level, logger, msg, ...fields });
    }
    return least < LEVELS.indexOf("INFO")
      ? `${clock(ms)} ${level} ${logger}: ${msg}`
      : `${date(ms)} ${clock(ms)} ${pid} ${level} ${logger}: ${msg}`;
  }

  /**
   * A warning that something outside can cause at will: the first of a subject is written, later ones are
   * counted, and the next one written says how many were held back.
   *
   * @param subject What repeats: kind and peer, say.
   */
  limited(where: string, subject: string, text: string): void {
    const { held, repeatMs } = this.#shared;
    const now = this.#shared.now();
    let key = `${this.name}.${where} ${subject}`;
    if (!held.has(key) && held.size >= RATE_LIMITED_SUBJECTS) {
      // Subjects are kept by their age. While even the oldest is young, someone makes them up: they share one.
      const [oldest] = held.values();
      if (now - oldest.since < repeatMs) key = `${this.name}.${where}`;
    }
    const last = held.get(key);
    if (last && now - last.since < repeatMs) {
      last.count++;
      return;
    }
    const heldBack = last?.count ?? 0;
    held.delete(key);
    held.set(key, { since: now, count: 0 });
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

/** `2026-11-22`, in local time. */
export function date(ms: number): string {
  const d = new Date(ms);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
}

/** `07:09:26,967`, in local time. */
export function clock(ms: number): string {
  const d = new Date(ms);
  const millis = String(d.getMilliseconds()).padStart(3, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())},${millis}`;
}

function two(n: number): string {
  return n < 10 ? `0${n}` : String(n);
}

// deno-lint-ignore no-control-regex -- control characters are what is looked for
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;

/** Text as it may go to a log or terminal: control and bidirectional characters escaped, length bounded. */
export function printable(text: string, maxChars: number = LOG_TEXT_MAX_CHARS): string {
  const cut = text.length > maxChars
    ? `${text.slice(0, maxChars)}... (${text.length - maxChars} characters more)`
    : text;
  return cut.replace(UNPRINTABLE, (c) => {
    if (c === "\n") return "\\n";
    if (c === "\r") return "\\r";
    if (c === "\t") return "\\t";
    const code = c.charCodeAt(0);
    return code < 256
      ? `\\x${code.toString(16).padStart(2, "0")}`
      : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/** Bytes as text for a log: UTF-8 where it is, escaped by {@link printable}. */
export function printableBytes(bytes: Uint8Array, maxBytes = 64): string {
  const cut = bytes.length > maxBytes;
  const text = new TextDecoder().decode(cut ? bytes.subarray(0, maxBytes) : bytes);
  return printable(text) + (cut ? "..." : "");
}

/** An unknown thrown value as one line of text. */
export function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
