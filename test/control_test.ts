/** The control channel, as an operator, a clumsy program and a hostile one meet it; and `ccserver jobs`, which asks there. */
import assert from "node:assert/strict";
import { chmodSync, existsSync, linkSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import net from "node:net";
import { basename, dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { CCError, VERSION } from "../mod.ts";
import { screenOf } from "../src/commands/jobs.ts";
import { controlSocketOf } from "../src/config/server_options.ts";
import { CONTROL_CONNECTIONS_MAX, CONTROL_IDLE_MS, CONTROL_LINE_MAX_BYTES } from "../src/limits.ts";
import { ControlChannel } from "../src/observe/control.ts";
import { listenOnFile } from "../src/runtime/ipc.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { StretchedClock } from "./helpers/clock.ts";
import { SLOW_TARGETS, TARGET, type Target, tempFolder, until } from "./helpers/env.ts";
import { run, ServerProcess } from "./helpers/process.ts";
import { configOf, keptLog, own, serverOn } from "./helpers/server.ts";

// deno-lint-ignore no-explicit-any -- what comes is JSON of any shape
type Answer = any;

/** One who speaks to a control channel in bytes. */
class Operator {
  readonly socket: net.Socket;
  text = "";
  closed = false;
  ended = false;

  private constructor(path: string) {
    this.socket = net.connect({ path, allowHalfOpen: true });
    this.socket.setEncoding("utf8");
    this.socket.on("data", (chunk: string) => this.text += chunk);
    this.socket.on("end", () => this.ended = true);
    this.socket.on("error", () => {});
    this.socket.on("close", () => this.closed = true);
  }

  static async open(path: string): Promise<Operator> {
    const operator = new Operator(path);
    await new Promise<void>((resolve, reject) => {
      operator.socket.once("error", reject);
      operator.socket.once("connect", () => {
        operator.socket.off("error", reject);
        resolve();
      });
    });
    return operator;
  }

  get answers(): Answer[] {
    return this.text.split("\n").slice(0, -1).map((line) => JSON.parse(line));
  }

  send(...requests: unknown[]): void {
    this.socket.write(requests.map((request) => `${JSON.stringify(request)}\n`).join(""));
  }

  /** Waits for so many answers in all. */
  async until(count: number): Promise<Answer[]> {
    return await until(() => `${count} answers in ${this.text.slice(0, 2000)}`, () => {
      const { answers } = this;
      return answers.length >= count ? answers : null;
    });
  }

  async ask(request: unknown): Promise<Answer> {
    const { length } = this.answers;
    this.send(request);
    return (await this.until(length + 1))[length];
  }

  async untilEnd(): Promise<void> {
    await until("the end of the connection", () => this.ended || this.closed);
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

/** A handler that answers some verbs, and those that wait when they are let go. */
function answering() {
  const waiting: (() => void)[] = [];
  const definition = own("mine", () => ({
    plan: () => ({ raw: true }),
    handle: () => "ok",
    async control(verb, request) {
      switch (verb) {
        case "say":
          return { said: request.text };
        case "wait":
          await new Promise<void>((resolve) => waiting.push(resolve));
          return { waited: true };
        case "refuse":
          throw new CCError("not-now", "I will not");
        case "crash":
          throw new TypeError("it broke");
      }
    },
  }));
  return { definition, waiting };
}

const ROUTES = "[routes]\n* = h:m\n[h:m]\nhandler = mine\n";

/** A server in this process with a control channel at a path. */
async function site(options = (at: (name: string) => string) => `control-socket = ${at("x.ctl")}\n`) {
  const folder = tempFolder();
  const at = (name: string) => join(folder.path, name);
  const { definition, waiting } = answering();
  const { log, lines } = keptLog();
  const server = serverOn(configOf(options(at) + ROUTES, [definition]), { log });
  const started = server.start();
  await started.catch(() => {});
  return {
    server,
    started,
    at,
    lines,
    waiting,
    path: at("x.ctl"),
    files: () => readdirSync(folder.path).sort(),
    async [Symbol.asyncDispose]() {
      for (const go of waiting) go();
      await server.stop();
      folder[Symbol.dispose]();
    },
  };
}

test("control: a socket for its owner alone answers its own verbs and those of handlers, and goes with the server", async () => {
  await using s = await site();
  await s.started;
  assert.equal(statSync(s.path).mode & 0o777, 0o600);
  assert.deepEqual(s.files(), ["x.ctl"], "nothing is left beside it");
  using operator = await Operator.open(s.path);
  const { id, result } = await operator.ask({ id: 7, verb: "version" });
  assert.equal(id, 7);
  assert.deepEqual({ ...result, uptimeSeconds: 0 }, {
    version: VERSION,
    runtime: MACHINE.host.runtime,
    pid: process.pid,
    uptimeSeconds: 0,
  });
  assert.ok(result.uptimeSeconds > 0 && result.uptimeSeconds < 60, `${result.uptimeSeconds}`);
  assert.deepEqual(await operator.ask({ id: "a", verb: "say", text: "hello" }), {
    id: "a",
    result: { "h:m": { said: "hello" } },
  });
  assert.deepEqual(await operator.ask({ id: 8, verb: "refuse" }), {
    id: 8,
    error: { code: "not-now", message: "I will not" },
  });
  assert.deepEqual(await operator.ask({ id: 9, verb: "crash" }), {
    id: 9,
    error: { code: "failed", message: "it broke" },
  });
  const unknown = await operator.ask({ id: 10, verb: "toString" });
  assert.equal(unknown.id, 10);
  assert.equal(unknown.error.code, "unknown-verb");
  assert.deepEqual(unknown.error.verbs, ["version", "jobs", "job"]);
  assert.match(unknown.error.message, /"toString".*version, jobs, job/);
  await s.server.stop();
  await operator.untilEnd();
  assert.deepEqual(s.files(), []);
});

test("control: a server that stops says so, and gives the answers that are due", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "x.ctl");
  let answer = () => {};
  let release = () => {};
  const plan = () => ({ raw: true } as const);
  const first = own("first", () => ({
    plan,
    stopMs: () => 1,
    async control(verb) {
      if (verb === "wait") await new Promise<void>((resolve) => answer = resolve);
      return verb;
    },
  }));
  const last = own("last", () => ({
    plan,
    stop: () => new Promise<void>((resolve) => release = resolve),
  }));
  const server = serverOn(
    configOf(
      `control-socket = ${path}\nzmq_linger = 5000\n[routes]\n* = h:a, h:b\n[h:a]\nhandler = first\n[h:b]\nhandler = last\n`,
      [first, last],
    ),
  );
  await server.start();
  using waits = await Operator.open(path);
  using idle = await Operator.open(path);
  using asks = await Operator.open(path);
  const nothing = answer;
  waits.send({ id: 1, verb: "wait" });
  await until("it waits", () => answer !== nothing);
  const idler = release;
  const stopped = server.stop();
  await until("one of them to stop", () => release !== idler);
  assert.deepEqual(await asks.ask({ id: 2, verb: "say" }), {
    id: 2,
    error: { code: "stopped", message: "the server is stopping" },
  });
  release();
  await until("the channel to close", () => !existsSync(path));
  answer();
  await stopped;
  assert.deepEqual(await waits.until(1), [{ id: 1, result: { "h:a": "wait" } }]);
  await idle.untilEnd();
});

test("control: a line that is no request is told so, and the next one is answered", async () => {
  await using s = await site();
  using operator = await Operator.open(s.path);
  for (
    const line of ["GET / HTTP/1.1\r", "", "[1]", "null", '{"id":1}', '{"id":1,"verb":2}', "[".repeat(60_000)]
  ) {
    const { length } = operator.answers;
    operator.socket.write(`${line}\n`);
    const answer = (await operator.until(length + 1))[length];
    assert.equal(answer.id, line.startsWith('{"id":1') ? 1 : null, line.slice(0, 80));
    assert.equal(answer.error.code, "bad-request");
  }
  operator.socket.write(new Uint8Array([0x22, 0xff, 0x22, 0x0a]));
  assert.equal((await operator.until(8))[7].error.code, "bad-request", "not UTF-8");
  assert.equal((await operator.ask({ id: 2, verb: "version" })).id, 2);
});

test("control: answers come in the order of the requests, one at a time, also to one who sends no more", async () => {
  await using s = await site();
  using operator = await Operator.open(s.path);
  operator.send({ id: 1, verb: "wait" }, { id: 2, verb: "wait" }, { id: 3, verb: "version" });
  operator.socket.end('{"id": 4, "verb": "version"}\n{"id": 5, "verb": "ver');
  await until("the first", () => s.waiting.length === 1);
  // Others are served meanwhile.
  using other = await Operator.open(s.path);
  await other.ask({ id: 1, verb: "version" });
  assert.equal(s.waiting.length, 1, "the second is not begun before the first has its answer");
  assert.equal(operator.text, "");
  s.waiting[0]();
  await until("the second", () => s.waiting.length === 2);
  s.waiting[1]();
  assert.deepEqual((await operator.until(5)).map(({ id }) => id), [1, 2, 3, 4, null]);
  await operator.untilEnd();
  assert.equal(operator.answers[4].error.code, "bad-request", "half a request is none");
});

test("control: the last request needs no newline, and one who waits for its answer gets nothing but JSON", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "x.ctl");
  await using channel = await channelAt(path, 100);
  using operator = await Operator.open(path);
  operator.socket.end('{"id": 1, "verb": "wait"}');
  await until("blanks", () => operator.text.length > 2);
  assert.match(operator.text, /^ +$/);
  channel.waiting[0]();
  assert.deepEqual(await operator.until(1), [{ id: 1, result: { waited: true } }]);
  await operator.untilEnd();
});

