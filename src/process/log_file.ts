/**
 * Where lines go: the terminal or a log file, many in one write, and never an exception. A pipe or terminal that takes
 * nothing, or a disk that hangs, is not waited for: lines wait, within bounds, and what is lost is counted. (Opening a file
 * is: at the start, and on SIGHUP.)
 *
 * ```
 *   lines ─▶ batch ─┬─ a file of a disk: by a thread of the runtime, one write at a time ─▶ written, or lost and counted
 *                   └─ all else: at once, as far as it takes it; again after 50 ms
 * ```
 */
import { closeSync, constants, fstat, fstatSync, openSync, write, writeSync } from "node:fs";
import process from "node:process";
import { codeOf, errorText } from "../errors.ts";
import { wrongKind } from "./kinds.ts";
import { standStill } from "./sleep.ts";
import type { LogSink } from "../log.ts";

/** How long to wait before writing to something that took nothing. */
const RETRY_MS = 50;
/** Characters that may wait for it; beyond, lines are lost and counted. A disk has pauses, in which a flood goes on. */
const WAITING_MAX_CHARS = 4 * 1024 * 1024;
const FILE_WAITING_MAX_CHARS = 16 * 1024 * 1024;
/** Characters that are written without waiting for more, and about as many as are written at once. */
const WRITE_CHARS = 256 * 1024;
const BATCH_CHARS = 1024 * 1024;
/** A write that a thread does is waited for at the end so long at least: on a disk that is well it is done by then. */
const IN_FLIGHT_MS = 100;
const NEWLINE = 0x0a;
/** A write of so many bytes to a pipe is whole or not at all. */
const PIPE_BUF_BYTES = 4096;

/** Paths that mean a descriptor that the program was started with. */
export const STANDARD: ReadonlyMap<string, number> = new Map([["/dev/stdout", 1], ["/dev/stderr", 2]]);
/** How long a program that ends waits for what is left, where it is not told otherwise. */
const LINGER_MS = 1000;
/** How often it tries meanwhile. */
const LINGER_LOOK_MS = 5;

/** Makes writes to a socket return at once, in the way of the runtime; false: it cannot. */
export type SetNonBlocking = (fd: number) => boolean;

/** What the system is asked for. */
export interface WriteCalls {
  /** The size of a file, told behind. */
  size(fd: number, done: (size: number) => void): void;
  /** Writes behind; `done` is told an error, or how many bytes went. */
  write(
    fd: number,
    bytes: Uint8Array,
    at: number,
    size: number,
    position: null,
    done: (error: Error | null, written: number) => void,
  ): void;
  writeSync(fd: number, bytes: Uint8Array, at: number, size: number): number;
}
const CALLS: WriteCalls = {
  size: (fd, done) => fstat(fd, (error, stat) => done(error === null ? stat.size : 0)),
  write,
  writeSync,
};

/** Lines on their way to the descriptor. */
interface Batch {
  readonly fd: number;
  bytes: Uint8Array;
  /** So many bytes are written. */
  at: number;
  readonly isFile: boolean;
  /** The file's size before it was begun; -1: it was not begun, or is no file. */
  sizeBefore: number;
  /** How many lines are lost with each line: itself, or those that it tells of. */
  weights: number[];
}

