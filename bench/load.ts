/**
 * Load on whole processes: a raw generator and sink in C around a forwarder, side by side with other forwarders.
 *
 *     generator (DEALER) ──▶ forwarder ──▶ sink (ROUTER)
 */
import { Buffer } from "node:buffer";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Child, folder, type Forwarder, freePort, type Running, type Setup } from "./forwarders.ts";
import { encodeFrames } from "../src/zmtp/frame.ts";
import { encodeReady, GREETING } from "../src/zmtp/handshake.ts";
import { keyStore, signedMessage } from "./signed.ts";

/** What is sent: the body's size and the blob's. */
export interface Shape {
  name: string;
  bodyBytes: number;
  /** 0: no blob. */
  blobBytes: number;
  /** Log messages for a locallogger in front of each one that is forwarded. */
  logs?: number;
  /** Messages that have no route in front of each one that is forwarded. */
  unrouted?: number;
  /** So many different messages in turn, that openssl has signed; each is verified, and then forwarded. */
  signed?: number;
}

export const SHAPES: Record<string, Shape> = {
  small: { name: "150 B body", bodyBytes: 150, blobBytes: 0 },
  log: { name: "log.info to a locallogger", bodyBytes: 150, blobBytes: 0, logs: 99 },
  unrouted: { name: "99 of 100 without a route", bodyBytes: 150, blobBytes: 0, unrouted: 99 },
  signed: { name: "signed by RSA-2048, verified", bodyBytes: 600, blobBytes: 0, signed: 250 },
  "1k": { name: "with a 1 KiB blob", bodyBytes: 150, blobBytes: 1024 },
  "64k": { name: "with a 64 KiB blob", bodyBytes: 150, blobBytes: 64 * 1024 },
  "1m": { name: "with a 1 MiB blob", bodyBytes: 150, blobBytes: 1024 * 1024 },
};