/** Requests of 60 KB each. */
function large(count: number) {
  const text = "x".repeat(60_000);
  return Array.from({ length: count }, (_, i) => ({ id: i + 1, verb: "say", text }));
}

test("control: more requests than are read at once wait at the sender, and are answered in order", async () => {
  await using s = await site();
  using operator = await Operator.open(s.path);
  operator.send({ id: 0, verb: "wait" });
  await until("it waits", () => s.waiting.length === 1);
  const requests = large(200);
  let taken = false;
  operator.socket.write(
    requests.map((request) => `${JSON.stringify(request)}\n`).join(""),
    () => taken = true,
  );
  using other = await Operator.open(s.path);
  for (let id = 0; id < 50; id++) await other.ask({ id, verb: "version" });
  assert.equal(taken, false, "12 MB wait at the sender");
  s.waiting[0]();
  const answers = await operator.until(201);
  assert.deepEqual(answers.map(({ id }) => id), [0, ...requests.map(({ id }) => id)]);
});

/** A channel in this process, on a clock that goes so many times as fast, with a verb that waits. */
async function channelAt(path: string, times = 20) {
  const waiting: (() => void)[] = [];
  const channel = await ControlChannel.open(path, {
    environment: new StretchedClock(times).environment,
    verbs: { version: () => VERSION },
    async answer(verb) {
      if (verb !== "wait") return {};
      await new Promise<void>((resolve) => waiting.push(resolve));
      return { waited: true };
    },
    rests: () => {},
  });
  return {
    waiting,
    /** Waits until as many as there are places for have one, all at one time. */
    async untilAllFree() {
      for (;;) {
        const all = await Promise.all(
          Array.from({ length: CONTROL_CONNECTIONS_MAX }, () => Operator.open(path)),
        );
        for (const operator of all) operator.send({ id: 1, verb: "version" });
        // Beyond those who are told that it is busy, one is ended without a word.
        const over = (operator: Operator) => operator.answers.length > 0 || operator.ended || operator.closed;
        await until("an answer or an end for each", () => all.every(over));
        const answers = all.map((operator) => operator.answers[0]);
        for (const { socket } of all) socket.destroy();
        if (answers.every((answer) => answer?.result === VERSION)) return;
      }
    },
    async [Symbol.asyncDispose]() {
      for (const go of waiting) go();
      await channel.close();
    },
  };
}

