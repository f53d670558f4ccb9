/** `ccserver completion`: what a shell offers behind TAB, made from the commands' definitions. */
import { didYouMean } from "../text.ts";
import { type AnyCommand, defineCommand, shownFlags, wordsOf } from "./define.ts";
import { EXIT, UsageError } from "./exit.ts";

const SHELLS: Readonly<Record<string, (commands: readonly AnyCommand[]) => string>> = { bash, zsh, fish };

/** @param commands All commands of the program. */
export const completion = (commands: () => readonly AnyCommand[]) =>
  defineCommand({
    names: ["completion"],
    summary: "print what completes commands and options in a shell",
    operands: "bash|zsh|fish",
    examples: [
      "completion bash > /etc/bash_completion.d/ccserver",
      "completion zsh > /usr/local/share/zsh/site-functions/_ccserver",
      "completion fish > ~/.config/fish/completions/ccserver.fish",
    ],
    flags: {},
    run(_flags, [shell, ...more], program) {
      if (shell === undefined) throw new UsageError("the name of a shell is needed: bash, zsh or fish");
      if (more.length > 0) throw new UsageError(`one shell is expected, not "${more[0]}" too`);
      if (!Object.hasOwn(SHELLS, shell)) {
        throw new UsageError(
          `"${shell}" is none of bash, zsh and fish${didYouMean(shell, Object.keys(SHELLS))}`,
        );
      }
      program.print(SHELLS[shell](commands()));
      return Promise.resolve(EXIT.ok);
    },
  });

const GENERAL = ["--help", "--version"];

/** What begins a command line: words, and the flags that are commands. */
function beginnings(commands: readonly AnyCommand[]): string[] {
  return ["help", ...commands.flatMap(({ names }) => names.filter((name) => name.length > 2)), ...GENERAL];
}

/** A command's flags, long and short. */
function flagsOf(command: AnyCommand): string[] {
  return shownFlags(command)
    .flatMap(([name, { short }]) => [`--${name}`, ...(short === undefined ? [] : [`-${short}`])]);
}

function bash(commands: readonly AnyCommand[]): string {
  const cases = commands.map((command) =>
    `      ${command.names.join("|")}) words="${flagsOf(command).join(" ")}"; break ;;\n`
  );
  return `# bash completion of ccserver, by "ccserver completion bash"
_ccserver() {
  local current=\${COMP_WORDS[COMP_CWORD]} words="${beginnings(commands).join(" ")}" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      help) words="${wordsOf(commands).join(" ")}"; break ;;
${cases.join("")}    esac
  done
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [[ $current == -* ]] || mapfile -t -O \${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$current")
}
complete -o filenames -F _ccserver ccserver
`;
}

function zsh(commands: readonly AnyCommand[]): string {
  const words = commands.flatMap(({ names, summary }) =>
    names.filter((name) => name.length > 2).map((name) => `    ${quoted(`${name}:${summary}`)}\n`)
  );
  const cases = commands.map((command) =>
    `    (${command.names.join("|")}) compadd -- ${flagsOf(command).join(" ")} ;;\n`
  );
  return `#compdef ccserver
# zsh completion of ccserver, by "ccserver completion zsh"
_ccserver() {
  local -a commands=(
    'help:help on a command'
${words.join("")}  )
  if ((CURRENT == 2)); then _describe command commands; fi
  case $words[2] in
    (help) _describe command commands ;;
${cases.join("")}  esac
  _files
}
if [[ $funcstack[1] == _ccserver ]]; then _ccserver "$@"; else compdef _ccserver ccserver; fi
`;
}

function fish(commands: readonly AnyCommand[]): string {
  const first = "not __fish_seen_subcommand_from $ccserver_commands";
  const lines = commands.flatMap((command) => {
    const [word] = command.names;
    if (word.startsWith("-")) {
      return [`complete -c ccserver -n ${quoted(first)} -l ${word.slice(2)} -d ${quoted(command.summary)}`];
    }
    return [
      `complete -c ccserver -n ${quoted(first)} -a ${word} -d ${quoted(command.summary)}`,
      ...shownFlags(command).map(([name, { short, kind, doc }]) =>
        `complete -c ccserver -n ${quoted(`__fish_seen_subcommand_from ${word}`)} -l ${name}` +
        `${short === undefined ? "" : ` -s ${short}`}${kind === "text" ? " -r" : ""} -d ${quoted(doc)}`
      ),
    ];
  });
  return `# fish completion of ccserver, by "ccserver completion fish"
set -g ccserver_commands ${wordsOf(commands).join(" ")}
complete -c ccserver -n ${quoted(first)} -a help -d 'help on a command'
complete -c ccserver -n '__fish_seen_subcommand_from help' -f -a "$ccserver_commands"
${lines.join("\n")}
`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
