/** Where lines go: the terminal or a log file, many in one write, and never an exception. */
import { closeSync, fstatSync, openSync, writeSync } from "node:fs";
import process from "node:process";
import { codeOf, errorText } from "../errors.ts";
import type { LogSink } from "../log.ts";

/** How long to wait before writing to something that took nothing. */
const RETRY_MS = 50;
/** Characters that may wait for it; beyond, lines are lost and counted. */
const WAITING_MAX_CHARS = 4 * 1024 * 1024;
/** Characters that are written without waiting for more. */
const WRITE_CHARS = 256 * 1024;
const NEWLINE = 0x0a;

/** Lines on their way to the descriptor. */
interface Batch {
  bytes: Uint8Array;
  /** So many bytes are written. */
  at: number;
  /** The file's size before; null for what is no file. */
  sizeBefore: number | null;
  /** How many lines are lost with each line: itself, or those that it tells of. */
  weights: number[];
}

/** Writes lines to a descriptor. */
export class LineWriter {
  readonly sink: LogSink = (line) => this.#write(line);
  /** Makes the line that tells how many were lost. */
  lostLine = (count: number): string => `(${count} log lines were lost: they could not be written)`;
  #fd: number;
  #lines: string[] = [];
  #weights: number[] = [];
  #chars = 0;
  #batch: Batch | null = null;
  #scheduled = false;
  #lost = 0;
  /** The last line that was written has no end. */
  #torn = false;

  constructor(fd: number) {
    this.#fd = fd;
    process.on("exit", () => this.flush());
  }

  #write(line: string): void {
    if (this.#chars > WAITING_MAX_CHARS) {
      this.#lost++;
      return;
    }
    // Before the lines that come now, were others lost.
    if (this.#lines.length === 0) this.#tellLost();
    this.#add(line, 1);
    if (this.#scheduled) {
      // A pipe that is full is tried again in its time.
      if (this.#chars > WRITE_CHARS && this.#batch === null) this.flush();
      return;
    }
    this.#scheduled = true;
    queueMicrotask(() => this.flush());
  }

  #add(line: string, weight: number): void {
    this.#lines.push(line);
    this.#weights.push(weight);
    this.#chars += line.length;
  }

  #tellLost(): void {
    if (this.#lost === 0) return;
    this.#add(this.lostLine(this.#lost), this.#lost);
    this.#lost = 0;
  }

  /** Writes what waits. */
  flush(): void {
    this.#scheduled = false;
    for (;;) {
      const batch = this.#batch ??= this.#take();
      if (batch === null) return;
      try {
        while (batch.at < batch.bytes.length) batch.at += writeSync(this.#fd, batch.bytes, batch.at);
        this.#batch = null;
      } catch (error) {
        if (codeOf(error) === "EAGAIN") this.#retryLater();
        else this.#giveUp(batch);
        return;
      }
    }
  }

  /** Goes on with another descriptor, once what waits is written to this one; returns this one. */
  protected moveTo(fd: number): number {
    this.flush();
    const before = this.#fd;
    this.#fd = fd;
    this.#torn = false;
    return before;
  }

  #take(): Batch | null {
    if (this.#lines.length === 0) return null;
    this.#tellLost();
    const text = `${this.#torn ? "\n" : ""}${this.#lines.join("\n")}\n`;
    const batch = {
      bytes: new TextEncoder().encode(text),
      at: 0,
      sizeBefore: sizeOf(this.#fd),
      weights: this.#weights,
    };
    if (this.#torn) batch.weights.unshift(0);
    this.#lines = [];
    this.#weights = [];
    this.#chars = 0;
    this.#torn = false;
    return batch;
  }

  /** A pipe that is full. */
  #retryLater(): void {
    this.#scheduled = true;
    setTimeout(() => this.flush(), RETRY_MS).unref?.();
  }

  /** A full disk, a closed terminal: routing goes on without a log. */
  #giveUp({ bytes, at, sizeBefore, weights }: Batch): void {
    // Deno writes until it fails, and does not tell how much of it went: the file does.
    const size = sizeBefore === null ? null : sizeOf(this.#fd);
    if (size !== null && sizeBefore !== null) at = Math.min(Math.max(0, size - sizeBefore), bytes.length);
    const written = bytes.subarray(0, at);
    const whole = written.reduce((lines, byte) => byte === NEWLINE ? lines + 1 : lines, 0);
    this.#lost += weights.slice(whole).reduce((sum, weight) => sum + weight, 0);
    this.#torn = at > 0 ? written[at - 1] !== NEWLINE : weights[0] === 0;
    this.#batch = null;
  }
}

/** Appends lines to a file, and to a new one of that name when the file was moved away. */
export class LogFile extends LineWriter {
  readonly #path: string;

  /** @throws {Error} With the file's name. */
  constructor(path: string) {
    super(open(path));
    this.#path = path;
  }

  /**
   * Goes on in the file that now has this name. What waits goes to the old one: none is lost.
   *
   * @throws {Error} With the file's name; the old file stays in use.
   */
  reopen(): void {
    closeSync(this.moveTo(open(this.#path)));
  }
}

function sizeOf(fd: number): number | null {
  try {
    const stat = fstatSync(fd);
    return stat.isFile() ? stat.size : null;
  } catch {
    return null;
  }
}

function open(path: string): number {
  try {
    return openSync(path, "a", 0o640);
  } catch (error) {
    throw new Error(`cannot open logfile ${path}: ${errorText(error)}`);
  }
}