test("control: who leaves while its request is answered leaves its place, however long the answer takes", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "x.ctl");
  const ways: [string, (operator: Operator) => void][] = [
    ["closed", ({ socket }) => socket.destroy()],
    ["ended, then closed", ({ socket }) => socket.end(() => socket.destroy())],
    ["sent more, then closed", (operator) => {
      operator.send({ id: 2, verb: "version" });
      operator.socket.end(() => operator.socket.destroy());
    }],
  ];
  for (const [way, leave] of ways) {
    await using channel = await channelAt(path);
    for (let i = 0; i < CONTROL_CONNECTIONS_MAX; i++) {
      const operator = await Operator.open(path);
      operator.send({ id: 1, verb: "wait" });
      await until("it waits", () => channel.waiting.length === i + 1);
      leave(operator);
    }
    const begin = performance.now();
    await channel.untilAllFree();
    // The answer would be late after 30 s of this clock, and nobody had to wait for that.
    assert.ok(performance.now() - begin < CONTROL_IDLE_MS / 20 / 2, way);
  }
});

test("control: who sends a request and leaves before it is answered leaves its place at once", async () => {
  await using s = await site();
  for (let i = 0; i < 2 * CONTROL_CONNECTIONS_MAX; i++) {
    const operator = await Operator.open(s.path);
    operator.send({ id: 1, verb: "say", text: "x".repeat(60_000) }, { id: 2, verb: "version" });
    operator.socket.destroy();
  }
  const begin = performance.now();
  for (;;) {
    using operator = await Operator.open(s.path);
    if ((await operator.ask({ id: 1, verb: "version" })).error === undefined) break;
    assert.ok(performance.now() - begin < 5000);
  }
});

