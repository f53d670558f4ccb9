/** From a command line to a command, its flags and operands, all by the commands' own tables. */
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import type { Flags, FlagValues } from "../contracts/command.ts";
import { errorText } from "../errors.ts";
import { didYouMean } from "../text.ts";
import { type AnyCommand, wordsOf } from "../commands/define.ts";
import { UsageError } from "../commands/exit.ts";

/** A command line, taken apart. */
export interface Chosen {
  readonly command: AnyCommand;
  readonly flags: FlagValues<Flags>;
  readonly operands: readonly string[];
}

/** The command that a command line names, and the rest of it. */
export interface Named {
  readonly command: AnyCommand;
  readonly rest: readonly string[];
}

/**
 * Finds the command: a word must come first, a flag may stand anywhere before `--`. Without one it is the default.
 *
 * @throws {UsageError} Two commands are named, or a word that is neither a command nor a file.
 */
export function findCommand(
  args: readonly string[],
  commands: readonly [AnyCommand, ...AnyCommand[]],
): Named {
  const [standard] = commands;
  const word = args[0] === undefined || args[0].startsWith("-") ? undefined : args[0];
  const named = commands.find(({ names }) => word !== undefined && names.includes(word));
  if (named !== undefined) return { command: named, rest: args.slice(1) };
  if (word !== undefined && /^[a-z]+$/.test(word) && !existsSync(word)) {
    throw new UsageError(`"${word}" is no command, and no file${didYouMean(word, wordsOf(commands))}`);
  }
  const end = args.includes("--") ? args.indexOf("--") : args.length;
  const rest: string[] = [];
  const found: { command: AnyCommand; name: string }[] = [];
  args.forEach((arg, i) => {
    // `--routes=TYPE`: its value is the first operand.
    const [name, value] = i < end && arg.startsWith("--") ? splitValue(arg) : [arg, undefined];
    const command = i < end && name.startsWith("-")
      ? commands.find(({ names }) => names.includes(name))
      : undefined;
    if (command === undefined) rest.push(arg);
    else {
      found.push({ command, name });
      if (value !== undefined) rest.push(value);
    }
  });
  const [first, second] = found;
  if (second !== undefined && second.command !== first.command) {
    throw new UsageError(`${first.name} and ${second.name} exclude each other`);
  }
  return { command: first?.command ?? standard, rest };
}

function splitValue(arg: string): [name: string, value: string | undefined] {
  const at = arg.indexOf("=");
  return at < 0 ? [arg, undefined] : [arg.slice(0, at), arg.slice(at + 1)];
}

/**
 * Reads a command's flags and operands.
 *
 * @throws {UsageError}
 */
export function readArguments(
  { command, rest }: Named,
): Chosen {
  const table = command.flags as Flags;
  const options = Object.fromEntries(
    Object.entries(table).map(([name, { short, kind }]) => [name, {
      type: kind === "text" ? "string" as const : "boolean" as const,
      ...(kind === "count" ? { multiple: true } : {}),
      ...(short === undefined ? {} : { short }),
    }]),
  );
  let parsed;
  try {
    parsed = parseArgs({ args: [...rest], options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError(argumentError(error, Object.keys(table)));
  }
  const values = parsed.values as Record<string, unknown>;
  const flags = Object.fromEntries(
    Object.entries(table).map(([name, { kind }]) => {
      const value = values[name];
      if (kind === "count") return [name, Array.isArray(value) ? value.length : 0];
      return [name, kind === "flag" ? value === true : value];
    }),
  );
  return { command, flags: flags as FlagValues<Flags>, operands: parsed.positionals };
}

/** What is wrong, in one sentence, with the flag that may have been meant. */
function argumentError(error: unknown, known: readonly string[]): string {
  const [message] = errorText(error).split(". ");
  const unknown = /^Unknown option '(-{1,2}[^']*)'/.exec(message)?.[1];
  return unknown === undefined
    ? message
    : `${message}${didYouMean(unknown, known.map((name) => `--${name}`))}`;
}
