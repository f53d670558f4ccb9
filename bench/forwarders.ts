/** What is compared: our server on each runtime, and other forwarders, each in a process of its own. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";

export const ROOT = resolve(process.cwd());
const BIN = join(ROOT, "node_modules", ".bin");
const OUT = join(ROOT, "dist", "bench");

/** Something that forwards from a port it listens on to the sink's. */
export interface Forwarder {
  name: string;
  /** Why it cannot be measured here; null when it can. */
  missing: string | null;
  /** Messages a second it can about do with small messages, to choose how many to send. */
  guess: number;
  wire: "zmtp" | "relay" | "nats";
  /** What does not forward does its work this way, for so many seconds. */
  alone?(seconds: number): Promise<{ messagesPerSecond: number; cpuMicros: number }>;
  /** Forwards to this port; of our own servers' config, `setup` says the rest. */
  start(to: number, setup?: Partial<Setup>): Promise<Running>;
}

/** How our own server is set up between generator and sink. */
export interface Setup {
  /** Handlers that each forward to the sink. */
  handlers: number;
  /** Types that are routed besides those that are sent. */
  routes: number;
  /** What stands in front of each proxy. */
  before: "nothing" | "filter";
  /** Where `log.*` goes: nowhere, or to a locallogger whose log is /dev/null. */
  logs: boolean;
  /** Is there an echo handler? */
  echo: boolean;
  /** Where it listens; null: the system chooses. */
  port: number | null;
  /** The key store of who verifies all that handlers read, and all that goes on; null: nobody does. */
  keystore: string | null;
}

const PLAIN: Setup = {
  handlers: 1,
  routes: 0,
  before: "nothing",
  logs: false,
  echo: false,
  port: null,
  keystore: null,
};

/** A forwarder that runs. */
export interface Running {
  port: number;
  pid: number;
  stop(): Promise<void>;
}

