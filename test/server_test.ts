/** The server in this process: dispatch, statistics, and each handler, by clients of our own. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import {
  CCClient,
  type CCMessage,
  CCServer,
  ClientError,
  type Handler,
  Logger,
  readConfig,
  StartError,
} from "../mod.ts";
import { tempFolder, text, until, utf8 } from "./helpers/env.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";

/** Starts a server on these sections; its log is kept. */
async function serve(
  sections: string,
  handlers: Record<string, (context: { log: Logger; toClient(m: Uint8Array): boolean }) => Handler> = {},
) {
  const lines: string[] = [];
  const config = readConfig(
    `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\ncc-stats = 2\n${sections}`,
    "test.ini",
    { handlers: Object.keys(handlers) },
  );
  const log = new Logger("CCServer", { sink: (line) => lines.push(line), pid: 1, level: "DEBUG" });
  const server = new CCServer(config, { log, handlers });
  const endpoint = await server.start();
  const client = new CCClient(endpoint);
  await client.ready(5000);
  return {
    server,
    endpoint,
    client,
    lines,
    port: Number(/:(\d+)$/.exec(endpoint)![1]),
    stats: () => server.statistics.values(),
    async line(pattern: RegExp) {
      return await until(
        `${pattern} in\n${lines.join("\n")}`,
        () => lines.find((line) => pattern.test(line)),
      );
    },
    async [Symbol.asyncDispose]() {
      await client.close(0);
      await server.stop();
    },
  };
}

const h = (name: string, handler: string, more = "") => `[h:${name}]\nhandler = ${handler}\n${more}\n`;

test("echo answers with what was asked, and the client's route brings it back", async () => {
  await using s = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`);
  const { type, body } = await s.client.query("echo.request", { target: "you" });
  assert.equal(type, "echo.response");
  assert.equal(body.orig_target, "you");
  assert.equal(typeof body.orig_time, "number");
  assert.equal(body.blob_hash, "");
  const many = await Promise.all(
    Array.from({ length: 500 }, (_, i) => s.client.query("echo.request", { target: String(i) })),
  );
  assert.deepEqual(
    many.map(({ body }) => body.orig_target),
    Array.from({ length: 500 }, (_, i) => String(i)),
  );
});

test("every handler of every prefix gets a message: *, then a, then a.b, in the order they are written", async () => {
  const seen: string[] = [];
  const note = (name: string) => () => ({
    handle: ({ type }: { type: string }) => void seen.push(`${name}:${type}`),
  });
  await using s = await serve(
    `[routes]\na.b = h:four\na = h:two, h:three\n* = h:one\na.b.c.d = h:never\n` +
      ["one", "two", "three", "four", "never"].map((name) => h(name, name)).join(""),
    Object.fromEntries(["one", "two", "three", "four", "never"].map((name) => [name, note(name)])),
  );
  await s.client.publish("a.b.c", {});
  await s.client.publish("ab", {});
  await until("all", () => seen.length >= 5);
  assert.deepEqual(seen, ["one:a.b.c", "two:a.b.c", "three:a.b.c", "four:a.b.c", "one:ab"]);
});

test("a message without a route is dropped with a warning and counted", async () => {
  await using s = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`);
  await s.client.publish("nowhere.to.go", {});
  await s.line(/WARNING CCServer\.route: dropping msg, no route: nowhere\.to\.go/);
  await until("the count", () => s.stats().get("count.dropped") === 1);
  assert.equal(s.stats().get("count.dropped.msg.nowhere.to.go"), 1);
});

test("a handler that throws is logged and counted, and the others still get the message", async () => {
  const seen: string[] = [];
  await using s = await serve(
    `[routes]\nx = h:bad, h:worse, h:good\n${h("bad", "bad")}${h("worse", "worse")}${h("good", "good")}`,
    {
      bad: () => ({
        handle() {
          throw new Error("broken on purpose");
        },
      }),
      worse: () => ({
        handle:
          (() => Promise.reject(new Error("async, against the contract"))) as unknown as Handler["handle"],
      }),
      good: () => ({ handle: ({ type }) => void seen.push(type) }),
    },
  );
  await s.client.publish("x.y", {});
  await s.line(/h:bad crashed on a message "x\.y": Error: broken on purpose/);
  await s.line(/h:worse crashed on a message "x\.y": Error: async, against the contract/);
  assert.deepEqual(seen, ["x.y"]);
  await until("the count", () => s.stats().get("count.crashed") === 1);
  assert.equal(s.stats().get("count.ok"), undefined);
});

