/** What a command of the program is: one definition, from which its usage and `--help` are made. */
import type { Logger } from "../log.ts";
import type { Environment } from "./environment.ts";

/** A flag of a command. */
export interface Flag {
  /** One letter for `-c`. */
  readonly short?: string;
  /** `flag`: it is there or not; `count`: how often it is there; `text`: it has a value. */
  readonly kind: "flag" | "count" | "text";
  /** Of a value, for the usage: `SECONDS`. */
  readonly value?: string;
  readonly doc: string;
  /** Not told by `--help`: for this program's own use. */
  readonly hidden?: boolean;
}

/** Flags by their long names. */
export type Flags = Readonly<Record<string, Flag>>;

/** What the flags of a command line gave. */
export type FlagValues<F extends Flags> = {
  readonly [K in keyof F]: F[K]["kind"] extends "text" ? string | undefined
    : F[K]["kind"] extends "count" ? number
    : boolean;
};

/** One command. */
export interface CommandDefinition<F extends Flags = Flags> {
  /** What it is called by: `send`, or flags such as `--check`. */
  readonly names: readonly [string, ...string[]];
  readonly summary: string;
  /** Lines as they would be typed, without the program's name. */
  readonly examples: readonly string[];
  /** `ENDPOINT TYPE [KEY=VALUE …]` */
  readonly operands: string;
  readonly flags: F;
  /**
   * @returns The exit code.
   * @throws {Exit} With one, and a message.
   */
  run(flags: FlagValues<F>, operands: readonly string[], program: Program): Promise<number>;
}

/** What a command has instead of globals. */
export interface Program {
  readonly environment: Environment;
  /** How a person calls this program. */
  readonly name: string;
  /** For what goes on below a command: only what is grave. */
  readonly log: Logger;
  /** To stdout; no newline is added. */
  print(text: string): void;
  /** To stderr, with a newline. */
  tell(text: string): void;
}
