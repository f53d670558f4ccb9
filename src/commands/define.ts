/** How a command is written: TypeScript knows the types of its flags from their table. */
import type { CommandDefinition, Flag, Flags } from "../contracts/command.ts";
import { UsageError } from "./exit.ts";

export function defineCommand<const F extends Flags>(definition: CommandDefinition<F>): CommandDefinition<F> {
  return definition;
}

/** A command, whatever its flags. */
// deno-lint-ignore no-explicit-any -- each command has flags of its own, which its table types
export type AnyCommand = CommandDefinition<any>;

/** The names of commands that are words. */
export function wordsOf(commands: readonly AnyCommand[]): string[] {
  return ["help", ...commands.flatMap(({ names }) => names.filter((name) => !name.startsWith("-")))];
}

/** A command's flags that people are told of. */
export function shownFlags({ flags }: AnyCommand): [string, Flag][] {
  return Object.entries(flags as Flags).filter(([, { hidden }]) => !hidden);
}

/** How loud a log is; for all commands that run a server. */
export const LOG_FLAGS = {
  verbose: { short: "v", kind: "count", doc: "log more: debug; -v -v: everything" },
  quiet: { short: "q", kind: "flag", doc: "log less: warnings and errors" },
} as const;

/** The one operand of a command that takes just a config file. */
export function configOperand(operands: readonly string[]): string {
  if (operands.length === 0) throw new UsageError("a config file is needed");
  if (operands.length > 1) throw new UsageError(`one config file is expected, not "${operands[1]}" too`);
  return operands[0];
}

/** A positive number of a flag, or its default. */
export function numberFlag(value: string | undefined, name: string, fallback: number): number {
  if (value === undefined) return fallback;
  const n = Number(value);
  if (!(n > 0) || value.trim() === "") throw new UsageError(`${name} ${value}: expected a number above zero`);
  return n;
}
