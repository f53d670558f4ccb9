/** What a `[d:…]` section asks for, worked out: what is started, how, and which files are the job's. */
import { dirname, resolve } from "node:path";
import { circlesOf } from "../config/circles.ts";
import type { Environment, SignalName } from "../contracts/environment.ts";
import type { DaemonDefinition } from "../contracts/daemon.ts";
import type { Finding, SectionRead, SectionsRead, ServerFacts } from "../contracts/handler.ts";
import { reachable } from "../endpoint.ts";
import { IDENTITY_MAX_BYTES, JOBS_MAX, UNIX_PATH_MAX_BYTES } from "../limits.ts";
import { didYouMean, utf8 } from "../text.ts";
import type { Digest } from "./digest.ts";
import { JOB_OPTIONS, type JobValues, SUPERVISION_OPTIONS } from "./options.ts";

/** One job, as its section has it. */
export interface JobConfig {
  /** `d:name` */
  readonly name: string;
  /** `SERVER.d:name`: the job's own name, in its environment and files. */
  readonly fullName: string;
  /** `script`: goes to the background by itself, and writes its pidfile. */
  readonly kind: "command" | "script" | "module";
  /** The program and its arguments, before the wrapper that sets limits. */
  readonly argv: readonly string[];
  /** What its section sets, beside the server's own. */
  readonly environment: Readonly<Record<string, string>>;
  /** What tells it whose it is. */
  readonly facts: Readonly<Record<string, string>>;
  readonly values: JobValues;
  readonly stopSignal: SignalName;
  /** An absolute path. */
  readonly pidfile: string;
  /** Where that and the others are; made where its parent is there. */
  readonly folder: string;
  /** Beside it: whose process the pid is. */
  readonly stateFile: string;
  /** Beside it: the FIFO of its output. */
  readonly outputFile: string;
  /** Beside it: where it says how it is. */
  readonly noticesFile: string;
  /** Is anything to be heard there? */
  readonly notifies: boolean;
  /** It is restarted when it has been silent there for so long; 0: never. */
  readonly watchdogMs: number;
  /** What it gets by `job.config`. */
  readonly provided: Readonly<Record<string, string>>;
  /** Of all that its process knows: one with another has to be told, or to be started anew. */
  readonly fingerprint: string;
  /** The same without what a process that runs can be told. */
  readonly base: string;
  /** Of all there is: two that are equal ask for the same. */
  readonly settings: string;
}

/** What jobmgr's own section says. */
export interface JobmgrValues {
  readonly daemons: readonly string[];
  readonly pidfiledir: string | null;
}

/** The path of a job's pidfile: its own, or in `pidfiledir`, or as the server's names it; null where there is none. */
export function pidfileOf(
  { name, values, set }: SectionRead,
  { pidfiledir }: JobmgrValues,
  server: Pick<ServerFacts, "jobName">,
): string | null {
  const { pidfile } = values as JobValues;
  if (set.has("pidfile") || pidfiledir === null) return pidfile;
  return `${pidfiledir}/${server.jobName}.${name}.pid`;
}

/** The section of a handler that starts a process of its own, as one of jobmgr's would be; its values are not a module's. */
export function ownSection(
  name: string,
  options: Omit<JobValues, "module" | "script" | "after">,
  { pidfile, jobName }: Pick<ServerFacts, "pidfile" | "jobName">,
): SectionRead {
  const beside = pidfile === null ? null : `${dirname(pidfile)}/${jobName}.${name}.pid`;
  const values = { ...options, module: null, script: null, after: [], pidfile: options.pidfile ?? beside };
  return { name, values, set: new Set(["pidfile"]), text: {}, modulePath: null, module: undefined };
}

/** Where the server is reached, from whatever folder. */
function endpointFrom(socket: string, folder: string): string {
  const endpoint = reachable(socket);
  return endpoint.startsWith("ipc://")
    ? `ipc://${resolve(folder, endpoint.slice("ipc://".length))}`
    : endpoint;
}

