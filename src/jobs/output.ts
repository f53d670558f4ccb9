/**
 * What jobs write, read from their pipes: looked at ten times a second while it comes, once a second while it does not, so
 * that two hundred silent jobs cost nothing, and at once again where a pipe was full, as a job waits there then.
 *
 * ```
 *   bytes ──▶ lines (64 KiB at most) ──▶ rate (bursts of 1000, then 100 a second) ──▶ the job's log
 *                                          └─ held back: counted, told in one line
 * ```
 */
import type { Cancel, Clock, Pipe } from "../contracts/environment.ts";
import { JOB_LINE_MAX_BYTES, JOB_LINES_BURST, JOB_LINES_PER_SECOND, JOB_READ_MAX_BYTES } from "../limits.ts";
import { counted } from "../text.ts";

const BUSY_MS = 100;
/** A pipe of which so much came at once is looked at again after so long. */
const FULL_BYTES = 32 * 1024;
const FULL_MS = 4;
/** A silent pipe is looked at so often. */
const SILENT_MS = 1000;
/** So often what was held back is told. */
const TELL_MS = 10_000;
const NEWLINE = 10;
/** One pipe is read for so long at a time, and those that were full together. */
const READ_MS = 1;
const HOT_MS = 2;
/** Pipes of all jobs are read into one buffer, one after the other. */
const READ_BYTES = 64 * 1024;

/** Takes the lines of one job. */
export type LineSink = (line: string) => void;

/** Takes what comes, as lines. */
export interface LineTaker {
  take(bytes: Uint8Array): void;
  /** Called at least once a second: tells what is due. */
  tell(): void;
  /** What has no newline yet is a line too. */
  flush(): void;
}

/** The lines of one job. */
export class LineReader implements LineTaker {
  /** The last one, for the line that tells how the job ended. */
  last = "";
  readonly #sink: LineSink;
  readonly #clock: Clock;
  readonly #decoder = new TextDecoder();
  #partial = new Uint8Array(0);
  /** The rest of a line that was too long is passed over. */
  #skipping = false;
  #room = JOB_LINES_BURST;
  #filledAt: number;
  #held = 0;
  #toldAt = -Infinity;

  constructor(clock: Clock, sink: LineSink) {
    this.#clock = clock;
    this.#sink = sink;
    this.#filledAt = clock.now();
  }

  take(bytes: Uint8Array): void {
    let from = 0;
    for (;;) {
      // What is held back is only counted: a line may be one byte.
      if (!this.#hasRoom) from = this.#pass(bytes, from);
      const end = bytes.indexOf(NEWLINE, from);
      if (end < 0) break;
      this.#line(bytes.subarray(from, end));
      from = end + 1;
    }
    this.#keep(bytes.subarray(from));
  }

  flush(): void {
    if (this.#partial.length > 0) this.#line(this.#partial.subarray(0, 0));
    this.#skipping = false;
    this.tellHeld();
  }

  #keep(rest: Uint8Array): void {
    if (rest.length === 0 || this.#skipping) return;
    const room = JOB_LINE_MAX_BYTES - this.#partial.length;
    if (rest.length > room) {
      this.#line(rest.subarray(0, room));
      this.#skipping = true;
      return;
    }
    this.#partial = joined(this.#partial, rest);
  }

  #line(end: Uint8Array): void {
    if (this.#skipping) {
      this.#skipping = false;
      return;
    }
    let bytes = this.#partial.length === 0 ? end : joined(this.#partial, end);
    this.#partial = EMPTY;
    if (!this.#allowed()) {
      this.#held++;
      return;
    }
    bytes = bytes.subarray(0, JOB_LINE_MAX_BYTES);
    if (bytes.at(-1) === 13) bytes = bytes.subarray(0, -1);
    const text = this.#decoder.decode(bytes);
    if (text.trim() !== "") this.last = text;
    this.#sink(text);
  }

  /** Counts whole lines, and returns where the last of them ends. */
  #pass(bytes: Uint8Array, from: number): number {
    const end = bytes.lastIndexOf(NEWLINE) + 1;
    if (end <= from) return from;
    let count = 0;
    for (let at = from; at < end; at++) if (bytes[at] === NEWLINE) count++;
    // The rest of one that was too long, and told, is not another.
    this.#held += this.#skipping ? count - 1 : count;
    this.#skipping = false;
    this.#partial = EMPTY;
    return end;
  }