/** What one run showed. */
export interface Result {
  messagesPerSecond: number;
  megabytesPerSecond: number;
  cpuMicros: number;
  peakBytes: number;
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

/** Messages that the generator sends as one. */
function batchOf({ logs = 0, unrouted = 0, signed = 1 }: Shape): number {
  return signed + logs + unrouted;
}

/** Messages a second that our own server can about do; `most`: of what it only forwards. */
function guessOf({ logs, signed }: Shape, most: number): number {
  return logs ? LOGS_GUESS : signed ? SIGNED_GUESS : most;
}

/** How our own server is set up for what is sent. */
function setupOf(shape: Shape): Partial<Setup> {
  return { logs: shape.logs !== undefined, keystore: shape.signed === undefined ? null : keyStore().folder };
}

/** Files for the generator and the sink, and how many bytes the sink gets a message. */
function fixtures(wire: Forwarder["wire"], shape: Shape) {
  const blob = shape.blobBytes > 0 ? [Buffer.alloc(shape.blobBytes, "b")] : [];
  const key = `${wire}-${shape.bodyBytes}-${shape.blobBytes}-${shape.signed ?? 0}`;
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
  const forwarded = shape.signed ? signedMessage("pub.infofile", 0).bytes : encodeFrames([
    NO_IDENTITY,
    Buffer.from("pub.infofile"),
    Buffer.from(bodyOf(shape)),
    NO_IDENTITY,
    ...blob,
  ]);
  const behind = Array.from(
    { length: (shape.signed ?? 1) - 1 },
    (_, i) => signedMessage("pub.infofile", 1 + i).bytes,
  );
  const unrouted = encodeFrames([
    NO_IDENTITY,
    Buffer.from("no.infofile"),
    Buffer.from(bodyOf(shape)),
    NO_IDENTITY,
  ]);
  const message = Buffer.concat([
    ...Array<Uint8Array>(shape.logs ?? 0).fill(logMessage()),
    ...Array<Uint8Array>(shape.unrouted ?? 0).fill(unrouted),
    forwarded,
    ...behind,
  ]);
  const sinkMessages = [forwarded, ...behind];
  const identityBytes = wire === "zmtp" ? IDENTITY_FRAME_BYTES : 0;
  return {
    genHello: write("dealer", Buffer.concat([GREETING, encodeReady("DEALER", NO_IDENTITY)])),
    sinkHello: write("router", Buffer.concat([GREETING, encodeReady("ROUTER", NO_IDENTITY)])),
    message: write(`${key}-${batchOf(shape)}-${shape.logs ?? 0}`, message),
    messageBytes: message.length,
    sinkBytes: sinkMessages.reduce((sum, { length }) => sum + length + identityBytes, 0),
    helloReply: HANDSHAKE_BYTES,
  };
}

/** A line of a daemon's log, as the original sends it. */
function logMessage(): Uint8Array {
  const body = {
    req: "log.info",
    time: 1795331293.1,
    hostname: "web1.example",
    blob_hash: "",
    log_level: "INFO",
    service_type: "infosender",
    job_name: "cclocal.d:infosender",
    log_msg: "{count: 14, infosender.bytes.read: 883, infosender.bytes.sent: 612}",
    log_time: 1795331293.1,
    log_pid: 4711,
    log_line: 0,
    log_function: "stats",
  };
  return encodeFrames([NO_IDENTITY, Buffer.from("log.info"), Buffer.from(JSON.stringify(body)), NO_IDENTITY]);
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

export interface LoadOptions extends Partial<Setup> {
  shape: Shape;
  clients: number;
  /** How long one run should take. */
  seconds: number;
  /** How long it is not measured before; {@link WARM_UP_SECONDS} when missing. */
  warmUpSeconds?: number;
  /** The generator and sink of libzmq, instead of the raw ones: its program. */
  libzmq?: string;
  /** Called when all messages are through, before anything is stopped. */
  loaded?: (pid: number) => Promise<void>;
}

/** What is sent before measuring, about: a server that has just started compiles its code. */
const WARM_UP_SECONDS = 0.5;
/** Messages a second that libzmq's own generator can about send. */
const LIBZMQ_GUESS = 1_500_000;
/** Log lines a second that a server can about write. */
const LOGS_GUESS = 250_000;
/** Signed messages a second that a server can about verify. */
const SIGNED_GUESS = 30_000;
/** A run that takes longer has stopped. */
const RUN_MAX_MS = 15_000;

/** Sends messages through a forwarder and measures. */
export async function load(load: string, forwarder: Forwarder, options: LoadOptions): Promise<Result> {
  const { shape, clients, handlers = 1, seconds, warmUpSeconds = WARM_UP_SECONDS } = options;
  const setup = { ...options, ...setupOf(shape), handlers };
  const f = fixtures(forwarder.wire, shape);
  const batch = batchOf(shape);
  const { libzmq } = options;
  const most = libzmq ? Math.min(forwarder.guess, LIBZMQ_GUESS) : forwarder.guess;
  const rate = Math.min(guessOf(shape, most / handlers) / batch, 2.4e9 / f.messageBytes);
  const messages = Math.max(1, Math.round(rate * (seconds + warmUpSeconds) / clients)) * clients;
  const bytesAMessage = f.sinkBytes * handlers;
  const expected = messages * bytesAMessage;
  const warmUp = Math.round(expected * warmUpSeconds / (seconds + warmUpSeconds));
  const env = { HELLO_REPLY: String(f.helloReply), WARM_UP: String(warmUp) };
  const running: { stop(): Promise<void> }[] = [];
  try {
    let sink: Child;
    let forward: Running;
    if (forwarder.wire === "nats") {
      forward = await forwarder.start(0, setup);
      running.push(forward);
      sink = new Child(load, ["drink", String(forward.port), String(expected), f.sinkHello], env);
      running.push(sink);
      await sink.match(/^port/);
    } else {
      sink = libzmq
        ? new Child(libzmq, [
          "sink",
          ...[messages, bytesAMessage, Math.round(warmUp / bytesAMessage)].map(String),
        ])
        : new Child(load, ["sink", "0", String(expected), f.sinkHello], env);
      running.push(sink);
      forward = await forwarder.start(Number((await sink.match(/^port (\d+)/))[1]), setup);
      running.push(forward);
    }
    const gen = libzmq
      ? new Child(libzmq, ["gen", ...[forward.port, messages, shape.bodyBytes, shape.blobBytes].map(String)])
      : new Child(
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
    // nats-server sends a PING now and then.
    if (forwarder.wire === "nats" ? bytes < expected : bytes !== expected) {
      throw new Error(`${forwarder.name}: ${bytes} bytes came, ${expected} were expected`);
    }
    const cpu = cpuSeconds(forward.pid) - before;
    await options.loaded?.(forward.pid);
    const counted = measured / bytesAMessage * batch;
    return {
      messagesPerSecond: counted / (ns / 1e9),
      megabytesPerSecond: counted / batch * f.messageBytes / (ns / 1e9) / 1e6,
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
    const second = await forwarder.start(Number((await echo.match(/^port (\d+)/))[1]));
    running.push(second);
    const first = await forwarder.start(second.port);
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

/** What one sends that sends little, in messages a second. */
const LIGHT_RATE = 500;
/** Not counted: a server that has just started compiles its code, and on two cores the compiler is another flood. */
const LIGHT_WARM_UP_SECONDS = 1.5;

/** What upstreams answer. */
const LIGHT_TYPE = "pub.light";

/** The light client's message, and what it says first. */
function lightFixtures(wire: Forwarder["wire"], { answers, shape }: Flood) {
  if (wire === "nats") {
    return {
      hello: write("nats-light", Buffer.from('CONNECT {"verbose":false}\r\nSUB cc.light 1\r\n')),
      message: write("nats-light-message", Buffer.from("PUB cc.light 40\r\n" + "x".repeat(40) + "\r\n")),
    };
  }
  const type = answers === "server" ? "echo.request" : LIGHT_TYPE;
  const body = JSON.stringify({ req: type, target: "me" });
  const message = shape.signed
    ? signedMessage(type, 0, { target: "me" }).bytes
    : encodeFrames([NO_IDENTITY, Buffer.from(type), Buffer.from(body), NO_IDENTITY]);
  return {
    hello: write("dealer", Buffer.concat([GREETING, encodeReady("DEALER", NO_IDENTITY)])),
    message: write(`light-${answers}${shape.signed ? "-signed" : ""}`, message),
  };
}

/** What others do beside a client that sends little. */
export interface Flood {
  /** How many of them. */
  floods: number;
  /** `send`: messages, as many as they can; `ask`: the same, and the upstream replies to each; `knock`: connect and leave. */
  does: "send" | "ask" | "knock";
  /** What they send. */
  shape: Shape;
  /** Who answers the one that sends little: the server's echo handler, or the upstream. */
  answers: "server" | "upstream";
}

/** Replies to a client that sends little, in microseconds, while others send all they can. */
export async function beside(
  tool: string,
  forwarder: Forwarder,
  options: Flood & { seconds: number },
): Promise<{ p50: number; p99: number; p999: number }> {
  const { floods, does, answers, seconds } = options;
  const { wire } = forwarder;
  // nats-server has no handlers: it always forwards.
  const plain = { logs: undefined, unrouted: undefined, signed: undefined };
  const shape = wire === "nats" ? { ...options.shape, ...plain } : options.shape;
  const f = fixtures(wire, shape);
  const light = lightFixtures(wire, options);
  // More than they can send meanwhile: they are ended.
  const guess = guessOf(shape, Math.min(forwarder.guess, 2.4e9 * batchOf(shape) / f.messageBytes));
  const messages = Math.max(1, Math.round(guess / batchOf(shape) * 30 / floods)) * floods;
  const expected = messages * f.sinkBytes;
  const env = {
    HELLO_REPLY: String(f.helloReply),
    WARM_UP: String(Math.round(expected / 60)),
    WARM_UP_MESSAGES: String(Math.round(LIGHT_RATE * LIGHT_WARM_UP_SECONDS)),
    WIRE: wire,
    ...(does === "ask" ? { DRAIN: "1" } : {}),
    ...(answers === "upstream" ? { ANSWER: LIGHT_TYPE } : {}),
  };
  const running: { stop(): Promise<void> }[] = [];
  const start = (...args: string[]) => {
    const child = new Child(tool, args, env);
    running.push(child);
    return child;
  };
  try {
    let sink: Child;
    let forward: Running;
    if (wire === "nats") {
      forward = await forwarder.start(0);
      running.push(forward);
      sink = start("drink", String(forward.port), String(expected), f.sinkHello);
      await sink.match(/^port/);
    } else {
      sink = does === "ask"
        ? start("echo", "0", f.sinkHello)
        : start("sink", "0", String(expected), f.sinkHello);
      const setup = { echo: true, ...setupOf(shape) };
      forward = await forwarder.start(Number((await sink.match(/^port (\d+)/))[1]), setup);
      running.push(forward);
    }
    const flood = does === "knock"
      ? start("knock", String(forward.port), String(floods), f.genHello)
      : start("gen", String(forward.port), String(floods), String(messages), f.genHello, f.message);
    await flood.match(/^ready/);
    const client = start(
      "light",
      String(forward.port),
      String(LIGHT_RATE),
      String(Math.round(LIGHT_RATE * (LIGHT_WARM_UP_SECONDS + seconds))),
      light.hello,
      light.message,
    );
    await client.match(/^ready/);
    flood.go();
    if (does !== "knock") await sink.match(/^warm$/, RUN_MAX_MS);
    client.go();
    return JSON.parse((await client.match(/^\{.*\}$/, RUN_MAX_MS))[0]);
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
    const forward = await forwarder.start(Number((await sink.match(/^port (\d+)/))[1]));
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

/** What a crowd of clients showed that connects at once, rests, and comes back when the server was killed. */
export interface CrowdResult {
  connectedMs: number;
  restBytesEach: number;
  stormMs: number;
  /** Connections that were closed in the middle of their handshake, both times. */
  cut: number;
  /** The 99th percentile of a light client's echo during the storm, in microseconds. */
  p99: number;
}

/** Messages a second of the light client that comes with the storm, and for how long. */
const STORM_RATE = 500;
const STORM_SECONDS = 1;
/** Until memory is looked at. */
const REST_MS = 3000;

/** So many clients at once, at rest, and at once again behind a `kill -9` of the server. */
export async function crowd(tool: string, forwarder: Forwarder, clients: number): Promise<CrowdResult> {
  const f = fixtures("zmtp", SHAPES.small);
  const light = lightFixtures("zmtp", {
    floods: 0,
    does: "send",
    shape: SHAPES.small,
    answers: "server",
  });
  const env = { HELLO_REPLY: String(f.helloReply), WARM_UP_MESSAGES: "0" };
  const running: { stop(): Promise<void> }[] = [];
  const start = (...args: string[]) => {
    const child = new Child(tool, args, env);
    running.push(child);
    return child;
  };
  try {
    const port = await freePort();
    const sink = start("sink", "0", "1", f.sinkHello);
    const to = Number((await sink.match(/^port (\d+)/))[1]);
    const serve = async () => {
      const server = await forwarder.start(to, { echo: true, port });
      running.push(server);
      return server;
    };
    const first = await serve();
    const before = statusBytes(first.pid, "VmRSS");
    const all = start("crowd", String(port), String(clients), f.genHello);
    await all.match(/^ready/);
    all.go();
    const there = async () =>
      JSON.parse((await all.match(/^\{.*\}$/, RUN_MAX_MS))[0]) as { ms: number; cut: number };
    const connected = await there();
    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    const restBytesEach = (statusBytes(first.pid, "VmRSS") - before) / clients;
    await first.stop();
    await serve();
    const one = start(
      "light",
      String(port),
      String(STORM_RATE),
      String(STORM_RATE * STORM_SECONDS),
      light.hello,
      light.message,
    );
    await one.match(/^ready/);
    one.go();
    const { p99 } = JSON.parse((await one.match(/^\{.*\}$/, RUN_MAX_MS))[0]) as { p99: number };
    const storm = await there();
    return {
      connectedMs: connected.ms,
      restBytesEach,
      stormMs: storm.ms,
      cut: connected.cut + storm.cut,
      p99,
    };
  } finally {
    for (const child of running.reverse()) await child.stop();
  }
}

/** Resident memory of a forwarder that has carried a load of each size, and then rested so long. */
export async function restBytes(tool: string, forwarder: Forwarder, restSeconds: number): Promise<number> {
  let bytes = 0;
  await load(tool, forwarder, {
    shape: SHAPES["64k"],
    clients: 100,
    handlers: 1,
    seconds: 1,
    async loaded(pid) {
      await new Promise((resolve) => setTimeout(resolve, restSeconds * 1000));
      bytes = statusBytes(pid, "VmRSS");
    },
  });
  return bytes;
}

/** The middle of a list. */
export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const mid = sorted.length >> 1;
  return sorted.length % 2 ? sorted[mid] : (sorted[mid - 1] + sorted[mid]) / 2;
}
