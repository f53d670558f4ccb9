/** Where lines go: the terminal or a log file, a batch of each turn in one write, and never an exception. */
import { closeSync, openSync, writeSync } from "node:fs";
import process from "node:process";
import type { LogSink } from "../log.ts";

/** How long to wait before writing to something that took nothing. */
const RETRY_MS = 50;
/** Characters that may wait for it; beyond, lines are lost and counted. */
const WAITING_MAX_CHARS = 4 * 1024 * 1024;

/** Writes lines to a descriptor. */
export class LineWriter {
  readonly sink: LogSink = (line) => this.#write(line);
  readonly #fd: number;
  #waiting: string[] = [];
  #chars = 0;
  #scheduled = false;
  #lost = 0;

  constructor(fd: number) {
    this.#fd = fd;
    process.on("exit", () => this.flush());
  }

  #write(line: string): void {
    if (this.#chars > WAITING_MAX_CHARS) {
      this.#lost++;
      return;
    }
    this.#waiting.push(line);
    this.#chars += line.length;
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => this.flush());
  }

  /** Writes what waits. */
  flush(): void {
    this.#scheduled = false;
    if (this.#waiting.length === 0) return;
    if (this.#lost > 0) this.#waiting.push(`(${this.#lost} log lines were lost: they could not be written)`);
    const bytes = new TextEncoder().encode(this.#waiting.join("\n") + "\n");
    this.#lost = this.#chars = 0;
    const lines = this.#waiting.length;
    this.#waiting = [];
    let at = 0;
    try {
      while (at < bytes.length) at += writeSync(this.#fd, bytes, at);
    } catch (error) {
      if ((error as { code?: string }).code !== "EAGAIN") {
        // A full disk, a closed terminal: routing goes on without a log.
        this.#lost += lines;
        return;
      }
      // A pipe that is full: the rest goes in front again, without its closing newline.
      const rest = new TextDecoder().decode(bytes.subarray(at, bytes.length - 1));
      this.#waiting.unshift(rest);
      this.#chars = rest.length;
      this.#scheduled = true;
      setTimeout(() => this.flush(), RETRY_MS).unref?.();
    }
  }
}

/**
 * Opens a file for appending.
 *
 * @throws An error with the system's code.
 */
export function openLog(path: string): { writer: LineWriter; close(): void } {
  const fd = openSync(path, "a", 0o640);
  const writer = new LineWriter(fd);
  return { writer, close: () => closeSync(fd) };
}