test("one handler changing the view never changes what the next one sees", async () => {
  const seen: unknown[] = [];
  await using s = await serve(
    `[routes]\nx = h:vandal, h:after\n${h("vandal", "vandal")}${h("after", "after")}`,
    {
      vandal: () => ({
        handle(message) {
          message.type = "changed";
          message.prefix = utf8("changed");
          message.start += 2;
          message.delimiter = 99;
        },
      }),
      after: () => ({ handle: (m) => void seen.push(m.type, m.frames.map(text)[1], m.prefix.length) }),
    },
  );
  await s.client.publish("x.y", {});
  await until("the message", () => seen.length > 0);
  assert.deepEqual(seen, ["x.y", "x.y", 7]);
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
    ["ZMTP 1.0", "old-version", Buffer.from([1, 0])],
    ["ZMTP 2.0", "old-version", Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1, 5])],
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
      "a length above 64 MiB",
      "too-large",
      Buffer.concat([GREETING, ready("DEALER"), Buffer.from([2, 0, 0, 0, 0, 4, 0, 0, 1])]),
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
    await using s = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`);
    using peer = await RawPeer.connect(s.port);
    peer.write(bytes);
    await until("the end", () => peer.closed);
    await s.line(new RegExp(`WARNING CCServer\\.peer: closed tcp://127\\.0\\.0\\.1:\\d+: .* \\(${code}\\)$`));
    assert.equal(s.lines.filter((line) => line.includes("closed tcp:")).length, 1);
    assert.equal((await s.client.query("echo.request", { target: "me" })).type, "echo.response");
  });
}

