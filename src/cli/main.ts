/** Picks the command and turns what it throws into an exit code and a message. */
import { writeSync } from "node:fs";
import { commandsOf } from "../commands/index.ts";
import { type AnyCommand, wordsOf } from "../commands/define.ts";
import { EXIT, Exit, UsageError } from "../commands/exit.ts";
import type { Program } from "../contracts/command.ts";
import type { Environment } from "../contracts/environment.ts";
import { codeOf, errorText } from "../errors.ts";
import { Logger } from "../log.ts";
import { LineWriter } from "../process/log_file.ts";
import { standStill } from "../process/sleep.ts";
import { didYouMean, printable, utf8 } from "../text.ts";
import { VERSION } from "../version.ts";
import { findCommand, type Named, readArguments } from "./arguments.ts";
import { commandHelp, programHelp, usageOf } from "./help.ts";

/** Runs the program; returns its exit code. */
export async function main(args: readonly string[], environment: Environment): Promise<number> {
  const program = programOf(environment);
  const commands = commandsOf(program);
  const [standard] = commands;
  let named: Named = { command: standard, rest: [] };
  try {
    const end = args.includes("--") ? args.indexOf("--") : args.length;
    const has = (...names: string[]) => args.slice(0, end).some((arg) => names.includes(arg));
    if (args[0] === "help" && args.length > 1) {
      program.print(commandHelp(helpedOn(args, commands), standard));
      return 0;
    }
    if (args[0] === "help") args = ["--help"];
    named = findCommand(args, commands);
    if (has("-h", "--help")) {
      const { command } = named;
      const whole = command === standard && !command.names.includes(args[0]);
      program.print(whole ? programHelp(commands) : commandHelp(command, standard));
      return 0;
    }
    if (has("-V", "--version")) {
      program.print(`ccserver ${VERSION} (${environment.host.runtime})\n`);
      return 0;
    }
    const { command, flags, operands } = readArguments(named);
    return await command.run(flags, operands, program);
  } catch (error) {
    if (!(error instanceof Exit)) throw error;
    program.tell(error instanceof UsageError ? usageText(error, named, standard) : error.message);
    return error.exitCode;
  }
}

/** @throws {UsageError} `help` is asked for something that is no command. */
function helpedOn(args: readonly string[], commands: readonly AnyCommand[]): AnyCommand {
  const [, name, more] = args;
  if (more !== undefined) throw new UsageError(`help on one command is expected, not "${more}" too`);
  const found = commands.find(({ names }) => names.includes(name));
  if (found === undefined) {
    throw new UsageError(`"${name}" is no command${didYouMean(name, wordsOf(commands))}`);
  }
  return found;
}

/** What was typed may hold anything, and this goes to a terminal. */
function usageText({ message }: UsageError, { command }: Named, standard: Named["command"]): string {
  return `ccserver: ${printable(message)}\nusage: ${usageOf(command, standard)}\nccserver --help tells more`;
}

function programOf(environment: Environment): Program {
  const { clock, host, processes } = environment;
  let writer: LineWriter | null = null;
  return {
    environment,
    name: processes.self.length === 1 ? processes.self[0] : "npm run -s ccserver --",
    // Tools tell their own results; of the sockets below only what is grave.
    log: new Logger("ccserver", {
      // A server has one of its own.
      sink: (line) => (writer ??= LineWriter.ofStandard(2, processes.setNonBlocking)).sink(line),
      level: "ERROR",
      pid: host.pid,
      clock,
    }),
    print: writeResult,
    tell,
  };
}

/** A reader that takes nothing is waited for so long, looked at this often. */
const READER_MAX_MS = 30_000;
const READER_LOOK_MS = 5;

/** @throws {Exit} A result cannot be written: a full disk, a reader that has gone. */
function writeResult(text: string): void {
  try {
    writeAll(1, text);
  } catch (error) {
    throw new Exit(EXIT.io, `ccserver: cannot write to stdout: ${errorText(error)}`);
  }
}

/** What cannot be told leaves the exit code. */
function tell(text: string): void {
  try {
    writeAll(2, `${text}\n`);
  } catch {
    // a full disk, or nobody there
  }
}

/** Writes all of it before anything else happens. */
function writeAll(fd: number, text: string): void {
  const bytes = utf8(text);
  for (let at = 0, waited = 0; at < bytes.length;) {
    try {
      at += writeSync(fd, bytes, at);
      waited = 0;
    } catch (error) {
      if (codeOf(error) !== "EAGAIN" || waited >= READER_MAX_MS) throw error;
      waited += READER_LOOK_MS;
      standStill(READER_LOOK_MS);
    }
  }
}
