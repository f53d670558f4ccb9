/** What every driver in `runtime/` must do, on real sockets. The same file runs on Bun, Deno and Node. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { lookup } from "node:dns/promises";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import net from "node:net";
import process from "node:process";
import runtime from "#runtime";
import { READ_BLOCK_BYTES } from "../src/memory/arena.ts";
import type { Child, Exit, Mailbox, Pipe, SignalName, SpawnOptions } from "../src/contracts/environment.ts";
import { CCError } from "../src/errors.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import type { Address, Link, LinkEvents, Listener } from "../mod.ts";
import { RUNTIME, skipFor, tempFolder, text, until, utf8 } from "./helpers/env.ts";
import { test } from "./helpers/memory.ts";

const OPTIONS = {
  keepAlive: { idleSeconds: 77, intervalSeconds: 15, count: 4 },
  receiveBufferBytes: 0,
  sendBufferBytes: 0,
};
const LOOPBACK: Address = { transport: "tcp", host: "127.0.0.1", port: 0 };

/** One end of a link, with all that happened to it. */
class End implements LinkEvents {
  link!: Link;
  received = 0;
  chunks: string[] = [];
  isEnded = false;
  isClosed = false;
  error: Error | undefined;
  writes = 0;
  keep = true;
  data(chunk: Uint8Array, start: number, end: number) {
    this.received += end - start;
    if (this.keep) this.chunks.push(text(chunk.subarray(start, end)));
  }
  readTarget(): Uint8Array | null {
    return null;
  }
  commitRead(_n: number) {}
  written() {
    this.writes++;
  }
  ended() {
    this.isEnded = true;
  }
  closed(error?: Error) {
    this.isClosed = true;
    this.error = error;
  }
  get text() {
    return this.chunks.join("");
  }
  /** Writes and waits until the buffer is free again. */
  async write(bytes: Uint8Array) {
    const before = this.writes;
    if (!this.link.write(bytes, 0, bytes.length)) await until("the write", () => this.writes > before);
  }
}

async function listen(
  address: Address = LOOPBACK,
  make = () => new End(),
): Promise<{ listener: Listener; accepted: End[] }> {
  const accepted: End[] = [];
  const listener = await runtime.listen(address, OPTIONS, (link) => {
    const end = make();
    end.link = link;
    accepted.push(end);
    return end;
  });
  return { listener, accepted };
}

function connect(address: Address, end = new End()): Promise<End> {
  return new Promise((resolve, reject) => {
    runtime.connect(address, OPTIONS, (link) => {
      end.link = link;
      resolve(end);
      return end;
    }, reject);
  });
}

/** A pair of connected ends. */
async function pair(address?: Address, make?: () => End) {
  const { listener, accepted } = await listen(address, make);
  const client = await connect(listener.address, make?.());
  const server = await until("the accepted link", () => accepted[0]);
  return {
    listener,
    client,
    server,
    [Symbol.dispose]() {
      client.link.destroy();
      server.link.destroy();
      listener.close();
    },
  };
}

test(`${RUNTIME}: connects, and bytes go both ways`, async () => {
  using p = await pair();
  const { client, server } = p;
  await client.write(utf8("to the server"));
  await server.write(utf8("to the client"));
  await until("bytes", () => server.text === "to the server" && client.text === "to the client");
  assert.match(server.link.remote, /^tcp:\/\/127\.0\.0\.1:\d+$/);
});

test(`${RUNTIME}: writes only the range that is asked for`, async () => {
  using p = await pair();
  await p.client.write(utf8("a"));
  const bytes = utf8("0123456789");
  if (!p.client.link.write(bytes, 3, 6)) await until("the write", () => p.client.writes > 0);
  await until("the range", () => p.server.text === "a345");
});

test(`${RUNTIME}: a refused connection is told, with its code`, async () => {
  const { listener } = await listen();
  const { address } = listener;
  await listener.close();
  await assert.rejects(connect(address), (error: { code?: string; message: string }) => {
    assert.equal(error.code, "ECONNREFUSED");
    assert.match(error.message, /connection refused/);
    return true;
  });
});

test(`${RUNTIME}: a cancelled connect calls nobody`, async () => {
  const { listener, accepted } = await listen();
  let called = false;
  const cancel = runtime.connect(listener.address, OPTIONS, () => {
    called = true;
    return new End();
  }, () => called = true);
  cancel();
  await connect(listener.address);
  await until("a later link", () => accepted.length > 0);
  assert.equal(called, false);
  for (const { link } of accepted) link.destroy();
  listener.close();
});

test(`${RUNTIME}: an address in use is told, with its code`, async () => {
  const { listener } = await listen();
  await assert.rejects(listen(listener.address), (error: { code?: string; message: string }) => {
    assert.equal(error.code, "EADDRINUSE");
    assert.match(error.message, /cannot listen on tcp:\/\/127\.0\.0\.1:\d+: the address is in use/);
    return true;
  });
  listener.close();
});

