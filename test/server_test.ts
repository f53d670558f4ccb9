/** The server in this process: dispatch, statistics, and each built-in handler, by clients of our own. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { CCError, option, type SectionReader, type SectionsRead, StartError, text } from "../mod.ts";
import { finish } from "../src/observe/slices.ts";
import { statisticsLine } from "../src/observe/stats.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { StretchedClock } from "./helpers/clock.ts";
import { until } from "./helpers/env.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";
import { configOf, h, keptLog, noting, opening, own, serve, serverOn } from "./helpers/server.ts";
import { test } from "./helpers/memory.ts";

const ECHO = `[routes]\necho = h:echo\n${h("echo", "echo")}`;

test("echo answers with what was asked, and the client's route brings it back", async () => {
  await using s = await serve(ECHO);
  const { type, body } = await s.client.query({ type: "echo.request", fields: { target: "you" } });
  assert.equal(type, "echo.response");
  assert.equal(body.orig_target, "you");
  assert.equal(typeof body.orig_time, "number");
  assert.equal(body.blob_hash, "");
  const many = await Promise.all(
    Array.from(
      { length: 500 },
      (_, i) => s.client.query({ type: "echo.request", fields: { target: String(i) } }),
    ),
  );
  assert.deepEqual(
    many.map(({ body }) => body.orig_target),
    Array.from({ length: 500 }, (_, i) => String(i)),
  );
  assert.equal(s.stats().get("replies"), 501);
});

test("every handler of every prefix gets a message: *, then a, then a.b, in the order they are written", async () => {
  const seen: string[] = [];
  const names = ["one", "two", "three", "four", "never"];
  await using s = await serve(
    `[routes]\na.b = h:four\na = h:two, h:three\n* = h:one\na.b.c.d = h:never\n` +
      names.map((name) => h(name, name)).join(""),
    names.map((name) => noting(name, (type) => seen.push(`${name}:${type}`))),
  );
  await s.client.publish({ type: "a.b.c", fields: {} });
  await s.client.publish({ type: "ab", fields: {} });
  await until("all", () => seen.length >= 5);
  assert.deepEqual(seen, ["one:a.b.c", "two:a.b.c", "three:a.b.c", "four:a.b.c", "one:ab"]);
});

test("a message without a route is dropped with a warning and counted", async () => {
  await using s = await serve(ECHO);
  for (let i = 0; i < 3; i++) await s.client.publish({ type: "nowhere.to.go", fields: {} });
  await s.line(/WARNING CCServer\.route: dropping msg, no route: nowhere\.to\.go/);
  await until("the count", () => s.stats().get("count.dropped") === 3);
  assert.equal(s.stats().get("count.dropped.msg.nowhere.to.go"), 3);
  assert.equal(s.lines.filter((line) => line.includes("no route")).length, 1, "told once");
});

test("a handler that throws is logged and counted, and the others still get the message", async () => {
  const seen: string[] = [];
  await using s = await serve(
    `[routes]\nx = h:bad, h:worse, h:good\n${h("bad", "bad")}${h("worse", "worse")}${h("good", "good")}`,
    [
      opening("bad", () => {
        throw new Error("broken on purpose");
      }),
      opening("worse", () => Promise.reject(new Error("broken later"))),
      noting("good", (type) => seen.push(type)),
    ],
  );
  await s.client.publish({ type: "x.y", fields: {} });
  await s.line(/h:bad\.handle: crashed on a message "x\.y": Error: broken on purpose/);
  await s.line(/h:worse\.handle: crashed on a message "x\.y": Error: broken later/);
  assert.deepEqual(seen, ["x.y"]);
  await until("the count", () => s.stats().get("count.crashed") === 1);
  assert.equal(s.stats().get("count.ok"), undefined);
});

test("what is no CC message is counted invalid, told once a peer, and harms nobody", async () => {
  await using s = await serve(`[routes]\n* = h:sink\n${h("sink", "disposer")}`);
  using peer = await RawPeer.open(s.port);
  const bad = [
    ["no", "delimiter"],
    [""],
    ["", "type.only"],
    ["", "", "{}"],
    ["", "bad type", "{}"],
    ["", "bad..type", "{}"],
    ["", "type\n", "{}"],
    ["", "x".repeat(257), "{}"],
    ["", Array.from({ length: 17 }, () => "a").join("."), "{}"],
    ["", "a", "{}", "", "blob", "surplus"],
  ];
  for (const frames of bad) peer.write(message(...frames));
  peer.write(
    message("", "x".repeat(256), "{}"),
    message("", "good", "{}"),
    message("r", "", "good", "{}", "", "blob"),
  );
  await until("the good ones", () => s.stats().get("count.ok") === 3);
  assert.equal(s.stats().get("count.invalid"), bad.length);
  assert.equal(s.lines.filter((line) => line.includes("not a CC message")).length, 1, s.lines.join("\n"));
  const bytes = bad.reduce((sum, frames) => sum + message(...frames).length, 0);
  assert.equal(s.stats().get("bytes.invalid"), bytes);
});

for (
  const [what, code, bytes] of [
    ["HTTP", "not-zmtp", Buffer.from("GET / HTTP/1.1\r\n\r\n")],
    ["a draft of ZMTP 2.0", "old-version", Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 0])],
    ["a frame of ZMTP 1.0 that is none", "reserved-flags", Buffer.from([1, 0, 2, 8, 0])],
    [
      "an unknown mechanism",
      "unknown-mechanism",
      Buffer.concat([GREETING.subarray(0, 12), Buffer.from("CURVE"), Buffer.alloc(47)]),
    ],
    ["a socket type that does not fit", "socket-type", Buffer.concat([GREETING, ready("SUB")])],
    [
      "reserved flag bits",
      "reserved-flags",
      Buffer.concat([GREETING, ready("DEALER"), Buffer.from([0x80, 0])]),
    ],
    [
      "a length of 2^53",
      "length",
      Buffer.concat([GREETING, ready("DEALER"), Buffer.from([2, 0, 0x20, 0, 0, 0, 0, 0, 0])]),
    ],
    [
      "a length above 1 GiB",
      "too-large",
      Buffer.concat([GREETING, ready("DEALER"), Buffer.from([2, 0, 0, 0, 0, 0x40, 0, 0, 1])]),
    ],
    [
      "a command in a message",
      "command-in-message",
      Buffer.concat([GREETING, ready("DEALER"), Buffer.from([1, 0, 4, 1, 0])]),
    ],
    [
      "too many frames",
      "too-many-frames",
      Buffer.concat([GREETING, ready("DEALER"), Buffer.alloc(200, Buffer.from([1, 0]))]),
    ],
  ] as const
) {
  test(`${what} ends the connection with one line that says why (${code}); others go on`, async () => {
    await using s = await serve(ECHO);
    using peer = await RawPeer.connect(s.port);
    peer.write(bytes);
    await until("the end", () => peer.closed);
    await s.line(new RegExp(`WARNING CCServer\\.peer: closed tcp://127\\.0\\.0\\.1:\\d+: .* \\(${code}\\)$`));
    assert.equal(s.lines.filter((line) => line.includes("closed tcp:")).length, 1);
    const { type } = await s.client.query({ type: "echo.request", fields: { target: "me" } });
    assert.equal(type, "echo.response");
  });
}

test("statistics: totals are the sums, and types are told apart at level 2", async () => {
  await using s = await serve(`[routes]\nx = h:sink\n${h("sink", "disposer")}`);
  for (let i = 0; i < 10; i++) await s.client.publish({ type: i % 2 ? "x.a" : "x.b", fields: { i } });
  await s.client.publish({ type: "y", fields: {} });
  await s.client.publish({ type: "task.send.123e4567", fields: {} });
  await s.client.publish({ type: "task.send.89ab", fields: {} });
  await until("the counts", () => s.stats().get("count") === 13);
  const v = s.stats();
  assert.equal(v.get("count.ok"), 10);
  assert.equal(v.get("count.dropped"), 3);
  assert.equal(v.get("count.ok.msg.x.a"), 5);
  assert.equal(v.get("count.ok.msg.x.b"), 5);
  assert.equal(v.get("count.dropped.msg.task.send.<uid>"), 2);
  assert.equal(v.get("bytes"), v.get("bytes.ok")! + v.get("bytes.dropped")!);
  assert.equal(v.get("disposed_count"), 10);
  assert.equal(v.get("disposed_bytes"), v.get("bytes.ok"));
  assert.match(
    finish(statisticsLine(s.server.statistics)),
    /^\{count: 13, bytes: \d+, seconds: 0\.\d{4}, count\.ok: 10, /,
  );
});

test("statistics: a message counts by the worst that became of it, and a run of mixed ends adds up", async () => {
  let n = 0;
  const bad = opening("bad", () => {
    if (++n % 3 === 0) throw new Error("every third");
    return n % 3 === 1 ? "ok" : "retry";
  });
  await using s = await serve(`[routes]\nx = h:sink, h:bad\n${h("sink", "disposer")}${h("bad", "bad")}`, [
    bad,
  ]);
  using peer = await RawPeer.open(s.port);
  const one = message("", "x", '{"req":"x"}', "");
  const broken = message("", "x", '{"req":"y"}', "");
  peer.write(Buffer.concat([...Array<Buffer>(9).fill(one), ...Array<Buffer>(4).fill(broken)]));
  await until("all", () => s.stats().get("count") === 13);
  const v = s.stats();
  const [ok, dropped, crashed, refused] = ["ok", "dropped", "crashed", "refused"].map((r) =>
    v.get(`count.${r}`)
  );
  assert.deepEqual([ok, dropped, crashed, refused], [3, 3, 3, 4]);
  assert.equal(v.get("refused.hijacked"), 4);
  assert.equal(v.get("bytes"), 13 * one.length);
  assert.equal(v.get("disposed_count"), 13);
});

test("locallogger writes one line, escaped; another type is told", async () => {
  await using s = await serve(`[routes]\n* = h:log\n${h("log", "cc.handler.locallogger")}`);
  const time = new Date(2026, 10, 22, 7, 9, 26, 967).getTime() / 1000;
  const fields = { log_level: "WARNING", job_name: "job", log_time: time, service_type: "x" };
  await s.client.publish({
    type: "log.warning",
    fields: { ...fields, log_msg: "two\nlines \x1b[31m and \u202e" },
  });
  const line = await s.line(/h:log\.handle: \[job@/);
  assert.match(line, /\[job@[^\]]+\] 07:09:26,967 WARNING two\\nlines \\x1b\[31m and \\u202e$/);
  await s.client.publish({ type: "pub.x", fields: {} });
  await s.line(/WARNING h:log\.plan: non-log msg: pub\.x/);
});

test("a body that cannot be opened is refused: counted by code, told, not answered", async () => {
  await using s = await serve(ECHO);
  using peer = await RawPeer.open(s.port);
  const request = (body: string | Uint8Array) => message("", "echo.request", body, "");
  const nested = (open: string, close: string, depth: number) =>
    `{"req":"echo.request","x":${open.repeat(depth)}1${close.repeat(depth)}}`;
  for (
    const body of [
      '{"req":"echo.other"}',
      "not json",
      "[]",
      "{}",
      "ENC1",
      '{"req":"echo.request","target":5}',
      '{"req":"echo.request"',
      `{"req":"echo.request","x":"${"y".repeat(70_000)}"}`,
      nested("[", "]", 5000),
      nested('{"a":', "}", 5000),
      `{"req":"echo.request","x":[${"1,".repeat(12_000)}1]}`,
    ]
  ) peer.write(request(body));
  peer.write(request(Buffer.from([0x22, 0xff, 0x22])));
  peer.write(request('{"req":"echo.request","target":"good","x":[[[[[[[[1]]]]]]]]}'));
  const [, type, body] = await peer.receive();
  assert.equal(type.toString(), "echo.response");
  assert.equal(JSON.parse(body.toString()).orig_target, "good");
  await until("the counts", () => s.stats().get("count.refused") === 12);
  const codes = ["hijacked", "not-json", "bad-body", "encrypted", "too-large", "too-complex"];
  assert.deepEqual(codes.map((code) => s.stats().get(`refused.${code}`)), [1, 3, 3, 1, 1, 3]);
  assert.equal(s.stats().get("count.refused.msg.echo.request"), 12);
  assert.equal(s.stats().get("count.ok"), 1);
  assert.equal(s.stats().get("replies"), 1);
  await s.line(
    /WARNING CCServer\.open: refusing "echo\.request" from tcp:\/\/127\.0\.0\.1:\d+: hijacked message: its body says "echo\.other" \(hijacked\)/,
  );
});

test("a body of 14 MB, nested or with a million keys, holds nobody up", async () => {
  // Its reader takes as much as may be asked for: what is refused here is refused for its shape.
  const large = own("large", () => ({
    plan: () => ({
      open: { "~standard": { version: 1, vendor: "test", validate: (value) => ({ value }) } },
      maxBytes: 2 ** 24,
    }),
    handle: () => "ok",
  }));
  await using s = await serve(
    `[routes]\nx = h:large\necho = h:echo\n${h("large", "large")}${h("echo", "echo")}`,
    [large],
  );
  using peer = await RawPeer.open(s.port);
  const million = Array.from({ length: 1_000_000 }, (_, i) => `"k${i}":1`).join();
  for (const part of [`"a":${"[".repeat(7_000_000)}${"]".repeat(7_000_000)}`, million]) {
    peer.write(message("", "x", `{"req":"x",${part}}`, ""));
  }
  const long = Buffer.alloc(14_000_000, "A");
  peer.write(
    message("", "x", Buffer.concat([Buffer.from('{"req":"x","data":"'), long, Buffer.from('"}')]), ""),
  );
  let slowest = 0;
  // An echo all the time: whatever holds up the loop holds it up too.
  while ((s.stats().get("count.refused") ?? 0) < 2 || s.stats().get("count.ok.msg.x") === undefined) {
    const begin = performance.now();
    await s.client.query({ type: "echo.request", fields: {} });
    slowest = Math.max(slowest, performance.now() - begin);
  }
  assert.equal(s.stats().get("refused.too-complex"), 2);
  assert.ok(slowest < 400, `an echo took ${slowest.toFixed(0)} ms`);
});

test("filter passes what is included and not excluded, as a forward", async () => {
  const seen: string[] = [];
  await using s = await serve(
    `[routes]\n* = h:f\n${
      h("f", "filter", "forward-to = h:to\ninclude = pub.*, log.?nfo\nexclude = pub.secret*")
    }` + h("to", "to"),
    [noting("to", (type) => seen.push(type))],
  );
  for (const type of ["pub.a", "pub.secret", "pub.secret.b", "log.info", "log.inffo", "publ", "pub.b"]) {
    await s.client.publish({ type, fields: {} });
  }
  await until("all", () => s.stats().get("filter.count") === 7);
  assert.deepEqual(seen, ["pub.a", "log.info", "pub.b"]);
  assert.equal(s.stats().get("filter.count.ok"), 3);
  assert.equal(s.stats().get("filter.count.dropped"), 4);
  assert.equal(s.stats().get("count.ok"), 7, "what a filter excludes is taken by it");
});

test("a filter's pattern is matched in time that grows with the type, whatever both are", async () => {
  await using s = await serve(
    `[routes]\n* = h:f\n${h("f", "filter", `forward-to = h:to\ninclude = ${"*a".repeat(60)}*b, *?*?*?a`)}` +
      h("to", "disposer"),
  );
  using peer = await RawPeer.open(s.port);
  const begin = performance.now();
  for (let i = 0; i < 50; i++) peer.write(message("", `${"a".repeat(250)}${i}`, "{}", ""));
  await until("all", () => s.stats().get("filter.count") === 50);
  assert.ok(performance.now() - begin < 2000);
});

test("two filters count apart, and their sum has the name of old", async () => {
  await using s = await serve(
    `[routes]\na = h:one\nb = h:two\n${h("one", "filter", "forward-to = h:to")}` +
      `${h("two", "filter", "forward-to = h:to\ninclude = none")}${h("to", "disposer")}`,
  );
  for (const type of ["a", "a", "b"]) await s.client.publish({ type, fields: {} });
  await until("all", () => s.stats().get("filter.count") === 3);
  const found = ["filter.count.h:one", "filter.count.h:two", "filter.count.ok", "filter.count.dropped"];
  assert.deepEqual(found.map((name) => s.stats().get(name)), [2, 1, 2, 1]);
});

test("delay passes on later, in order; what waits at the end is passed on then", async () => {
  const seen: unknown[] = [];
  const make = (delay: number) =>
    serve(`[routes]\nx = h:d\n${h("d", "delay", `forward-to = h:to\ndelay = ${delay}`)}${h("to", "to")}`, [
      opening("to", (_message, { i }) => {
        seen.push(i);
        return "ok";
      }),
    ]);
  {
    await using s = await make(0.2);
    const begin = performance.now();
    for (let i = 0; i < 50; i++) {
      await s.client.publish({ type: "x", fields: { i, fill: "y".repeat(i * 400) } });
    }
    await until("all", () => seen.length === 50);
    assert.ok(performance.now() - begin >= 195);
    assert.deepEqual(seen, Array.from({ length: 50 }, (_, i) => i));
    await until("the counts", () => s.stats().get("count.ok") === 50);
    assert.equal(s.stats().get("delay.count.ok"), 50);
  }
  seen.length = 0;
  {
    await using s = await make(3600);
    for (let i = 0; i < 3; i++) await s.client.publish({ type: "x", fields: { i } });
    await until("they wait", () => s.stats().get("delay.count") === 3);
    assert.deepEqual(seen, []);
  }
  assert.deepEqual(seen, [0, 1, 2]);
});

test("a handler that throws behind delay or filter is logged and counted, and ends nothing", async () => {
  let seen = 0;
  await using s = await serve(
    `[routes]\nx = h:d, h:f\n${h("d", "delay", "forward-to = h:bad\ndelay = 0.01")}` +
      `${h("f", "filter", "forward-to = h:late")}${h("bad", "bad")}${h("late", "late")}`,
    [
      opening("bad", () => {
        seen++;
        throw new Error("broken behind another");
      }),
      opening("late", () => Promise.reject(new Error("async behind another"))),
    ],
  );
  for (let i = 0; i < 3; i++) await s.client.publish({ type: "x", fields: { i } });
  await until("all", () => seen === 3);
  await s.line(/h:bad\.handle: crashed on a message "x": Error: broken behind another/);
  await s.line(/h:late\.handle: crashed on a message "x": Error: async behind another/);
  await until("the counts", () => s.stats().get("count.crashed") === 3);
  assert.doesNotMatch(s.lines.join("\n"), /h:d\.handle: crashed/, "told where it happened, once");
});

test("an echo along the longest route that is let in is answered; one with long frames is refused", async () => {
  await using s = await serve(ECHO);
  using peer = await RawPeer.open(s.port);
  const route = Array.from({ length: 34 }, (_, i) => `r${i}`);
  peer.write(message("x".repeat(20_000), "", "echo.request", '{"req":"echo.request"}'));
  peer.write(message(...route, "", "echo.request", '{"req":"echo.request"}'));
  assert.deepEqual((await peer.receive()).slice(0, 35).map(String), [...route, ""]);
  assert.equal(s.stats().get("count.crashed"), undefined);
  assert.equal(s.stats().get("refused.long-route"), 1);
});

test("what delay holds when the server stops still goes out through a proxy", async () => {
  await using far = await serve(`[routes]\n* = h:sink\n${h("sink", "disposer")}`);
  {
    await using s = await serve(
      `[routes]\na = h:p\nb = h:d\n${h("p", "proxy", `remote-cc = ${far.endpoint}`)}` +
        h("d", "delay", "forward-to = h:p\ndelay = 3600"),
    );
    await s.line(/is up/);
    for (let i = 0; i < 200; i++) await s.client.publish({ type: "b", fields: { fill: "y".repeat(5000) } });
    await until("they wait", () => s.stats().get("delay.count") === 200);
  }
  await until("all", () => far.stats().get("disposed_count") === 200);
});

test("proxy with ping: pongs are its own, and their round trip is known", async () => {
  await using far = await serve(ECHO);
  await using s = await serve(
    `[routes]\npub = h:p\n${h("p", "cc.handler.proxy", `remote-cc = ${far.endpoint}\nping = yes`)}`,
  );
  await s.line(/h:p\.connect: tcp:.* is up/);
  const [{ upstream }] = s.server.state.upstreams;
  await until("a round trip", () => upstream.roundTripSeconds !== null);
  assert.ok((far.stats().get("count.ok.msg.echo.request") ?? 0) >= 1);
  assert.equal(s.stats().get("dropped_routes"), undefined);
});

test("a silent remote is warned about, and told when it answers again", async () => {
  const time = new StretchedClock();
  let answers = false;
  const mute = own("mute", () => ({
    plan: () => ({ raw: true }),
    handle(message) {
      if (answers) message.reply({ type: "echo.response", fields: { orig_time: null } });
      return "ok";
    },
  }));
  await using far = await serve(`[routes]\necho = h:mute\n${h("mute", "mute")}`, [mute]);
  await using s = await serve(
    `[routes]\necho = h:echo\n${h("echo", "echo", `ping-remotes = ${far.endpoint}`)}`,
    [],
    time.environment,
  );
  await s.line(/WARNING h:echo\.ping: no pong from tcp:\S+ for \d+ s/);
  answers = true;
  await s.line(/INFO h:echo\.pong: tcp:\S+ answers again/);
});

test("echo pings remotes and takes their pongs", async () => {
  await using far = await serve(ECHO);
  await using s = await serve(
    `[routes]\necho = h:echo\n${h("echo", "echo", `ping-remotes = ${far.endpoint}`)}`,
  );
  await until("two pings", () => (far.stats().get("count.ok.msg.echo.request") ?? 0) >= 2, 5000);
  const [{ upstream }] = s.server.state.upstreams;
  await until("a pong", () => upstream.roundTripSeconds !== null);
  assert.deepEqual(s.server.state.unready, [], "who is only pinged may be away");
});

test("a chain of two servers carries requests there and replies back, through a filter too", async () => {
  await using far = await serve(ECHO);
  await using s = await serve(
    `[routes]\n* = h:f\n${h("f", "filter", "forward-to = h:p")}${
      h("p", "proxy", `remote-cc = ${far.endpoint}`)
    }`,
  );
  await s.line(/is up/);
  const replies = await Promise.all(
    Array.from(
      { length: 200 },
      (_, i) => s.client.query({ type: "echo.request", fields: { target: String(i) } }),
    ),
  );
  assert.deepEqual(
    replies.map(({ body }) => body.orig_target),
    Array.from({ length: 200 }, (_, i) => String(i)),
  );
  assert.equal(s.stats().get("filter.count.ok"), 200);
  assert.equal(s.stats().get("replies"), 200);
});

test("a start that fails leaves nothing behind", async () => {
  await using s = await serve(`[routes]\nx = h:sink\n${h("sink", "disposer")}`);
  const sections = `[routes]\n* = h:p\n${h("p", "proxy", `remote-cc = ${s.endpoint}`)}`;
  const config = configOf(sections, [], "second.ini");
  const second = serverOn({ ...config, options: { ...config.options, "cc-socket": s.endpoint } });
  await assert.rejects(
    second.start(),
    (e) => e instanceof StartError && e.code === "EADDRINUSE" && /the address is in use/.test(e.message),
  );
  // Its proxy was connected already; the first server sees it leave.
  await until(
    "only the client is left",
    () =>
      s.lines.filter((l) => l.includes("connected as")).length <=
        1 + s.lines.filter((l) => l.includes("is gone")).length,
  );
});

const JOB: SectionReader = { prefix: "d:", options: () => ({ say: option(text, "nothing", "", "x") }) };

test("a handler that runs alone runs without a route, and knows its server and the sections that it reads", async () => {
  let told: unknown;
  const alone = own("alone", ({ server, sections, sectionsRead }) => ({
    plan: () => ({ raw: true }),
    start() {
      told = [server, sections.size, [...sectionsRead.values()].map(({ name, values }) => [name, values])];
    },
  }), { runsAlone: true, sections: [JOB] });
  const other = own("other", () => ({
    plan: () => ({ raw: true }),
    start() {
      throw new Error("started without a route");
    },
  }));
  await using server = await serve(
    `pidfile = /tmp/never-written.pid\n${ECHO}${h("a", "alone")}${
      h("o", "other")
    }[d:one]\nsay = a\n[d:two]\n`,
    [alone, other],
  );
  assert.deepEqual(told, [
    {
      jobName: "test",
      configFile: "test.ini",
      socket: "tcp://127.0.0.1:*",
      pidfile: "/tmp/never-written.pid",
      cms: {},
      receivesDatagrams: MACHINE.host.receivesDatagrams,
    },
    0,
    [["d:one", { say: "a" }], ["d:two", { say: "nothing" }]],
  ]);
  assert.match(
    server.lines.join("\n"),
    /WARNING CCServer\.startup: test\.ini:\d+: \[h:a\] is named by no route: it runs all the same/,
  );
});

test("a reload that changes only sections that a handler reads reconfigures it; text sections make a new one", async () => {
  const events: string[] = [];
  const said = (sections: SectionsRead) =>
    [...sections.values()].map(({ name, values, set }) => `${name}=${values.say}/${[...set]}`).join();
  let takes = true;
  const reads = own("reads", ({ sectionsRead, sections }) => ({
    start: () => void events.push(`start ${said(sectionsRead)} ${[...sections.keys()]}`),
    plan: () => ({ raw: true }),
    reconfigure(options, read) {
      events.push(`reconfigure ${JSON.stringify(options)} ${said(read)}`);
      return takes;
    },
    stop: () => void events.push("stop"),
  }), { sections: [JOB, "t:"] });
  const ini = (jobs: string) => `zmq_linger = 20\n[routes]\nx = h:a\n${h("a", "reads")}${jobs}`;
  await using server = await serve(ini("[d:one]\nsay = a\n"), [reads]);
  const changed = async (jobs: string) => (await server.reload(ini(jobs))).handlers.changed;
  assert.deepEqual(await changed("[d:one]\nsay = a\n"), []);
  assert.deepEqual(await changed("[d:one]\nsay = b\n"), ["h:a"]);
  assert.deepEqual(await changed("[d:one]\nsay = b\n[d:two]\n"), ["h:a"]);
  // The same value, but set.
  assert.deepEqual(await changed("[d:one]\nsay = b\n[d:two]\nsay = nothing\n"), ["h:a"]);
  takes = false;
  assert.deepEqual(await changed("[d:one]\nsay = c\n"), ["h:a"]);
  takes = true;
  assert.deepEqual(await changed("[d:one]\nsay = c\n[t:task]\nx = y\n"), ["h:a"]);
  assert.deepEqual(events, [
    "start d:one=a/say ",
    "reconfigure {} d:one=b/say",
    "reconfigure {} d:one=b/say,d:two=nothing/",
    "reconfigure {} d:one=b/say,d:two=nothing/say",
    "reconfigure {} d:one=c/say",
    "start d:one=c/say ",
    "stop",
    "start d:one=c/say t:task",
    "stop",
  ]);
});

/** A handler whose stop takes so long, told when time is over. */
function slowToStop(stopMs: () => number, tookMs: number) {
  const ends: string[] = [];
  return {
    ends,
    definition: own("slow", ({ environment: { clock } }) => ({
      plan: () => ({ raw: true }),
      stopMs,
      stop: (signal) =>
        new Promise<void>((resolve) => {
          const end = (how: string) => {
            ends.push(how);
            resolve();
          };
          signal.addEventListener("abort", () => end("aborted"));
          clock.after(tookMs, () => end("done"));
        }),
    })),
  };
}