/** Where a job listens that a handler `process` gives messages to, if it is not told another place; null: nowhere. */
export function socketOf(
  name: string,
  { pidfile, jobName }: Pick<ServerFacts, "pidfile" | "jobName">,
): string | null {
  return pidfile === null ? null : `ipc://${dirname(pidfile)}/${jobName}.${name}.sock`;
}

/** What a job's config needs of the program. */
export interface ProgramFacts {
  /** For relative paths. */
  readonly folder: string;
  /** How this program is started. */
  readonly self: readonly string[];
  /** Of jobs that this server itself belongs to. */
  readonly chain: string;
  readonly digest: Digest;
  /** The definition that a section with a module has. */
  definitionOf(section: SectionRead): AnyDaemon | undefined;
}

/** The same of this program. */
export function programFacts(
  { host, processes }: Pick<Environment, "host" | "processes">,
  digest: Digest,
  definitionOf: ProgramFacts["definitionOf"] = () => undefined,
): ProgramFacts {
  const { self, env } = processes;
  return { folder: host.folder, self, chain: env.CC_JOB_CHAIN ?? "", digest, definitionOf };
}

/** A daemon's definition, whatever the types of its options. */
// deno-lint-ignore no-explicit-any -- each definition has options of its own types; the reader checks the values
export type AnyDaemon = DaemonDefinition<any>;

/** A built-in daemon pings by itself, and is watched. */
const MODULE_WATCHDOG_SECONDS = 30;

/** A job's files, by what they are. */
function filesOf(pidfile: string): [what: string, file: string][] {
  const base = pidfile.replace(/\.pid$/, "");
  return [
    ["the pidfile", pidfile],
    ["the state file", `${base}.state`],
    ["the output", `${base}.out`],
    ["the mailbox", `${base}.notify`],
  ];
}

/** The job of a section in which nothing is wrong. */
export function jobConfigOf(
  section: SectionRead,
  jobmgr: JobmgrValues,
  server: ServerFacts,
  { folder, self, chain, digest, definitionOf }: ProgramFacts,
): JobConfig {
  const values = section.values as JobValues;
  const { name } = section;
  const pidfile = pidfileOf(section, jobmgr, server)!;
  const [, [, stateFile], [, outputFile], [, noticesFile]] = filesOf(pidfile);
  const fullName = `${server.jobName}.${name}`;
  const configFile = resolve(folder, server.configFile);
  const kind = values.command !== null ? "command" : values.module !== null ? "module" : "script";
  const argv = {
    command: () => values.shell ? ["/bin/sh", "-c", values.command!.text] : values.command!.words,
    module: () => [...self, "daemon", section.modulePath ?? values.module!, configFile, name],
    script: () => [values.script!, configFile, name, "-d"],
  }[kind]();
  const watchdogMs = 1000 * (values["watchdog-ping"] ?? (kind === "module" ? MODULE_WATCHDOG_SECONDS : 0));
  const live = new Set<string>(kind === "module" ? definitionOf(section)?.live ?? [] : []);
  const provided = { job_name: name, pidfile, ...server.cms, ...section.text };
  const digestOf = (isIn: (option: string) => boolean) =>
    digest(JSON.stringify([
      argv,
      Object.entries(values).filter(([option]) => isIn(option)),
      pidfile,
      server.socket,
      kind === "module" ? server.cms : null,
    ]));
  const isKnown = (option: string) => !(SUPERVISION_OPTIONS as readonly string[]).includes(option);
  return {
    name,
    fullName,
    kind,
    argv,
    environment: values.environment,
    facts: {
      CC_JOB: fullName,
      CC_JOB_PIDFILE: pidfile,
      CC_JOB_CHAIN: chain === "" ? pidfile : `${chain}\n${pidfile}`,
      CC_SECTION: name,
      CC_CONFIG: configFile,
      CC_ENDPOINT: endpointFrom(server.socket, folder),
      ...(socketOf(name, server) === null ? {} : { CC_SOCKET: socketOf(name, server)! }),
    },
    values,
    stopSignal: values["stop-signal"],
    pidfile,
    folder: dirname(pidfile),
    stateFile,
    outputFile,
    noticesFile,
    notifies: values.notify || watchdogMs > 0,
    watchdogMs,
    provided,
    // Digests, as the values may hold secrets.
    fingerprint: digestOf(isKnown),
    base: digestOf((option) => isKnown(option) && !live.has(option)),
    settings: digestOf(() => true),
  };
}

