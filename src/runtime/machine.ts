/** The environment of this machine: what the driver gives, and what the `node:` modules give on all runtimes. */
import { lookup } from "node:dns/promises";
import { closeSync, openSync, readFileSync } from "node:fs";
import { isIP } from "node:net";
import os from "node:os";
import process from "node:process";
import { pathToFileURL } from "node:url";
import runtime from "#runtime";
import type { Clock, Environment, Host, Processes, Usage } from "../contracts/environment.ts";
import { CCError, codeOf } from "../errors.ts";
import { FILES } from "./files.ts";
import { startThread } from "./threads.ts";
import { OTHERS, readBootId, TICKS } from "./processes.ts";

/** The longest timer that runtimes have: 24 days. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/** The clock of the machine. */
export const CLOCK: Clock = {
  now: () => performance.now(),
  time: () => Date.now(),
  after(ms, f) {
    // Longer ones would be over at once.
    const timer = setTimeout(f, Math.min(ms, TIMER_MAX_MS));
    return () => clearTimeout(timer);
  },
  every(ms, f) {
    const timer = setInterval(f, ms);
    return () => clearInterval(timer);
  },
  soon: (f) => queueMicrotask(f),
  nextTurn: runtime.nextTurn,
};

const HOST: Host = {
  name: os.hostname(),
  pid: process.pid,
  home: os.homedir(),
  folder: startFolder(),
  platform: `${os.type()} ${os.release()} ${os.arch()}`,
  runtime: `${runtime.name} ${runtime.version}`,
  get descriptorsMax() {
    const [, soft] = /^Max open files +(\d+)/m.exec(textOf("/proc/self/limits")) ?? [];
    return soft === undefined ? null : Number(soft);
  },
  get receivesDatagrams() {
    return runtime.openDatagrams !== null;
  },
  descriptorsFree(count) {
    const opened: number[] = [];
    try {
      while (opened.length < count) opened.push(openSync("/dev/null", "r"));
      return true;
    } catch (error) {
      return !["EMFILE", "ENFILE"].includes(codeOf(error) ?? "");
    } finally {
      for (const fd of opened) closeSync(fd);
    }
  },
  get memoryBytes() {
    return Math.min(os.totalmem(), ...controlGroupBytes());
  },
  usage,
};

function textOf(file: string): string {
  try {
    return readFileSync(file, "latin1");
  } catch {
    return ""; // not on this system
  }
}

/** What the control groups of this process allow: version 2, then 1, those of a container at their roots. */
function controlGroupBytes(): number[] {
  const [, path = ""] = /^0::(.*)$/m.exec(textOf("/proc/self/cgroup")) ?? [];
  const [, path1 = ""] = /:memory:(.*)$/m.exec(textOf("/proc/self/cgroup")) ?? [];
  const root = "/sys/fs/cgroup";
  return [`${root}${path}/memory.max`, `${root}/memory.max`]
    .concat([`${root}/memory${path1}`, `${root}/memory`].map((folder) => `${folder}/memory.limit_in_bytes`))
    .map((file) => parseInt(textOf(file), 10))
    .filter((bytes) => bytes > 0);
}

/** A program may have been started in a folder that is gone. */
function startFolder(): string {
  try {
    return process.cwd();
  } catch {
    return "/";
  }
}

function usage(): Usage {
  const { user, system } = process.cpuUsage();
  const [childUserSeconds, childSystemSeconds] = childSeconds();
  return {
    userSeconds: user / 1e6,
    systemSeconds: system / 1e6,
    childUserSeconds,
    childSystemSeconds,
    residentBytes: process.memoryUsage().rss,
    startedMs: performance.timeOrigin,
  };
}

/** No runtime tells what children took; Linux does, elsewhere it is 0. */
function childSeconds(): [number, number] {
  try {
    // The program's name, second, may have blanks and brackets in it.
    const fields = readFileSync("/proc/self/stat", "latin1").replace(/^.*\) /s, "").split(" ");
    return [Number(fields[13]) / TICKS, Number(fields[14]) / TICKS];
  } catch {
    return [0, 0];
  }
}

const PROCESSES: Processes = {
  ...OTHERS,
  user: process.geteuid?.() ?? null,
  get env() {
    return { ...process.env } as Record<string, string>;
  },
  get bootId() {
    return readBootId();
  },
  self: runtime.self,
  get collectsOrphans() {
    return runtime.collect !== null;
  },
  collect: (pid) => runtime.collect?.(pid),
  async load(path) {
    if (!runtime.loadsTypeScript && /\.[mc]?ts$/.test(path)) {
      throw new CCError(
        "no-typescript",
        `it is TypeScript, which ${runtime.name} ${runtime.version} does not run: name a .js file, or run the ` +
          "server in the binary, on Bun or on Deno",
      );
    }
    return await import(pathToFileURL(path).href);
  },
  onSignal(name, f) {
    process.on(name, f);
    return () => void process.off(name, f);
  },
  onUncaught(f) {
    process.on("uncaughtException", f);
    process.on("unhandledRejection", f);
    return () => {
      process.off("uncaughtException", f);
      process.off("unhandledRejection", f);
    };
  },
  setNonBlocking: runtime.setNonBlocking,
  startThread,
  serviceManager: {
    hearsUs: runtime.notifiesItself,
    notify: (socket, text) => runtime.notify(socket, text),
    monotonicMicros: () => runtime.monotonicMicros(),
  },
};

/** Not to be guessed: a client's identity is what its replies are addressed by. */
function random(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] / 0x1_0000_0000;
}

async function resolve(host: string): Promise<string[]> {
  if (isIP(host.split("%")[0])) return [host];
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch (error) {
    const code = codeOf(error);
    throw new CCError(
      code ?? "no-address",
      `the name "${host}" cannot be resolved${code ? ` (${code})` : ""}`,
    );
  }
}

/** This machine. */
export const MACHINE: Environment = {
  clock: CLOCK,
  random,
  host: HOST,
  resolve,
  links: runtime,
  files: FILES,
  processes: PROCESSES,
};