test(`${RUNTIME}: half-close: the other side may go on writing`, async () => {
  using p = await pair();
  const { client, server } = p;
  await client.write(utf8("last words"));
  client.link.end();
  await until("end", () => server.isEnded);
  assert.equal(server.text, "last words");
  await server.write(utf8("answer"));
  await until("answer", () => client.text === "answer");
  assert.equal(client.isClosed, false);
});

test(`${RUNTIME}: FIN waits for the write in flight`, async () => {
  using p = await pair();
  const { client, server } = p;
  server.keep = false;
  server.link.pause();
  const large = new Uint8Array(16 * 1024 * 1024);
  client.link.write(large, 0, large.length);
  client.link.end();
  server.link.resume();
  await until("all bytes and the end", () => server.received === large.length && server.isEnded, 20_000);
});

test(`${RUNTIME}: destroy is seen by the other side, and calls nobody on this one`, async () => {
  using p = await pair();
  p.client.link.destroy();
  await until("the end", () => p.server.isEnded || p.server.isClosed);
  assert.equal(p.client.isClosed || p.client.isEnded, false);
});

test(`${RUNTIME}: a reset ends the link once`, async () => {
  const { listener, accepted } = await listen();
  const { port } = listener.address as { port: number };
  const raw = net.connect(port, "127.0.0.1");
  raw.on("error", () => {});
  const server = await until("the link", () => accepted[0]);
  await server.write(utf8("unread, so that closing resets"));
  let closes = 0;
  server.closed = () => void closes++;
  let ends = 0;
  server.ended = () => void ends++;
  raw.resetAndDestroy();
  await until("the end", () => closes + ends > 0);
  server.link.destroy();
  assert.ok(closes <= 1 && ends <= 1, `${closes} closes, ${ends} ends`);
  listener.close();
});

test(`${RUNTIME}: back-pressure: a write to one that does not read stays in flight, and is done when it reads`, async () => {
  using p = await pair();
  const { client, server } = p;
  server.keep = false;
  server.link.pause();
  const block = new Uint8Array(1024 * 1024);
  let blocks = 0;
  let stuck = false;
  while (!stuck && blocks < 64) {
    blocks++;
    const before = client.writes;
    if (client.link.write(block, 0, block.length)) continue;
    stuck = await until("the write", () => client.writes > before, 300).then(() => false, () => true);
  }
  assert.ok(stuck, `${blocks} MiB were taken by one that does not read`);
  const taken = client.link.writtenBytes();
  assert.ok(taken >= 0 && taken < block.length, `taken ${taken}`);
  server.link.resume();
  await until("all bytes", () => server.received === blocks * block.length, 20_000);
});

test(`${RUNTIME}: what is listed is written at once, as far as the peer takes it`, {
  skip: skipFor(runtime.vectors === undefined ? `${RUNTIME} writes one piece at a time` : false),
}, async () => {
  using p = await pair();
  const { client, server } = p;
  const vectors = runtime.vectors!;
  const pieces = ["one ", "two ", "three"].map(utf8);
  pieces.forEach((piece, i) => vectors.set(5 + i, piece, 0, piece.length));
  assert.equal(client.link.writev!(5, 3), 13);
  await until("the pieces", () => server.text === "one two three");
  server.keep = false;
  server.link.pause();
  const block = new Uint8Array(1024 * 1024);
  for (let i = 0; i < 64; i++) vectors.set(i, block, 0, block.length);
  let sent = 0;
  for (let n = -1; n !== 0;) sent += n = client.link.writev!(0, 64);
  assert.ok(sent > 0 && sent < 64 * block.length, `${sent} bytes were taken by one that does not read`);
  server.link.resume();
  await until("all that was taken", () => server.received === 13 + sent, 20_000);
  client.link.destroy();
  assert.equal(client.link.writev!(0, 1), 0, "nothing, when the link is gone");
});

test(`${RUNTIME}: trim gives the memory of free pieces back, and of no others`, {
  skip: skipFor(
    runtime.trim === undefined || RUNTIME === "node" || process.platform !== "linux"
      ? `${RUNTIME} on ${process.platform} cannot`
      : false,
  ),
}, () => {
  const arena = runtime.arena!;
  const [used, free] = [arena.take(READ_BLOCK_BYTES)!, arena.take(READ_BLOCK_BYTES)!];
  for (const { start, end } of [used, free]) arena.buf.fill(7, start, end);
  free.release();
  runtime.trim!();
  assert.ok(arena.buf.subarray(used.start, used.end).every((byte) => byte === 7));
  // What the system gives anew is zero.
  assert.ok(arena.buf.subarray(free.start, free.end).every((byte) => byte === 0));
  used.release();
});

test(`${RUNTIME}: after destroy, the buffer of a write in flight is not read any more`, async () => {
  using p = await pair();
  const { client, server } = p;
  let foreign = 0;
  server.data = (chunk, start, end) => {
    server.received += end - start;
    for (let i = start; i < end; i++) if (chunk[i] !== 1) foreign++;
  };
  server.link.pause();
  const block = new Uint8Array(32 * 1024 * 1024).fill(1);
  assert.equal(client.link.write(block, 0, block.length), false, "more than the kernel takes at once");
  // A round trip on another link: what the kernel takes now, it has taken by then.
  using other = await pair();
  await other.client.write(utf8("x"));
  await until("x", () => other.server.text === "x");
  client.link.destroy();
  block.fill(2);
  server.link.resume();
  await until("the end", () => server.isEnded || server.isClosed, 20_000);
  assert.ok(server.received < block.length, "it was in flight");
  assert.equal(foreign, 0);
});

