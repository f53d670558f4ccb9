/** Calm at every limit: clients, descriptors, memory, unfinished messages, HTTP connections, message types, folders, pipes. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { Logger } from "../mod.ts";
import { TYPES_TRACKED } from "../src/limits.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { Statistics } from "../src/server/counts.ts";
import { Pinger } from "../src/server/pinger.ts";
import { printable } from "../src/text.ts";
import { TestClock } from "./helpers/clock.ts";
import { ROOT, SLOW_TARGETS, type Target, tempFolder, until } from "./helpers/env.ts";
import { Answering } from "./helpers/collector.ts";
import { ServerProcess } from "./helpers/process.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";

const MIB = 1024 * 1024;
const config = (more = "", sections = "") =>
  `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
http-listen = 127.0.0.1:0
${more}
[routes]
echo = h:echo
[h:echo]
handler = echo
${sections}`;

/** A handler that opens files until it cannot, and closes them again. */
const EATER = `import { closeSync, openSync } from "node:fs";
export default ({ defineHandler, EVERYWHERE }) => defineHandler({
  name: "eater",
  summary: "Eats descriptors.",
  roles: EVERYWHERE,
  create() {
    const files = [];
    return {
      plan: () => ({ raw: true }),
      handle({ type }) {
        if (type === "eater.spit") for (const file of files.splice(0)) closeSync(file);
        else {
          try {
            for (;;) files.push(openSync("/dev/null", "r"));
          } catch {}
        }
        return "ok";
      },
    };
  },
});
`;

const ECHO = message("", "echo.request", '{"req":"echo.request","target":"x"}', "");

async function echoes(peer: RawPeer): Promise<void> {
  peer.write(ECHO);
  assert.equal((await peer.receive(5000))[1].toString(), "echo.response");
}

/** A connection that may be closed at once. */
async function knock(port: number): Promise<RawPeer> {
  const socket = net.connect(port, "127.0.0.1");
  const peer = new RawPeer(socket);
  await new Promise((resolve) => socket.once("connect", resolve).once("close", resolve));
  peer.write(GREETING, ready("DEALER"));
  return peer;
}

/** The same, once it is known whether it was. */
async function opened(port: number): Promise<RawPeer> {
  const peer = await knock(port);
  await until("its handshake, or its end", () => peer.closed || peer.rest().length > 66);
  if (!peer.closed) await peer.handshake();
  return peer;
}

/** A server whose log goes where this test reads it, or does not. */
class Unread {
  output = "";
  readonly exited: Promise<void>;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, log: net.Socket) {
    this.#child = child;
    log.on("error", () => {}).on("data", (chunk) => this.output += chunk.toString());
    this.exited = new Promise((resolve) => void child.once("exit", () => resolve()));
  }

  static async start(target: Target, kind: string, fifo: string, file: string): Promise<Unread> {
    const [command, ...args] = target.command;
    // Held by a program that passes on what it reads, as long as it is asked to.
    const code = `
import os, socket, subprocess, sys
kind, fifo, *command = sys.argv[1:]
if kind == "socket":
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
    theirs.close()
    source = ours.fileno()
elif kind == "pipe":
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    source = child.stderr.fileno()
else:
    os.mkfifo(fifo)
    source = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(source, True)
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
import select, signal, threading
reading = threading.Event()
reading.set()
signal.signal(signal.SIGUSR1, lambda *_: reading.set())
signal.signal(signal.SIGUSR2, lambda *_: reading.clear())
print(child.pid, flush=True)
while child.poll() is None:
    reading.wait(0.05)
    if not reading.is_set():
        continue
    if select.select([source], [], [], 0.05)[0]:
        data = os.read(source, 65536)
        # A signal may cut a write short.
        while data:
            data = data[os.write(1, data):]
`;
    return await new Promise((resolve) => {
      const child = spawn("python3", ["-c", code, kind, fifo, command, ...args, file], {
        cwd: ROOT,
        stdio: ["ignore", "pipe", "inherit"],
      });
      child.stdout!.once("data", (chunk: Buffer) => {
        const server = new Unread(child, child.stdout as net.Socket);
        server.output += chunk.toString();
        resolve(server);
      });
    });
  }

  get pid(): number {
    return Number(/^\d+/.exec(this.output)![0]);
  }

  read(does: boolean): void {
    process.kill(this.#child.pid!, does ? "SIGUSR1" : "SIGUSR2");
  }

  until(pattern: RegExp): Promise<RegExpExecArray> {
    return until(`${pattern} in ${this.output.slice(-2000)}`, () => pattern.exec(this.output), 15_000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      process.kill(this.pid, "SIGKILL");
    } catch {
      // ended
    }
    this.#child.kill("SIGKILL");
    await this.exited;
  }
}