test("control: who sends on and on while it is answered is not read without end, and is ended", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "x.ctl");
  await using channel = await channelAt(path);
  using operator = await Operator.open(path);
  operator.send({ id: 0, verb: "wait" }, ...large(20));
  const [{ id, error }] = await operator.until(1);
  assert.equal(id, null);
  assert.equal(error.code, "too-large");
  await operator.untilEnd();
  assert.equal(operator.answers.length, 1);
  await channel.untilAllFree();
});

test("control: a request in pieces is one, and one that is too long ends its connection with an error", async () => {
  await using s = await site();
  using pieces = await Operator.open(s.path);
  for (const piece of ['{"id": 1, ', '"verb": "ver', 'sion"}', "\n"]) {
    pieces.socket.write(piece);
    using other = await Operator.open(s.path);
    await other.ask({ id: 1, verb: "version" });
  }
  assert.equal((await pieces.until(1))[0].id, 1);

  const request = JSON.stringify({ id: 2, verb: "say", text: "" });
  const longest = request.replace('""', `"${"x".repeat(CONTROL_LINE_MAX_BYTES - request.length)}"`);
  pieces.socket.write(`${longest}\n`);
  assert.equal((await pieces.until(2))[1].result["h:m"].said.length, CONTROL_LINE_MAX_BYTES - request.length);
  for (const end of ["\n", ""]) {
    using long = await Operator.open(s.path);
    long.socket.write(`${longest}x${end}`);
    assert.equal((await long.until(1))[0].error.code, "too-large");
    await long.untilEnd();
    assert.equal(long.answers.length, 1);
  }
  using endless = await Operator.open(s.path);
  endless.socket.write("x".repeat(32 * 1024 * 1024));
  assert.equal((await endless.until(1))[0].error.code, "too-large");
  await endless.untilEnd();
});

test("control: those who leave in the middle of a request, or of its answer, leave nothing", async () => {
  await using s = await site();
  for (let i = 0; i < 3 * CONTROL_CONNECTIONS_MAX; i++) {
    using operator = await Operator.open(s.path);
    operator.socket.write(i % 2 === 0 ? '{"id": 1, "verb": "vers' : '{"id": 1, "verb": "version"}\n');
    operator.socket.end();
    await operator.untilEnd();
  }
  using last = await Operator.open(s.path);
  assert.equal((await last.ask({ id: 1, verb: "version" })).id, 1);
});

test("control: one past the most is told so, and those who do not read or ask make room in the end", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "x.ctl");
  const times = 100;
  const { environment } = new StretchedClock(times);
  const much = "x".repeat(3 * 1024 * 1024);
  const channel = await ControlChannel.open(path, {
    environment,
    verbs: { much: () => much, version: () => VERSION, toomuch: () => much + much },
    answer: () => Promise.resolve({}),
    rests: () => {},
  });
  const all: Operator[] = [];
  const others: Operator[] = [];
  try {
    using modest = await Operator.open(path);
    assert.equal((await modest.ask({ id: 1, verb: "toomuch" })).error.code, "too-large");
    modest.socket.destroy();
    for (let i = 0; i < CONTROL_CONNECTIONS_MAX; i++) {
      const operator = await Operator.open(path);
      all.push(operator);
      // Half of them ask and do not read, half say nothing, or not all.
      if (i % 2 === 0) {
        operator.socket.pause();
        operator.send({ id: 1, verb: "much" });
      } else if (i % 4 === 1) operator.socket.write('{"id": 1,');
    }
    using ninth = await Operator.open(path);
    ninth.send({ id: 1, verb: "version" });
    const [{ id, error }] = await ninth.until(1);
    assert.equal(id, null);
    assert.deepEqual(error, { code: "busy", message: "8 others ask already" });
    await ninth.untilEnd();

    const begin = performance.now();
    for (let places = 0; places < CONTROL_CONNECTIONS_MAX;) {
      const another = await Operator.open(path);
      others.push(another);
      if ((await another.ask({ id: 1, verb: "version" })).result === VERSION) places++;
      else await another.untilEnd();
    }
    assert.ok(performance.now() - begin > (CONTROL_IDLE_MS / times) / 2, "they had their time");
    for (const [i, operator] of all.entries()) {
      operator.socket.resume();
      await operator.untilEnd();
      assert.ok(operator.text.length < much.length, `${i}: not all was written`);
    }
  } finally {
    for (const { socket } of [...all, ...others]) socket.destroy();
    await channel.close();
  }
  assert.equal(existsSync(path), false);
});