test(`${RUNTIME}: pause and resume: no data while paused, none lost`, async () => {
  using p = await pair();
  const { client, server } = p;
  await client.write(utf8("1"));
  await until("1", () => server.text === "1");
  server.link.pause();
  await client.write(utf8("2"));
  // A second link's round trip shows that time enough has passed for "2" to arrive.
  using other = await pair();
  await other.client.write(utf8("x"));
  await until("x", () => other.server.text === "x");
  const whilePaused = server.text;
  server.link.resume();
  await until("2", () => server.text === "12");
  assert.equal(whilePaused, "1");
});

test(`${RUNTIME}: pause inside data holds what follows`, async () => {
  class Pausing extends End {
    override data(chunk: Uint8Array, start: number, end: number) {
      super.data(chunk, start, end);
      this.link.pause();
    }
  }
  using p = await pair(LOOPBACK, () => new Pausing());
  const { client, server } = p;
  for (let i = 0; i < 3; i++) {
    await client.write(utf8(String(i)));
    await until(`chunk ${i}`, () => {
      server.link.resume();
      return server.text.length === i + 1;
    });
  }
  assert.equal(server.text, "012");
});

test(`${RUNTIME}: a link that brings much and then answers at once leaves others their turn`, async () => {
  let ask = () => {};
  class Asked extends End {
    calls = 0;
    override data(chunk: Uint8Array, start: number, end: number) {
      this.calls++;
      super.data(chunk, start, end);
      ask();
    }
  }
  const asked: Asked[] = [];
  using p = await pair(undefined, () => {
    asked.push(new Asked());
    return asked.at(-1)!;
  });
  const { client, server } = p;
  const accepted = asked.find((end) => end === server)!;
  server.keep = false;
  server.link.pause();
  await client.write(new Uint8Array(200 * 1024));
  const one = new Uint8Array(1);
  let turns = 0;
  let counting = true;
  const turn = () => {
    turns++;
    if (counting) setImmediate(turn);
  };
  // The next byte is there as soon as the last has been taken.
  ask = () => {
    if (accepted.calls < 500) client.link.write(one, 0, 1);
    else counting = false;
  };
  setImmediate(turn);
  server.link.resume();
  await until("so many reads", () => !counting);
  assert.ok(turns > 50, `${turns} turns of the event loop in ${accepted.calls} reads`);
});

test(`${RUNTIME}: large writes arrive whole and in order`, async () => {
  using p = await pair();
  const { client, server } = p;
  const block = new Uint8Array(3 * 1024 * 1024 + 17);
  let next = 0;
  let wrong = 0;
  server.data = (chunk, start, end) => {
    for (let i = start; i < end; i++) if (chunk[i] !== next++ % 251) wrong++;
    server.received += end - start;
  };
  for (let at = 0, n = 0; n < 8; n++) {
    for (let i = 0; i < block.length; i++) block[i] = at++ % 251;
    await client.write(block);
  }
  await until("all bytes", () => server.received === 8 * block.length, 20_000);
  assert.equal(wrong, 0);
});

test(`${RUNTIME}: a driver that reads into our buffer fills what it asked for`, async () => {
  class Direct extends End {
    buffer = new Uint8Array(200_000);
    at = 0;
    override readTarget() {
      return this.at > 0 && this.at < this.buffer.length ? this.buffer.subarray(this.at) : null;
    }
    override commitRead(n: number) {
      this.at += n;
    }
    override data(chunk: Uint8Array, start: number, end: number) {
      this.buffer.set(chunk.subarray(start, end), this.at);
      this.at += end - start;
    }
  }
  const server = new Direct();
  const { listener } = await listen(LOOPBACK, () => server);
  const client = await connect(listener.address);
  const bytes = Uint8Array.from({ length: 200_000 }, (_, i) => i % 241);
  await client.write(bytes);
  await until("all bytes", () => server.at === bytes.length);
  assert.ok(server.buffer.every((b, i) => b === i % 241));
  client.link.destroy();
  server.link.destroy();
  listener.close();
});

test(`${RUNTIME}: Unix sockets`, async () => {
  using folder = tempFolder();
  using p = await pair({ transport: "ipc", path: join(folder.path, "s.sock") });
  await p.client.write(utf8("over a file"));
  await until("bytes", () => p.server.text === "over a file");
  assert.match(p.server.link.remote, /^ipc:\/\/.*s\.sock$/);
  p.client.link.end();
  await until("end", () => p.server.isEnded);
});