  /** A bucket that fills again while time passes. */
  get #hasRoom(): boolean {
    const now = this.#clock.now();
    this.#room = Math.min(
      JOB_LINES_BURST,
      this.#room + (now - this.#filledAt) / 1000 * JOB_LINES_PER_SECOND,
    );
    this.#filledAt = now;
    return this.#room >= 1;
  }

  #allowed(): boolean {
    if (!this.#hasRoom) return false;
    this.#room--;
    return true;
  }

  /** Tells what was held back, when that is due. */
  tell(): void {
    if (this.#held > 0 && this.#clock.now() - this.#toldAt >= TELL_MS) this.tellHeld();
  }

  tellHeld(): void {
    if (this.#held === 0) return;
    this.#sink(`(${counted(this.#held, "line")} held back: more than ${JOB_LINES_PER_SECOND} a second)`);
    this.#held = 0;
    this.#toldAt = this.#clock.now();
  }
}

const EMPTY = new Uint8Array(0);

function joined(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

/** A pipe, or a mailbox. */
type Readable = Pick<Pipe, "read" | "close">;

interface Source {
  readonly pipe: Readable;
  readonly lines: LineTaker;
  /** When it is looked at again. */
  due: number;
  /** It is looked at again in a moment. */
  hot: boolean;
}

/** Reads the pipes of all jobs of a server. */
export class OutputReader {
  readonly #clock: Clock;
  readonly #sources = new Set<Source>();
  readonly #buffer = new Uint8Array(READ_BYTES);
  #cancel: Cancel | null = null;
  #hot: Source[] = [];
  #hotSoon = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Reads a pipe from now on; what is returned reads the last of it, and ends that. */
  add(pipe: Readable, lines: LineTaker): { drain(): void; end(): void } {
    // Not all silent ones are looked at in one turn.
    const slot = this.#sources.size % (SILENT_MS / BUSY_MS);
    const source: Source = { pipe, lines, due: this.#clock.now() + slot * BUSY_MS, hot: false };
    this.#sources.add(source);
    if (this.#cancel === null) this.#lookIn(BUSY_MS);
    return {
      drain: () => void this.#read(source),
      end: () => {
        if (!this.#sources.delete(source)) return;
        this.#read(source);
        lines.flush();
        pipe.close();
        if (this.#sources.size > 0) return;
        this.#cancel?.();
        this.#cancel = null;
      },
    };
  }

  #lookIn(ms: number): void {
    this.#cancel = this.#clock.after(ms, () => this.#look());
  }

  #look(): void {
    const now = this.#clock.now();
    let next = now + SILENT_MS;
    for (const source of this.#sources) {
      if (source.due <= now) {
        source.lines.tell();
        source.due = now + (this.#read(source) ? BUSY_MS : SILENT_MS);
      }
      next = Math.min(next, source.due);
    }
    // What is due soon is looked at together.
    this.#lookIn(Math.max(BUSY_MS, next - now));
  }

  #lookAtHotSoon(): void {
    if (this.#hotSoon) return;
    this.#hotSoon = true;
    this.#clock.after(FULL_MS, this.#lookAtHot);
  }

  readonly #lookAtHot = (): void => {
    this.#hotSoon = false;
    const hot = this.#hot;
    this.#hot = [];
    const until = this.#clock.now() + HOT_MS;
    for (const [i, source] of hot.entries()) {
      if (this.#clock.now() >= until) {
        // The others are first the next time.
        this.#hot.unshift(...hot.slice(i));
        break;
      }
      source.hot = false;
      if (this.#sources.has(source)) this.#read(source);
    }
    if (this.#hot.length > 0) this.#lookAtHotSoon();
  };

  /** Reads what is there, so much at most; false: nothing was. */
  #read(source: Source): boolean {
    const { pipe, lines } = source;
    const until = this.#clock.now() + READ_MS;
    let bytes = 0;
    while (bytes < JOB_READ_MAX_BYTES) {
      const n = pipe.read(this.#buffer);
      if (n === 0) break;
      lines.take(this.#buffer.subarray(0, n));
      bytes += n;
      if (this.#clock.now() >= until) break;
    }
    if (bytes >= FULL_BYTES && !source.hot) {
      source.hot = true;
      this.#hot.push(source);
      this.#lookAtHotSoon();
    }
    return bytes > 0;
  }
}