test("statistics: totals are the sums, and types are told apart at level 2", async () => {
  await using s = await serve(`[routes]\nx = h:sink\n${h("sink", "disposer")}`);
  for (let i = 0; i < 10; i++) await s.client.publish(i % 2 ? "x.a" : "x.b", { i });
  await s.client.publish("y", {});
  await s.client.publish("task.send.123e4567", {});
  await s.client.publish("task.send.89ab", {});
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
  assert.match(s.server.statistics.line(), /^\{count: 13, bytes: \d+, seconds: 0\.\d{4}, count\.ok: 10, /);
});

test("locallogger writes one line, escaped; another type is told", async () => {
  await using s = await serve(`[routes]\n* = h:log\n${h("log", "cc.handler.locallogger")}`);
  const time = new Date(2026, 10, 22, 7, 9, 26, 967).getTime() / 1000;
  const fields = { log_level: "WARNING", job_name: "job", log_time: time, service_type: "x" };
  await s.client.publish("log.warning", { ...fields, log_msg: "two\nlines \x1b[31m and \u202e" });
  const line = await s.line(/h:log\.handle: \[job@/);
  assert.match(line, /\[job@[^\]]+\] 07:09:26,967 WARNING two\\nlines \\x1b\[31m and \\u202e$/);
  await s.client.publish("pub.x", {});
  await s.line(/non-log msg: pub\.x/);
});

test("a body that claims another type is hijacked: dropped, counted, not answered", async () => {
  await using s = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`);
  using peer = await RawPeer.open(s.port);
  for (
    const body of [
      '{"req":"echo.other"}',
      "not json",
      "[]",
      "{}",
      "ENC1",
      '{"req":"echo.request","target":5}',
      '{"req":"echo.request"',
    ]
  ) peer.write(message("", "echo.request", body, ""));
  peer.write(message("", "echo.request", Buffer.from([0x22, 0xff, 0x22]), ""));
  peer.write(message("", "echo.request", '{"req":"echo.request","target":"good"}', ""));
  const [, type, body] = await peer.receive();
  assert.equal(type.toString(), "echo.response");
  assert.equal(JSON.parse(body.toString()).orig_target, "good");
  await until("counts", () => s.stats().get("echo.hijacked") === 1 && s.stats().get("echo.not-json") === 3);
  assert.equal(s.stats().get("echo.bad-body"), 3);
  assert.equal(s.stats().get("echo.encrypted"), 1);
  await s.line(
    /dropping "echo\.request" from tcp:\/\/127\.0\.0\.1:\d+: hijacked message: its body says "echo\.other"/,
  );
});

test("filter passes what is included and not excluded", async () => {
  const seen: string[] = [];
  await using s = await serve(
    `[routes]\n* = h:f\n${
      h("f", "filter", "forward-to = h:to\ninclude = pub.*, log.?nfo\nexclude = pub.secret*")
    }` +
      h("to", "to"),
    { to: () => ({ handle: ({ type }) => void seen.push(type) }) },
  );
  for (const type of ["pub.a", "pub.secret", "pub.secret.b", "log.info", "log.inffo", "publ", "pub.b"]) {
    await s.client.publish(type, {});
  }
  await until("all", () => s.stats().get("filter.count") === 7);
  assert.deepEqual(seen, ["pub.a", "log.info", "pub.b"]);
  assert.equal(s.stats().get("filter.count.ok"), 3);
  assert.equal(s.stats().get("filter.count.dropped"), 4);
});

test("delay passes on later, in order; what waits at the end is passed on then", async () => {
  const seen: string[] = [];
  const make = (delay: number) =>
    serve(`[routes]\nx = h:d\n${h("d", "delay", `forward-to = h:to\ndelay = ${delay}`)}${h("to", "to")}`, {
      to: () => ({ handle: (m) => void seen.push(JSON.parse(text(m.body)).i) }),
    });
  {
    await using s = await make(0.2);
    const begin = performance.now();
    for (let i = 0; i < 50; i++) await s.client.publish("x", { i, fill: "y".repeat(i * 400) });
    await until("all", () => seen.length === 50);
    assert.ok(performance.now() - begin >= 195);
    assert.deepEqual(seen, Array.from({ length: 50 }, (_, i) => i));
  }
  seen.length = 0;
  {
    await using s = await make(3600);
    await s.client.publish("x", { i: 1 });
    await until("it waits", () => s.stats().get("delay.count") === 1);
    assert.deepEqual(seen, []);
  }
  assert.deepEqual(seen, [1]);
});

test("a handler that throws behind delay or filter is logged, and ends nothing", async () => {
  let seen = 0;
  const bad = () => ({
    handle() {
      seen++;
      throw new Error("broken behind another");
    },
  });
  const late = () => ({
    handle: (() => Promise.reject(new Error("async behind another"))) as unknown as Handler["handle"],
  });
  await using s = await serve(
    `[routes]\nx = h:d, h:f\n${h("d", "delay", "forward-to = h:bad\ndelay = 0.01")}` +
      `${h("f", "filter", "forward-to = h:late")}${h("bad", "bad")}${h("late", "late")}`,
    { bad, late },
  );
  for (let i = 0; i < 3; i++) await s.client.publish("x", { i });
  await until("all", () => seen === 3);
  await s.line(/h:bad crashed on a message "x": Error: broken behind another/);
  await s.line(/h:late crashed on a message "x": Error: async behind another/);
  assert.equal(s.stats().get("bad.crashed"), 3);
});

test("an echo along the longest route that is let in is answered", async () => {
  await using s = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`);
  using peer = await RawPeer.open(s.port);
  const route = Array.from({ length: 34 }, (_, i) => `r${i}`);
  peer.write(message(...route, "", "echo.request", '{"req":"echo.request"}'));
  assert.deepEqual((await peer.receive()).slice(0, 35).map(String), [...route, ""]);
  assert.equal(s.stats().get("count.crashed"), undefined);
});

test("what delay holds when the server stops still goes out through a proxy", async () => {
  await using far = await serve(`[routes]\n* = h:sink\n${h("sink", "disposer")}`);
  {
    await using s = await serve(
      `[routes]\na = h:p\nb = h:d\n${h("p", "proxy", `remote-cc = ${far.endpoint}`)}` +
        h("d", "delay", "forward-to = h:p\ndelay = 3600"),
    );
    await s.line(/is up/);
    for (let i = 0; i < 200; i++) await s.client.publish("b", { fill: "y".repeat(5000) });
    await until("they wait", () => s.stats().get("delay.count") === 200);
  }
  await until("all", () => far.stats().get("disposed_count") === 200);
});

test("proxy with ping: its pongs are its own; a silent remote is warned about", async () => {
  await using far = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`);
  await using s = await serve(
    `[routes]\npub = h:p\n${h("p", "cc.handler.proxy", `remote-cc = ${far.endpoint}\nping = yes`)}`,
  );
  await s.line(/h:p\.connect: tcp:.* is up/);
  await until("a ping there", () => (far.stats().get("count.ok.msg.echo.request") ?? 0) >= 1);
  assert.equal(s.stats().get("dropped_routes"), undefined);
});

test("echo pings remotes", async () => {
  await using far = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`);
  await using _s = await serve(
    `[routes]\necho = h:echo\n${h("echo", "echo", `ping-remotes = ${far.endpoint}`)}`,
  );
  await until("two pings", () => (far.stats().get("count.ok.msg.echo.request") ?? 0) >= 2, 5000);
});

