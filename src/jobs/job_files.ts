/** A job's pidfile and state file. A full disk does not keep a job from running: what cannot be written is told. */
import type { Environment } from "../contracts/environment.ts";
import { codeOf, errorText } from "../errors.ts";
import { JOB_FILE_MAX_BYTES } from "../limits.ts";
import type { Logger } from "../log.ts";
import { utf8 } from "../text.ts";
import type { JobConfig } from "./config.ts";
import { type JobRecord, writeRecord } from "./state_file.ts";

export class JobFiles {
  /** As it is now. */
  config: JobConfig;
  readonly #environment: Environment;
  readonly #log: Logger;

  constructor(config: JobConfig, environment: Environment, log: Logger) {
    this.config = config;
    this.#environment = environment;
    this.#log = log;
  }

  async writeState(
    record: Pick<JobRecord, "pid" | "started" | "since" | "starts" | "restarts" | "token" | "ready">,
  ): Promise<void> {
    const { facts, name: section, pidfile, fingerprint, stateFile } = this.config;
    const { bootId } = this.#environment.processes;
    const whole = { ...record, boot: bootId, config: facts.CC_CONFIG, section, pidfile, fingerprint };
    await this.attempt(() => writeRecord(this.#environment, stateFile, whole));
  }

  /** Not a script's, which writes its own. */
  async writePidfile(pid: number): Promise<void> {
    if (this.config.kind === "script") return;
    await this.attempt(() => this.#environment.files.replace(this.config.pidfile, utf8(`${pid}`)));
  }

  /** The pid that the pidfile names; null: none. */
  async readPidfile(): Promise<number | null> {
    try {
      const bytes = await this.#environment.files.read(this.config.pidfile, JOB_FILE_MAX_BYTES);
      const pid = Number(new TextDecoder().decode(bytes).split("\n")[0].trim());
      return Number.isInteger(pid) && pid > 1 ? pid : null;
    } catch {
      return null; // not yet, or never
    }
  }

  /** Neither is there any more. */
  async removeBoth(): Promise<void> {
    await this.remove(this.config.stateFile);
    await this.remove(this.config.pidfile);
  }

  async remove(path: string): Promise<void> {
    await this.attempt(() => this.#environment.files.remove(path));
  }

  /** Tells what fails, once in a while. */
  async attempt(write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch (error) {
      this.#log.warnRarely("start", `file ${codeOf(error)}`, errorText(error));
    }
  }
}