test(`${RUNTIME}: IPv6`, async (t) => {
  const hasIpv6 = await lookup("::1").then(
    () => listen({ transport: "tcp", host: "::1", port: 0 }),
    () => null,
  )
    .catch(() => null);
  if (hasIpv6 === null) {
    console.log("skipped: this machine has no IPv6 loopback");
    t.skip?.("no IPv6 loopback");
    return;
  }
  hasIpv6.listener.close();
  using p = await pair({ transport: "tcp", host: "::1", port: 0 });
  await p.client.write(utf8("six"));
  await until("bytes", () => p.server.text === "six");
  assert.match(p.server.link.remote, /^tcp:\/\/\[::1\]:\d+$/);
});

test(`${RUNTIME}: keep-alive is on, as ss shows it`, async (t) => {
  const ss = spawnSync("ss", ["-V"]);
  if (ss.status !== 0) {
    console.log("skipped: ss is not installed (Debian package iproute2)");
    t.skip?.("ss is not installed");
    return;
  }
  using p = await pair();
  const { port } = p.listener.address as { port: number };
  const { stdout } = spawnSync("ss", [
    "-tnoH",
    "state",
    "established",
    `sport = :${port} or dport = :${port}`,
  ], {
    encoding: "utf8",
  });
  const timers = [...stdout.matchAll(/timer:\(keepalive,(?:(\d+)min)?(?:([\d.]+)sec)?/g)];
  assert.equal(timers.length, 2, `both ends have a keep-alive timer:\n${stdout}`);
  for (const [, minutes = "0", seconds = "0"] of timers) {
    const idle = Number(minutes) * 60 + Number(seconds);
    assert.ok(idle > 60 && idle <= 77, `idle time ${idle} s, asked for 77:\n${stdout}`);
  }
});

/** Sends all it can to a port, until it is ended. */
const FLOOD = `
const socket = require("node:net").connect(Number(process.argv[1]), "127.0.0.1");
const bytes = Buffer.alloc(1 << 20, 1);
const write = () => { while (socket.write(bytes)); };
socket.on("connect", write).on("drain", write);
`;

for (const floods of [1, 8]) {
  test(`${RUNTIME}: one that sends little is served beside ${floods} that send all they can`, async () => {
    let bytes = 0;
    class Counting extends End {
      override data(_chunk: Uint8Array, start: number, end: number) {
        bytes += end - start;
        if (end - start === 1) lights.push(bytes);
      }
    }
    const lights: number[] = [];
    const { listener, accepted } = await listen(LOOPBACK, () => new Counting());
    const { port } = listener.address as { port: number };
    const light = await connect(listener.address);
    const senders = Array.from(
      { length: floods },
      () => spawn("node", ["-e", FLOOD, String(port)], { stdio: "ignore" }),
    );
    try {
      await until("the floods", () => bytes > 50e6 * floods);
      const waits: number[] = [];
      while (waits.length < 30) {
        const before = bytes;
        const count = lights.length;
        await light.write(Uint8Array.of(1));
        await until("the light one's byte", () => lights.length > count);
        waits.push(lights[count] - before);
      }
      waits.sort((a, b) => a - b);
      const mib = (n: number) => n / 2 ** 20;
      console.log(
        `beside ${floods}: MiB that came before it, median and most:`,
        mib(waits[15]),
        mib(waits[29]),
      );
      // About two turns' bytes; a driver that reads a link for as long as it brings something lets 100 MiB pass.
      assert.ok(mib(waits[15]) <= 12, `${mib(waits[15])} MiB`);
    } finally {
      for (const sender of senders) sender.kill("SIGKILL");
      light.link.destroy();
      for (const { link } of accepted) link.destroy();
      await listener.close();
    }
  });
}

const { files, processes } = MACHINE;
const ENV = { PATH: process.env.PATH ?? "/usr/bin:/bin" };

/** Processes of a test, which ends with none of them. */
class Started {
  readonly children: Child[] = [];
  spawn(command: string[], options: Partial<SpawnOptions> = {}): Child & { readonly pid: number } {
    const child = processes.spawn(command, { env: ENV, output: null, ...options });
    this.children.push(child);
    assert.ok(child.pid !== null && child.pid > 1, `${command[0]} was started`);
    return child as Child & { readonly pid: number };
  }
  sh(script: string, options?: Partial<SpawnOptions>) {
    return this.spawn(["sh", "-c", script], options);
  }
  async [Symbol.asyncDispose]() {
    for (const { pid } of this.children) if (pid !== null) processes.signal(-pid, "SIGKILL");
    for (const { exited } of this.children) await exited;
  }
}

/** Pipes in a folder, and what came by them. */
async function openPipes(folder: string, ...names: string[]) {
  const opened = await files.openPipes(names.map((name) => join(folder, name)));
  const pipes = opened.map((pipe) => {
    if (pipe instanceof CCError) throw pipe;
    return pipe;
  });
  return { pipes, [Symbol.dispose]: () => pipes.forEach((pipe) => pipe.close()) };
}

const room = new Uint8Array(64 * 1024);

function readAll(pipe: Pipe): string {
  let all = "";
  for (let n = -1; n !== 0;) all += text(room.subarray(0, n = pipe.read(room)));
  return all;
}

/** What a shell script says. */
async function said(script: string, options: Partial<SpawnOptions> = {}): Promise<string> {
  using folder = tempFolder();
  using opened = await openPipes(folder.path, "out");
  await using started = new Started();
  const { exited } = started.sh(script, { ...options, output: opened.pipes[0].fd });
  await exited;
  return readAll(opened.pipes[0]);
}

/** Files in a folder that a process has open, each once. */
function openIn(folder: string, pid: number): string[] {
  const found = new Set<string>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      found.add(readlinkSync(`/proc/${pid}/fd/${fd}`));
    } catch {
      // the one that the folder of descriptors was read by
    }
  }
  return [...found].filter((name) => name.startsWith(folder)).sort();
}

