/** Help, made from the commands' definitions. */
import type { Flag } from "../contracts/command.ts";
import { type AnyCommand, shownFlags } from "../commands/define.ts";
import { VERSION } from "../version.ts";

const EXIT_CODES: readonly (readonly [string, string])[] = [
  ["0", "ok"],
  ["1", "no reply, or a fault in a key store"],
  ["64", "wrong usage"],
  ["69", "a server cannot start, or cannot be reached"],
  ["74", "a result cannot be written"],
  ["78", "wrong config"],
];

/** `ccserver send [--reply] [--timeout SECONDS] ENDPOINT TYPE` */
export function usageOf(command: AnyCommand, standard: AnyCommand): string {
  const flags = shownFlags(command).map(([name, flag]) => `[${flagUsage(name, flag)}]`);
  const word = command === standard ? [] : [command.names[0]];
  return ["ccserver", ...word, ...flags, command.operands].filter((part) => part !== "").join(" ");
}

/** Help on one command. */
export function commandHelp(command: AnyCommand, standard: AnyCommand): string {
  const flags = shownFlags(command);
  const names = command.names.slice(command === standard ? 0 : 1);
  return [
    `${wrapped(usageOf(command, standard), LINE_MAX - 4).join("\n    ")}\n\n  ${
      wrapped(command.summary, LINE_MAX - 2).join("\n  ")
    }`,
    ...(names.length === 0 ? [] : [`also: ${names.join(", ")}`]),
    ...(flags.length === 0 ? [] : [`options:\n${columns(flags.map(flagRow))}`]),
    `for example:\n${command.examples.map((example) => `  ccserver ${example}`).join("\n")}`,
  ].join("\n\n") + "\n";
}

/** Help on all of them. */
export function programHelp(commands: readonly [AnyCommand, ...AnyCommand[]]): string {
  const [standard] = commands;
  const rows = commands.map((command): [string, string] => [
    [command === standard ? `[${command.names[0]}]` : nameList(command), command.operands]
      .filter((part) => part !== "").join(" "),
    command.summary,
  ]);
  const flags = shownFlags(standard);
  return `CC ${VERSION}, Command & Control: a message proxy for server management on ZeroMQ

usage: ccserver [COMMAND] [options] …

${columns([...rows, ["help [COMMAND]", "print this, or what a command takes"]])}

options:
${
    columns([
      ...flags.map(flagRow),
      ["-V, --version", "print the version"],
      ["-h, --help", "the same as help"],
    ])
  }

exit codes:
${columns(EXIT_CODES)}
`;
}

/** Its word, and its short flag. */
function nameList({ names }: AnyCommand): string {
  return names.slice(0, 2).join(", ");
}

function flagUsage(name: string, { short, value }: Flag): string {
  const flag = short === undefined ? `--${name}` : `-${short}`;
  return value === undefined ? flag : `${flag} ${value}`;
}

function flagRow([name, { short, value, doc }]: [string, Flag]): [string, string] {
  const flag = `${short === undefined ? "" : `-${short}, `}--${name}`;
  return [value === undefined ? flag : `${flag} ${value}`, doc];
}

const WIDTH_MAX = 28;
/** What every terminal shows. */
const LINE_MAX = 80;

function columns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.min(WIDTH_MAX, Math.max(...rows.map(([left]) => left.length)));
  const indent = " ".repeat(width + 4);
  return rows.map(([left, right]) => {
    const lines = wrapped(right, LINE_MAX - indent.length);
    if (left.length <= width) return `  ${left.padEnd(width)}  ${lines.join(`\n${indent}`)}`;
    const above = wrapped(left, LINE_MAX - 6).join("\n      ");
    return `  ${above}\n${indent}${lines.join(`\n${indent}`)}`;
  }).join("\n");
}

/** Lines of at most so many characters, broken between words. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else lines.push(word);
  }
  return lines;
}