/** Writes lines to a descriptor. */
export class LineWriter {
  readonly sink: LogSink = (line) => this.#write(line);
  /** Makes the line that tells how many were lost. */
  lostLine = (count: number): string => `(${count} log lines were lost: they could not be written)`;
  /** How long the end of the program waits for what is left. */
  lingerMs = LINGER_MS;
  readonly #calls: WriteCalls;
  #fd: number;
  #isFile: boolean;
  /** Is the batch being written by a thread? */
  #writing = false;
  /** Descriptors to close once it has been. */
  #left: number[] = [];
  /** The program ends: there will be no other turn. */
  #ending = false;
  #lines: string[] = [];
  #weights: number[] = [];
  #chars = 0;
  #batch: Batch | null = null;
  #scheduled = false;
  #lost = 0;
  /** The last write failed: what was lost is told with the next line that is written. */
  #failed = false;
  /** Deno writes until it fails, and does not tell how much of it went: a pipe takes so much at once or nothing. */
  get #atOnce(): number {
    return this.#batch?.isFile === false ? PIPE_BUF_BYTES : Infinity;
  }
  /** The last line that was written has no end. */
  #torn = false;

  /** @param fd One that is not waited for. */
  constructor(fd: number, calls: WriteCalls = CALLS) {
    this.#calls = calls;
    this.#fd = fd;
    this.#isFile = sizeOf(fd) !== null;
    process.on("exit", () => this.#end());
  }

  /** One of those that the program was started with. */
  static ofStandard(fd: number, setNonBlocking: SetNonBlocking): LineWriter {
    return new LineWriter(unblocked(fd, setNonBlocking));
  }

  get #drained(): boolean {
    this.flush();
    return this.#batch === null && this.#lines.length === 0;
  }

  /** What waits has a moment to be written. */
  async written(): Promise<void> {
    for (let waited = 0; !this.#drained && waited < this.lingerMs; waited += LINGER_LOOK_MS) {
      await new Promise<void>((resolve) => void setTimeout(resolve, LINGER_LOOK_MS));
    }
  }

  /** The program is about to end: what waits has a moment, once, and signals are heard meanwhile. */
  async drained(): Promise<void> {
    await this.written();
    this.lingerMs = 0;
  }

  /** It ends otherwise: there is no other turn, and no thread can tell any more that it has written. The file can. */
  #end(): void {
    this.#ending = true;
    for (let waited = 0;; waited += LINGER_LOOK_MS) {
      this.#lookAtEnd();
      if (!this.#writing && this.#drained) return;
      if (waited >= Math.max(this.lingerMs, this.#writing ? IN_FLIGHT_MS : 0)) break;
      standStill(LINGER_LOOK_MS);
    }
    const batch = this.#batch;
    if (!this.#writing || batch === null || sizeOf(batch.fd) === batch.sizeBefore) return;
    // The disk does not hang, and something else was wrong with that write: the rest may go all the same.
    this.#writing = false;
    this.#batch = null;
    this.flush();
  }

  #lookAtEnd(): void {
    const batch = this.#batch;
    if (!this.#writing || batch === null) return;
    if (batch.sizeBefore >= 0) {
      if ((sizeOf(batch.fd) ?? 0) < batch.sizeBefore + batch.bytes.length - batch.at) return;
      this.#batch = null;
    }
    this.#writing = false;
  }

  #write(line: string): void {
    if (this.#chars > (this.#isFile ? FILE_WAITING_MAX_CHARS : WAITING_MAX_CHARS)) {
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
    while (!this.#writing) {
      const batch = this.#batch ??= this.#take();
      if (batch === null) return;
      if (batch.isFile && !this.#ending) return this.#writeBehind(batch);
      try {
        while (batch.at < batch.bytes.length) {
          batch.at += this.#calls.writeSync(
            batch.fd,
            batch.bytes,
            batch.at,
            Math.min(this.#atOnce, batch.bytes.length - batch.at),
          );
        }
        this.#batch = null;
        this.#failed = false;
      } catch (error) {
        if (codeOf(error) === "EAGAIN") this.#retryLater();
        else this.#giveUp(batch, batch.at);
        return;
      }
    }
  }

  #writeBehind(batch: Batch): void {
    this.#writing = true;
    batch.sizeBefore = -1;
    const { fd, bytes, at } = batch;
    // The end of the program does not wait for what comes back.
    this.#calls.size(fd, (size) => {
      if (this.#batch !== batch || this.#ending) return;
      batch.sizeBefore = size;
      this.#calls.write(fd, bytes, at, bytes.length - at, null, (error, written) => {
        if (this.#batch === batch && !this.#ending) this.#wrote(batch, error, written);
      });
    });
  }

  #wrote(batch: Batch, error: Error | null, written: number): void {
    this.#writing = false;
    const { fd, bytes, at, sizeBefore } = batch;
    // Deno writes until it fails, and does not tell how much of it went: the file does.
    if (error !== null) written = Math.min(Math.max(0, (sizeOf(fd) ?? 0) - sizeBefore), bytes.length - at);
    batch.at += written;
    if (batch.at === bytes.length) {
      this.#batch = null;
      this.#failed = false;
    } else if (fd !== this.#fd) this.#goOnIn(this.#fd, batch);
    else if (error !== null) this.#giveUp(batch, batch.at);
    for (const left of this.#left) closeSync(left);
    this.#left = [];
    if (!this.#failed) this.flush();
    else if (this.#lines.length > 0) this.#retryLater();
  }

  /** Goes on with another descriptor, once what can be is written to this one, which is closed. */
  protected moveTo(fd: number): void {
    this.flush();
    const before = this.#fd;
    this.#fd = fd;
    this.#isFile = sizeOf(fd) !== null;
    this.#torn = this.#failed = false;
    if (this.#batch !== null && !this.#writing) this.#goOnIn(fd, this.#batch);
    // The first three are the program's.
    if (before <= 2) return;
    if (this.#writing) this.#left.push(before);
    else closeSync(before);
  }

  /** A line that was cut begins anew. */
  #goOnIn(fd: number, { bytes, at, weights }: Batch): void {
    const from = bytes.subarray(0, at).lastIndexOf(NEWLINE) + 1;
    this.#batch = { fd, bytes, at: from, isFile: this.#isFile, sizeBefore: -1, weights };
  }

  #take(): Batch | null {
    // A disk that fails is tried with the next line, and not for the sake of telling that it does.
    if (this.#failed && this.#lines.length === 0) return null;
    this.#tellLost();
    if (this.#lines.length === 0) return null;
    let chars = 0;
    let count = 0;
    while (count < this.#lines.length && chars < BATCH_CHARS) chars += this.#lines[count++].length;
    const lines = this.#lines.splice(0, count);
    const weights = this.#weights.splice(0, count);
    this.#chars -= chars;
    const text = `${this.#torn ? "\n" : ""}${lines.join("\n")}\n`;
    if (this.#torn) weights.unshift(0);
    this.#torn = false;
    const bytes = new TextEncoder().encode(text);
    return { fd: this.#fd, bytes, at: 0, isFile: this.#isFile, sizeBefore: -1, weights };
  }

  /** A pipe that is full. */
  #retryLater(): void {
    this.#scheduled = true;
    setTimeout(() => this.flush(), RETRY_MS).unref?.();
  }

  /** A full disk, a closed terminal: routing goes on without a log. */
  #giveUp({ bytes, weights }: Batch, at: number): void {
    const written = bytes.subarray(0, at);
    let whole = 0;
    for (const byte of written) if (byte === NEWLINE) whole++;
    this.#lost += weights.slice(whole).reduce((sum, weight) => sum + weight, 0);
    this.#torn = at > 0 ? written[at - 1] !== NEWLINE : weights[0] === 0;
    this.#batch = null;
    this.#failed = true;
    if (this.#lines.length === 0) return;
    // Those that came meanwhile stand behind them.
    const line = this.lostLine(this.#lost);
    this.#lines.unshift(line);
    this.#weights.unshift(this.#lost);
    this.#chars += line.length;
    this.#lost = 0;
  }
}

/** Appends lines to a file, and to a new one of that name when the file was moved away. */
export class LogFile extends LineWriter {
  readonly #path: string;
  readonly #setNonBlocking: SetNonBlocking;

  /** @throws {Error} With the file's name. */
  constructor(path: string, setNonBlocking: SetNonBlocking, calls: WriteCalls = CALLS) {
    super(open(path, setNonBlocking), calls);
    this.#path = path;
    this.#setNonBlocking = setNonBlocking;
  }

  /**
   * Goes on in the file that now has this name. What waits goes to the old one, as far as that takes it, and the rest to the
   * new one, by whole lines: none is lost.
   *
   * @throws {Error} With the file's name; the old file stays in use.
   */
  reopen(): void {
    this.moveTo(open(this.#path, this.#setNonBlocking));
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

function open(path: string, setNonBlocking: SetNonBlocking): number {
  const standard = STANDARD.get(path);
  if (standard !== undefined) return unblocked(standard, setNonBlocking);
  try {
    const wrong = wrongKind(path, "lines");
    if (wrong !== null) throw new Error(wrong);
    const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK } = constants;
    return openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK, 0o640);
  } catch (error) {
    const why = codeOf(error) === "ENXIO" ? "it is a pipe that nobody reads" : errorText(error);
    throw new Error(`cannot open logfile ${path}: ${why}`);
  }
}

/**
 * A descriptor of the same that is never waited for. One of our own, where it can be had: whether writes wait is a property
 * that all who share a descriptor share, and the shell shares its terminal with us.
 */
function unblocked(fd: number, setNonBlocking: SetNonBlocking): number {
  try {
    const stat = fstatSync(fd);
    if (stat.isFile()) return fd;
    if (stat.isSocket()) {
      setNonBlocking(fd);
      return fd;
    }
    return openSync(
      `/proc/self/fd/${fd}`,
      constants.O_WRONLY | constants.O_APPEND | constants.O_NONBLOCK | NO_TERMINAL,
    );
  } catch {
    setNonBlocking(fd);
    return fd;
  }
}
/** What is opened does not become our terminal. */
const NO_TERMINAL = constants.O_NOCTTY ?? 0;