type Find = (section: string, option: string | null, message: string, severity?: "warning") => void;

/** What is wrong with the sections of jobs, each by itself and all together. */
export function checkJobs(
  jobmgr: JobmgrValues,
  sections: SectionsRead,
  server: ServerFacts,
  self: string,
  whyNoModule: (section: SectionRead) => string | null,
): Finding[] {
  const findings: Finding[] = [];
  const find: Find = (section, option, message, severity) =>
    void findings.push({ section, option, message, severity });
  const known = [...new Set(jobmgr.daemons)].filter((name) => sections.has(name));
  for (const name of jobmgr.daemons) {
    if (!sections.has(name)) {
      find(self, "daemons", `daemons names ${name}, but there is no section [${name}]`);
    }
  }
  if (jobmgr.daemons.length > JOBS_MAX) find(self, "daemons", `more than ${JOBS_MAX} daemons`);
  const twice = jobmgr.daemons.find((name, i) => jobmgr.daemons.indexOf(name) !== i);
  if (twice !== undefined) find(self, "daemons", `daemons names ${twice} twice`);
  const files = new Map<string, string>();
  if (server.pidfile !== null) files.set(server.pidfile, "the pidfile of [ccserver]");
  for (const name of known) {
    const section = sections.get(name)!;
    checkJob(section, server, whyNoModule, find);
    if ((section.values as JobValues).module !== null && /^tcp:.*:(\*|0)$/.test(server.socket)) {
      find(
        name,
        "module",
        `module in [${name}] needs a port in cc-socket: how should it find ${server.socket}?`,
      );
    }
    const pidfile = pidfileOf(section, jobmgr, server);
    if (pidfile === null) {
      find(
        name,
        null,
        `[${name}] needs a pidfile: its own, pidfiledir in [${self}], or pidfile = …/%(job_name)s.pid in [ccserver]`,
      );
    } else {
      for (const [what, file] of filesOf(pidfile)) {
        const other = files.get(file);
        if (other === undefined) files.set(file, `${what} of [${name}]`);
        else {find(
            name,
            "pidfile",
            `${file} is ${other}, and would be ${what} of [${name}]: write it with %(job_name)s`,
          );}
      }
    }
    if (utf8(`${server.jobName}.${name}`).length > IDENTITY_MAX_BYTES) {
      find(name, null, `[${name}]: its name behind the server's has more than ${IDENTITY_MAX_BYTES} bytes`);
    }
    const { notify, "watchdog-ping": ping } = section.values as JobValues;
    if (pidfile !== null && (notify || ping)) {
      const [, , , [, file]] = filesOf(pidfile);
      if (utf8(file).length > UNIX_PATH_MAX_BYTES) {
        find(
          name,
          notify ? "notify" : "watchdog-ping",
          `${file} has more than ${UNIX_PATH_MAX_BYTES} bytes, and can be no socket: the pidfile's folder must be shorter`,
        );
      }
    }
    if (/\/|\.\./.test(name)) find(name, null, `[${name}]: a daemon's name has no / and no ..`);
  }
  for (const name of known) {
    for (const other of (sections.get(name)!.values as JobValues).after) {
      if (!known.includes(other)) find(name, "after", `after names ${other}, which [${self}] does not start`);
    }
  }
  for (const name of sections.keys()) {
    if (!known.includes(name)) {
      find(name, null, `[${name}] is not started: daemons in [${self}] does not name it`, "warning");
    }
  }
  for (const circle of circlesOf(known, (name) => (sections.get(name)!.values as JobValues).after)) {
    find(circle[0], "after", `daemons wait for each other: ${circle.join(" -> ")}`);
  }
  return findings;
}