/** Removed at the end. */
export const folder = mkdtempSync(join(tmpdir(), "cc-bench-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

const installed = (command: string) => spawnSync("which", [command]).status === 0;

/** Builds the C programs that can be built here; returns why one cannot, by name. */
export function buildPeers(): { load: string; zmqLoad: string; libzmqMissing: string | null } {
  mkdirSync(OUT, { recursive: true });
  if (!installed("cc")) throw new Error("the load generator needs a C compiler (Debian package gcc)");
  const cc = (name: string, ...libraries: string[]) => {
    const args = ["-O2", "-o", join(OUT, name), join(ROOT, "bench", "peers", `${name}.c`), ...libraries];
    const { status, stderr } = spawnSync("cc", args, { encoding: "utf8" });
    return status === 0 ? null : stderr;
  };
  const failed = cc("load");
  if (failed) throw new Error(`load.c does not compile:\n${failed}`);
  return {
    load: join(OUT, "load"),
    zmqLoad: join(OUT, "zmq_load"),
    libzmqMissing: (cc("zmq_proxy", "-lzmq") || cc("zmq_load", "-lzmq")) &&
      "libzmq's headers (Debian package libzmq3-dev)",
  };
}

/** A child process whose lines are waited for. */
export class Child {
  readonly process: ChildProcess;
  readonly #lines: string[] = [];
  #wake: (() => void) | null = null;
  #exited: string | null = null;

  constructor(
    command: string,
    args: string[],
    env: Record<string, string> = {},
    stream: "stdout" | "stderr" = "stdout",
  ) {
    this.process = spawn(command, args, {
      cwd: ROOT,
      env: { ...process.env, ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    const other = stream === "stdout" ? this.process.stderr! : this.process.stdout!;
    let rest = "";
    other.on("data", (chunk) => rest = (rest + chunk).slice(-2000));
    createInterface({ input: this.process[stream]! }).on("line", (line) => {
      this.#lines.push(line);
      this.#wake?.();
    });
    this.process.on("close", (code) => {
      this.#exited = `${command} ${args[0]} ended with ${code}: ${rest}`;
      this.#wake?.();
    });
  }

  /** The first match in its lines, those that came already too. */
  async match(pattern: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    const deadline = setTimeout(() => {
      this.#exited ??= `no line like ${pattern} within ${timeoutMs / 1000} s`;
      this.#wake?.();
    }, timeoutMs);
    try {
      for (;;) {
        for (let line = this.#lines.shift(); line !== undefined; line = this.#lines.shift()) {
          const found = pattern.exec(line);
          if (found) return found;
        }
        if (this.#exited !== null) throw new Error(this.#exited);
        await new Promise<void>((resolve) => this.#wake = resolve);
      }
    } finally {
      clearTimeout(deadline);
    }
  }

  go(): void {
    this.process.stdin!.write("\n");
  }

  async stop(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const closed = new Promise((resolve) => this.process.once("close", resolve));
    this.process.kill("SIGKILL");
    await closed;
  }
}

/** The ini file of our server that forwards to port `to`. */
function serverIni(to: number, port: string, statistics: number, setup: Setup): string {
  const { handlers, routes, before, logs, echo, keystore } = setup;
  const verify = keystore === null ? "" : "\nverify = yes";
  const numbers = Array.from({ length: handlers }, (_, i) => i);
  const filtered = before === "filter";
  const lines = [
    `[ccserver]\ncc-socket = tcp://127.0.0.1:${port}\ncc-role = local\ncc-stats = ${statistics}`,
    ...(logs ? ["logfile = /dev/null"] : []),
    ...(keystore === null ? [] : [`cms-profile = modern\ncms-keystore = ${keystore}\ncms-verify-ca = ca`]),
    "[routes]",
    ...(handlers > 0 ? [`pub = ${numbers.map((i) => filtered ? `h:f${i}` : `h:p${i}`)}`] : []),
    ...Array.from({ length: routes }, (_, i) => `t${i}.x = h:p0`),
    ...(echo ? ["echo = h:echo"] : []),
    ...(logs ? ["log = h:log\n[h:log]\nhandler = locallogger"] : []),
    ...numbers.map((i) => `[h:p${i}]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:${to}${verify}`),
    ...(echo ? ["[h:echo]\nhandler = echo"] : []),
    ...(filtered ? numbers.map((i) => `[h:f${i}]\nhandler = filter\nforward-to = h:p${i}`) : []),
  ];
  return `${lines.join("\n")}\n`;
}

/** Our server, started by this command. */
export function server(
  name: string,
  command: string[],
  missing: string | null,
  guess: number,
  statistics = 2,
): Forwarder {
  return {
    name,
    missing,
    guess,
    wire: "zmtp",
    async start(to, some = {}) {
      const setup = { ...PLAIN, ...some };
      const file = join(folder, `${name.replace(/\W/g, "")}${to}.ini`);
      // One whose log goes to /dev/null cannot say which port it got.
      const chosen = setup.logs ? await freePort() : null;
      writeFileSync(file, serverIni(to, String(chosen ?? setup.port ?? "*"), statistics, setup));
      const child = new Child(command[0], [...command.slice(1), file], {}, "stderr");
      if (chosen !== null) {
        await listening(chosen);
        return { port: chosen, pid: child.process.pid!, stop: () => child.stop() };
      }
      const [, port] = await child.match(/listening on tcp:\/\/127\.0\.0\.1:(\d+),/);
      for (let i = 0; i < setup.handlers; i++) await child.match(/ is up/);
      return { port: Number(port), pid: child.process.pid!, stop: () => child.stop() };
    },
  };
}

/** A port that nobody listens on now. */
export async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** Resolves when somebody listens on a port. */
async function listening(port: number): Promise<void> {
  for (let tries = 0;; tries++) {
    const error = await new Promise<Error | null>((resolve) => {
      const socket = connect(port, "127.0.0.1", () => {
        socket.destroy();
        resolve(null);
      });
      socket.on("error", resolve);
    });
    if (error === null) return;
    if (tries === 500) throw error;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function program(
  name: string,
  command: string[],
  missing: string | null,
  guess: number,
  wire: Forwarder["wire"] = "zmtp",
): Forwarder {
  return {
    name,
    missing,
    guess,
    wire,
    async start(to) {
      const child = new Child(command[0], [
        ...command.slice(1).map((arg) => arg.replace("{to}", String(to))),
      ]);
      const [, port] = await child.match(/(?:127\.0\.0\.1:|^port )(\d+)$/);
      return { port: Number(port), pid: child.process.pid!, stop: () => child.stop() };
    },
  };
}

function nats(): Forwarder {
  return {
    name: "nats-server",
    missing: installed("nats-server") ? null : "nats-server (Debian package nats-server)",
    guess: 2_000_000,
    wire: "nats",
    async start() {
      // Its own limit is 1 MiB, less than our largest message.
      const file = join(folder, "nats.conf");
      writeFileSync(file, "max_payload: 8MB\n");
      const child = new Child("nats-server", ["-c", file, "-a", "127.0.0.1", "-p", "-1"], {}, "stderr");
      const [, port] = await child.match(/client connections on 127\.0\.0\.1:(\d+)/);
      return { port: Number(port), pid: child.process.pid!, stop: () => child.stop() };
    },
  };
}

/** Signatures that are verified, and nothing else: the limit of who verifies. */
function bareVerify(): Forwarder {
  const name = "crypto.verify alone, Bun";
  return {
    name,
    missing: null,
    guess: 0,
    wire: "relay",
    start: () => Promise.reject(new Error(`${name} forwards nothing`)),
    async alone(seconds) {
      const child = new Child(join(BIN, "bun"), ["bench/peers/bare_verify.ts", String(seconds)]);
      return JSON.parse((await child.match(/^\{.*\}$/))[0]);
    },
  };
}

/** Everything that is compared, ours first. */
export function forwarders(libzmqMissing: string | null): Record<string, Forwarder> {
  const npm = join("bench", "peers", "npm_zeromq.mjs");
  const needs = (file: string) => existsSync(join(ROOT, file)) ? null : `${file} ("npm run build")`;
  return {
    binary: server("ccserver, binary", [join(ROOT, "dist", "ccserver")], needs("dist/ccserver"), 10_000_000),
    quiet: server(
      "ccserver, cc-stats = 0",
      [join(ROOT, "dist", "ccserver")],
      needs("dist/ccserver"),
      10_000_000,
      0,
    ),
    bun: server("ccserver on Bun", [join(BIN, "bun"), "src/main.ts"], null, 10_000_000),
    deno: server(
      "ccserver on Deno",
      [join(BIN, "deno"), "run", "-A", "--quiet", "src/main.ts"],
      null,
      10_000_000,
    ),
    node: server(
      "ccserver on Node",
      ["node", "dist/npm/main.node.js"],
      needs("dist/npm/main.node.js"),
      8_000_000,
    ),
    zmq_proxy: program("libzmq zmq_proxy, C", [join(OUT, "zmq_proxy"), "{to}"], libzmqMissing, 1_200_000),
    nats: nats(),
    bare_verify: bareVerify(),
    npm_deno: program(
      "npm zeromq on Deno",
      [join(BIN, "deno"), "run", "-A", "--quiet", npm, "{to}"],
      null,
      100_000,
    ),
    npm_node: program("npm zeromq on Node", ["node", npm, "{to}"], null, 40_000),
    relay_c: program("blind relay, C", [join(OUT, "load"), "relay", "0", "{to}"], null, 16_000_000, "relay"),
    relay_bun: program(
      "blind relay, Bun",
      [join(BIN, "bun"), "bench/peers/bun_relay.ts", "{to}"],
      null,
      13_000_000,
      "relay",
    ),
  };
}