test(`${RUNTIME}: a process ends with a code, or by a signal`, async () => {
  await using started = new Started();
  assert.deepEqual(await started.sh("exit 0").exited, { code: 0, signal: null, error: null });
  assert.deepEqual(await started.sh("exit 7").exited, { code: 7, signal: null, error: null });
  for (
    const signal of ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGKILL", "SIGABRT"]
  ) {
    const child = started.spawn(["sleep", "600"]);
    await until("sleep", () => readFileSync(`/proc/${child.pid}/comm`, "utf8") === "sleep\n");
    assert.equal(processes.signal(-child.pid, signal as SignalName), true);
    assert.deepEqual(await child.exited, { code: null, signal, error: null });
    assert.equal(processes.signal(child.pid, 0), false);
    assert.equal(processes.signal(-child.pid, "SIGTERM"), false);
  }
});

test(`${RUNTIME}: what cannot be started tells why`, async () => {
  using folder = tempFolder();
  const { path } = folder;
  writeFileSync(join(path, "plain"), "no program");
  const start = (command: string[], options: Partial<SpawnOptions> = {}): Promise<Exit> => {
    const { pid, exited } = processes.spawn(command, { env: ENV, output: null, ...options });
    assert.equal(pid, null, command[0]);
    return exited;
  };
  const exit = (error: string) => ({ code: null, signal: null, error });
  assert.deepEqual(await start([join(path, "none")]), exit("ENOENT"));
  assert.deepEqual(await start(["no-such-program-here"]), exit("ENOENT"));
  assert.deepEqual(await start([join(path, "plain")]), exit("EACCES"));
  assert.deepEqual(await start(["true"], { cwd: join(path, "none") }), exit("ENOENT"));
  assert.deepEqual(await start(["true", "x".repeat(4 * 1024 * 1024)]), exit("E2BIG"));
  assert.notEqual((await start(["true", "a\0b"])).error, null);
  assert.notEqual((await start([""])).error, null);
});

