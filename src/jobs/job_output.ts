/** Where a job's output goes: a FIFO that is read, a file, or nowhere. */
import type { Environment, Pipe } from "../contracts/environment.ts";
import type { Logger } from "../log.ts";
import type { JobConfig } from "./config.ts";
import type { JobFiles } from "./job_files.ts";
import { LineReader, type OutputReader } from "./output.ts";

/** What it needs of the supervisor. */
export interface JobOutputParts {
  readonly environment: Environment;
  readonly output: OutputReader;
  /** Opens a FIFO. */
  openPipe(path: string): Promise<Pipe>;
  /** Takes a line, for `output = route`. */
  route(job: JobConfig, line: string): void;
}

export class JobOutput {
  readonly #config: JobConfig;
  readonly #parts: JobOutputParts;
  readonly #files: JobFiles;
  readonly #lines: LineReader;
  #reading: { drain(): void; end(): void } | null = null;
  #pipe: Pipe | null = null;

  constructor(config: JobConfig, parts: JobOutputParts, files: JobFiles, log: Logger) {
    this.#config = config;
    this.#parts = parts;
    this.#files = files;
    const sink = config.values.output === "route"
      ? (line: string) => parts.route(config, line)
      : (line: string) => log.info("output", line);
    this.#lines = new LineReader(parts.environment.clock, sink);
  }

  get #isRead(): boolean {
    const { output } = this.#config.values;
    return output === "log" || output === "route";
  }

  /** Reads the FIFO from now on, where there is to be one. */
  async open(): Promise<void> {
    if (this.#pipe !== null || !this.#isRead) return;
    await this.#files.attempt(async () => {
      this.#pipe = await this.#parts.openPipe(this.#config.outputFile);
      this.#reading = this.#parts.output.add(this.#pipe, this.#lines);
    });
  }

  /**
   * Calls `start` with what a process is to write to.
   *
   * @throws {CCError} The file cannot be opened.
   */
  async given<T>(start: (fd: number | null) => Promise<T>): Promise<T> {
    const { output, logfile } = this.#config.values;
    if (output !== "file") return await start(this.#pipe?.fd ?? null);
    const { files } = this.#parts.environment;
    const fd = await files.openAppend(logfile!);
    try {
      return await start(fd);
    } finally {
      files.closeFile(fd);
    }
  }

  /** The process has ended: reads the last of it, and says what it wrote last. */
  drain(): string {
    const { output, logfile } = this.#config.values;
    if (output === "file") return `; its output is in ${logfile}`;
    this.#reading?.drain();
    this.#lines.flush();
    const { last } = this.#lines;
    this.#lines.last = "";
    return last === "" ? "" : `; its last line: ${last.slice(0, 200)}`;
  }

  /** It is not read any more, and leaves no file. */
  async dispose(): Promise<void> {
    this.#reading?.end();
    this.#reading = this.#pipe = null;
    if (this.#isRead) await this.#files.remove(this.#config.outputFile);
  }
}
