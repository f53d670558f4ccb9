/** The infofile, as a program that reads it finds it. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Averages, BUCKET_SECONDS } from "../src/observe/averages.ts";
import { finish } from "../src/observe/slices.ts";
import { timestamp } from "../src/observe/infofile.ts";
import { smallDisk } from "./helpers/disk.ts";
import { SLOW_TARGETS, tempFolder, until } from "./helpers/env.ts";
import { run } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";
import { SINK, watched } from "./helpers/watched.ts";

/** An infofile's lines by section; those of the head under "". */
function sections(path: string): Map<string, Map<string, string>> {
  const found = new Map([["", new Map<string, string>()]]);
  let section = found.get("")!;
  for (const line of readFileSync(path, "utf8").split("\n")) {
    const title = /^\[(.*)\]$/.exec(line)?.[1];
    if (title !== undefined) found.set(title, section = new Map());
    const pair = /^([^\[].*?): (.*)$/.exec(line);
    if (pair) section.set(pair[1], pair[2]);
  }
  return found;
}

const HEAD = [
  "name",
  "version",
  "service",
  "pid",
  "started",
  "status",
  "time-consumed",
  "info-period",
  "info-written",
  "platform",
  "runtime",
  "zeromq",
];
const TIME = /^\d{10}\.\d\d \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)$/;

