/** Help, made from the commands' definitions. */
import type { Flag, Flags } from "../contracts/command.ts";
import type { AnyCommand } from "../commands/define.ts";
import { VERSION } from "../version.ts";

const EXIT_CODES =
  "exit codes: 0 ok, 1 no reply or a fault in a key store, 64 wrong usage, 69 cannot start or reach a server, 74 a result cannot be written, 78 wrong config";

/** `ccserver send [--reply] [--timeout SECONDS] ENDPOINT TYPE` */
export function usageOf(command: AnyCommand, standard: AnyCommand): string {
  const flags = shown(command.flags).map(([name, flag]) => `[${flagUsage(name, flag)}]`);
  const word = command === standard ? [] : [command.names[0]];
  return ["ccserver", ...word, ...flags, command.operands].filter((part) => part !== "").join(" ");
}

/** Help on one command. */
export function commandHelp(command: AnyCommand, standard: AnyCommand): string {
  const flags = shown(command.flags);
  const names = command === standard ? [] : command.names.slice(1);
  return [
    `${usageOf(command, standard)}\n\n  ${command.summary}`,
    ...(names.length === 0 ? [] : [`also: ${names.join(", ")}`]),
    ...(flags.length === 0 ? [] : [`options:\n${columns(flags.map(flagRow))}`]),
    `for example:\n${command.examples.map((example) => `  ccserver ${example}`).join("\n")}`,
  ].join("\n\n") + "\n";
}

/** Help on all of them. */
export function programHelp(commands: readonly [AnyCommand, ...AnyCommand[]]): string {
  const [standard] = commands;
  const rows = commands.map((command): [string, string] => [
    [...(command === standard ? [] : [nameList(command)]), command.operands].filter((part) => part !== "")
      .join(" "),
    command.summary,
  ]);
  const flags = shown(standard.flags);
  return `CC ${VERSION}, Command & Control: a message proxy for server management on ZeroMQ

usage: ccserver [COMMAND] [options] …

${columns(rows)}

options:
${
    columns([
      ...flags.map(flagRow),
      ["-V, --version", "print the version"],
      ["-h, --help", "print this; behind a command, what it takes"],
    ])
  }

${EXIT_CODES}
`;
}

/** The shortest name, and the long one. */
function nameList({ names }: AnyCommand): string {
  return names.join(", ");
}

function shown(flags: Flags): [string, Flag][] {
  return Object.entries(flags).filter(([, { hidden }]) => !hidden);
}

function flagUsage(name: string, { short, value }: Flag): string {
  const flag = short === undefined ? `--${name}` : `-${short}`;
  return value === undefined ? flag : `${flag} ${value}`;
}

function flagRow([name, { short, value, doc }]: [string, Flag]): [string, string] {
  const flag = `${short === undefined ? "" : `-${short}, `}--${name}`;
  return [value === undefined ? flag : `${flag} ${value}`, doc];
}

const WIDTH_MAX = 30;

function columns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.min(WIDTH_MAX, Math.max(...rows.map(([left]) => left.length)));
  return rows.map(([left, right]) =>
    left.length > width ? `  ${left}\n  ${" ".repeat(width)}  ${right}` : `  ${left.padEnd(width)}  ${right}`
  ).join("\n");
}