test("a handler's stop has the time that it asks for where that is more than linger, behind others and in a reload too", async () => {
  const ini = `zmq_linger = 100\n[routes]\nx = h:f\n${h("f", "filter", "forward-to = h:a")}${h("a", "slow")}`;
  const { ends, definition } = slowToStop(() => 20_000, 8000);
  const stop = async () => {
    const { environment } = new StretchedClock(20);
    const server = serverOn(configOf(ini, [definition]), { environment });
    await server.start();
    await server.stop();
  };
  await stop();
  assert.deepEqual(ends, ["done"], "not aborted after linger, nor after the 5 s on top of it");
  {
    await using server = await serve(ini, [definition], new StretchedClock(20).environment);
    await server.reload(`zmq_linger = 100\n${ECHO}`);
    assert.deepEqual(ends, ["done", "done"]);
  }
  // Too long even for what it asks for.
  const late = slowToStop(() => 3000, 30_000);
  const time = new StretchedClock(20);
  const server = serverOn(configOf(ini, [late.definition]), { environment: time.environment });
  await server.start();
  const begin = performance.now();
  await server.stop();
  const took = (performance.now() - begin) * 20;
  assert.deepEqual(late.ends, ["aborted"]);
  assert.ok(took >= 3000 && took < 20_000, `${took} ms of its clock`);
});