const httpOf = ({ output }: ServerProcess) => /HTTP on (http:\/\/\S+)/.exec(output)![1];

async function metric(server: ServerProcess, name: string): Promise<number> {
  const text = await (await fetch(`${httpOf(server)}/metrics`)).text();
  const line = text.split("\n").find((line) => line.startsWith(`${name} `));
  return line === undefined ? 0 : Number(line.split(" ").at(-1));
}

/** Sends a request as it is written, and returns all that comes back. */
function rawHttp(url: string, request: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(url);
    const socket = net.connect(Number(port), hostname, () => socket.write(request));
    let text = "";
    socket.setEncoding("latin1").on("data", (chunk) => text += chunk).on("error", reject);
    socket.on("close", () => resolve(text));
  });
}

/** Processor time of a process so far, in milliseconds. */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").replace(/^.*\) /s, "").split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

for (const target of SLOW_TARGETS) {
  const on = target.name;

  test(`${on}: past max-clients a client is closed at once, counted, and let in when there is room`, async () => {
    await using server = await ServerProcess.start(config("max-clients = 3"), target);
    const inside = await Promise.all([1, 2, 3].map(() => RawPeer.open(server.port)));
    for (let i = 0; i < 5; i++) {
      using late = await knock(server.port);
      await until("its end", () => late.closed);
    }
    for (const peer of inside) await echoes(peer);
    assert.equal(await metric(server, 'cc_clients_closed_total{reason="max-clients"}'), 5);
    const lines = server.output.match(/WARNING .*: 3 clients are here already \(max-clients, 1 in all\)/g);
    assert.equal(lines?.length, 1, server.output);
    assert.equal(await metric(server, "cc_peers_max"), 3);
    inside[0].close();
    await until("room", () => metric(server, "cc_peers"));
    for (let i = 0;; i++) {
      assert.ok(i < 100, "a new one comes in");
      using peer = await opened(server.port);
      if (!peer.closed) {
        await echoes(peer);
        break;
      }
    }
    for (const peer of inside) peer.close();
  });

  test(`${on}: at the limit of descriptors a server rests, beats, and answers those that it has`, async () => {
    using folder = tempFolder();
    const file = join(folder.path, "test.ini");
    writeFileSync(file, config("heartbeat = 0.2\nstats-period = 0.2"));
    const [command, ...args] = target.command;
    const limited: Target = {
      name: on,
      command: ["sh", "-c", `ulimit -n 100 && exec "$0" "$@"`, command, ...args],
    };
    await using server = new ServerProcess(limited, [file]);
    await server.until(/listening on \S+,/);
    const peers: RawPeer[] = [];
    try {
      for (let i = 0; i < 150; i++) peers.push(await knock(server.port));
      const open = 100 - 64 - 4;
      await until("those past it closed", () => peers.filter(({ closed }) => closed).length === 150 - open);
      const beats = () => (server.output.match(/heartbeat:/g) ?? []).length;
      const [before, cpu] = [beats(), cpuMs(server.pid)];
      await until("heartbeats", () => beats() >= before + 5);
      const spent = cpuMs(server.pid) - cpu;
      assert.ok(spent < 500, `${spent} ms of processor time in a second of rest`);
      const alive = peers.find(({ closed }) => !closed)!;
      await alive.handshake();
      await echoes(alive);
      assert.equal((await fetch(`${httpOf(server)}/healthz`)).status, 200);
      assert.doesNotMatch(server.output, /uncaught|EMFILE/);
    } finally {
      for (const peer of peers) peer.close();
    }
  });

  test(`${on}: where handlers take the last descriptor, a server rests, and lets clients in when there is one again`, async () => {
    using folder = tempFolder();
    const file = join(folder.path, "test.ini");
    writeFileSync(join(folder.path, "eater.js"), EATER);
    const routed = config("", "[h:eater]\nhandler = ./eater.js\n").replace(
      "[routes]",
      "[routes]\neater = h:eater",
    );
    writeFileSync(file, routed);
    const [command, ...args] = target.command;
    const limited: Target = {
      name: on,
      command: ["sh", "-c", `ulimit -n 200 && exec "$0" "$@"`, command, ...args],
    };
    await using server = new ServerProcess(limited, [file]);
    await server.until(/listening on \S+,/);
    using first = await RawPeer.open(server.port);
    const others: RawPeer[] = [];
    try {
      first.write(message("", "eater.eat", "{}", ""));
      await echoes(first);
      for (let i = 0; i < 20; i++) others.push(await knock(server.port));
      await server.until(/WARNING CCServer\.\w+: no file descriptor is free: no .* is accepted for now/);
      const cpu = cpuMs(server.pid);
      // They come again and again, as ZeroMQ's sockets do.
      for (let i = 0; i < 40; i++) {
        others.push(await knock(server.port));
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const spent = cpuMs(server.pid) - cpu;
      assert.ok(spent < 1000, `${spent} ms of processor time in two seconds of rest`);
      // Those who are in are answered.
      await echoes(first);
      first.write(message("", "eater.spit", "{}", ""));
      const welcome = async () => {
        const peer = await knock(server.port);
        others.push(peer);
        await until("its handshake, or its end", () => peer.closed || peer.rest().length > 66);
        return peer.closed ? null : peer;
      };
      let peer = await welcome();
      for (let tries = 0; peer === null && tries < 100; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        peer = await welcome();
      }
      assert.ok(peer !== null, "nobody was let in again");
      await peer.handshake();
      await echoes(peer);
      // That listener rested too.
      let status = 0;
      for (let tries = 0; status === 0 && tries < 100; tries++) {
        status = await fetch(`${httpOf(server)}/healthz`).then((answer) => answer.status, () => 0);
        if (status === 0) await new Promise((resolve) => setTimeout(resolve, 50));
      }
      assert.equal(status, 200);
      assert.deepEqual(await server.stop(), { code: 0, signal: null });
    } finally {
      for (const peer of others) peer.close();
    }
  });

  test(`${on}: past memory-budget the client that holds most is closed; the others are answered`, async () => {
    await using server = await ServerProcess.start(config("memory-budget = 32 MB"), target);
    using witness = await RawPeer.open(server.port);
    using small = await RawPeer.open(server.port);
    using large = await RawPeer.open(server.port);
    const begun = message("", "x.y", Buffer.alloc(60 * MIB), "");
    small.write(begun.subarray(0, 3 * MIB));
    await until("a begun message", () => small.socket.writableLength === 0);
    large.write(begun.subarray(0, 45 * MIB));
    await until("its end", () => large.closed);
    await server.until(
      /closed tcp:\S+: it held [\d.]+ MiB, and all together more than they may of 32\.0 MiB \(memory-budget, 1 in all\)/,
    );
    await echoes(witness);
    assert.equal(small.closed, false);
    assert.equal(await metric(server, 'cc_clients_closed_total{reason="memory-budget"}'), 1);
  });

  test(`${on}: large replies that nobody reads count in memory-budget; clients that hold nothing stay`, async () => {
    using up = await Answering.listen(() => Buffer.alloc(12 * MIB));
    await using server = await ServerProcess.start(
      config("memory-budget = 32 MB", `[h:up]\nhandler = proxy\nremote-cc = ${up.endpoint}\n`)
        .replace("echo = h:echo", "echo = h:echo\nbig = h:up"),
      target,
    );
    await server.until(/is up/);
    const before = server.residentBytes;
    const idle = await Promise.all(Array.from({ length: 5 }, () => RawPeer.open(server.port)));
    for (const peer of idle) {
      // In two pieces, so that a buffer for unfinished ones is kept.
      peer.write(ECHO.subarray(0, 30));
      await new Promise((resolve) => setTimeout(resolve, 10));
      peer.write(ECHO.subarray(30));
      await peer.receive();
    }
    const deaf: RawPeer[] = [];
    for (let i = 0; i < 12; i++) {
      const peer = await RawPeer.open(server.port);
      peer.socket.pause();
      peer.write(message("", "big.request", "{}", ""));
      deaf.push(peer);
    }
    await server.until(/\(memory-budget, \d+ in all\)/);
    for (let i = 0; up.asked < 12; i++) {
      assert.ok(i < 500, `${up.asked} asked`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    for (const peer of idle) await echoes(peer);
    // The budget, and twice that for what the runtime's collector has not come to.
    const grown = server.residentBytes - before;
    assert.ok(grown < 130 * MIB, `memory grew by ${(grown / MIB).toFixed(0)} MiB`);
    for (const peer of [...idle, ...deaf]) peer.close();
  });

  test(`${on}: what waits for an upstream that is down costs no other client its connection`, async () => {
    await using server = await ServerProcess.start(
      config("memory-budget = 16 MB", "[h:up]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:1\n")
        .replace("echo = h:echo", "echo = h:echo\nbig = h:up"),
      target,
    );
    using sender = await RawPeer.open(server.port);
    for (let i = 0; i < 15; i++) sender.write(message("", "big.n", Buffer.alloc(MIB), ""));
    await server.until(/dropped \d+ messages? for tcp:\S+: the upstream is down and its queue is full/);
    for (let i = 0; i < 5; i++) {
      using other = await RawPeer.open(server.port);
      other.write(message("", "x.large", Buffer.alloc(1.5 * MIB), ""));
      await echoes(other);
    }
    assert.equal(await metric(server, 'cc_clients_closed_total{reason="memory-budget"}'), 0);
  });

  test(`${on}: memory-budget holds while a server stops`, async () => {
    await using server = await ServerProcess.start(
      config("memory-budget = 16 MB\nzmq_linger = 4000"),
      target,
    );
    const peers = await Promise.all(
      Array.from({ length: 8 }, () => RawPeer.open(server.port, "DEALER", "", true)),
    );
    const before = server.residentBytes;
    process.kill(server.pid, "SIGTERM");
    await until("FIN", () => peers.every(({ closed }) => closed));
    const begun = message("", "x.y", Buffer.alloc(40 * MIB), "").subarray(0, 30 * MIB);
    for (const peer of peers) peer.write(begun);
    let most = 0;
    while (server.child.exitCode === null && server.child.signalCode === null) {
      try {
        most = Math.max(most, server.residentBytes - before);
      } catch {
        break; // it has just ended
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await server.exited;
    assert.match(server.output, /memory-budget, \d+ in all/);
    assert.ok(most < 150 * MIB, `memory grew by ${(most / MIB).toFixed(0)} MiB`);
    for (const peer of peers) peer.close();
  });

  test(`${on}: a message that is begun and does not go on ends its connection; one that goes on slowly does not`, async () => {
    await using server = await ServerProcess.start(config("message-timeout = 0.4"), target);
    using slow = await RawPeer.open(server.port);
    using stuck = await RawPeer.open(server.port);
    stuck.write(ECHO.subarray(0, 20));
    for (let at = 0; at < ECHO.length; at += 4) {
      slow.write(ECHO.subarray(at, at + 4));
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.equal((await slow.receive())[1].toString(), "echo.response");
    await until("its end", () => stuck.closed);
    await server.until(
      /closed tcp:\S+: it began a message and sent nothing more of it for 0\.4 s \(message-timeout, 1 in all\)/,
    );
    await echoes(slow);
  });

  test(`${on}: HTTP answers a probe while others only connect, and no page that names another host`, async () => {
    await using server = await ServerProcess.start(config("http-hosts = web1.example.net"), target);
    const url = httpOf(server);
    const { port } = new URL(url);
    const idle = Array.from(
      { length: 40 },
      () => net.connect(Number(port), "127.0.0.1").on("error", () => {}),
    );
    try {
      await Promise.all(idle.map((socket) => new Promise((resolve) => socket.once("connect", resolve))));
      for (let i = 0; i < 3; i++) assert.equal((await fetch(`${url}/healthz`)).status, 200);
    } finally {
      for (const socket of idle) socket.destroy();
    }
    const get = (target: string, host: string) =>
      rawHttp(url, `GET ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    for (
      const host of ["127.0.0.1", "localhost:9108", "[::1]:9108", "web1.example.net", "WEB1.example.net:80"]
    ) {
      assert.match(await get("/healthz", host), /^HTTP\/1\.1 200 /, host);
    }
    const refused = await get("/healthz", "evil.example");
    assert.match(refused, /^HTTP\/1\.1 421 /);
    assert.match(refused, /no host "evil\.example" is served here: http-hosts names others/);
    assert.match(
      await get("http://localhost/healthz?x", "evil.example"),
      /^HTTP\/1\.1 200 /,
      "the target's host counts",
    );
    assert.match(await get("http://evil.example/metrics", "localhost"), /^HTTP\/1\.1 421 /);
  });

  test(`${on}: a server that is started in a folder that is gone works, with absolute paths, where the runtime does`, async () => {
    using folder = tempFolder();
    const file = join(folder.path, "test.ini");
    writeFileSync(file, config());
    const gone = join(folder.path, "gone");
    mkdirSync(gone);
    const script = `cd "$0" && rmdir "$0" && exec "$@"`;
    const command = target.command.map((word) => existsSync(join(ROOT, word)) ? join(ROOT, word) : word);
    await using server = new ServerProcess({ name: on, command: ["sh", "-c", script, gone, ...command] }, [
      file,
    ]);
    if (on === "binary" || on === "deno") {
      // Their own start-up wants a folder, and says so.
      assert.notEqual((await server.exited).code, 0);
      assert.match(server.output, /current working directory/);
      return;
    }
    await server.until(/listening on \S+,/);
    assert.equal((await server.stop()).code, 0);
  });

  test(`${on}: a signal that comes as soon as the pidfile is there stops a server in the middle of its start`, async () => {
    using folder = tempFolder();
    const file = join(folder.path, "test.ini");
    const pidfile = join(folder.path, "test.pid");
    for (let i = 0; i < 3; i++) {
      writeFileSync(file, config(`pidfile = ${pidfile}`));
      await using server = new ServerProcess(target, [file]);
      await until("the pidfile", () => existsSync(pidfile), 10_000, 0);
      process.kill(server.pid, "SIGHUP");
      process.kill(server.pid, "SIGTERM");
      assert.deepEqual(await server.exited, { code: 0, signal: null }, server.output);
      assert.equal(existsSync(pidfile), false);
    }
  });

  for (const kind of ["pipe", "socket", "pipe as its logfile"] as const) {
    test(`${on}: a log that nobody reads, a full ${kind}, holds nothing up; SIGTERM ends the server, and the loss is told`, async () => {
      using folder = tempFolder();
      const file = join(folder.path, "test.ini");
      const fifo = join(folder.path, "log");
      const more = kind === "pipe as its logfile" ? `logfile = ${fifo}\n` : "";
      const ini = config(`stats-period = 86400\nheartbeat = 0\n${more}`, "[h:log]\nhandler = locallogger\n");
      writeFileSync(file, ini.replace("echo = h:echo", "echo = h:echo\nlog = h:log"));
      await using server = await Unread.start(target, kind, fifo, file);
      await server.until(/listening on \S+,/);
      server.read(false);
      const [, port] = /listening on \S+:(\d+),/.exec(server.output)!;
      const text = "x".repeat(1000);
      const line = message(
        "",
        "log.info",
        JSON.stringify({ req: "log.info", log_level: "INFO", log_msg: text, log_time: 1 }),
        "",
      );
      using peer = await RawPeer.open(Number(port));
      // More than the pipe takes, and more than waits for it.
      for (let i = 0; i < 10; i++) {
        peer.write(Buffer.concat(Array.from({ length: 1000 }, () => line)));
        const began = performance.now();
        await echoes(peer);
        assert.ok(performance.now() - began < 2000, "an echo in between");
      }
      server.read(true);
      const told = /WARNING \S+\.log: (\d+) log lines? (?:was|were) lost/g;
      const came = () => (server.output.match(/xxxx\n/g) ?? []).length;
      const lost = () => [...server.output.matchAll(told)].reduce((sum, [, n]) => sum + Number(n), 0);
      await until(
        () => `all but the lost ones: ${came()} came, ${lost()} are lost`,
        () => lost() > 0 && came() + lost() === 10_000,
        15_000,
      );
      server.read(false);
      for (let i = 0; i < 2; i++) peer.write(Buffer.concat(Array.from({ length: 1000 }, () => line)));
      await echoes(peer);
      const began = performance.now();
      process.kill(server.pid, "SIGTERM");
      await server.exited;
      assert.ok(performance.now() - began < 4000, "log-linger is a second");
    });
  }

  test(`${on}: a log, pid or info file that is a folder, a device or a pipe is refused with the reason`, async () => {
    using folder = tempFolder();
    const fifo = join(folder.path, "fifo");
    assert.equal(spawnSync("mkfifo", [fifo]).status, 0);
    const tries: [string, RegExp][] = [
      [`logfile = ${folder.path}`, /logfile .*: it is a folder/],
      [`logfile = ${fifo}`, /logfile .*: it is a pipe that nobody reads/],
      [`pidfile = ${fifo}`, /pidfile .*: it is a pipe/],
      ["pidfile = /dev/null", /pidfile .*: it is a device/],
      [`infofile = ${fifo}`, /infofile .*: it is a pipe/],
    ];
    for (const [option, why] of tries) {
      const file = join(folder.path, "test.ini");
      writeFileSync(file, config(option));
      await using server = new ServerProcess(target, [file]);
      const { code } = await server.exited;
      assert.notEqual(code, 0, option);
      assert.match(server.output, why);
    }
    writeFileSync(join(folder.path, "test.ini"), config("logfile = /dev/stderr"));
    await using server = new ServerProcess(target, [join(folder.path, "test.ini")]);
    await server.until(/listening on \S+,/);
  });

  test(`${on}: results that cannot be written end with a message and a code`, async () => {
    const full = openSync("/dev/full", "w");
    const [command, ...args] = target.command;
    const child = spawn(command, [...args, "--ini"], { cwd: ROOT, stdio: ["ignore", full, "pipe"] });
    let told = "";
    child.stderr!.setEncoding("utf8").on("data", (text) => told += text);
    const code = await new Promise((resolve) => child.on("close", resolve));
    assert.match(told, /^ccserver: cannot write to stdout: .*no space left/i);
    assert.equal(code, 74);
  });
}

test("npm: a server that npm has started ends with it", async () => {
  using folder = tempFolder();
  const file = join(folder.path, "test.ini");
  const pidfile = join(folder.path, "test.pid");
  writeFileSync(file, config(`pidfile = ${pidfile}`));
  const child = spawn("npm", ["run", "-s", "ccserver", "--", file], { cwd: ROOT, stdio: "ignore" });
  const pid = Number(await until("the pidfile", () => existsSync(pidfile) && readFileSync(pidfile, "utf8")));
  process.kill(child.pid!, "SIGTERM");
  await until("its end", () => !existsSync(`/proc/${pid}`));
});

test("statistics: types that nobody sends any more make room, those that the routes name always have it", () => {
  const statistics = new Statistics(2);
  statistics.route(["log.info"]);
  const send = (type: string) => statistics.add("ok", 1, 10, 0, statistics.type(type));
  send("pub.often");
  for (let i = 0; i < 2 * TYPES_TRACKED; i++) send(`made.up${i}`);
  send("log.info");
  assert.equal(statistics.type("log.info")!.name, "log.info");
  assert.equal(statistics.type("pub.new")!.name, "other");
  const minute = 60_000;
  for (let now = 0; now <= 15 * minute; now += minute) {
    send("pub.often");
    assert.equal(statistics.expireTypes(now), now === 15 * minute);
  }
  assert.equal(statistics.type("pub.new")!.name, "pub.new");
  assert.equal(statistics.type("pub.often")!.count, 17);
  assert.equal(statistics.type("log.info")!.count, 1);
  assert.equal(statistics.total().count, 2 + 2 * TYPES_TRACKED + 16, "all are in the totals");
});

test("text: what is invisible, or moves the cursor, is escaped", () => {
  const told = printable("a\u061c\u200b\u{e0000}\u00ad\x1b[31m\u202e\ud800\u3164\ufe0fz", Infinity);
  assert.equal(told, "a\\u061c\\u200b\\u{e0000}\\xad\\x1b[31m\\u202e\\ud800\\u3164\\ufe0fz");
  assert.equal(printable("naïve 日本語 🎉 é"), "naïve 日本語 🎉 é");
});

test("pinger: after a process was stopped for a while, nothing is said of an upstream that is well", () => {
  const clock = new TestClock();
  const lines: string[] = [];
  const log = new Logger("h:up", { sink: (line) => lines.push(line), pid: 1, clock });
  const pinger = new Pinger({ ...MACHINE, clock }, log, "tcp://collector:1", 1000, () => {});
  clock.pass(3000);
  clock.sleep(60_000);
  clock.pass(3000);
  assert.deepEqual(lines, []);
  clock.pass(5000);
  assert.match(lines[0], /no pong from tcp:\/\/collector:1 for \d s/);
  pinger.close();
});
