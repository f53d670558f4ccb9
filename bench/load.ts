/**
 * Load on whole processes: a raw generator and sink in C around a forwarder, side by side with other forwarders.
 *
 *     generator (DEALER) ──▶ forwarder ──▶ sink (ROUTER)
 */
import { Buffer } from "node:buffer";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { encodeFrames } from "../src/zmtp/frame.ts";
import { encodeReady, GREETING } from "../src/zmtp/handshake.ts";

export const ROOT = resolve(process.cwd());
const BIN = join(ROOT, "node_modules", ".bin");
const OUT = join(ROOT, "dist", "bench");

/** What is sent: the body's size and the blob's. */
export interface Shape {
  name: string;
  bodyBytes: number;
  /** 0: no blob. */
  blobBytes: number;
}

export const SHAPES: Record<string, Shape> = {
  small: { name: "150 B body", bodyBytes: 150, blobBytes: 0 },
  "1k": { name: "with a 1 KiB blob", bodyBytes: 150, blobBytes: 1024 },
  "64k": { name: "with a 64 KiB blob", bodyBytes: 150, blobBytes: 64 * 1024 },
  "1m": { name: "with a 1 MiB blob", bodyBytes: 150, blobBytes: 1024 * 1024 },
};

/** Something that forwards from a port it listens on to the sink's. */
export interface Forwarder {
  name: string;
  /** Why it cannot be measured here; null when it can. */
  missing: string | null;
  /** Messages a second it can about do with small messages, to choose how many to send. */
  guess: number;
  wire: "zmtp" | "relay" | "nats";
  start(to: number, handlers: number): Promise<Running>;
}

/** A forwarder that runs. */
export interface Running {
  port: number;
  pid: number;
  stop(): Promise<void>;
}

/** What one run showed. */
export interface Result {
  messagesPerSecond: number;
  megabytesPerSecond: number;
  cpuMicros: number;
  peakBytes: number;
}

const folder = mkdtempSync(join(tmpdir(), "cc-bench-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

const installed = (command: string) => spawnSync("which", [command]).status === 0;

/** Builds the C programs that can be built here; returns why one cannot, by name. */
export function buildPeers(): { load: string; proxyMissing: string | null } {
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
    proxyMissing: cc("zmq_proxy", "-lzmq") && "libzmq's headers (Debian package libzmq3-dev)",
  };
}

/** A child process whose lines are waited for. */
class Child {
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

/** Our server, started by this command. */
export function server(name: string, command: string[], missing: string | null, guess: number): Forwarder {
  return {
    name,
    missing,
    guess,
    wire: "zmtp",
    async start(to, handlers) {
      const file = join(folder, `${name.replace(/\W/g, "")}${to}.ini`);
      const names = Array.from({ length: handlers }, (_, i) => `h:p${i}`);
      const sections = names.map((h) => `[${h}]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:${to}\n`).join(
        "",
      );
      writeFileSync(
        file,
        `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\ncc-stats = 2\n[routes]\n${
          handlers > 0 ? `pub = ${names}` : ""
        }\n${sections}`,
      );
      const child = new Child(command[0], [...command.slice(1), file], {}, "stderr");
      const [, port] = await child.match(/listening on tcp:\/\/127\.0\.0\.1:(\d+),/);
      for (let i = 0; i < handlers; i++) await child.match(/ is up/);
      return { port: Number(port), pid: child.process.pid!, stop: () => child.stop() };
    },
  };
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
      const child = new Child("nats-server", ["-a", "127.0.0.1", "-p", "-1"], {}, "stderr");
      const [, port] = await child.match(/client connections on 127\.0\.0\.1:(\d+)/);
      return { port: Number(port), pid: child.process.pid!, stop: () => child.stop() };
    },
  };
}

