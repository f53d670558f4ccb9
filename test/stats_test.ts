/** The statistics line and the heartbeat, as they stand in the log of a server process. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { readConfig } from "../mod.ts";
import {
  COUNTERS_MAX,
  GAUGES_MAX,
  LOG_TEXT_MAX_CHARS,
  REFUSED_CODES_MAX,
  TYPES_TRACKED,
} from "../src/limits.ts";
import { POOL } from "../src/memory/pool.ts";
import { duration } from "../src/observe/heartbeat.ts";
import { finish } from "../src/observe/slices.ts";
import { formatCounter, values } from "../src/observe/stats.ts";
import { Statistics } from "../src/server/counts.ts";
import { StretchedClock } from "./helpers/clock.ts";
import { SLOW_TARGETS, tempFolder, until } from "./helpers/env.ts";
import { test } from "./helpers/memory.ts";
import { message, RawPeer } from "./helpers/raw.ts";
import { serverOn } from "./helpers/server.ts";
import { SINK, untilMetrics, watched } from "./helpers/watched.ts";

/** The last statistics line in a log. */
function lastLine(output: string): string {
  const lines = [...output.matchAll(/ INFO CCServer\.stats: (\{.*\})$/gm)];
  assert.ok(lines.length > 0, output);
  return lines[lines.length - 1][1];
}