test(`${RUNTIME}: a process leads a session and a group of its own, and is looked at`, async () => {
  await using started = new Started();
  const before = processes.look(process.pid)!;
  const child = started.sh("while :; do :; done");
  const found = processes.look(child.pid)!;
  assert.equal(found.pid, child.pid);
  assert.equal(found.session, child.pid);
  assert.equal(found.group, child.pid);
  assert.equal(found.parent, process.pid);
  assert.ok(found.started >= before.started);
  await until("processor time", () => processes.look(child.pid)!.cpuSeconds >= 0.05);
  assert.match(processes.look(child.pid)!.state, /^[RS]$/);
  assert.equal(processes.look(child.pid)!.started, found.started);
  const [, resident] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${process.pid}/status`, "latin1"))!;
  const ratio = processes.look(process.pid)!.residentBytes / (Number(resident) * 1024);
  assert.ok(ratio > 0.5 && ratio < 2, `resident memory, ${ratio} of what status has`);
  const listed = [...processes.list()];
  assert.equal(listed.find(({ pid }) => pid === child.pid)?.session, child.pid);
  assert.equal(listed.find(({ pid }) => pid === process.pid)?.started, before.started);
  processes.signal(child.pid, "SIGKILL");
  await child.exited;
  assert.equal(processes.look(child.pid), null);
});

test(`${RUNTIME}: a zombie is there until its parent asks`, async () => {
  using folder = tempFolder();
  using opened = await openPipes(folder.path, "out");
  await using started = new Started();
  // Sleep is no shell: it does not ask after the child that the shell it was had.
  started.sh("sh -c 'exit 0' & echo $!; exec sleep 600", { output: opened.pipes[0].fd });
  let told = "";
  const pid = Number(await until("its number", () => /^(\d+)\n/.exec(told += readAll(opened.pipes[0]))?.[1]));
  await until("the zombie", () => processes.look(pid)?.state === "Z");
  assert.equal(processes.signal(pid, 0), true);
  assert.equal(processes.environmentOf(pid, "PATH"), null);
});

test(`${RUNTIME}: no signal goes to us all, and what is not ours is told`, () => {
  for (const pid of [0, -1, 1.5, NaN]) {
    assert.throws(() => processes.signal(pid, 0), { name: "CCError", code: "EINVAL" });
  }
  assert.equal(processes.look(2 ** 30), null);
  assert.equal(processes.signal(2 ** 30, 0), false);
  if (process.getuid?.() !== 0) {
    assert.throws(() => processes.signal(1, 0), { name: "CCError", code: "EPERM" });
  }
});

test(`${RUNTIME}: a process has the environment it is given and no other, and its folder`, async () => {
  using folder = tempFolder();
  await using started = new Started();
  assert.deepEqual(processes.env, { ...process.env });
  const env = { B: "", A: "x=y\u00e4 z", LD_BIND_NOW: "1" };
  const env0 = "tr '\\0' '\\n' </proc/$$/environ";
  const told = await said(`PATH=${ENV.PATH}; ${env0}`, { env });
  assert.deepEqual(told.trim().split("\n").sort(), ["A=x=y\u00e4 z", "B=", "LD_BIND_NOW=1"]);
  assert.equal(await said("pwd -P", { cwd: folder.path }), `${folder.path}\n`);
  assert.equal(await said("pwd -P"), `${process.cwd()}\n`);
  const child = started.spawn(["sleep", "600"], { env: { ...ENV, ...env } });
  assert.equal(processes.environmentOf(child.pid, "A"), "x=y\u00e4 z");
  assert.equal(processes.environmentOf(child.pid, "B"), "");
  assert.equal(processes.environmentOf(child.pid, "LD_BIND"), null);
  assert.equal(processes.environmentOf(2 ** 30, "A"), null);
});

test(`${RUNTIME}: a program is looked for where the PATH that it is given says`, async () => {
  using folder = tempFolder();
  await using started = new Started();
  const program = join(folder.path, "cc-test-program");
  writeFileSync(program, "#!/bin/sh\nexit 5\n");
  chmodSync(program, 0o755);
  const child = started.spawn(["cc-test-program"], { env: { PATH: folder.path } });
  assert.deepEqual(await child.exited, { code: 5, signal: null, error: null });
});

test(`${RUNTIME}: a process has no signals blocked or ignored`, async () => {
  const told = await said("exec cat /proc/self/status");
  for (const name of ["SigBlk", "SigIgn"]) {
    // Some that start us ignore a signal for all below them; what we add ourselves must not come through.
    const ours = BigInt("0x" + /^SigIgn:\s+(\w+)/m.exec(readFileSync("/proc/self/status", "latin1"))![1]);
    const theirs = BigInt("0x" + new RegExp(`^${name}:\\s+(\\w+)`, "m").exec(told)![1]);
    const SIGPIPE = 1n << 12n;
    assert.equal(theirs & (~ours | SIGPIPE), 0n, `${name} ${theirs.toString(16)}`);
  }
});

test(`${RUNTIME}: without output, and for input, a process has /dev/null`, async () => {
  await using started = new Started();
  const child = started.spawn(["sleep", "600"]);
  const links = [0, 1, 2].map((fd) => readlinkSync(`/proc/${child.pid}/fd/${fd}`));
  assert.deepEqual(links, ["/dev/null", "/dev/null", "/dev/null"]);
});

test(`${RUNTIME}: a signal to a group reaches grandchildren, and another group does not get it`, async () => {
  using folder = tempFolder();
  using opened = await openPipes(folder.path, "out");
  await using started = new Started();
  const other = started.spawn(["sleep", "600"]);
  const child = started.sh("sleep 600 & echo $!; wait", { output: opened.pipes[0].fd });
  let told = "";
  const pid = Number(await until("its number", () => /^(\d+)\n/.exec(told += readAll(opened.pipes[0]))?.[1]));
  assert.equal(processes.look(pid)!.group, child.pid);
  assert.equal(processes.look(pid)!.session, child.pid);
  assert.equal(processes.signal(-child.pid, 0), true);
  assert.equal(processes.signal(-child.pid, "SIGTERM"), true);
  assert.equal((await child.exited).signal, "SIGTERM");
  // Whoever gets orphans here may not ask after them.
  await until("the end of the grandchild", () => (processes.look(pid)?.state ?? "Z") === "Z");
  assert.equal(processes.signal(-other.pid, "SIGCONT"), true);
  assert.equal(processes.look(other.pid)?.group, other.pid);
});

test(`${RUNTIME}: pipes: each has what was written to it, and no process has another's`, async () => {
  using folder = tempFolder();
  using opened = await openPipes(folder.path, "a", "b b");
  const [a, b] = opened.pipes;
  await using started = new Started();
  assert.equal(a.read(room), 0, "nothing was written");
  const [first, second] = [a, b].map(({ fd }, i) =>
    started.sh(`echo out ${i}; echo err ${i} >&2; exec sleep 600`, { output: fd })
  );
  let [fromA, fromB] = ["", ""];
  await until("what they say", () => {
    fromA += readAll(a);
    fromB += readAll(b);
    return fromA === "out 0\nerr 0\n" && fromB === "out 1\nerr 1\n";
  });
  assert.deepEqual(openIn(folder.path, first.pid), [join(folder.path, "a")]);
  assert.deepEqual(openIn(folder.path, second.pid), [join(folder.path, "b b")]);
  assert.deepEqual(openIn(folder.path, started.spawn(["sleep", "600"]).pid), []);
  assert.equal(a.read(room), 0, "it does not wait though a process was given it");
  const few = new Uint8Array(3);
  await started.sh("printf 12345", { output: a.fd }).exited;
  assert.deepEqual([a.read(few), text(few), a.read(few), a.read(few)], [3, "123", 2, 0]);
  a.close();
  a.close();
  assert.equal(a.read(room), 0, "closed");
});