/** Everything that is compared, ours first. */
export function forwarders(proxyMissing: string | null): Record<string, Forwarder> {
  const npm = join("bench", "peers", "npm_zeromq.mjs");
  const needs = (file: string) => existsSync(join(ROOT, file)) ? null : `${file} ("npm run build")`;
  return {
    binary: server("ccserver, binary", [join(ROOT, "dist", "ccserver")], needs("dist/ccserver"), 10_000_000),
    bun: server("ccserver on Bun", [join(BIN, "bun"), "src/main.ts"], null, 10_000_000),
    deno: server(
      "ccserver on Deno",
      [join(BIN, "deno"), "run", "-A", "--quiet", "src/main.ts"],
      null,
      10_000_000,
    ),
    node: server("ccserver on Node", ["node", "dist/node/main.js"], needs("dist/node/main.js"), 8_000_000),
    zmq_proxy: program("libzmq zmq_proxy, C", [join(OUT, "zmq_proxy"), "{to}"], proxyMissing, 1_200_000),
    nats: nats(),
    npm_deno: program(
      "npm zeromq on Deno",
      [join(BIN, "deno"), "run", "-A", "--quiet", npm, "{to}"],
      null,
      50_000,
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

const NO_IDENTITY = new Uint8Array(0);
const HANDSHAKE_BYTES = GREETING.length + encodeReady("ROUTER", NO_IDENTITY).length;
/** The identity frame a ROUTER adds. */
const IDENTITY_FRAME_BYTES = 7;

function bodyOf({ bodyBytes }: Shape): string {
  const start = '{"req": "pub.infofile", "filename": "';
  return `${start}${"x".repeat(bodyBytes - start.length - 2)}"}`;
}

function write(name: string, bytes: Uint8Array): string {
  const file = join(folder, name);
  writeFileSync(file, bytes);
  return file;
}

/** Files for the generator and the sink, and how many bytes the sink gets a message. */
function fixtures(wire: Forwarder["wire"], shape: Shape) {
  const blob = shape.blobBytes > 0 ? [Buffer.alloc(shape.blobBytes, "b")] : [];
  const key = `${wire}-${shape.bodyBytes}-${shape.blobBytes}`;
  if (wire === "nats") {
    const payload = Buffer.concat([Buffer.from(bodyOf(shape)), ...blob]);
    const message = Buffer.concat([
      Buffer.from(`PUB pub.infofile ${payload.length}\r\n`),
      payload,
      Buffer.from("\r\n"),
    ]);
    const connect = 'CONNECT {"verbose":false}\r\n';
    return {
      genHello: write("nats-gen", Buffer.from(connect)),
      sinkHello: write("nats-sink", Buffer.from(`${connect}SUB pub.infofile 1\r\n`)),
      message: write(key, message),
      messageBytes: message.length,
      sinkBytes: `MSG pub.infofile 1 ${payload.length}\r\n`.length + payload.length + 2,
      helloReply: 0,
    };
  }
  const message = encodeFrames([
    NO_IDENTITY,
    Buffer.from("pub.infofile"),
    Buffer.from(bodyOf(shape)),
    NO_IDENTITY,
    ...blob,
  ]);
  return {
    genHello: write("dealer", Buffer.concat([GREETING, encodeReady("DEALER", NO_IDENTITY)])),
    sinkHello: write("router", Buffer.concat([GREETING, encodeReady("ROUTER", NO_IDENTITY)])),
    message: write(key, message),
    messageBytes: message.length,
    sinkBytes: message.length + (wire === "zmtp" ? IDENTITY_FRAME_BYTES : 0),
    helloReply: HANDSHAKE_BYTES,
  };
}

/** CPU seconds of a process and its threads so far. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** A figure of /proc/PID/status in bytes: VmHWM, the peak, or VmRSS. */
export function statusBytes(pid: number, key: "VmHWM" | "VmRSS"): number {
  const [, kib] = new RegExp(`${key}:\\s+(\\d+) kB`).exec(readFileSync(`/proc/${pid}/status`, "utf8"))!;
  return Number(kib) * 1024;
}

export interface LoadOptions {
  shape: Shape;
  clients: number;
  handlers: number;
  /** How long one run should take. */
  seconds: number;
  /** Called when all messages are through, before anything is stopped. */
  loaded?: (pid: number) => Promise<void>;
}

/** What is sent before measuring, about: a server that has just started compiles its code. */
const WARM_UP_SECONDS = 0.5;
/** A run that takes longer has stopped. */
const RUN_MAX_MS = 15_000;

/** Sends messages through a forwarder and measures. */
export async function load(load: string, forwarder: Forwarder, options: LoadOptions): Promise<Result> {
  const { shape, clients, handlers, seconds } = options;
  const f = fixtures(forwarder.wire, shape);
  const rate = Math.min(forwarder.guess, 2.4e9 / f.messageBytes, forwarder.guess / handlers);
  const messages = Math.max(1, Math.round(rate * (seconds + WARM_UP_SECONDS) / clients)) * clients;
  const bytesAMessage = f.sinkBytes * handlers;
  const expected = messages * bytesAMessage;
  const warmUp = Math.round(expected * WARM_UP_SECONDS / (seconds + WARM_UP_SECONDS));
  const env = { HELLO_REPLY: String(f.helloReply), WARM_UP: String(warmUp) };
  const running: { stop(): Promise<void> }[] = [];
  try {
    let sink: Child;
    let forward: Running;
    if (forwarder.wire === "nats") {
      forward = await forwarder.start(0, handlers);
      running.push(forward);
      sink = new Child(load, ["drink", String(forward.port), String(expected), f.sinkHello], env);
      running.push(sink);
      await sink.match(/^port/);
    } else {
      sink = new Child(load, ["sink", "0", String(expected), f.sinkHello], env);
      running.push(sink);
      forward = await forwarder.start(Number((await sink.match(/^port (\d+)/))[1]), handlers);
      running.push(forward);
    }
    const gen = new Child(
      load,
      ["gen", String(forward.port), String(clients), String(messages), f.genHello, f.message],
      env,
    );
    running.push(gen);
    await gen.match(/^ready/);
    gen.go();
    await sink.match(/^warm$/, RUN_MAX_MS);
    const before = cpuSeconds(forward.pid);
    const { bytes, measured, ns } = JSON.parse((await sink.match(/^\{.*\}$/, RUN_MAX_MS))[0]) as {
      bytes: number;
      measured: number;
      ns: number;
    };
    if (bytes !== expected) {
      throw new Error(`${forwarder.name}: ${bytes} bytes came, ${expected} were expected`);
    }
    const cpu = cpuSeconds(forward.pid) - before;
    await options.loaded?.(forward.pid);
    const counted = measured / bytesAMessage;
    return {
      messagesPerSecond: counted / (ns / 1e9),
      megabytesPerSecond: counted * f.messageBytes / (ns / 1e9) / 1e6,
      cpuMicros: cpu / counted * 1e6,
      peakBytes: statusBytes(forward.pid, "VmHWM"),
    };
  } finally {
    for (const child of running.reverse()) await child.stop();
  }
}

/** The same of a round-trip run, where little is sent a second. */
const RTT_WARM_UP_SECONDS = 2;

/** Round trips of one client through two hops at a fixed rate, in microseconds. */
export async function roundTrips(
  load: string,
  forwarder: Forwarder,
  rate: number,
  seconds: number,
): Promise<{ p50: number; p99: number; p999: number }> {
  const f = fixtures("zmtp", SHAPES.small);
  const warmUp = rate * RTT_WARM_UP_SECONDS;
  const env = {
    HELLO_REPLY: String(f.helloReply),
    STAMP_AT: String(f.messageBytes - 42),
    WARM_UP: String(warmUp),
  };
  const running: { stop(): Promise<void> }[] = [];
  try {
    const echo = new Child(load, ["echo", "0", f.sinkHello], env);
    running.push(echo);
    const second = await forwarder.start(Number((await echo.match(/^port (\d+)/))[1]), 1);
    running.push(second);
    const first = await forwarder.start(second.port, 1);
    running.push(first);
    const rtt = new Child(load, [
      "rtt",
      String(first.port),
      String(rate),
      String(rate * seconds + warmUp),
      f.genHello,
      f.message,
    ], env);
    running.push(rtt);
    await rtt.match(/^ready/);
    rtt.go();
    const found = JSON.parse((await rtt.match(/^\{.*\}$/))[0]) as {
      received: number;
      p50: number;
      p99: number;
      p999: number;
    };
    if (found.received < rate * seconds) {
      throw new Error(`${forwarder.name}: ${found.received} of ${rate * seconds} came back`);
    }
    return found;
  } finally {
    for (const child of running.reverse()) await child.stop();
  }
}

/** Resident memory of a forwarder with so many clients at rest, in bytes a client. */
export async function idleClients(load: string, forwarder: Forwarder, clients: number): Promise<number> {
  const f = fixtures("zmtp", SHAPES.small);
  const env = { HELLO_REPLY: String(f.helloReply) };
  const running: { stop(): Promise<void> }[] = [];
  try {
    const sink = new Child(load, ["sink", "0", "1", f.sinkHello], env);
    running.push(sink);
    const forward = await forwarder.start(Number((await sink.match(/^port (\d+)/))[1]), 1);
    running.push(forward);
    const measure = async (count: number) => {
      const idle = new Child(load, ["idle", String(forward.port), String(count), f.genHello], env);
      running.push(idle);
      await idle.match(/^ready/);
      return statusBytes(forward.pid, "VmRSS");
    };
    // The first hundred pay for what is made once.
    const before = await measure(100);
    return (await measure(clients) - before) / clients;
  } finally {
    for (const child of running.reverse()) await child.stop();
  }
}

/** The middle of a list. */
export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const mid = sorted.length >> 1;
  return sorted.length % 2 ? sorted[mid] : (sorted[mid - 1] + sorted[mid]) / 2;
}
