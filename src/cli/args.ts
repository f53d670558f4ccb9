/** Reads a command's arguments; what does not fit is a usage error. */
import { parseArgs, type ParseArgsConfig } from "node:util";
import { EXIT, Exit } from "./exit.ts";

type Flags = NonNullable<ParseArgsConfig["options"]>;

/** @throws {Exit} With the usage line. */
export function readArgs<const F extends Flags>(args: string[], options: F, usage: string) {
  try {
    return parseArgs({ args, options, allowPositionals: true, strict: true });
  } catch (error) {
    const [message] = (error as Error).message.split(". ");
    throw usageError(message, usage);
  }
}

export function usageError(message: string, usage: string): Exit {
  return new Exit(EXIT.usage, `ccserver: ${message}\nusage: ${usage}\nccserver --help tells more`);
}

/** A positive number of an option, or its default. */
export function numberArg(value: string | undefined, name: string, fallback: number, usage: string): number {
  if (value === undefined) return fallback;
  const n = Number(value);
  if (!(n > 0) || value.trim() === "") {
    throw usageError(`${name} ${value}: expected a number above zero`, usage);
  }
  return n;
}