test("control: of those who connect again and again only so many are let in at a time", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "x.ctl");
  const rests: unknown[] = [];
  const channel = await ControlChannel.open(path, {
    // All of this is within a moment.
    environment: { ...MACHINE, clock: { ...MACHINE.clock, now: () => 0 } },
    verbs: { version: () => VERSION },
    answer: () => Promise.resolve({}),
    rests: (why) => rests.push(why),
  });
  try {
    let connected = 0;
    while (rests.length === 0 && connected < 1000) {
      const operator = await Operator.open(path).catch(() => null);
      operator?.socket.destroy();
      connected++;
    }
    assert.match(String(rests[0]), /64 have connected within a moment/);
    for (let answered = false; !answered;) {
      await until("the socket", () => existsSync(path));
      using operator = await Operator.open(path).catch(() => null);
      operator?.send({ id: 1, verb: "version" });
      // What waited to be let in when the door was shut is closed.
      answered = operator !== null && await until("an answer", () => {
            if (operator.answers.length > 0) return "yes";
            return operator.closed || operator.ended ? "no" : null;
          }) === "yes";
    }
    assert.equal(statSync(path).mode & 0o777, 0o600);
  } finally {
    await channel.close();
  }
  assert.equal(existsSync(path), false);
});

test("control: a socket that is left of a server is taken over, one that lives never", async () => {
  await using s = await site();
  await s.started;
  const before = statSync(s.path);
  const { definition } = answering();
  const second = serverOn(configOf(`control-socket = ${s.path}\n${ROUTES}`, [definition]));
  await assert.rejects(second.start(), (error: Error & { code: string }) => {
    assert.equal(error.code, "EADDRINUSE");
    assert.match(error.message, /^control-socket: cannot listen on ipc:\S+x\.ctl: the address is in use$/);
    return true;
  });
  assert.equal(statSync(s.path).ino, before.ino);
  using operator = await Operator.open(s.path);
  await operator.ask({ id: 1, verb: "version" });

  // As a killed process leaves it: a file that nobody listens at.
  const left = s.at("left.ctl");
  const gone = net.createServer();
  await new Promise<void>((resolve) => gone.listen({ path: s.at("gone") }, resolve));
  linkSync(s.at("gone"), left);
  await new Promise((resolve) => gone.close(resolve));
  assert.ok(statSync(left).isSocket());
  chmodSync(left, 0o666);
  const third = serverOn(configOf(`control-socket = ${left}\n${ROUTES}`, [definition]));
  await third.start();
  assert.equal(statSync(left).mode & 0o777, 0o600);
  using asking = await Operator.open(left);
  await asking.ask({ id: 1, verb: "version" });
  await third.stop();
  assert.equal(existsSync(left), false);
});

/** A umask until the end. */
function umask(mask: number): Disposable {
  const before = process.umask(mask);
  return { [Symbol.dispose]: () => void process.umask(before) };
}

test("control: while the socket has not its mode yet, it lies in a folder for its owner alone", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "x.ctl");
  let seen = "";
  // Whoever starts it may have a umask that takes even its own rights away.
  using _umask = umask(0o177);
  const listener = await listenOnFile(
    path,
    () => Promise.resolve(true),
    async (beside) => {
      seen = beside;
      assert.notEqual(dirname(beside), folder.path);
      assert.equal(statSync(dirname(beside)).mode & 0o777, 0o700);
      const server = net.createServer();
      await new Promise<void>((resolve) => server.listen({ path: beside }, resolve));
      chmodSync(beside, 0o777);
      assert.equal(existsSync(path), false);
      return {
        address: { transport: "ipc", path: beside },
        close: () => Promise.resolve(void server.close()),
      };
    },
    0o600,
  );
  assert.equal(basename(dirname(dirname(seen))), basename(folder.path));
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.deepEqual(readdirSync(folder.path), ["x.ctl"]);
  await listener.close();
  assert.deepEqual(readdirSync(folder.path), []);
});

