/** The options of a `[d:…]` section: what every job has. */
import { boolean, choice, integer, number, option, optional, path, size, text } from "../config/options.ts";
import type { SignalName } from "../contracts/environment.ts";
import type { Options, Schema, Values } from "../contracts/schema.ts";
import { CCError } from "../errors.ts";
import { splitWords } from "./words.ts";

/** A command line: as it stands, for a shell, and its words. */
export interface CommandLine {
  readonly text: string;
  /** At least one. */
  readonly words: readonly string[];
}

const commandLine: Schema<CommandLine> = checked((text) => {
  const words = splitWords(text);
  if (words.length === 0) throw new CCError("bad-value", "a program is expected");
  return { text, words };
});

/** `NAME=VALUE` words. */
const assignments: Schema<Record<string, string>> = checked((value) => {
  // As supervisord has it; in quotes a comma is one.
  if (/,(\s|$|[A-Za-z_]\w*=)/.test(value.replace(/'[^']*'|"[^"]*"/g, "x"))) {
    throw new CCError(
      "bad-value",
      "NAME=VALUE words have blanks between, not commas; quote a value that has one",
    );
  }
  const found: Record<string, string> = {};
  for (const word of splitWords(value)) {
    const equals = word.indexOf("=");
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(word.slice(0, Math.max(0, equals)))) {
      throw new CCError("bad-value", `expected NAME=VALUE, not "${word}"`);
    }
    found[word.slice(0, equals)] = word.slice(equals + 1);
  }
  return found;
});

const umask: Schema<string> = checked((value) => {
  if (/^[0-7]{1,4}$/.test(value)) return value;
  throw new CCError("bad-value", "expected an octal number such as 022");
});

const jobNames: Schema<string[]> = checked((value) => {
  const names = value.split(",").map((name) => name.trim()).filter((name) => name !== "");
  const wrong = names.find((name) => !/^d:\S+$/.test(name));
  if (wrong !== undefined) throw new CCError("bad-value", `expected a daemon such as d:name, not "${wrong}"`);
  return names;
});

const STOP_SIGNALS = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL"] as const;

/** With or without `SIG`, in any case. */
const stopSignal: Schema<SignalName> = checked((value) => {
  const name = `SIG${value.toUpperCase().replace(/^SIG/, "")}`;
  const found = STOP_SIGNALS.find((signal) => signal === name);
  if (found === undefined) throw new CCError("bad-value", `expected ${STOP_SIGNALS.join(", ")}`);
  return found;
});

/** A schema of a function that returns the value, or throws what is wrong. */
function checked<T>(read: (value: string) => T): Schema<T> {
  return {
    "~standard": {
      version: 1,
      vendor: "ccserver",
      validate(value) {
        try {
          return { value: read(String(value)) };
        } catch (error) {
          if (!(error instanceof CCError)) throw error;
          return { issues: [{ message: error.message }] };
        }
      },
    },
  };
}

/** Of `[h:…]`. */
export const JOBMGR_OPTIONS = {
  daemons: option(
    jobNames,
    "",
    "the sections of the daemons, in the order in which they start",
    "d:one, d:two",
  ),
  pidfiledir: optional(
    path,
    "folder of the daemons' pidfiles, JOB_NAME.pid; without it they follow the server's pidfile",
    "/run/cc",
  ),
} satisfies Options;