test(`${RUNTIME}: pipes: one that writes more than a pipe holds waits, and goes on when it is read`, async () => {
  using folder = tempFolder();
  using opened = await openPipes(folder.path, "out");
  const [pipe] = opened.pipes;
  await using started = new Started();
  const child = started.sh("head -c 1000000 /dev/zero; echo end; exit 3", { output: pipe.fd });
  let isOver = false;
  child.exited.then(() => isOver = true);
  await until(
    "a writer that sleeps",
    () => [...processes.list()].some(({ parent, state }) => parent === child.pid && state === "S"),
  );
  assert.equal(isOver, false);
  let size = 0;
  let end = "";
  await until("all bytes", () => {
    for (let n = -1; n !== 0;) {
      size += n = pipe.read(room);
      if (n > 0) end = (end + text(room.subarray(Math.max(0, n - 4), n))).slice(-4);
    }
    return size === 1_000_004;
  });
  assert.equal(end, "end\n");
  assert.equal((await child.exited).code, 3);
});

test(`${RUNTIME}: pipes: a writer outlives the one that reads, and the next one gets what is there`, async () => {
  using folder = tempFolder();
  const first = await openPipes(folder.path, "out");
  await using started = new Started();
  const go = join(folder.path, "go");
  const child = started.sh(
    `echo before; while ! [ -e '${go}' ]; do sleep 0.01; done; echo after; exec sleep 600`,
    { output: first.pipes[0].fd },
  );
  let told = "";
  await until("its first words", () => (told += readAll(first.pipes[0])) === "before\n");
  first[Symbol.dispose]();
  writeFileSync(go, "");
  await until("sleep", () => readFileSync(`/proc/${child.pid}/comm`, "utf8") === "sleep\n");
  using next = await openPipes(folder.path, "out");
  assert.equal(readAll(next.pipes[0]), "after\n");
});

test(`${RUNTIME}: pipes: what is no pipe is an error in its place, and the others are opened`, async () => {
  using folder = tempFolder();
  const at = (name: string) => join(folder.path, name);
  writeFileSync(at("file"), "");
  mkdirSync(at("folder"));
  spawnSync("mkfifo", [at("wide"), at("-n'\n*")]);
  chmodSync(at("wide"), 0o666);
  symlinkSync(at("wide"), at("link"));
  symlinkSync("/dev/full", at("device"));
  const names = ["file", "new", "folder", "wide", "link", "device", "-n'\n*", "none/new", "file/new", "-m 7"];
  const opened = await files.openPipes(names.map(at));
  const codes = opened.map((pipe) => pipe instanceof CCError ? pipe.code : null);
  assert.deepEqual(codes, [
    "EINVAL",
    null,
    "EINVAL",
    null,
    "EINVAL",
    "EINVAL",
    null,
    "ENOENT",
    "ENOTDIR",
    null,
  ]);
  for (const name of ["new", "wide", "-m 7"]) {
    assert.equal(statSync(at(name)).mode & 0o7777, 0o600, name);
    assert.ok(statSync(at(name)).isFIFO(), name);
  }
  for (const [i, pipe] of opened.entries()) {
    if (pipe instanceof CCError) assert.ok(pipe.message.startsWith(`cannot open the pipe ${at(names[i])}: `));
    else pipe.close();
  }
  assert.deepEqual(await files.openPipes([]), []);
  assert.deepEqual(openIn(folder.path, process.pid), []);
});

test(`${RUNTIME}: a file for appending: processes write behind what is there`, async () => {
  using folder = tempFolder();
  const at = (name: string) => join(folder.path, name);
  await using started = new Started();
  for (const word of ["one", "two"]) {
    const fd = await files.openAppend(at("log"));
    assert.equal(
      await started.sh(`echo ${word}; echo ${word} >&2`, { output: fd }).exited.then((e) => e.code),
      0,
    );
    files.closeFile(fd);
  }
  assert.equal(readFileSync(at("log"), "utf8"), "one\none\ntwo\ntwo\n");
  assert.equal(statSync(at("log")).mode & 0o7777 & ~0o640, 0);
  using opened = await openPipes(folder.path, "pipe");
  spawnSync("mkfifo", [at("unread")]);
  for (const path of [at("pipe"), at("unread"), "/dev/null", folder.path, at("none/log")]) {
    await assert.rejects(files.openAppend(path), (error) => {
      assert.ok(error instanceof CCError, path);
      assert.ok(error.message.startsWith(`cannot open ${path}: `), error.message);
      return true;
    });
  }
  opened[Symbol.dispose]();
  assert.deepEqual(openIn(folder.path, process.pid), []);
});

