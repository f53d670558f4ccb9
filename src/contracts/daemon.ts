/** What a daemon of this program is: one definition, and a function that runs until it is told to end. */
import type { Logger } from "../log.ts";
import type { Environment } from "./environment.ts";
import type { Draft } from "./message.ts";
import type { Options, Values } from "./schema.ts";

/** All there is to know of a daemon: a process of this program, under jobmgr or alone. */
export interface DaemonDefinition<O extends Options = Options> {
  /** `infoscript`; the ini file says `cc.daemon.infoscript`. */
  readonly name: string;
  /** One sentence for the reference. */
  readonly summary: string;
  /** Of its section, beside those that every job has. */
  readonly options: O;
  /** Options that it can take while it runs: others start its process anew when a reload changes them. */
  readonly live?: readonly (string & keyof O)[];
  /** Runs until `context.signal` aborts, then returns soon. What it throws ends the process with 1. */
  run(context: DaemonContext<Values<O>>): Promise<void>;
}

/** All that a daemon can reach. */
export interface DaemonContext<O> {
  /** `SERVER.d:name` */
  readonly name: string;
  /** As its section gives them. */
  readonly options: Readonly<O>;
  /** Lines go to the server as `log.*` messages, and to stderr while it is away; never waits. */
  readonly log: Logger;
  /** Adds to a figure of its statistics. */
  count(name: string, by?: number): void;
  /** Logs the statistics since the last time, in one line; nothing where there are none. */
  tellStatistics(): void;
  /** The world around it. */
  readonly environment: Environment;
  /**
   * Sends a message to the server; settles when it is queued and there is room for another.
   *
   * @throws {ClientError} `aborted`: the daemon is to end.
   */
  publish(draft: Draft): Promise<void>;
  /** Aborts when it is to end, or to start anew with other options. */
  readonly signal: AbortSignal;
}