/** Of `[d:…]`. */
export const JOB_OPTIONS = {
  command: optional(
    commandLine,
    "a program and its arguments; quotes as in a shell, nothing is expanded",
    "/usr/bin/vector --config /etc/vector.toml",
  ),
  script: optional(
    path,
    "a daemon of the original's kind: started as PATH CONFIG NAME -d, it goes to the background and writes its pidfile",
    "/usr/lib/cc/mydaemon.py",
  ),
  module: optional(
    text,
    "a daemon of this program, which reads options of its own in the section",
    "cc.daemon.infoscript",
  ),
  shell: option(boolean, "no", "command is a line for /bin/sh", "yes"),
  cwd: optional(path, "folder that the program is started in; without it: the server's", "/var/lib/app"),
  user: optional(text, "user to run as; the server must be root", "app"),
  group: optional(text, "group to run as; without it: the user's", "app"),
  umask: option(umask, "022", "permission bits that new files do not get, octal", "077"),
  environment: option(
    assignments,
    "",
    "variables beside the server's own: NAME=VALUE, quotes as in a shell",
    'MODE=fast "GREETING=hello there"',
  ),
  "rlimit-nofile": option(
    integer(16, 1_048_576),
    "1024",
    "file descriptors that it may have open; the server's own limit is not inherited",
    "65536",
  ),
  nice: optional(integer(-20, 19), "how much it gives way to others; below 0 needs root", "10"),
  pidfile: optional(path, "file with its process id; must be its own", "/run/cc/%(job_name)s.pid"),
  restart: option(
    choice("always", "on-failure", "never"),
    "always",
    "when it has ended: start it again; on-failure: unless its exit code was 0",
    "on-failure",
  ),
  "start-seconds": option(
    number(0, 3600),
    "1",
    "it counts as running once it has lived so long; one that ends before has failed to start. Of a script: how long " +
      "its pidfile is waited for",
    "5",
    "s",
  ),
  "watchdog-reset": option(
    number(0, 31_536_000),
    "3600",
    "after so long alive its starts are counted anew",
    "600",
    "s",
  ),
  "watchdog-formula-a": option(
    number(0, 86_400),
    "0",
    "wait before a restart: a + b × (starts − 1), a tenth more at most",
    "1",
    "s",
  ),
  "watchdog-formula-b": option(number(0, 86_400), "5", "see watchdog-formula-a", "10", "s"),
  "watchdog-formula-cap": option(number(0, 86_400), "0", "the longest wait; 0: no bound", "60", "s"),
  "max-memory": optional(
    size(1024 * 1024),
    "it is restarted when its processes have more resident memory, all together",
    "512 MB",
    "bytes",
  ),
  "stop-signal": option(
    stopSignal,
    "SIGINT",
    "what it is told to end by, with all its processes; then SIGTERM, then SIGKILL",
    "SIGTERM",
  ),
  "stop-wait": option(number(0.1, 3600), "10", "how long each of these signals has", "30", "s"),
  after: option(jobNames, "", "daemons that must run before it starts, and stop after it", "d:database"),
  output: option(
    choice("log", "route", "file", "none"),
    "log",
    "where its stdout and stderr go: log: lines of the server's log; route: log.info messages to the server's routes; " +
      "file: its logfile; none: nowhere",
    "route",
  ),
  logfile: optional(path, "for output = file: appended to", "/var/log/cc/%(job_name)s.log"),
} satisfies Options;

/** What the original puts into the section, or reads there: taken, and of no use here. */
const IGNORED = ["job_name", "service_name", "use_skylog", "class", "log_size", "log_count"];

/** The values of a `[d:…]` section. */
export type JobValues = Values<typeof JOB_OPTIONS>;

/** For `module`: how long it goes on without its server. */
export const MODULE_OPTIONS = {
  "server-gone-timeout": option(
    number(1, 31_536_000),
    "300",
    "a daemon of this program ends when its server has been away for so long",
    "60",
    "s",
  ),
} satisfies Options;

/**
 * The table of a section: a script reads options of its own there, a module those of its definition.
 *
 * @param moduleOptions Those of a module; undefined: it is not known.
 */
export function jobOptionsFor(
  own: Readonly<Record<string, string>>,
  moduleOptions: (module: string) => Options | undefined,
): Options {
  const table: Record<string, Options[string]> = { ...JOB_OPTIONS };
  const known = own.module === undefined ? undefined : moduleOptions(own.module);
  if (known !== undefined) Object.assign(table, MODULE_OPTIONS, known);
  const free = own.command === undefined && known === undefined && (own.script ?? own.module) !== undefined;
  for (const name of [...IGNORED, ...(free ? Object.keys(own) : [])]) {
    table[name] ??= optional(anything, "", "");
  }
  return table;
}

const anything: Schema<string> = checked((value) => value);