test("a stopMs that throws, or is no number, is told, and linger holds", async () => {
  for (
    const [stopMs, told] of [
      [() => {
        throw new Error("no idea");
      }, /h:a\.stopMs: crashed: .*no idea/],
      [() => Infinity, /h:a\.stopMs: crashed: .*it returned Infinity, expected milliseconds/],
    ] as const
  ) {
    const { ends, definition } = slowToStop(stopMs, 30_000);
    const { log, lines } = keptLog();
    const server = serverOn(configOf(`zmq_linger = 20\n[routes]\nx = h:a\n${h("a", "slow")}`, [definition]), {
      log,
    });
    await server.start();
    await server.stop();
    assert.deepEqual(ends, ["aborted"]);
    assert.match(lines.join("\n"), told);
  }
});

test("control asks every handler that runs; what one throws is the answer", async () => {
  const answers = own("answers", ({ name }) => ({
    plan: () => ({ raw: true }),
    control(verb, { what }) {
      if (verb === "tell") return Promise.resolve({ name, what });
      if (verb === "null") return null;
      if (verb === "fail" && name === "h:b") throw new CCError("no-such-job", `there is no ${what}`);
      if (verb === "crash") throw new TypeError("oh");
      return undefined;
    },
  }));
  await using server = await serve(
    `[routes]\necho = h:echo\nx = h:a, h:b\n${h("echo", "echo")}${h("a", "answers")}${h("b", "answers")}`,
    [answers],
  );
  const ask = (verb: string) => server.server.control(verb, { what: "d:one" });
  assert.deepEqual(await ask("tell"), {
    "h:a": { name: "h:a", what: "d:one" },
    "h:b": { name: "h:b", what: "d:one" },
  });
  assert.deepEqual(await ask("null"), { "h:a": null, "h:b": null });
  assert.deepEqual(await ask("unknown"), {});
  await assert.rejects(
    ask("fail"),
    (error) =>
      error instanceof CCError && error.code === "no-such-job" && error.message === "there is no d:one",
  );
  assert.doesNotMatch(server.lines.join("\n"), /crashed/);
  await assert.rejects(ask("crash"), TypeError);
  assert.match(server.lines.join("\n"), /h:a\.control: crashed on crash: TypeError: oh/);
});
