/** The options of a `[d:…]` section: what every job has. */
import { SEAL_OPTIONS } from "../config/server_options.ts";
import * as v from "valibot";
import {
  boolean,
  choice,
  integer,
  list,
  number,
  option,
  optional,
  path,
  size,
  text,
} from "../config/options.ts";
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

/** Text that is split as a shell would; what `read` says is wrong with the words is told. */
function ofWords<T>(read: (words: string[], text: string) => T | string): Schema<T> {
  return v.pipe(
    v.string(),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      let found: T | string;
      try {
        found = read(splitWords(dataset.value), dataset.value);
      } catch (error) {
        if (!(error instanceof CCError)) throw error;
        found = error.message;
      }
      if (typeof found !== "string") return found;
      addIssue({ message: found });
      return NEVER;
    }),
  );
}

const commandLine = ofWords<CommandLine>((words, text) =>
  words.length === 0 ? "a program is expected" : { text, words }
);

/** `NAME=VALUE` words. */
const assignments = ofWords<Record<string, string>>((words, text) => {
  // As supervisord has it; in quotes a comma is one.
  if (/,(\s|$|[A-Za-z_]\w*=)/.test(text.replace(/'[^']*'|"[^"]*"/g, "x"))) {
    return "NAME=VALUE words have blanks between, not commas; quote a value that has one";
  }
  const wrong = words.find((word) => !/^[A-Za-z_]\w*=/.test(word));
  if (wrong !== undefined) return `expected NAME=VALUE, not "${wrong}"`;
  return Object.fromEntries(words.map((word) => {
    const equals = word.indexOf("=");
    return [word.slice(0, equals), word.slice(equals + 1)];
  }));
});

const umask: Schema<string> = v.pipe(
  v.string(),
  v.regex(/^[0-7]{1,4}$/, "expected an octal number such as 022"),
);

const jobNames = list<string>(v.pipe(
  v.string(),
  v.regex(/^d:\S+$/, "expected a daemon such as d:name"),
));

const STOP_SIGNALS = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL"] as const;

/** With or without `SIG`, in any case. */
const stopSignal: Schema<SignalName> = v.pipe(
  v.string(),
  v.transform((word) => `SIG${word.toUpperCase().replace(/^SIG/, "")}`),
  v.picklist(STOP_SIGNALS, `expected ${STOP_SIGNALS.join(", ")}`),
);

/** Of `[h:…]`. */
export const JOBMGR_OPTIONS = {
  "job-config": option(
    choice("token", "open"),
    "token",
    "who gets a daemon's options by job.config: token: its own processes; open: also who has no token, as daemons of the " +
      "original have none; for a server that only its own host reaches",
    "open",
  ),
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
  notify: option(
    boolean,
    "no",
    "it says when it is ready, as programs for systemd do (Type=notify): it gets NOTIFY_SOCKET, and runs once it has sent " +
      "READY=1 there",
    "yes",
  ),
  "ready-timeout": option(
    number(1, 86_400),
    "90",
    "for notify = yes: one that is not ready by then has failed to start",
    "300",
    "s",
  ),
  "watchdog-ping": optional(
    number(0, 86_400),
    "it is restarted when it has not said for so long that it lives: by WATCHDOG=1 to NOTIFY_SOCKET, or by ccserver " +
      "notify; 0: never. Without it: 30 for a module, which says so by itself, and never for all others",
    "60",
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

/**
 * Options that are jobmgr's alone: a process of the job knows nothing of them, so that it goes on when they change.
 */
export const SUPERVISION_OPTIONS: readonly (keyof typeof JOB_OPTIONS)[] = [
  "restart",
  "start-seconds",
  "ready-timeout",
  "watchdog-reset",
  "watchdog-formula-a",
  "watchdog-formula-b",
  "watchdog-formula-cap",
  "max-memory",
  "stop-signal",
  "stop-wait",
  "after",
];

/** What the original reads in the section beside what the config's reader lets pass: of no use here. */
const IGNORED = ["log_size", "log_count"];

/** The values of a `[d:…]` section. */
export type JobValues = Values<typeof JOB_OPTIONS>;

/** A daemon's own, where it has any; null: those of its server. */
const DAEMON_SEAL_OPTIONS = {
  "cms-keystore": SEAL_OPTIONS["cms-keystore"],
  "cms-sign": SEAL_OPTIONS["cms-sign"],
  "cms-encrypt": SEAL_OPTIONS["cms-encrypt"],
  "cms-profile": SEAL_OPTIONS["cms-profile"],
} satisfies Options;

/** For `module`: how long it goes on without its server. */
export const MODULE_OPTIONS = {
  ...DAEMON_SEAL_OPTIONS,
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
 * @param known Those of its module; undefined: it has none, or one that is not known.
 */
export function jobOptionsFor(own: Readonly<Record<string, string>>, known: Options | undefined): Options {
  const table: Record<string, Options[string]> = { ...JOB_OPTIONS };
  if (known !== undefined) Object.assign(table, MODULE_OPTIONS, known);
  const free = own.command === undefined && known === undefined && (own.script ?? own.module) !== undefined;
  for (const name of [...IGNORED, ...(free ? Object.keys(own) : [])]) {
    table[name] ??= optional(anything, "", "");
  }
  return table;
}

const anything: Schema<string> = v.string();