test("jobs --watch: a screen is as large as the terminal, and of one that knows no size as most are", () => {
  const lines = Array.from({ length: 30 }, (_, i) => `${i} `.padEnd(100, "x"));
  const shown = (columns?: number, rows?: number, of = lines) =>
    // deno-lint-ignore no-control-regex -- what moves the cursor
    screenOf(of, { columns, rows }).replace(/\x1b\[[HKJ]/g, "").split("\n");
  for (const [columns, rows] of [[0, 0], [undefined, undefined], [80, 24]]) {
    const screen = shown(columns, rows);
    assert.equal(screen.length, 24);
    assert.ok(screen.every(({ length }) => length <= 80));
    assert.equal(screen[22], lines[22].slice(0, 80));
    assert.equal(screen[23], "… 7 more");
  }
  assert.deepEqual(shown(100, 1), ["… 30 more"]);
  assert.deepEqual(shown(100, 2), [lines[0], "… 29 more"]);
  assert.deepEqual(shown(10, 2, ["1", "2"]), ["1", "2"]);
});

test("control: without an option it lies beside the pidfile; none is none", async () => {
  const of = (socket: string | null, pidfile: string | null) =>
    controlSocketOf({ "control-socket": socket, pidfile });
  assert.equal(of(null, null), null);
  assert.equal(of(null, "/run/cc/a.b.pid"), "/run/cc/a.b.ctl");
  assert.equal(of(null, "/run/c.c/a"), "/run/c.c/a.ctl");
  assert.equal(of(null, "/run/cc/.pid"), "/run/cc/.pid.ctl");
  assert.equal(of(null, "/run/cc/a.ctl"), "/run/cc/a.ctl.ctl");
  assert.equal(of("/run/x", "/run/cc/a.pid"), "/run/x");
  assert.equal(of("", "/run/cc/a.pid"), null);
  const read = (line: string) => controlSocketOf(configOf(line + ROUTES, [answering().definition]).options);
  assert.equal(read("pidfile = ~/a.pid\n"), join(MACHINE.host.home, "a.ctl"));
  assert.equal(read("pidfile = /a.pid\ncontrol-socket = ~/b.ctl\n"), join(MACHINE.host.home, "b.ctl"));
  for (const none of ["none", "None"]) {
    assert.equal(read(`pidfile = /a.pid\ncontrol-socket = ${none}\n`), null);
  }

  await using beside = await site((at) => `pidfile = ${at("x.pid")}\n`);
  using operator = await Operator.open(beside.path);
  await operator.ask({ id: 1, verb: "version" });
  await using without = await site((at) => `pidfile = ${at("x.pid")}\ncontrol-socket = none\n`);
  await without.started;
  assert.deepEqual(without.files(), []);
});

test("control: where it cannot be, a default is warned about, and what was asked for keeps the server from starting", async () => {
  const long = `${"x".repeat(120)}.pid`;
  for (
    const [name, why] of [
      [long, /longer than 107 bytes/],
      ["none/x.pid", /no such file or folder/],
    ] as const
  ) {
    await using byDefault = await site((at) => `pidfile = ${at(name)}\n`);
    await byDefault.started;
    const warnings = byDefault.lines.filter((line) => /WARNING.*control-socket/.test(line));
    assert.equal(warnings.length, 1, byDefault.lines.join("\n"));
    assert.match(warnings[0], why);
    assert.match(warnings[0], /ccserver jobs/);
    await using asked = await site((at) => `control-socket = ${at(name)}\n`);
    await assert.rejects(asked.started, (error: Error) => {
      assert.match(error.message, /^control-socket: [^\n]+$/);
      assert.match(error.message, why);
      return true;
    });
    assert.deepEqual(asked.files(), []);
  }
  // A file that is no socket is not taken away.
  await using s = await site((at) => {
    writeFileSync(at("x.ctl"), "mine");
    return `control-socket = ${at("x.ctl")}\n`;
  });
  await assert.rejects(s.started, /control-socket: .*a file that is not a socket stands there/);
  assert.deepEqual(s.files(), ["x.ctl"]);
});

test(`control: ${TARGET.name}: --check and the start tell what cannot be a control socket; its folder is made`, async () => {
  using folder = tempFolder();
  const at = (name: string) => join(folder.path, name);
  writeFileSync(at("file"), "mine");
  const write = (socket: string, main = "tcp://127.0.0.1:*") =>
    writeFileSync(
      at("x.ini"),
      `[ccserver]\ncc-socket = ${main}\npidfile = ${at("x.pid")}\ncontrol-socket = ${socket}\n` +
        "[routes]\necho = h:echo\n[h:echo]\nhandler = echo\n",
    );
  for (
    const [socket, told] of [
      [at("file"), /:4: cannot listen on the control-socket \S+: what stands there is no socket/],
      [at("x.pid"), /:4: cannot listen on the control-socket \S+: that is the pidfile/],
      [at("x".repeat(110)), /:4: cannot listen on the control-socket \S+: it has more than 107 bytes/],
      [at("no/folder/x"), /:4: cannot listen on the control-socket \S+: no such file or folder/],
      ["", /:4: control-socket = : a path is expected, or none/],
    ] as const
  ) {
    write(socket);
    const { code, output } = await run(["--check", at("x.ini")], TARGET);
    assert.notEqual(code, 0, socket);
    assert.match(output, told);
  }
  write(at("main"), `ipc://${at("main")}`);
  assert.match((await run(["--check", at("x.ini")], TARGET)).output, /that is the cc-socket$/m);
  write(at("made/x.ctl"));
  await using server = new ServerProcess(TARGET, [at("x.ini")]);
  await server.until(/listening on/);
  assert.ok(statSync(at("made/x.ctl")).isSocket());
  await server.stop();
});

/** A handler with two jobs that never change, and one that answers what it was asked to do. */
const JOBS = `const since = Date.now() - (3 * 86400 + 4 * 3600 + 60) * 1000;
const JOBS = [
  { name: "d:one", state: "running", pid: 4711, since, restarts: 2, cpuSeconds: 725.4,
    memoryBytes: 47290778, lastExit: "exit code 1", detail: null },
  { name: "d:two", state: "backoff", pid: null, since: Date.now() - 90_000, restarts: 12, cpuSeconds: null,
    memoryBytes: null, lastExit: "SIGKILL", detail: "again in 4.2 s\\u001b[2J" },
];
const failure = (code, message) => Object.assign(new Error(message), { code });
export default () => ({
  create: () => ({
    plan: () => ({ raw: true }),
    handle: () => "ok",
    control(verb, request) {
      if (verb === "jobs") return { jobs: JOBS };
      if (verb !== "job") return undefined;
      const unknown = request.names.find((name) => !JOBS.some((job) => job.name === name));
      if (unknown !== undefined) throw failure("unknown-job", "there is no job " + unknown + ": there are d:one, d:two");
      const jobs = JOBS.filter(({ name }) => request.names.includes(name));
      return { jobs: jobs.map((job) => ({ ...job, state: "starting", detail: request.action })) };
    },
  }),
});
`;

function jobSite(target: Target) {
  const folder = tempFolder();
  const at = (name: string) => join(folder.path, name);
  writeFileSync(at("jobs.mjs"), JOBS);
  const ini = (name: string, handler: string, more = "") => {
    writeFileSync(
      at(`${name}.ini`),
      `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\n${
        more || `pidfile = ${at(`${name}.pid`)}`
      }\n` +
        `[routes]\n* = h:j\n[h:j]\nhandler = ${handler}\n`,
    );
    return at(`${name}.ini`);
  };
  return {
    at,
    ini,
    main: ini("main", "./jobs.mjs"),
    jobs: (...args: string[]) => run(["jobs", ...args], target),
    [Symbol.dispose]: () => folder[Symbol.dispose](),
  };
}

for (const target of SLOW_TARGETS) {
  const on = target.name;

  test(`${on}: ccserver jobs prints a table, JSON, and what became of those it was to act on`, async () => {
    using here = jobSite(target);
    await using server = new ServerProcess(target, [here.main]);
    await server.until(/listening on/);
    const { code, output } = await here.jobs(here.main);
    assert.equal(code, 0, output);
    assert.equal(
      output,
      "NAME   STATE     PID   SINCE  RESTARTS     CPU  MEMORY  LAST EXIT    DETAIL\n" +
        "d:one  running  4711   3d 4h         2  12m 5s  45.1 M  exit code 1\n" +
        "d:two  backoff     -  1m 30s        12       -       -  SIGKILL      again in 4.2 s\\x1b[2J\n",
    );
    // The socket itself will do.
    const socket = await here.jobs(here.at("main.ctl"), "--json");
    assert.equal(socket.code, 0, socket.output);
    assert.equal(socket.output.split("\n").length, 2, "one line");
    assert.deepEqual(JSON.parse(socket.output).map(({ name, pid }: Answer) => [name, pid]), [
      ["d:one", 4711],
      ["d:two", null],
    ]);
    for (const action of ["start", "stop", "restart"]) {
      const acted = await here.jobs("--json", here.main, action, "two", "d:one");
      assert.equal(acted.code, 1, `they neither run nor are stopped: ${acted.output}`);
      assert.deepEqual(
        JSON.parse(acted.output).map(({ name, state, detail }: Answer) => [name, state, detail]),
        [["d:one", "starting", action], ["d:two", "starting", action]],
      );
    }
    assert.match(
      (await here.jobs(here.main, "restart", "one")).output,
      /^NAME .*\nd:one +starting +4711 .*restart\n$/,
    );
    assert.deepEqual(await here.jobs(here.main, "stop", "three"), {
      code: 64,
      output: "ccserver: there is no job d:three: there are d:one, d:two\n",
    });
    assert.equal((await server.stop()).code, 0);
    assert.equal(existsSync(here.at("main.ctl")), false);
  });

  test(`${on}: ccserver jobs --watch goes on until Ctrl-C, also while there is no server`, async () => {
    using here = jobSite(target);
    await using server = new ServerProcess(target, [here.main]);
    await server.until(/listening on/);
    await using table = new ServerProcess(target, ["jobs", "--watch", here.main]);
    await using json = new ServerProcess(target, ["jobs", "--watch", "--json", here.main]);
    await Promise.all([table.until(/(NAME[^]*){2}/), json.until(/(^\[.*\]\n){2}/m)]);
    assert.deepEqual(await table.stop("SIGINT"), { code: 0, signal: null });
    assert.equal(table.output.includes("\x1b"), false, "it is no terminal");
    await server.stop();
    await json.until(/^ccserver: .*(closed the connection|no server runs|stopping).*\n/m);
    await using next = new ServerProcess(target, [here.main]);
    await next.until(/listening on/);
    await json.until(/^ccserver: .*\n(^\[.*\]\n){2}/m);
    assert.deepEqual(await json.stop("SIGINT"), { code: 0, signal: null });
  });

  test(`${on}: ccserver jobs says where there is no server, no job, or nobody who can be asked`, async () => {
    using here = jobSite(target);
    const none = `ccserver: no server runs: nothing listens on ${here.at("main.ctl")}\n`;
    assert.deepEqual(await here.jobs(here.main), { code: 69, output: none });
    await using killed = new ServerProcess(target, [here.main]);
    await killed.until(/listening on/);
    process.kill(killed.pid, "SIGKILL");
    await killed.exited;
    assert.ok(existsSync(here.at("main.ctl")), "its socket is left");
    assert.deepEqual(await here.jobs(here.main), { code: 69, output: none });
    assert.deepEqual(await here.jobs(here.at("main.ctl"), "stop", "one"), { code: 69, output: none });
    const missing = here.at("gone.ctl");
    assert.deepEqual(await here.jobs(missing), {
      code: 69,
      output:
        `ccserver: ${missing}: no such file: neither a config nor the control socket of a server that runs\n`,
    });

    const bare = here.ini("bare", "disposer");
    await using server = new ServerProcess(target, [bare]);
    await server.until(/listening on/);
    assert.deepEqual(await here.jobs(bare), { code: 0, output: "ccserver: this server has no jobs\n" });
    assert.deepEqual(await here.jobs("--json", bare), { code: 0, output: "[]\n" });
    assert.deepEqual(await here.jobs(bare, "stop", "one"), {
      code: 64,
      output: "ccserver: d:one: this server has no jobs\n",
    });
    for (
      const [more, told] of [["control-socket = none", /control-socket is none/], [
        "heartbeat = 0",
        /needs the option "control-socket"/,
      ]] as const
    ) {
      const { code, output } = await here.jobs(here.ini("off", "disposer", more));
      assert.equal(code, 78);
      assert.match(output, /^\S+off\.ini:\d+: /);
      assert.match(output, told);
    }
    for (const args of [[], [bare, "kill", "one"], [bare, "stop"], ["--watch", bare, "stop", "one"]]) {
      const { code, output } = await here.jobs(...args);
      assert.equal(code, 64, args.join(" "));
      assert.match(output, /usage: ccserver jobs /);
    }
    const escape = await here.jobs(bare, "\x1b[2J");
    assert.equal(escape.code, 64);
    assert.match(escape.output, /not "\\x1b\[2J"/);

    // Who runs is known by its pidfile.
    rmSync(here.at("bare.ctl"));
    assert.deepEqual(await here.jobs(bare), {
      code: 69,
      output: `ccserver: process ${server.pid} runs, but nothing listens on ${here.at("bare.ctl")}: ` +
        "was control-socket changed, or its file removed?\n",
    });
    const broken = await here.jobs(here.ini("broken", "disposer", "pidfile = %(nothing)s/x.pid"));
    assert.equal(broken.code, 78);
    assert.match(broken.output, /^\S+broken\.ini:4: .*nothing/);
  });

  test(`${on}: ccserver jobs believes nothing that is no answer`, async () => {
    using folder = tempFolder();
    const path = join(folder.path, "x.ctl");
    let answer = "";
    const server = net.createServer((socket) => {
      socket.on("error", () => {});
      socket.on("data", () => socket.end(`${answer}\n`));
    });
    await new Promise<void>((resolve) => server.listen({ path }, resolve));
    try {
      for (
        const said of [
          "SSH-2.0",
          '{"id":1,"error":{}}',
          '{"id":1,"error":7}',
          '{"id":1,"result":7}',
          '{"id":1,"result":{"h:j":{"jobs":[{"name":"d:one"}]}}}',
          '{"id":1,"result":{"h:j":{"jobs":[null]}}}',
        ]
      ) {
        answer = said;
        const { code, output } = await run(["jobs", path], target);
        assert.equal(code, 1, output);
        assert.match(output, /^ccserver: the answer cannot be read.* \(bad-reply\)\n$/, said);
      }
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });
}