for (const target of SLOW_TARGETS) {
  const on = target.name;

  test(`${on}: the infofile has a head, [total] and [latest]; at exit it says stopped`, async () => {
    using folder = tempFolder();
    const path = join(folder.path, "cc.info");
    await using s = await watched(["cc-stats = 2", "stats-period = 0.2", `infofile = ${path}`], SINK, target);
    const [head] = sections(path).values();
    assert.deepEqual([...head.keys()], HEAD);
    assert.equal(head.get("name"), "test");
    assert.equal(head.get("service"), "ccserver");
    assert.equal(head.get("pid"), String(s.pid));
    assert.match(head.get("started")!, TIME);
    assert.match(head.get("info-written")!, TIME);
    assert.equal(head.get("status"), "running");
    assert.equal(head.get("info-period"), "0.2");
    assert.match(head.get("time-consumed")!, /^\d+\.\d\d \d+\.\d\d \d+\.\d\d \d+\.\d\d$/);
    assert.match(head.get("runtime")!, /^(bun|deno|node) \d+\./);
    assert.equal(head.get("zeromq"), "native (ZMTP 3.1)");

    using peer = await RawPeer.open(s.port);
    peer.write(message("", "x.b", "{}", ""), message("", "x.a", "{}", ""), message("", "x.a", "{}", ""));
    await until("the counters", () => sections(path).get("latest")!.get("count.ok.msg.x.a") === "2");
    const total = sections(path).get("total")!;
    assert.equal(total.get("count"), "3");
    assert.equal(total.get("disposed_count"), "3");
    assert.match(total.get("seconds.ok.msg.x.b")!, /^\d\.\d{4}$/);
    assert.deepEqual([...total.keys()], [...total.keys()].sort());
    await until("a period without messages", () => sections(path).get("latest")!.get("count") === "0");
    assert.deepEqual([...sections(path).get("latest")!.keys()], ["bytes", "count", "seconds"]);
    assert.equal(sections(path).get("total")!.get("count"), "3");
    assert.match(readFileSync(path, "utf8"), /\nzeromq: .*\n\n\[total\]\nbytes: \d+\n/);

    assert.equal((await s.stop()).code, 0);
    assert.equal(sections(path).get("")!.get("status"), "stopped");
    assert.deepEqual(readdirSync(folder.path), ["cc.info"], "nothing is left beside it");
    assert.doesNotMatch(s.output, /WARNING/);
  });

  test(`${on}: job_name names the server, its files too`, async () => {
    using folder = tempFolder();
    const options = ["job_name = collector", `infofile = ${folder.path}/%(job_name)s.info`];
    await using s = await watched(options, SINK, target);
    assert.equal(sections(join(folder.path, "collector.info")).get("")!.get("name"), "collector");
    assert.equal((await s.stop()).code, 0);
  });

  test(`${on}: it is replaced whole: whoever reads it sees no part of one`, async () => {
    using folder = tempFolder();
    const path = join(folder.path, "cc.info");
    await using s = await watched(
      ["cc-stats = 2", "stats-period = 0.1", `infofile = ${path}`],
      SINK,
      target,
    );
    using peer = await RawPeer.open(s.port);
    peer.write(...Array.from({ length: 900 }, (_, i) => message("", `${"x".repeat(200)}.${i}`, "{}", "")));
    const seen = new Set<string>();
    await until("twenty different ones", () => {
      const text = readFileSync(path, "utf8");
      assert.match(text, /^name: test\n[\s\S]*\n\[latest\]\n[\s\S]*seconds[^\n]*: \d+\.\d{4}\n$/);
      seen.add(/^info-written: .*$/m.exec(text)![0]);
      return seen.size >= 20;
    });
    assert.equal((await s.stop()).code, 0);
    assert.match(readFileSync(path, "utf8"), /^status: stopped$/m);
  });

  test(`${on}: level 0 writes none, level 1 the head only`, async () => {
    using folder = tempFolder();
    const path = join(folder.path, "cc.info");
    {
      await using s = await watched([`infofile = ${path}`, "infofile-level = 0"], SINK, target);
      assert.equal((await s.stop()).code, 0);
      assert.equal(existsSync(path), false);
    }
    await using s = await watched([`infofile = ${path}`, "infofile-level = 1"], SINK, target);
    assert.deepEqual([...sections(path).keys()], [""]);
    assert.equal((await s.stop()).code, 0);
    assert.deepEqual([...sections(path).get("")!.keys()], HEAD);
  });

  test(`${on}: level 3 has moving averages over 1, 5 and 15 minutes`, async () => {
    using folder = tempFolder();
    const path = join(folder.path, "cc.info");
    await using s = await watched(
      ["stats-period = 0.5", `infofile = ${path}`, "infofile-level = 3"],
      SINK,
      target,
    );
    assert.deepEqual([...sections(path).keys()], ["", "total", "latest", "avg:60", "avg:300", "avg:900"]);
    using peer = await RawPeer.open(s.port);
    peer.write(...Array.from({ length: 100 }, () => message("", "x", "{}", "")));
    await until("a bucket", () => sections(path).get("avg:900")!.has("count.ok"), 15_000);
    for (const window of ["avg:60", "avg:300", "avg:900"]) {
      const averages = sections(path).get(window)!;
      assert.equal(averages.get("count.ok"), "100 100.0000 20.0000", window);
      assert.match(averages.get("seconds")!, /^\d\.\d{4} \d\.\d{4} \d\.\d{4}$/);
      assert.deepEqual([...averages.keys()], [...averages.keys()].sort());
    }
  });

  test(`${on}: a folder that cannot be written to is an error at start`, async () => {
    using folder = tempFolder();
    const ini = join(folder.path, "test.ini");
    const start = async (path: string) => {
      writeFileSync(
        ini,
        `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\ninfofile = ${path}\n${SINK}`,
      );
      return await run([ini], target);
    };
    const missing = join(folder.path, "none", "none", "cc.info");
    const { code, output } = await start(missing);
    assert.equal(code, 69, output);
    assert.match(
      output,
      /test\.ini:\d+: cannot write the infofile .*none\/cc\.info: no such file or folder\n$/,
    );
    // A folder stands where the file should.
    const taken = await start(folder.path);
    assert.equal(taken.code, 69, taken.output);
    assert.match(taken.output, /test\.ini:\d+: cannot write the infofile \S+: it is a folder\n$/);
    assert.deepEqual(readdirSync(folder.path), ["test.ini"]);
  });

  test(`${on}: a disk that fails later is one warning; messages go on, and so does the infofile`, async () => {
    using folder = tempFolder();
    const inside = join(folder.path, "run");
    const path = join(inside, "cc.info");
    mkdirSync(inside);
    await using s = await watched(["stats-period = 0.1", `infofile = ${path}`], SINK, target);
    using peer = await RawPeer.open(s.port);
    // Removed until it stays so: a file may just have been put there.
    await until("it is gone", () => {
      rmSync(inside, { recursive: true, force: true });
      return /cannot write/.test(s.output);
    });
    peer.write(message("", "x", "{}", ""));
    await s.until(/CCServer\.stats: \{count: 1, [\s\S]*CCServer\.stats: \{count: 1, /);
    const warnings = s.output.match(/WARNING CCServer\.infofile: cannot write \S*cc\.info: .*$/gm);
    assert.equal(warnings?.length, 1, s.output);
    mkdirSync(inside);
    await s.until(/INFO CCServer\.infofile: \S*cc\.info is written again/);
    await until("the file", () => existsSync(path) && sections(path).get("total")!.get("count") === "1");
  });
}

for (const target of SLOW_TARGETS) {
  test(`${target.name}: on a full disk the last infofile stays whole, messages go on, and it is written again with room`, async (t) => {
    using folder = tempFolder();
    const disk = join(folder.path, "disk");
    const path = join(disk, "cc.info");
    mkdirSync(disk);
    using mounted = smallDisk(disk);
    if (mounted.refused !== null) {
      console.log(`skipped: ${mounted.refused}`);
      return t.skip?.(mounted.refused);
    }
    await using s = await watched(["stats-period = 0.1", `infofile = ${path}`], SINK, target);
    using peer = await RawPeer.open(s.port);
    peer.write(message("", "x", "{}", ""));
    await until("the first message", () => sections(path).get("total")!.get("count") === "1");
    const other = join(disk, "other");
    assert.throws(() => writeFileSync(other, new Uint8Array(1 << 20)), /ENOSPC|no space/i);
    await s.until(/WARNING CCServer\.infofile: cannot write \S*cc\.info: .*space/i);
    const kept = readFileSync(path, "utf8");
    peer.write(message("", "x", "{}", ""), message("", "x", "{}", ""));
    await s.until(/CCServer\.stats: \{count: 3, [\s\S]*CCServer\.stats: \{count: 3, /);
    assert.equal(readFileSync(path, "utf8"), kept, "what was written last, whole");
    assert.match(kept, /^name: test\n[\s\S]*\n\[latest\]\n[\s\S]*seconds[^\n]*: \d+\.\d{4}\n$/);
    // Each attempt makes a file, and removes it.
    await until("no part of one", () => readdirSync(disk).sort().join() === "cc.info,other");
    rmSync(other);
    await s.until(/INFO CCServer\.infofile: \S*cc\.info is written again/);
    await until("the file", () => sections(path).get("total")!.get("count") === "3");
    assert.equal(s.output.match(/cannot write/g)!.length, 1, "told once");
    assert.equal((await s.stop()).code, 0);
  });
}

test("infofile: seconds and date of a time are the same second", () => {
  assert.equal(timestamp(1795526303_996), "1795526304.00 (2026-11-24 13:18:24 UTC)");
  assert.equal(timestamp(1795526303_994), "1795526303.99 (2026-11-24 13:18:23 UTC)");
});

test("averages: a window holds its last buckets, each counter that changed, and forgets older ones", () => {
  const averages = new Averages();
  assert.deepEqual([...finish(averages.window(60))], []);
  let a = 0;
  for (let i = 1; i <= 300; i++) {
    a += i;
    finish(
      averages.sample(new Map(i <= 200 ? [["a", a], ["b", 7]] : [["a", a], ["b", 7], ["c", (i - 200) / 4]])),
    );
  }
  const sum = (buckets: number) => buckets * 300 - buckets * (buckets - 1) / 2;
  for (const seconds of [60, 300, 900]) {
    const buckets = seconds / BUCKET_SECONDS;
    assert.deepEqual(finish(averages.window(seconds)).get("a"), {
      total: sum(buckets),
      perBucket: sum(buckets) / buckets,
      perSecond: sum(buckets) / seconds,
    });
    assert.equal(finish(averages.window(seconds)).has("b"), false, "it has not changed for longer");
    assert.equal(finish(averages.window(seconds)).get("c")?.total, Math.min(buckets, 100) / 4);
  }
});

test("averages: those of a server that runs for less than a window are of the buckets there are", () => {
  const averages = new Averages();
  finish(averages.sample(new Map([["a", 10]])));
  finish(averages.sample(new Map([["a", 30]])));
  assert.deepEqual(finish(averages.window(900)).get("a"), { total: 30, perBucket: 15, perSecond: 3 });
});
