/** What is wrong with a config file: collected, then told at once. */
import { printable } from "../text.ts";
import { CCError } from "../errors.ts";

/** One finding, with the line it is about. */
export interface Diagnostic {
  /** As it was named. */
  readonly file: string;
  /** From 1 on. */
  readonly line: number;
  /** What is wrong, and what was expected. */
  readonly message: string;
  /** Missing: an error, with which nothing starts. A warning is only told. */
  readonly severity?: "warning";
  /** Not the config is wrong, but what it finds on this host: at another time it may be right. */
  readonly environmental?: boolean;
}

/** A config file with errors; nothing was started. Its message has one line a finding: `FILE:LINE: …`. */
export class ConfigError extends CCError {
  /** Which kind of error it is, in stacks. */
  override name = "ConfigError";
  /** All findings, warnings too, in the order of their lines. */
  readonly diagnostics: readonly Diagnostic[];
  /** All that was found. */
  constructor(diagnostics: readonly Diagnostic[]) {
    super("bad-config", diagnostics.map(formatDiagnostic).join("\n"));
    this.diagnostics = diagnostics;
  }
}

/** `conf.ini:12: unknown option …` */
export function formatDiagnostic({ file, line, message, severity }: Diagnostic): string {
  // A config may hold anything, and this goes to a terminal.
  return printable(`${file}:${line}: ${severity === "warning" ? "warning: " : ""}${message}`, Infinity);
}

/** Collects findings. */
export class Diagnostics {
  readonly found: Diagnostic[] = [];
  readonly file: string;
  #errors = 0;

  constructor(file: string) {
    this.file = file;
  }

  add(line: number, message: string, more: Pick<Diagnostic, "severity" | "environmental"> = {}): void {
    this.found.push({ file: this.file, line, message, ...more });
    if (more.severity === undefined) this.#errors++;
  }

  /** All findings in the order of their lines. */
  get sorted(): Diagnostic[] {
    return [...this.found].sort((a, b) => a.line - b.line);
  }

  /** How many of them are errors. */
  get errors(): number {
    return this.#errors;
  }

  /** @throws {ConfigError} When one of them is an error. */
  check(): void {
    if (this.errors > 0) throw new ConfigError(this.sorted);
  }
}