test(`${RUNTIME}: files are removed and folders made, also where that was done before`, async () => {
  using folder = tempFolder();
  const at = (name: string) => join(folder.path, name);
  await files.makeFolder(at("folder"));
  await files.makeFolder(at("folder"));
  assert.ok(statSync(at("folder")).isDirectory());
  writeFileSync(at("file"), "");
  await assert.rejects(files.makeFolder(at("file")), { name: "CCError", code: "EEXIST" });
  await assert.rejects(files.makeFolder(at("none/folder")), { name: "CCError", code: "ENOENT" });
  linkSync(at("file"), at("folder/file"));
  await files.remove(at("file"));
  await files.remove(at("file"));
  assert.ok(!existsSync(at("file")) && existsSync(at("folder/file")));
  await files.remove(at("folder/file"));
  await assert.rejects(files.remove(at("folder")), { name: "CCError", code: "EISDIR" });
  assert.ok(existsSync(at("folder")));
});

test(`${RUNTIME}: the machine's start has a name`, () => {
  assert.match(processes.bootId, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  assert.equal(processes.bootId, processes.bootId);
});

test(`${RUNTIME}: a mailbox takes lines of other processes, for its owner alone`, async () => {
  using folder = tempFolder();
  const path = join(folder.path, "job.notify");
  const room = new Uint8Array(64 * 1024);
  const come = (box: Mailbox) => text(room.subarray(0, box.read(room)));
  const first = await files.openMailbox(path, null);
  const stats = statSync(path);
  assert.equal(stats.isSocket(), MACHINE.host.receivesDatagrams);
  assert.equal(stats.mode & 0o777, 0o600);
  assert.equal(come(first), "");
  assert.equal(await files.postTo(path, "READY=1\nSTATUS=all is w\u00e4ll\n"), true);
  assert.equal(await files.postTo(path, "WATCHDOG=1\n"), true);
  assert.equal(come(first), "READY=1\nSTATUS=all is w\u00e4ll\nWATCHDOG=1\n");
  if (MACHINE.host.receivesDatagrams) {
    // A datagram is lines, also without a newline behind the last; what is too long is cut, and nothing behind it.
    await files.postTo(path, "A=1");
    await files.postTo(path, `B=${"x".repeat(10_000)}`);
    await files.postTo(path, "C=1");
    const lines = come(first).split("\n");
    assert.deepEqual(lines.map((line) => line.length > 100 ? "long" : line), ["A=1", "long", "C=1", ""]);
  }
  // Another one takes its place; what is written to neither is told.
  const second = await files.openMailbox(path, null);
  assert.equal(await files.postTo(path, "D=1\n"), true);
  assert.deepEqual([come(first), come(second)], ["", "D=1\n"]);
  first.close();
  second.close();
  second.close();
  assert.equal(second.read(room), 0);
  assert.equal(await files.postTo(path, "E=1\n"), false);
  assert.equal(await files.postTo(join(folder.path, "nothing"), "E=1\n"), false);
  writeFileSync(join(folder.path, "file"), "");
  assert.equal(await files.postTo(join(folder.path, "file"), "E=1\n"), false);
  assert.equal(readFileSync(join(folder.path, "file"), "utf8"), "");
  await assert.rejects(
    files.openMailbox(join(folder.path, "file"), null),
    /cannot open the mailbox .*no mailbox/,
  );
  await assert.rejects(files.openMailbox(join(folder.path, "no", "folder"), null), CCError);
  if (MACHINE.host.receivesDatagrams) {
    await assert.rejects(
      files.openMailbox(join(folder.path, "x".repeat(120)), null),
      /no path of a socket|cannot/,
    );
  }
});

test(`${RUNTIME}: a secret is read from descriptor 3, and whoever does not read it holds nothing open`, async () => {
  using folder = tempFolder();
  using opened = await openPipes(folder.path, "out");
  await using started = new Started();
  const output = opened.pipes[0].fd;
  const before = readdirSync("/proc/self/fd").length;
  const secret = utf8("0123456789".repeat(7));
  await started.sh("cat <&3", { output, secret }).exited;
  assert.equal(readAll(opened.pipes[0]), text(secret));
  const others = Array.from({ length: 5 }, () => started.sh("exec sleep 600", { secret }));
  // A descriptor for each process is the runtime's own, by which it hears of its end.
  await until("nothing but processes", () => readdirSync("/proc/self/fd").length <= before + others.length);
  for (const { pid } of others) processes.signal(-pid!, "SIGKILL");
  assert.equal(await said("{ cat <&3; } 2>/dev/null; true"), "");
});

test(`${RUNTIME}: output that others hold open can be closed`, async () => {
  await using started = new Started();
  let came = "";
  const child = started.sh("echo one; setsid sleep 601 & exit 3", { output: (chunk) => came += text(chunk) });
  assert.equal((await child.exited).code, 3);
  await until("its output", () => came === "one\n");
  child.closeOutput();
  await child.outputEnded;
  const left = await until(
    "what is left",
    () => [...processes.list()].find(({ pid }) => readCommand(pid) === "sleep\x00601\x00"),
  );
  processes.signal(left.pid, "SIGKILL");
});

function readCommand(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1");
  } catch {
    return ""; // it has gone
  }
}
