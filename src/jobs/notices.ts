/**
 * What a job says of itself, as sd_notify(3) has it: that it is ready (`READY=1`), that it lives (`WATCHDOG=1`), how it is
 * (`STATUS=…`). It comes by a mailbox beside the job's pidfile, and all else that may be said there is passed over.
 */
import type { Environment, Mailbox } from "../contracts/environment.ts";
import { NOTICE_MAX_BYTES } from "../limits.ts";
import { printable } from "../text.ts";
import type { JobConfig } from "./config.ts";
import type { LineTaker, OutputReader } from "./output.ts";

/** A status has so many characters at most. */
const STATUS_MAX_CHARS = 200;
const NEWLINE = 10;

export class Notices implements LineTaker {
  /** It has said that it is ready, since it was started. */
  ready = false;
  /** How it is, in its own words; null: it has not said. */
  status: string | null = null;
  readonly #config: JobConfig;
  readonly #environment: Environment;
  readonly #output: OutputReader;
  readonly #told: () => void;
  #mailbox: Mailbox | null = null;
  #reading: { drain(): void; end(): void } | null = null;
  #heardAt = 0;
  /** It has said that it hangs. */
  #hangs = false;
  readonly #decoder = new TextDecoder();
  #partial = "";
  #skipping = false;

  /** @param told Called when it has said something that is to be acted on. */
  constructor(
    config: JobConfig,
    { environment, output }: { readonly environment: Environment; readonly output: OutputReader },
    told: () => void,
  ) {
    this.#config = config;
    this.#environment = environment;
    this.#output = output;
    this.#told = told;
  }

  /** The mailbox's file; null: it has none. */
  get file(): string | null {
    return this.#mailbox === null ? null : this.#config.noticesFile;
  }

  /** For the job's environment. */
  get variables(): Readonly<Record<string, string>> {
    const { file } = this;
    if (file === null) return {};
    const { watchdogMs } = this.#config;
    return {
      CC_NOTIFY: file,
      ...(this.#environment.host.receivesDatagrams ? { NOTIFY_SOCKET: file } : {}),
      ...(watchdogMs > 0 ? { WATCHDOG_USEC: String(watchdogMs * 1000) } : {}),
    };
  }

  /**
   * Makes the mailbox anew, whatever has become of it, and reads it from now on.
   *
   * @param owner The user that the job runs as; null: ours.
   * @throws {CCError}
   */
  async open(owner: number | null): Promise<void> {
    this.#reading?.end();
    this.#reading = this.#mailbox = null;
    this.#mailbox = await this.#environment.files.openMailbox(this.#config.noticesFile, owner);
    this.#reading = this.#output.add(this.#mailbox, this);
  }

  /** Another process is the job: what one before has said is forgotten. */
  begin(): void {
    this.look();
    this.ready = this.#hangs = false;
    this.status = null;
    this.excuse();
  }

  /** Reads what is there now. */
  look(): void {
    this.#reading?.drain();
  }

  /** It may be silent for so long again. */
  excuse(): void {
    this.#heardAt = this.#environment.clock.now();
  }

  /** Milliseconds until it has been silent for too long; Infinity: nobody listens. */
  get patienceMs(): number {
    const { watchdogMs } = this.#config;
    if (this.#mailbox === null || watchdogMs === 0) return Infinity;
    return this.#hangs ? 0 : watchdogMs - (this.#environment.clock.now() - this.#heardAt);
  }

  /** It is not read any more, and leaves no file. */
  async dispose(): Promise<void> {
    const { file } = this;
    this.#reading?.end();
    this.#reading = this.#mailbox = null;
    if (file !== null) await this.#environment.files.remove(file).catch(() => {/* nobody reads it */});
  }

  take(bytes: Uint8Array): void {
    let from = 0;
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, from)) {
      this.#add(bytes.subarray(from, end));
      if (!this.#skipping) this.#line(this.#partial);
      this.#partial = "";
      this.#skipping = false;
      from = end + 1;
    }
    this.#add(bytes.subarray(from));
  }

  tell(): void {}

  flush(): void {}

  #add(bytes: Uint8Array): void {
    if (this.#partial.length + bytes.length > NOTICE_MAX_BYTES) {
      this.#partial = "";
      this.#skipping = true;
    }
    if (!this.#skipping) this.#partial += this.#decoder.decode(bytes);
  }

  #line(line: string): void {
    if (line === "WATCHDOG=1") this.excuse();
    else if (line === "READY=1" && !this.ready) {
      this.ready = true;
      this.#told();
    } else if (line === "WATCHDOG=trigger" && !this.#hangs) {
      this.#hangs = true;
      this.#told();
    } else if (line.startsWith("STATUS=")) {
      this.status = printable(line.slice("STATUS=".length), STATUS_MAX_CHARS) || null;
    }
  }
}