for (const target of SLOW_TARGETS) {
  const on = target.name;

  test(`${on}: the statistics line comes every stats-period and once at exit, with the handlers' counters`, async () => {
    await using s = await watched(["cc-stats = 2", "stats-period = 0.2"], SINK, target);
    using peer = await RawPeer.open(s.port);
    peer.write(message("", "x.a", "{}", ""), message("", "x.a", "{}", ""), message("", "x.b", "{}", ""));
    peer.write(message("", "no type!", "{}", ""), message("", "task.send.12ab", "{}", ""));
    await s.until(/CCServer\.stats: \{count: 5, /);
    await s.until(/CCServer\.stats: [\s\S]*CCServer\.stats: \{count: 5, /);
    assert.match(
      lastLine(s.output),
      /^\{count: 5, bytes: \d+, seconds: \d\.\d{4}, count\.ok: 4, bytes\.ok: \d+, seconds\.ok: \d\.\d{4}, count\.invalid: 1, bytes\.invalid: \d+, seconds\.invalid: 0\.0000, disposed_count: 4, disposed_bytes: \d+, count\.ok\.msg\.x\.a: 2, .*count\.ok\.msg\.x\.b: 1, .*count\.ok\.msg\.task\.send\.<uid>: 1, /,
    );
  });

  test(`${on}: with a long stats-period the line still comes at exit; level 1 tells no types`, async () => {
    await using s = await watched(["stats-period = 3600"], SINK, target);
    using peer = await RawPeer.open(s.port);
    peer.write(message("", "x.a", "{}", ""));
    // What came before the invalid one is counted when that is told.
    peer.write(message("", "no type!", "{}", ""));
    await s.until(/not a CC message/);
    assert.doesNotMatch(s.output, /CCServer\.stats/);
    assert.equal((await s.stop()).code, 0);
    assert.match(
      lastLine(s.output),
      /^\{count: 2, .*count\.ok: 1, .*disposed_count: 1, disposed_bytes: \d+\}$/,
    );
    assert.match(s.output, /CCServer\.stats: .*\n.*CCServer\.shutdown: stopped\n$/);
  });

  test(`${on}: level 0 counts nothing, warns at start, and writes no line`, async () => {
    await using s = await watched(
      ["cc-stats = 0", "stats-period = 0.1", "heartbeat = 0.3", "http-listen = 127.0.0.1:*"],
      SINK,
      target,
    );
    assert.match(s.output, /WARNING CCServer\.startup: cc-stats is 0: nothing is counted/);
    await s.until(/heartbeat: up \d s, messages are not counted, 0 peers, 0 of 0 upstreams up/);
    const samples = await untilMetrics(s, () => true);
    assert.equal([...samples.keys()].some((name) => name.startsWith("cc_messages_total")), false);
    assert.equal((await s.stop()).code, 0);
    assert.doesNotMatch(s.output, /CCServer\.stats/);
  });

  test(`${on}: many thousands of types cost no more than the bound, in memory, line and infofile`, async () => {
    using folder = tempFolder();
    const infofile = join(folder.path, "cc.info");
    await using s = await watched(
      [
        "cc-stats = 2",
        "stats-period = 3600",
        "http-listen = 127.0.0.1:*",
        `infofile = ${infofile}`,
        "infofile-level = 3",
      ],
      SINK,
      target,
    );
    using peer = await RawPeer.open(s.port);
    const flood = async (from: number, to: number) => {
      for (let i = from; i < to; i += 500) {
        peer.write(
          ...Array.from({ length: 500 }, (_, j) => message("", `${"x".repeat(100)}.${i + j}`, "{}", "")),
        );
      }
      return await untilMetrics(s, (samples) => samples.get('cc_messages_total{outcome="ok"}') === to);
    };
    await flood(0, 20_000);
    const before = s.residentBytes;
    const samples = await flood(20_000, 100_000);
    const grown = s.residentBytes - before;
    assert.ok(grown < 48 * 2 ** 20, `${(grown / 2 ** 20).toFixed(0)} MiB more for 80 000 more types`);
    const types = [...samples.keys()].filter((name) => name.startsWith("cc_type_messages_total"));
    assert.equal(types.length, TYPES_TRACKED + 1);
    assert.equal(
      samples.get('cc_type_messages_total{type="other",outcome="ok"}'),
      100_000 - TYPES_TRACKED,
    );
    assert.equal((await s.stop()).code, 0);
    const line = lastLine(s.output);
    assert.ok(line.length <= LOG_TEXT_MAX_CHARS, `${line.length}`);
    assert.match(line, /^\{count: 100000, .* disposed_count: 100000, .*, \d+ more\}$/);
  });

  test(`${on}: the heartbeat tells what came since the last one, who is connected, and a loop that was blocked`, async () => {
    using folder = tempFolder();
    const handler = join(folder.path, "busy.mjs");
    writeFileSync(
      handler,
      `export default { create: () => ({ plan: () => ({ raw: true }), handle() {
        const end = performance.now() + 400;
        while (performance.now() < end);
        return "ok";
      } }) };\n`,
    );
    await using s = await watched(
      ["heartbeat = 1"],
      `[routes]\nbusy = h:busy\nx = h:down\n[h:busy]\nhandler = ${handler}\n` +
        `[h:down]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:1\n`,
      target,
    );
    using peer = await RawPeer.open(s.port);
    peer.write(message("", "busy", "{}", ""));
    const [line, bytes] = await s.until(
      /INFO CCServer\.heartbeat: up \d+ s, 1 messages? and (\d+) bytes since the last line, 1 peers, 0 of 1 upstreams up, 0 messages dropped, event loop lag p50 \d+\.\d ms p99 (?:[2-9]\d\d|\d{4})\.\d ms, \d+\.\d MiB resident/,
    );
    assert.equal(Number(bytes), message("", "busy", "{}", "").length, line);
    await s.until(/heartbeat: up \d+ s, 0 messages and 0 bytes since the last line, 1 peers/);
  });
}

test("statistics: types past the bound are one, a request's id is no type, seconds are those of the server", () => {
  const statistics = new Statistics(2);
  for (let i = 0; i < 5000; i++) statistics.add("ok", 1, 10, 0.001, statistics.type(`t.${i}`));
  for (let i = 0; i < 5000; i++) assert.equal(statistics.type(`task.reply.${i}`)?.name, "other");
  const types = [...statistics.types];
  assert.equal(types.length, TYPES_TRACKED + 1);
  assert.equal(types.find(({ name }) => name === "other")!.byResult.ok.count, 5000 - TYPES_TRACKED);
  assert.equal(new Statistics(2).type("task.send.1a2b.x")?.name, "task.send.<uid>");
  assert.equal(new Statistics(2).type("task.register")?.name, "task.register");
  assert.equal(new Statistics(1).type("x"), null);
  assert.equal(formatCounter("count.ok.msg.x.seconds", 3), "3");
  assert.equal(formatCounter("seconds.ok.msg.x", 3), "3.0000");
});

test("statistics: counters that a handler makes up are bounded too", () => {
  const statistics = new Statistics(1);
  const meter = statistics.meter("h:x");
  for (let i = 0; i < 5000; i++) meter.counter(`made.up.${i}`).add();
  for (let i = 0; i < GAUGES_MAX + 1; i++) meter.gauge(`made.up.${i}`, () => i);
  assert.equal([...statistics.counters].length, COUNTERS_MAX);
  assert.equal([...statistics.gauges].length, GAUGES_MAX);
  for (let i = 0; i < 5000; i++) statistics.refuse(`code-${i}`);
  assert.equal(statistics.refused.size, REFUSED_CODES_MAX + 1);
  assert.equal(statistics.refused.get("other"), 5000 - REFUSED_CODES_MAX);
});

test("server: memory of large messages is given back within a minute, whatever stats-period is", async () => {
  POOL.take(2 ** 20).release();
  assert.ok(POOL.freeBytes >= 2 ** 20);
  const config = readConfig(
    `[ccserver]\ncc-socket = tcp://127.0.0.1:*\nstats-period = 86400\n${SINK}`,
    "test.ini",
  );
  const server = serverOn(config, { environment: new StretchedClock(100).environment });
  await server.start();
  await until("an empty pool", () => POOL.freeBytes === 0, 600);
  await server.stop();
});

test("statistics: counters of one name are summed, and told apart; a handler's go on when another takes its place", () => {
  const statistics = new Statistics(1);
  const [a, b] = [statistics.meter("h:a"), statistics.meter("h:b")];
  a.counter("seen").add(2);
  assert.equal(finish(values(statistics)).has("seen.h:a"), false);
  b.counter("seen").add(3);
  b.counter("seen", { by: "type" }).add(4);
  a.close();
  statistics.meter("h:a").counter("seen").add(10);
  const told = finish(values(statistics));
  assert.deepEqual(
    ["seen", "seen.h:a", "seen.h:b", "seen.type"].map((name) => told.get(name)),
    [15, 12, 3, 4],
  );
  assert.deepEqual([...new Statistics(0).counters], []);
});

test("heartbeat: how long it is up is told in the two largest units", () => {
  assert.deepEqual([0.4, 9, 723, 18_420, 273_600].map(duration), [
    "0 s",
    "9 s",
    "12 min 3 s",
    "5 h 7 min",
    "3 d 4 h",
  ]);
});
