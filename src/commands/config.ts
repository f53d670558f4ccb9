/** Configs for commands: what is wrong with one ends the command, with every finding. */
import { ConfigError, formatDiagnostic } from "../config/diagnostics.ts";
import { loadConfig, loadServerSection } from "../config/load.ts";
import { Modules } from "../config/modules.ts";
import { readConfig, type ReadOptions, type ServerConfig } from "../config/reader.ts";
import type { ServerOptions } from "../config/server_options.ts";
import type { Program } from "../contracts/command.ts";
import { unwritableFiles } from "../process/writable.ts";
import { EXAMPLE_CONFIG } from "./example_config.ts";
import { EXIT, Exit } from "./exit.ts";

/** What the program knows of handlers. */
export type Known = Pick<ReadOptions, "definitions" | "unbuilt"> & { readonly toolkit: unknown };

/** The part of a config that finds a server that runs. */
export type RunningConfig = Pick<ServerConfig, "file" | "options" | "lines" | "handlers">;

/** Reads configs with one set of handlers; modules that were loaded stay loaded. */
export class Configs {
  readonly #known: Known;
  readonly #program: Program;
  readonly modules: Modules;

  constructor(known: Known, program: Program) {
    this.#known = known;
    this.#program = program;
    this.modules = new Modules(program.environment, known.toolkit);
  }

  /**
   * Reads a config file.
   *
   * @param files Also finds which files cannot be written.
   * @throws {ConfigError}
   */
  read(file: string, files = false): Promise<ServerConfig> {
    return this.#load(file, files ? unwritableFiles : undefined);
  }

  /** The same for one who runs none of its handlers: their code is not loaded. @throws {ConfigError} */
  readWithoutHandlers(file: string): Promise<ServerConfig> {
    return this.#load(file, undefined, true);
  }

  #load(file: string, findings: ReadOptions["findings"], withoutHandlers = false): Promise<ServerConfig> {
    const { definitions, unbuilt } = this.#known;
    return loadConfig(file, {
      environment: this.#program.environment,
      modules: this.modules,
      definitions,
      unbuilt,
      findings,
      withoutHandlers,
    });
  }

  /** The same; @throws {Exit} With every finding, one a line. */
  async readOrExit(file: string, files = false): Promise<ServerConfig> {
    try {
      return await this.read(file, files);
    } catch (error) {
      throw exitOf(error);
    }
  }

  /**
   * What finds a server that runs: of a config that is wrong by now, `[ccserver]` has to do.
   *
   * @param by Options that it is found by.
   * @throws {Exit} With every finding, where not even that can be read, or one of these options is wrong.
   */
  async readToFind(file: string, by: readonly (keyof ServerOptions)[]): Promise<RunningConfig> {
    try {
      return await this.read(file);
    } catch (error) {
      const { environment, tell } = this.#program;
      const found = error instanceof ConfigError
        ? await loadServerSection(file, environment).catch(() => null)
        : null;
      const places = by.map((option) => found?.lines.get(option));
      if (found === null || found.wrong.some((line) => places.includes(line))) throw exitOf(error);
      tell(`ccserver: ${file} is wrong by now ("--check" tells how): only its [ccserver] is used`);
      return { ...found, handlers: new Map() };
    }
  }

  /**
   * The example that is part of the program.
   *
   * @param endpoint Where it listens, instead of what it says.
   * @throws {Exit} It cannot listen there.
   */
  example(endpoint?: string): ServerConfig {
    const { definitions, unbuilt } = this.#known;
    const { host } = this.#program.environment;
    const text = endpoint === undefined
      ? EXAMPLE_CONFIG
      : EXAMPLE_CONFIG.replace(/^cc-socket = .*$/m, () => `cc-socket = ${endpoint}`);
    try {
      return readConfig(text, "example.ini", { host, definitions, unbuilt });
    } catch (error) {
      throw exitOf(error);
    }
  }
}

/** What is wrong with a config ends the program; other errors stay as they are. */
export function exitOf(error: unknown): unknown {
  if (!(error instanceof ConfigError)) return error;
  const errors = error.diagnostics.filter(({ severity }) => severity === undefined);
  return new Exit(
    errors.every(({ environmental }) => environmental) ? EXIT.unavailable : EXIT.config,
    error.diagnostics.map(formatDiagnostic).join("\n"),
  );
}