test("a chain of two servers carries requests there and replies back", async () => {
  await using far = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`);
  await using s = await serve(`[routes]\n* = h:p\n${h("p", "proxy", `remote-cc = ${far.endpoint}`)}`);
  await s.line(/is up/);
  const replies = await Promise.all(
    Array.from({ length: 200 }, (_, i) => s.client.query("echo.request", { target: String(i) })),
  );
  assert.deepEqual(
    replies.map(({ body }) => body.orig_target),
    Array.from({ length: 200 }, (_, i) => String(i)),
  );
});

test("a reply to a client that has gone is dropped and counted", async () => {
  let answer: Uint8Array | null = null;
  let send: ((m: Uint8Array) => boolean) | null = null;
  await using s = await serve(`[routes]\nx = h:late\n${h("late", "late")}`, {
    late: ({ toClient }) => {
      send = toClient;
      return {
        handle: (m) => {
          answer = m.reply("late", {}, { hostname: "t" });
        },
      };
    },
  });
  const peer = await RawPeer.open(s.port);
  peer.write(message("", "x", "{}", ""));
  await until("the message", () => answer);
  peer.close();
  await until("it is gone", () => s.lines.some((line) => line.includes("is gone")));
  assert.equal(send!(answer!), false);
  assert.equal(s.server.drops, 1);
  await s.line(/dropped 1 message for [0-9a-f]{10}: no peer has this identity/);
});

test("client: no server, no reply, closed: each is told", async () => {
  const client = new CCClient("tcp://127.0.0.1:1");
  await assert.rejects(client.ready(50), (e) => e instanceof ClientError && e.code === "unreachable");
  await client.close(0);
  await assert.rejects(client.publish("x", {}), (e) => e instanceof ClientError && e.code === "closed");
  await using s = await serve(`[routes]\nx = h:sink\n${h("sink", "disposer")}`);
  await assert.rejects(
    s.client.query("x", {}, { timeoutMs: 50 }),
    (e) => e instanceof ClientError && e.code === "timeout",
  );
  await assert.rejects(s.client.publish("not a type", {}), TypeError);
  const waiting = assert.rejects(
    s.client.query("x", {}),
    (e) => e instanceof ClientError && e.code === "closed",
  );
  await s.client.close(100);
  await waiting;
});

test("client: publish waits while the server is slow, so that any number may be sent", async () => {
  let seen = 0;
  await using s = await serve(`[routes]\nx = h:count\n${h("count", "count")}`, {
    count: () => ({ handle: () => void seen++ }),
  });
  for (let i = 0; i < 20_000; i++) await s.client.publish("x", { fill: "y".repeat(500) });
  await until("all", () => seen === 20_000);
  assert.equal(s.client.dropped, 0);
});

test("a start that fails leaves nothing behind", async () => {
  await using s = await serve(`[routes]\nx = h:sink\n${h("sink", "disposer")}`);
  const config = readConfig(
    `[ccserver]\ncc-socket = ${s.endpoint}\n[routes]\n* = h:p\n${
      h("p", "proxy", `remote-cc = ${s.endpoint}`)
    }`,
    "second.ini",
  );
  const second = new CCServer(config);
  await assert.rejects(
    second.start(),
    (e) => e instanceof StartError && /the address is in use/.test(e.message),
  );
  // Its proxy was connected already; the first server sees it leave.
  await until(
    "only the client is left",
    () =>
      s.lines.filter((l) => l.includes("connected as")).length <=
        1 + s.lines.filter((l) => l.includes("is gone")).length,
  );
});

test("client: publish waits while the server is away and the queue is full; then all arrive in order", async () => {
  using folder = tempFolder();
  const endpoint = `ipc://${folder.path}/cc.sock`;
  const client = new CCClient(endpoint, { hwm: 100 });
  const sent = Array.from({ length: 1000 }, (_, n) => client.publish("x", { n }));
  const seen: number[] = [];
  const config = readConfig(
    `[ccserver]\ncc-socket = ${endpoint}\ncc-role = local\n[routes]\nx = h:keep\n${h("keep", "keep")}`,
    "test.ini",
    { handlers: ["keep"] },
  );
  const keep = () => ({
    handle: (m: CCMessage) => void seen.push((JSON.parse(text(m.body)) as { n: number }).n),
  });
  const server = new CCServer(config, { handlers: { keep } });
  await server.start();
  await Promise.all(sent);
  await until("all messages", () => seen.length >= sent.length);
  assert.deepEqual(seen, sent.map((_, n) => n));
  assert.equal(client.dropped, 0);
  await client.close(0);
  await server.stop();
  const away = new CCClient("tcp://127.0.0.1:1", { hwm: 1 });
  const waits = [away.publish("x", {}), away.publish("x", {}), away.publish("x", {})];
  const results = Promise.allSettled(waits);
  await away.close(0);
  assert.deepEqual((await results).map(({ status }) => status), ["fulfilled", "rejected", "rejected"]);
});
