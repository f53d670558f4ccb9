/** The log as an operator's tools meet it: JSON lines, rotation, a disk that is full. */
import assert from "node:assert/strict";
import {
  fstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { CCClient } from "../mod.ts";
import { Logger } from "../src/log.ts";
import { LogFile, type WriteCalls } from "../src/process/log_file.ts";
import { smallDisk } from "./helpers/disk.ts";
import { TARGETS, tempFolder, until } from "./helpers/env.ts";
import { run, ServerProcess } from "./helpers/process.ts";

/** Writes a config whose server logs to `logfile`, with these options too. */
function config(folder: string, logfile: string, ...options: string[]): string {
  const ini = join(folder, "test.ini");
  writeFileSync(
    ini,
    `[ccserver]
cc-socket = ipc://${folder}/cc.sock
cc-role = local
logfile = ${logfile}
${options.join("\n")}
[routes]
echo = h:echo
log = h:log
[h:echo]
handler = echo
[h:log]
handler = locallogger
`,
  );
  return ini;
}

const read = (file: string) => {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
};

/** Closed when the test ends: an open link would keep the test's process. */
function client(folder: string): CCClient {
  return new CCClient(`ipc://${folder}/cc.sock`);
}

/** The answer comes after what was sent before it. */
async function answered(by: CCClient): Promise<void> {
  const { type } = await by.query({ type: "echo.request", fields: { target: "x" } }, { timeoutMs: 15_000 });
  assert.equal(type, "echo.response");
}

test("log: text and JSON say the same; what was held back is a figure", () => {
  let now = Date.UTC(2026, 10, 22, 7, 9, 26, 967);
  const lines: string[] = [];
  const make = (format: "text" | "json") =>
    new Logger("CCServer", {
      sink: (line) => lines.push(line),
      pid: 7,
      clock: { now: () => now, time: () => now },
      format,
    });
  for (const log of [make("text"), make("json")]) {
    log.info("startup", 'a "quoted"\nname');
    for (let i = 0; i < 4; i++) log.warnRarely("peer", "x", "nonsense came");
    now += 10_000;
    log.warnRarely("peer", "x", "nonsense came");
    now -= 10_000;
  }
  const [plain, first, held, ...json] = lines;
  assert.match(plain, /^2026-11-22 \d\d:09:26,967 7 INFO CCServer\.startup: a "quoted"\\nname$/);
  assert.match(first, / 7 WARNING CCServer\.peer: nonsense came$/);
  assert.match(held, /: nonsense came \(4 more like this held back\)$/);
  const common = { time: "2026-11-22T07:09:26.967Z", pid: 7 };
  assert.deepEqual(json.map((line) => JSON.parse(line)), [
    { ...common, level: "INFO", logger: "CCServer.startup", msg: 'a "quoted"\\nname' },
    { ...common, level: "WARNING", logger: "CCServer.peer", msg: "nonsense came" },
    {
      ...common,
      time: "2026-11-22T07:09:36.967Z",
      level: "WARNING",
      logger: "CCServer.peer",
      msg: "nonsense came (4 more like this held back)",
      held_back: 4,
    },
  ]);
});

test("log: however many lines come in one turn, all are written", async () => {
  using folder = tempFolder();
  const file = join(folder.path, "test.log");
  const log = new LogFile(file, () => false);
  log.lingerMs = 15_000;
  const lines = Array.from({ length: 100_000 }, (_, i) => `${i} ${"x".repeat(100)}`);
  for (const line of lines) log.sink(line);
  await log.drained();
  // Not by assert.equal: what differs would be ten megabytes.
  assert.ok(read(file) === `${lines.join("\n")}\n`);
});

/** A disk that takes what is written when it is told to. */
class Disk implements WriteCalls {
  readonly waiting: (() => void)[] = [];
  synchronous = 0;
  size: WriteCalls["size"] = (fd, done) => done(fstatSync(fd).size);
  write: WriteCalls["write"] = (fd, bytes, at, size, _position, done) => {
    this.waiting.push(() => done(null, writeSync(fd, bytes, at, size)));
  };
  writeSync: WriteCalls["writeSync"] = (fd, bytes, at, size) => {
    this.synchronous++;
    return writeSync(fd, bytes, at, size);
  };
}

test("log: a disk that hangs holds nobody up: lines wait within bounds, what is lost is told in its place, order is kept", async () => {
  using folder = tempFolder();
  const file = join(folder.path, "test.log");
  const disk = new Disk();
  const log = new LogFile(file, () => false, disk);
  const turn = () => new Promise((resolve) => setTimeout(resolve));
  log.sink("first");
  await turn();
  // It hangs; and one write at a time is under way.
  const line = (i: number) => `${i} ${"x".repeat(1000)}`;
  for (let i = 0; i < 20_000; i++) {
    log.sink(line(i));
    if (i % 1000 === 0) await turn();
  }
  assert.equal(disk.waiting.length, 1);
  const began = performance.now();
  log.lingerMs = 50;
  await log.drained();
  assert.ok(performance.now() - began < 2000, "the end does not wait for it either");
  // The log is moved away meanwhile: what was under way is whole in the old one.
  renameSync(file, `${file}.1`);
  log.reopen();
  assert.equal(disk.waiting.length, 1);
  disk.waiting.shift()!();
  assert.equal(read(`${file}.1`), "first\n");
  disk.waiting.shift()!();
  log.sink("last");
  await turn();
  while (disk.waiting.length > 0) disk.waiting.shift()!();
  const lines = read(file).trimEnd().split("\n");
  const kept = lines.slice(0, -2);
  assert.ok(kept.every((text, i) => text === line(i)), "in order");
  assert.equal(lines.at(-2), `(${20_000 - kept.length} log lines were lost: they could not be written)`);
  assert.equal(lines.at(-1), "last");
  assert.ok(kept.length > 15_000 && kept.length < 17_500, `${kept.length} lines waited`);
  assert.equal(disk.synchronous, 0);
});

test("log: a write of a file that fails costs the lines that did not get there, and they are told", async () => {
  using folder = tempFolder();
  const file = join(folder.path, "test.log");
  let fails = true;
  const log = new LogFile(file, () => false, {
    size: (fd, done) => done(fstatSync(fd).size),
    write(fd, bytes, at, size, _position, done) {
      const error = Object.assign(new Error("no space"), { code: "ENOSPC" });
      // Half of it is there, and the runtime does not tell.
      const written = writeSync(fd, bytes, at, fails ? size >> 1 : size);
      const failed = fails;
      fails = false;
      queueMicrotask(() => failed ? done(error, 0) : done(null, written));
    },
    writeSync,
  });
  for (const text of ["one", "two", "three", "four"]) log.sink(text);
  await log.drained();
  log.sink("five");
  await log.drained();
  assert.equal(read(file), "one\ntwo\nt\n(2 log lines were lost: they could not be written)\nfive\n");
});

test("log: a disk that fails is tried with the next line, and not again and again", async () => {
  using folder = tempFolder();
  let writes = 0;
  const log = new LogFile(join(folder.path, "test.log"), () => false, {
    size: (fd, done) => done(fstatSync(fd).size),
    write(_fd, _bytes, _at, _size, _position, done) {
      writes++;
      setTimeout(() => done(Object.assign(new Error("no space"), { code: "ENOSPC" }), 0));
    },
    writeSync,
  });
  log.sink("one");
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(writes, 1);
  const began = performance.now();
  await log.drained();
  assert.ok(performance.now() - began < 500, "an end does not wait for it");
  log.sink("two");
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(writes, 2);
});

test("log: a write that fails while the file is moved away: the line it cut is whole in the new one", async () => {
  using folder = tempFolder();
  const file = join(folder.path, "test.log");
  let fail: (() => void) | null = null;
  const log = new LogFile(file, () => false, {
    size: (fd, done) => done(fstatSync(fd).size),
    write(fd, bytes, at, size, _position, done) {
      if (fail !== null) return done(null, writeSync(fd, bytes, at, size));
      writeSync(fd, bytes, at, 6);
      fail = () => done(Object.assign(new Error("gone"), { code: "EIO" }), 0);
    },
    writeSync,
  });
  for (const text of ["one", "two", "three"]) log.sink(text);
  await until("a write", () => fail);
  renameSync(file, `${file}.1`);
  log.reopen();
  log.sink("four");
  fail!();
  await log.drained();
  assert.deepEqual([read(`${file}.1`), read(file)], ["one\ntw", "two\nthree\nfour\n"]);
});

for (const target of TARGETS) {
  const on = target.name;

  test(`${on}: log-format = json: one object a line, from the first to the last`, async () => {
    using folder = tempFolder();
    const log = join(folder.path, "test.log");
    const ini = config(folder.path, log, "log-format = json");
    await using server = new ServerProcess(target, ["-v", ini]);
    await until("the start", () => read(log).includes("listening on"));
    const endpoint = `ipc://${folder.path}/cc.sock`;
    assert.equal((await run(["send", endpoint, "log.info", 'log_msg=say "hi"'], target)).code, 0);
    await until("the line", () => read(log).includes("hi"));
    assert.equal((await server.stop()).code, 0);
    const lines = read(log).trimEnd().split("\n").map((line) => JSON.parse(line));
    for (const line of lines) {
      assert.deepEqual(Object.keys(line).slice(0, 5), ["time", "pid", "level", "logger", "msg"]);
      assert.equal(line.pid, server.pid);
      assert.equal(new Date(line.time).toISOString(), line.time);
    }
    assert.match(lines.find(({ logger }) => logger === "h:log.handle").msg, /INFO say "hi"$/);
    assert.equal(lines.at(-1).msg, "stopped");
    const wrong = await run(["--check", config(folder.path, log, "log-format = xml")], target);
    assert.deepEqual(wrong, { code: 78, output: `${ini}:5: log-format = xml: expected text, json\n` });
  });

  test(`${on}: mv log log.1; kill -HUP: what follows goes to the new file, and no line is lost`, async () => {
    using folder = tempFolder();
    const log = join(folder.path, "test.log");
    await using server = new ServerProcess(target, [config(folder.path, log)]);
    await until("the start", () => read(log).includes("listening on"));
    await using from = client(folder.path);
    let sent = 0;
    const send = async (count: number) => {
      for (let i = 0; i < count; i++) {
        const fields = { log_level: "INFO", log_msg: `number ${++sent}.`, log_time: 0 };
        await from.publish({ type: "log.info", fields });
      }
      await answered(from);
    };
    for (const old of ["test.log.1", "test.log.2", "test.log.3"]) {
      await send(300);
      renameSync(log, join(folder.path, old));
      await send(300);
      process.kill(server.pid, "SIGHUP");
      await send(300);
      await until("the new file", () => read(log).includes("reload: SIGHUP"));
    }
    // A folder that is gone: the old file stays in use.
    renameSync(log, join(folder.path, "test.log.4"));
    mkdirSync(log);
    process.kill(server.pid, "SIGHUP");
    await until("the refusal", () => read(join(folder.path, "test.log.4")).includes("cannot open logfile"));
    await send(300);
    await until("the last", () => read(join(folder.path, "test.log.4")).includes(`number ${sent}.`));
    await from.close();
    assert.equal((await server.stop()).code, 0);
    const all = [1, 2, 3, 4].map((n) => read(`${log}.${n}`)).join("");
    const numbers = [...all.matchAll(/ number (\d+)\.$/gm)].map(([, n]) => Number(n));
    const missing = Array.from({ length: sent }, (_, i) => i + 1).filter((n, i) => numbers[i] !== n);
    assert.deepEqual(missing.slice(0, 5), [], `${numbers.length} of ${sent}`);
  });

  test(`${on}: a disk that is full under the log stops nothing; with room again, the log says what it lost`, async (t) => {
    using folder = tempFolder();
    const disk = join(folder.path, "disk");
    const log = join(disk, "test.log");
    mkdirSync(disk);
    using mounted = smallDisk(disk);
    if (mounted.refused !== null) {
      console.log(`skipped: ${mounted.refused}`);
      return t.skip?.(mounted.refused);
    }
    await using server = new ServerProcess(target, [config(folder.path, log, "log-format = json")]);
    await until("the start", () => read(log).includes("listening on"));
    await using from = client(folder.path);
    let sent = 0;
    const send = async (count: number) => {
      for (let i = 0; i < count; i++) {
        const log_msg = `${++sent}. ${"x".repeat(1000)}`;
        await from.publish({ type: "log.info", fields: { log_level: "INFO", log_msg, log_time: 0 } });
      }
      await answered(from);
    };
    writeFileSync(join(disk, "other"), new Uint8Array(24 * 1024));
    await send(200);
    await send(50);
    // Lines are written behind: until the disk takes nothing more.
    let size = -1;
    await until(
      "a full disk",
      () => {
        const before = size;
        size = read(log).length;
        return size === before;
      },
      15_000,
      400,
    );
    rmSync(join(disk, "other"));
    await send(5);
    await until("the last line", () => read(log).includes(`${sent}. x`));
    await from.close();
    assert.equal((await server.stop()).code, 0);
    const text = read(log);
    const lines = text.trimEnd().split("\n").flatMap((line) => {
      try {
        return [JSON.parse(line)];
      } catch {
        return []; // the one that the full disk cut in two
      }
    });
    const whole = lines.filter(({ msg }) => /\d+\. x+$/.test(msg)).length;
    const lost = lines.reduce((sum, line) => sum + (line.lost ?? 0), 0);
    assert.ok(lost > 100, `${lost} lost`);
    assert.equal(whole + lost, sent, "each line is there, or counted");
    assert.match(
      text,
      new RegExp(`"level":"WARNING","logger":"CCServer.log","msg":"${lost} log lines were lost`),
    );
  });

  test(`${on}: a log that takes nothing at all stops nothing`, async () => {
    using folder = tempFolder();
    const log = join(folder.path, "test.log");
    symlinkSync("/dev/full", log);
    await using server = new ServerProcess(target, [config(folder.path, log)]);
    await using from = client(folder.path);
    await answered(from);
    await from.close();
    rmSync(log);
    process.kill(server.pid, "SIGHUP");
    await until(
      "the new file",
      () => /\d WARNING CCServer\.log: \d+ log lines? (was|were) lost/.test(read(log)),
    );
    assert.equal((await server.stop()).code, 0);
  });
}