function checkJob(
  section: SectionRead,
  { receivesDatagrams }: ServerFacts,
  whyNoModule: (section: SectionRead) => string | null,
  find: Find,
): void {
  const { name, set } = section;
  const values = section.values as JobValues;
  const kinds = (["command", "script", "module"] as const).filter((kind) => values[kind] !== null);
  if (kinds.length === 0) find(name, null, `[${name}] needs one of the options command, script and module`);
  // Of module and script, module is taken, as ever.
  if (kinds.includes("command") && kinds.length > 1) {
    find(name, kinds[1], `[${name}] has ${kinds.join(" and ")}: one of them is expected`);
  }
  const why = values.module === null ? null : whyNoModule(section);
  if (why !== null) find(name, "module", `module = ${values.module} in [${name}] ${why}`);
  if (values.notify && values.command === null) find(name, "notify", `notify in [${name}] is for command`);
  if (values.notify && !receivesDatagrams) {
    find(
      name,
      "notify",
      `notify in [${name}]: here no program can be heard by NOTIFY_SOCKET, as this runtime receives no datagrams; ` +
        "the binary, Bun and Deno do",
    );
  }
  if (values.output === "file" && values.logfile === null) {
    find(name, "output", `output = file in [${name}] needs the option "logfile"`);
  }
  if (values.output !== "file" && values.logfile !== null && values.command !== null) {
    find(name, "logfile", `logfile in [${name}] is for output = file, and its output is ${values.output}`);
  }
  if (values.script !== null) {
    for (const option of set) {
      const hint = option in JOB_OPTIONS ? "" : didYouMean(option, Object.keys(JOB_OPTIONS));
      if (hint !== "") {
        find(
          name,
          option,
          `${option} in [${name}] is left to the script, as no daemon has such an option${hint}`,
          "warning",
        );
      }
    }
  }
  if (values.shell && values.command === null) find(name, "shell", `shell in [${name}] is for command`);
}

/** Milliseconds before a restart, after so many starts; `random` in [0, 1) adds a tenth at most. */
export function restartDelayMs(values: JobValues, starts: number, random: number): number {
  const { "watchdog-formula-a": a, "watchdog-formula-b": b, "watchdog-formula-cap": cap } = values;
  const seconds = a + b * (starts - 1);
  return (cap > 0 ? Math.min(cap, seconds) : seconds) * 1000 * (1 + random / 10);
}

/** Milliseconds that jobs may take to end: one after the other where `after` says so, else side by side. */
export function longestStopMs<J>(
  jobs: readonly J[],
  stopMs: (job: J) => number,
  endsBefore: (job: J) => readonly J[],
): number {
  const known = new Map<J, number>();
  const timeOf = (job: J): number => {
    let ms = known.get(job);
    if (ms === undefined) {
      // A circle, if there were one, would end here.
      known.set(job, 0);
      ms = stopMs(job) + Math.max(0, ...endsBefore(job).map(timeOf));
      known.set(job, ms);
    }
    return ms;
  };
  return Math.max(0, ...jobs.map(timeOf));
}

/** What a job's group left behind has so long for each of two signals. */
export const LEFT_WAIT_MS = 2000;

/** Milliseconds that one job may take to end. */
export function stopMsOf(values: JobValues): number {
  return 3 * values["stop-wait"] * 1000 + 4 * LEFT_WAIT_MS;
}

/** The same of all daemons that a jobmgr's section names. */
export function daemonsStopMs({ daemons }: JobmgrValues, sections: SectionsRead): number {
  const valuesOf = (name: string) => sections.get(name)?.values as JobValues | undefined;
  const known = daemons.filter((name) => sections.has(name));
  return longestStopMs(
    known,
    (name) => stopMsOf(valuesOf(name)!),
    (name) => known.filter((other) => valuesOf(other)!.after.includes(name)),
  );
}
