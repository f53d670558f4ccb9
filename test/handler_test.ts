/** The contract between a server and its handlers: what one does, however late, harms neither others nor the server. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  AnyBody,
  type HandlerContext,
  type Message,
  MessageError,
  type Outcome,
  type ReturnPath,
  StartError,
  type Upstream,
} from "../mod.ts";
import { StretchedClock } from "./helpers/clock.ts";
import { until } from "./helpers/env.ts";
import { message, RawPeer } from "./helpers/raw.ts";
import { configOf, h, keptLog, noting, opening, own, serve, serverOn } from "./helpers/server.ts";
import { test } from "./helpers/memory.ts";

type Context = HandlerContext<Record<string, string>>;
const ECHO = `echo = h:echo\n${h("echo", "echo")}`;

/** A promise that a test settles. */
function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((ok, fail) => [resolve, reject] = [ok, fail]);
  return { promise, resolve, reject };
}

test("an async handler answers each client with its own message, however the answers come", async () => {
  const waiting: (() => void)[] = [];
  const secret = opening("secret", async (m, { text }): Promise<Outcome> => {
    await new Promise<void>((resolve) => waiting.push(resolve));
    m.reply({ type: "told", fields: { text, size: m.size }, blob: m.blob ?? undefined });
    return "ok";
  });
  await using s = await serve(`[routes]\nx = h:s\n${h("s", "secret")}`, [secret]);
  const names = ["alice", "bob", "carol"];
  const peers = await Promise.all(names.map(() => RawPeer.open(s.port)));
  const frames = (name: string) => ["", "x", `{"req":"x","text":"secret of ${name}"}`, "", `blob of ${name}`];
  for (const [i, peer] of peers.entries()) peer.write(message(...frames(names[i])));
  await until("all to be under way", () => waiting.length === 3);
  assert.equal(s.stats().get("count.ok"), undefined, "not yet");
  // The last one first, and other messages have overwritten whatever these came in.
  for (let i = 0; i < 200; i++) await s.client.publish({ type: "none", fields: { fill: "y".repeat(500) } });
  for (const go of waiting.reverse()) go();
  for (const [i, peer] of peers.entries()) {
    const [, type, body, , blob] = await peer.receive();
    assert.equal(type.toString(), "told");
    assert.equal(JSON.parse(body.toString()).text, `secret of ${names[i]}`);
    assert.equal(blob.toString(), `blob of ${names[i]}`);
    peer.close();
  }
  await until("the count", () => s.stats().get("count.ok") === 3);
});

test("a message that is stored is over when its handler has returned: each member says so", async () => {
  const stored: Message[] = [];
  await using s = await serve(`[routes]\nx = h:s\n${h("s", "store")}`, [
    opening("store", (m) => {
      assert.equal(m.type, "x");
      stored.push(m);
      return "ok";
    }),
  ]);
  using alice = await RawPeer.open(s.port);
  using bob = await RawPeer.open(s.port);
  alice.write(message("", "x", '{"req":"x","text":"secret"}', "", "blob"));
  await until("it", () => stored.length === 1);
  bob.write(message("", "x", '{"req":"x"}', ""));
  await until("both", () => stored.length === 2);
  const isOver = (e: unknown) => e instanceof MessageError && e.code === "message-over";
  for (const m of stored) {
    for (const member of ["type", "size", "blob", "signer", "from"] as const) {
      assert.throws(() => m[member], isOver, member);
    }
    assert.throws(() => m.reply({ type: "late", fields: {} }), isOver);
  }
  assert.equal(bob.take(), null);
  assert.equal(alice.take(), null);
});

test("a JavaScript handler that answers from a timer is told, under its name, and nobody gets another's answer", async () => {
  await using s = await serve(`[routes]\nx = h:s\n${ECHO}${h("s", "careless")}`, [
    opening("careless", (m, { text }, { environment }) => {
      environment.clock.after(5, () => m.reply({ type: "told", fields: { text } }));
      return "ok";
    }),
  ]);
  using alice = await RawPeer.open(s.port);
  alice.write(message("", "x", '{"req":"x","text":"secret"}', ""));
  await s.line(/WARNING h:s\.timer: crashed: MessageError: the message is over/);
  assert.equal(alice.take(), null);
});

test("the way back may be kept, and goes to the client it came from, or is counted when that has left", async () => {
  let context!: Context;
  const ways: ReturnPath[] = [];
  const keep = opening("keep", (m, _body, c) => {
    context = c;
    ways.push(m.from);
    return "ok";
  });
  await using s = await serve(`[routes]\nx = h:k\n${h("k", "keep")}`, [keep]);
  const alice = await RawPeer.open(s.port);
  using bob = await RawPeer.open(s.port);
  alice.write(message("r1", "r2", "", "x", '{"req":"x"}', ""));
  await until("the first", () => ways.length === 1);
  bob.write(message("r1", "r2", "", "x", '{"req":"x"}', ""));
  await until("the second", () => ways.length === 2);
  alice.write(message("r1", "r2", "", "x", '{"req":"x"}', ""));
  await until("all", () => ways.length === 3);
  assert.equal(ways[0].key, ways[2].key);
  assert.notEqual(ways[0].key, ways[1].key);
  assert.equal(context.send(ways[0], { type: "late", fields: { n: 1 } }), "ok");
  const frames = await alice.receive();
  assert.deepEqual(frames.slice(0, 4).map(String), ["r1", "r2", "", "late"]);
  alice.close();
  await until("it is gone", () => s.lines.some((line) => line.includes("is gone")));
  assert.equal(context.send(ways[0], { type: "late", fields: {} }), "retry");
  assert.equal(s.server.drops, 1);
  await s.line(/dropped 1 message for [0-9a-f]{10}: no peer has this identity/);
  assert.throws(() => context.send({ key: "made up" }, { type: "x", fields: {} }), TypeError);
  assert.throws(() => context.send(ways[1], { type: "not a type", fields: {} }), MessageError);
  assert.throws(() => context.send(ways[1], { type: "x", fields: { n: 1n } }), MessageError);
  assert.equal(bob.take(), null);
});

test("what one handler does to body and blob, the next one does not see", async () => {
  const seen: unknown[] = [];
  const vandal = opening("vandal", (m, body) => {
    body.text = "changed";
    try {
      (body.deep as { list: unknown[] }).list.push("changed");
    } catch (error) {
      seen.push((error as Error).name);
    }
    m.blob!.fill(0);
    return "ok";
  });
  const after = opening("after", (m, body) => {
    seen.push(body.text, JSON.stringify(body.deep), Buffer.from(m.blob!).toString());
    return "ok";
  });
  await using s = await serve(
    `[routes]\nx = h:v, h:a, h:v, h:a\n${h("v", "vandal")}${h("a", "after")}`,
    [vandal, after],
  );
  using peer = await RawPeer.open(s.port);
  peer.write(message("", "x", '{"req":"x","text":"mine","deep":{"list":[1]}}', "", "blob"));
  await until("the last", () => seen.length === 8);
  const good = ["TypeError", "mine", '{"list":[1]}', "blob"];
  assert.deepEqual(seen.splice(0), [...good, ...good]);
  // A large one is each handler's own.
  const more = "y".repeat(3000);
  peer.write(message("", "x", `{"req":"x","text":"mine","deep":{"list":[1]},"more":"${more}"}`, "", "blob"));
  await until("the last", () => seen.length === 6);
  assert.deepEqual(seen, [...good.slice(1), ...good.slice(1)]);
});

test("bytes that a handler keeps stay as they are, of small messages and of large ones", async () => {
  const kept: { blob: Uint8Array; n: unknown }[] = [];
  await using s = await serve(`[routes]\nx = h:k\n${h("k", "keep")}`, [
    opening("keep", (m, { n }) => {
      kept.push({ blob: m.blob!, n });
      return "ok";
    }),
  ]);
  const blob = (n: number) => new Uint8Array(n % 2 ? 300_000 : 40).fill(n);
  for (let n = 1; n <= 40; n++) await s.client.publish({ type: "x", fields: { n }, blob: blob(n) });
  await until("all", () => kept.length === 40);
  for (const { blob: bytes, n } of kept) assert.deepEqual(bytes, blob(n as number), `blob ${n}`);
});

test("a message is opened once, whatever number of handlers read it", async () => {
  let validated = 0;
  const seen: unknown[] = [];
  const schema = {
    "~standard": {
      version: 1 as const,
      vendor: "test",
      validate(value: unknown) {
        validated++;
        seen.push(value);
        return { value: value as Record<string, unknown> };
      },
    },
  };
  const reader = (name: string) => own(name, () => ({ plan: () => ({ open: schema }), handle: () => "ok" }));
  await using s = await serve(
    `[routes]\nx = h:a, h:b, h:c\n${h("a", "a")}${h("b", "b")}${h("c", "c")}`,
    ["a", "b", "c"].map(reader),
  );
  using peer = await RawPeer.open(s.port);
  peer.write(message("", "x", '{"req":"x"}', ""), message("", "x", "broken", ""));
  await until("both", () => s.stats().get("count") === 2);
  assert.equal(validated, 3);
  assert.ok(seen.every((value) => value === seen[0]), "one body, parsed once");
  assert.equal(s.stats().get("refused.not-json"), 1, "refused once, not by each");
});

test("each handler's own bound on bodies holds, and more than the default is asked for", async () => {
  const seen: string[] = [];
  const reader = (name: string, maxBytes?: number) =>
    own(name, () => ({
      plan: () => ({ open: AnyBody, maxBytes }),
      handle() {
        seen.push(name);
        return "ok";
      },
    }));
  await using s = await serve(
    `[routes]\nx = h:small, h:usual, h:large\n${h("small", "small")}${h("usual", "usual")}${
      h("large", "large")
    }`,
    [reader("small", 100), reader("usual"), reader("large", 200_000)],
  );
  for (const size of [10, 1000, 100_000, 300_000]) {
    await s.client.publish({ type: "x", fields: { fill: "y".repeat(size) } });
  }
  await until("all", () => s.stats().get("count") === 4);
  assert.deepEqual(seen, ["small", "usual", "large", "usual", "large", "large"]);
  assert.equal(s.stats().get("refused.too-large"), 3, "each message once");
});

test("back-pressure does not end at an async handler: past its bound the senders wait, and nothing is lost", async () => {
  const waiting: (() => void)[] = [];
  let peak = 0;
  let done = 0;
  const slow = opening("slow", async (): Promise<Outcome> => {
    await new Promise<void>((resolve) => {
      waiting.push(resolve);
      peak = Math.max(peak, waiting.length);
    });
    done++;
    return "ok";
  }, { inFlight: 10 });
  await using s = await serve(`[routes]\nx = h:s\n${ECHO}${h("s", "slow")}`, [slow]);
  const total = 2000;
  const peers = await Promise.all([1, 2].map(() => RawPeer.open(s.port)));
  const stream = Buffer.concat(
    Array.from({ length: total / 2 }, () => message("", "x", `{"req":"x","fill":"${"y".repeat(2000)}"}`, "")),
  );
  for (const peer of peers) peer.write(stream);
  await until("the bound", () => waiting.length >= 10);
  const { type } = await s.client.query({ type: "echo.request", fields: {} });
  assert.equal(type, "echo.response", "others go on");
  while (done < total) {
    await until("more", () => waiting.length > 0);
    waiting.splice(0).forEach((go) => go());
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(peak <= 10 + 2, `${peak} were under way: the bound, and one for each sender`);
  await until("the counts", () => s.stats().get("count.ok.msg.x") === total);
  for (const peer of peers) peer.close();
});

test("back-pressure goes through a delay to a proxy whose upstream reads nothing", async () => {
  // As many bytes as a delay keeps, and as the queues and buffers behind it.
  const net = await import("node:net");
  const { GREETING, ready } = await import("./helpers/raw.ts");
  const far = net.createServer((socket) => {
    socket.on("error", () => {});
    socket.write(GREETING);
    socket.write(ready("ROUTER"));
    socket.once("data", () => socket.pause());
    sockets.push(socket);
  });
  const sockets: import("node:net").Socket[] = [];
  await new Promise<void>((resolve) => far.listen(0, "127.0.0.1", resolve));
  const { port } = far.address() as import("node:net").AddressInfo;
  await using s = await serve(
    `zmq_linger = 0\n[routes]\nx = h:d\n${ECHO}${h("d", "delay", "forward-to = h:p\ndelay = 0.01")}` +
      h("p", "proxy", `remote-cc = tcp://127.0.0.1:${port}\nzmq_linger = 0`),
  );
  await s.line(/is up/);
  using peer = await RawPeer.open(s.port);
  const one = message("", "x", "y".repeat(200_000), "");
  for (let i = 0; i < 900; i++) peer.socket.write(one);
  let before = -1;
  await until(
    "the sender to be held",
    () => {
      const now = peer.socket.writableLength;
      const still = now === before && now > 0;
      before = now;
      return still;
    },
    20_000,
    300,
  );
  const taken = 900 - Math.ceil(before / one.length);
  assert.ok(taken * one.length < 120 * 2 ** 20, `${taken} messages were taken`);
  assert.equal(s.server.drops, 0);
  assert.equal((await s.client.query({ type: "echo.request", fields: {} })).type, "echo.response");
  peer.close();
  for (const socket of sockets) socket.destroy();
  far.close();
});

test("a delay in front of a proxy that is slow loses nothing and keeps the order", async () => {
  const seen: unknown[] = [];
  const slow = opening("slow", async (_m, { n }): Promise<Outcome> => {
    await new Promise((resolve) => setImmediate(resolve));
    seen.push(n);
    return "ok";
  }, { inFlight: 3 });
  await using far = await serve(`[routes]\nx = h:s\n${h("s", "slow")}`, [slow]);
  await using s = await serve(
    `[routes]\nx = h:d\n${h("d", "delay", "forward-to = h:p\ndelay = 0.02")}` +
      h("p", "proxy", `remote-cc = ${far.endpoint}\nzmq_hwm = 5`),
  );
  await s.line(/is up/);
  const total = 3000;
  for (let n = 0; n < total; n++) {
    await s.client.publish({ type: "x", fields: { n, fill: "y".repeat(1000) } });
  }
  await until("all", () => seen.length === total, 30_000);
  assert.equal(s.server.drops, 0);
  assert.deepEqual(seen, Array.from({ length: total }, (_, n) => n));
});

test("an answer that takes too long counts as crashed, gives its place back, and comes too late for anything", async () => {
  const answer = deferred<Outcome>();
  let kept!: Message;
  const never = opening("never", (m, { n }) => {
    if (n !== 1) return "ok";
    kept = m;
    return answer.promise;
  }, { inFlight: 1 });
  const time = new StretchedClock(50);
  await using s = await serve(
    `handler-timeout = 2\n[routes]\nx = h:n\n${h("n", "never")}`,
    [never],
    time.environment,
  );
  for (let n = 1; n <= 5; n++) await s.client.publish({ type: "x", fields: { n } });
  await s.line(/WARNING h:n\.handle: no answer on a message "x" within 2 s \(handler-timeout\)/);
  await until("the others", () => s.stats().get("count.ok") === 4);
  assert.equal(s.stats().get("count.crashed"), 1);
  assert.throws(() => kept.reply({ type: "late", fields: {} }), MessageError);
  answer.resolve("ok");
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(s.stats().get("count"), 5, "counted once");
});

test("what a handler returns that is no outcome is a crash, told with what was expected", async () => {
  await using s = await serve(
    `[routes]\nx = h:a\ny = h:b\nz = h:c\nw = h:d\n${h("a", "a")}${h("b", "b")}${h("c", "c")}${h("d", "d")}`,
    [
      opening("d", () => ({
        then() {
          throw new Error("no promise");
        },
      } as unknown as Promise<Outcome>)),
      opening("a", () => undefined as unknown as Outcome),
      opening("b", () => Promise.resolve("done" as Outcome)),
      opening("c", () => {
        throw new MessageError("bad-path", "it leads out of the folder");
      }),
    ],
  );
  for (const type of ["x", "y", "z", "w"]) await s.client.publish({ type, fields: {} });
  await s.line(/h:d\.handle: crashed on a message "w": Error: no promise/);
  await s.line(
    /h:a\.handle: crashed on a message "x": Error: it returned undefined, expected ok, dropped or retry/,
  );
  await s.line(
    /h:b\.handle: crashed on a message "y": Error: it resolved to done, expected ok, dropped or retry/,
  );
  await s.line(/h:c\.handle: refusing a message "z": it leads out of the folder \(bad-path\)/);
  await until("the counts", () => s.stats().get("count") === 4);
  assert.equal(s.stats().get("count.crashed"), 3);
  assert.equal(s.stats().get("refused.bad-path"), 1);
});

test("whatever a handler throws, wherever, is logged under its name and ends nothing", async () => {
  let upstream!: Upstream;
  const bad = own("bad", (context) => ({
    start() {
      const { clock } = context.environment;
      clock.after(1, () => {
        throw new Error("in a timer");
      });
      clock.every(1, () => {
        throw new Error("every time");
      });
      clock.soon(() => {
        throw new Error("soon");
      });
      clock.nextTurn(() => Promise.reject(new Error("in a promise")));
      upstream = context.connect(context.options.remote, {
        onChange() {
          throw new Error("in onChange");
        },
        onMessage() {
          throw new Error("in onMessage");
        },
      });
      context.meter.gauge("broken", () => {
        throw new Error("in a gauge");
      });
    },
    plan(type) {
      if (type === "x.plan") throw new Error("in plan");
      if (type === "x.nothing") return undefined as never;
      if (type === "x.pass") return { pass: "h:nobody" };
      return {
        open: {
          "~standard": {
            version: 1,
            vendor: "test",
            validate() {
              throw new Error("in a schema");
            },
          },
        },
      };
    },
    handle: () => "ok",
    unready() {
      throw new Error("in unready");
    },
    stop() {
      throw new Error("in stop");
    },
  }));
  const lines: string[] = [];
  await using far = await serve(`[routes]\n* = h:talk\n${h("talk", "talk")}`, [
    opening("talk", (m) => {
      m.reply({ type: "unasked", fields: {} });
      return "ok";
    }),
  ]);
  {
    await using s = await serve(
      `[routes]\nx = h:bad\n${ECHO}${h("bad", "bad", `remote = ${far.endpoint}`)}`,
      [bad],
    );
    for (const where of ["in a timer", "every time", "soon", "in a promise", "in onChange"]) {
      await s.line(new RegExp(`WARNING h:bad\\.\\w+: crashed: Error: ${where}`));
    }
    upstream.send({ type: "hello", fields: {} });
    await s.line(/h:bad\.onMessage: crashed: Error: in onMessage/);
    for (const type of ["x.plan", "x.nothing", "x.pass", "x.schema"]) {
      await s.client.publish({ type, fields: {} });
    }
    await s.line(/h:bad\.plan: crashed on the type "x\.plan": Error: in plan/);
    await s.line(/crashed on the type "x\.nothing": Error: expected a plan/);
    await s.line(/crashed on the type "x\.pass": Error: pass: there is no handler h:nobody here/);
    await s.line(/h:bad\.handle: crashed on a message "x\.schema": Error: in a schema/);
    await until("the counts", () => s.stats().get("count.crashed") === 4);
    assert.ok(s.server.state.unready.some((why) => why.includes("h:bad crashed in unready")));
    assert.equal((await s.client.query({ type: "echo.request", fields: {} })).type, "echo.response");
    assert.ok(upstream.up, "a call-back that throws does not close the connection");
    lines.push(...s.lines);
    await s.server.stop();
    await s.line(/h:bad\.stop: crashed: Error: in stop/);
  }
});

test("a handler's timers end with it, and its upstreams are closed", async () => {
  let ticks = 0;
  const ticking = own("ticking", ({ environment, connect, options }) => ({
    start() {
      environment.clock.every(1, () => void ticks++);
      environment.clock.after(3_600_000, () => void ticks++);
      connect(options.remote);
    },
    plan: () => ({ drop: "nothing" }),
  }));
  await using far = await serve(`[routes]\n${ECHO}`);
  const { lines } = far;
  {
    await using s = await serve(`[routes]\nx = h:t\n${h("t", "ticking", `remote = ${far.endpoint}`)}`, [
      ticking,
    ]);
    await until("ticks", () => ticks > 3);
    await until("its upstream", () => s.server.state.upstreams[0].upstream.up);
  }
  const after = ticks;
  await until("its upstream to leave", () => lines.filter((line) => line.includes("is gone")).length === 1);
  assert.equal(ticks, after);
});

test("start is bounded in time, and its failure is told with the handler's name; all that had started is stopped", async () => {
  const stopped: string[] = [];
  const first = own("first", () => ({ plan: () => ({ drop: "" }), stop: () => void stopped.push("first") }));
  const hangs = own("hangs", () => ({
    start: () => new Promise<void>(() => {}),
    plan: () => ({ drop: "" }),
    stop: () => void stopped.push("hangs"),
  }));
  const throws = own("throws", () => ({
    start: () => Promise.reject(new Error("no database")),
    plan: () => ({ drop: "" }),
    stop: () => void stopped.push("throws"),
  }));
  const time = new StretchedClock(200);
  for (
    const [handler, why] of [[hangs, /^h:b: start took longer than 30 s$/], [
      throws,
      /^h:b: no database$/,
    ]] as const
  ) {
    stopped.length = 0;
    const config = configOf(`[routes]\nx = h:a, h:b\n${h("a", "first")}${h("b", handler.name)}`, [
      first,
      handler,
    ]);
    const server = serverOn(config, { environment: time.environment });
    await assert.rejects(server.start(), (e) => e instanceof StartError && why.test(e.message));
    assert.deepEqual(stopped.sort(), ["first", handler.name].sort(), "also the one that failed");
  }
});

test("create is without side effects: who connects there is told; a definition without plan too", async () => {
  const eager = own("eager", ({ connect }) => {
    connect("tcp://127.0.0.1:1");
    return { plan: () => ({ drop: "" }) };
  });
  const empty = own("empty", () => ({}) as never);
  for (
    const [handler, why] of [[eager, /connect\(\) is for start\(\) and later/], [
      empty,
      /no function "plan"/,
    ]] as const
  ) {
    const server = serverOn(configOf(`[routes]\nx = h:a\n${h("a", handler.name)}`, [handler]));
    await assert.rejects(server.start(), (e) => e instanceof StartError && why.test(e.message));
  }
});

test("a stop that never settles holds the server's stop for linger and 5 s, then is told", async () => {
  const { log, lines } = keptLog();
  const signals: boolean[] = [];
  const hangs = own("hangs", () => ({
    plan: () => ({ drop: "" }),
    stop(signal) {
      signal.addEventListener("abort", () => signals.push(true));
      return new Promise<void>(() => {});
    },
  }));
  const time = new StretchedClock(20);
  const server = serverOn(configOf(`zmq_linger = 200\n[routes]\nx = h:a\n${h("a", "hangs")}`, [hangs]), {
    log,
    environment: time.environment,
  });
  await server.start();
  const begin = performance.now();
  await server.stop();
  const took = (performance.now() - begin) * 20;
  assert.ok(took >= 5000 && took < 12_000, `${took} ms of its clock`);
  assert.deepEqual(signals, [true]);
  assert.match(
    lines.join("\n"),
    /h:a\.stop: its stop has not come to an end within 5\.2 s, and is not waited for/,
  );
});

test("stop waits for what is under way, at most linger; what is not done by then is counted and told", async () => {
  const fast = deferred<Outcome>();
  const handler = opening("slow", (_m, { n }) => n === 1 ? fast.promise : new Promise<Outcome>(() => {}));
  const { log, lines } = keptLog();
  const server = serverOn(configOf(`zmq_linger = 300\n[routes]\nx = h:a\n${h("a", "slow")}`, [handler]), {
    log,
  });
  const endpoint = await server.start();
  const peer = await RawPeer.open(Number(/\d+$/.exec(endpoint)![0]));
  peer.write(message("", "x", '{"req":"x","n":1}', ""), message("", "x", '{"req":"x","n":2}', ""));
  await until("both to be under way", () => server.statistics.byResult.ok.seconds > 0);
  const stopping = server.stop();
  fast.resolve("ok");
  await stopping;
  peer.close();
  const { ok, dropped } = server.statistics.byResult;
  assert.deepEqual([ok.count, dropped.count], [1, 1]);
  assert.match(lines.join("\n"), /h:a\.handle: stopped before it had answered on a message "x"/);
});

test("stop during a slow start ends it: never listening, nothing left; after that it cannot start again", async () => {
  const gate = deferred<void>();
  const slow = own("slow", () => ({ start: () => gate.promise, plan: () => ({ drop: "" }) }));
  const { log, lines } = keptLog();
  const server = serverOn(configOf(`[routes]\nx = h:a\n${h("a", "slow")}`, [slow]), { log });
  const started = assert.rejects(server.start(), (e) => e instanceof StartError && e.code === "stopped");
  const stopped = server.stop();
  await Promise.all([started, stopped]);
  gate.resolve();
  await new Promise((resolve) => setImmediate(resolve));
  assert.doesNotMatch(lines.join("\n"), /listening on/);
  assert.equal(server.endpoint, null);
  assert.throws(() => server.start(), /starts once/);
  const never = serverOn(configOf(`[routes]\nx = h:a\n${h("a", "slow")}`, [slow]));
  await never.stop();
  await assert.rejects(never.start(), (e) => e instanceof StartError && e.code === "stopped");
});

test("publish gives a message to the server's own routes, counted; a loop of them ends and is told", async () => {
  const seen: string[] = [];
  const talker = opening("talker", (m, body, { publish }) => {
    if (m.type === "loop") {
      const outcome = publish({ type: "loop", fields: {} });
      seen.push(String(outcome));
      return "ok";
    }
    const outcome = publish({
      type: "told.more",
      fields: { from: body.hostname },
      blob: new Uint8Array([1, 2]),
    });
    assert.equal(outcome, "ok");
    return "ok";
  });
  const listener = opening("listener", (m, { from }) => {
    seen.push(`${m.type} ${typeof from} ${m.blob?.length}`);
    return "ok";
  });
  await using s = await serve(
    `[routes]\nx = h:t\nloop = h:t\ntold = h:l\n${h("t", "talker")}${h("l", "listener")}`,
    [talker, listener],
  );
  await s.client.publish({ type: "x", fields: {} });
  await until("it", () => seen.length === 1);
  assert.deepEqual(seen, ["told.more string 2"]);
  await until("the counts", () => s.stats().get("count.ok.msg.told.more") === 1);
  seen.length = 0;
  await s.client.publish({ type: "loop", fields: {} });
  await s.line(
    /dropping "loop", which a handler has published: 8 messages have each caused the next\. A loop\?/,
  );
  await until("an end", () => s.stats().get("count.dropped.msg.loop") === 1);
  assert.equal(seen.length, 9);
  assert.equal(seen.filter((outcome) => outcome === "retry").length, 1);
});

test("pass gives a message to another handler, by its plan; the outcome comes back", async () => {
  const outcomes: string[] = [];
  const switcher = opening("switcher", async (m, { to }, { pass }): Promise<Outcome> => {
    const settled = await Promise.resolve(pass(m, String(to))).then(
      (outcome) => outcome,
      (error) => `${error.name} ${error.code ?? ""}`,
    );
    outcomes.push(`${to}: ${settled}`);
    return "ok";
  });
  const busy = opening("busy", () => "retry");
  const bad = opening("bad", () => {
    throw new Error("broken");
  });
  const picky = opening("picky", () => {
    throw new MessageError("bad-path", "not this one");
  });
  await using far = await serve(`[routes]\n* = h:sink\n${h("sink", "disposer")}`);
  await using s = await serve(
    `[routes]\nx = h:s\n${
      h("s", "switcher", "a = h:sink\nb = h:busy\nc = h:bad\nd = h:picky\ne = h:p\nf = h:f")
    }${h("sink", "disposer")}${h("busy", "busy")}${h("bad", "bad")}${h("picky", "picky")}` +
      h("p", "proxy", `remote-cc = ${far.endpoint}`) + h("f", "filter", "forward-to = h:p"),
    [switcher, busy, bad, picky],
  );
  await s.line(/is up/);
  const targets = ["h:sink", "h:busy", "h:bad", "h:picky", "h:p", "h:f", "h:none"];
  for (const to of targets) await s.client.publish({ type: "x", fields: { to } });
  await until("all", () => outcomes.length === targets.length);
  assert.deepEqual(outcomes.sort(), [
    "h:bad: PassError crashed",
    "h:busy: retry",
    "h:f: ok",
    "h:none: Error ",
    "h:p: ok",
    "h:picky: PassError refused",
    "h:sink: dropped",
  ]);
  await until("both", () => far.stats().get("disposed_count") === 2);
  assert.equal(s.stats().get("filter.count.ok"), 1);
});

test("replan asks for plans anew: in the middle of a message, and from outside", async () => {
  let open = false;
  let context!: Context;
  let handled = 0;
  const door = own("door", (c) => {
    context = c;
    return {
      plan: () => open ? { open: AnyBody } : { drop: "closed" },
      handle() {
        handled++;
        open = false;
        c.replan();
        return "ok";
      },
    };
  });
  await using s = await serve(`[routes]\nx = h:f\n${h("f", "filter", "forward-to = h:d")}${h("d", "door")}`, [
    door,
  ]);
  const send = async (count: number) => {
    const before = s.stats().get("count") ?? 0;
    for (let i = 0; i < count; i++) await s.client.publish({ type: "x", fields: {} });
    await until("them", () => s.stats().get("count") === before + count);
  };
  await send(3);
  assert.equal(handled, 0);
  open = true;
  context.replan();
  await send(1);
  assert.equal(handled, 1);
  await send(2);
  assert.equal(handled, 1, "its own replan has closed it");
});

test("messages that come back without a route are for the handler; what they are is over when it returns", async () => {
  const got: unknown[] = [];
  let kept: Message | null = null;
  const asker = own("asker", ({ connect, options }) => {
    let upstream!: Upstream;
    return {
      start() {
        upstream = connect(options.remote, {
          onMessage(m) {
            kept = m;
            got.push(m.type, m.size > 0);
          },
        });
      },
      plan: () => ({ raw: true }),
      handle: () => upstream.send({ type: "echo.request", fields: { target: "asker" } }),
    };
  });
  await using far = await serve(`[routes]\n${ECHO}`);
  await using s = await serve(`[routes]\nx = h:a\n${h("a", "asker", `remote = ${far.endpoint}`)}`, [asker]);
  await s.client.publish({ type: "x", fields: {} });
  await until("the answer", () => got.length > 0);
  assert.deepEqual(got, ["echo.response", true]);
  assert.throws(() => kept!.type, MessageError);
});

test("a handler's counters and gauges: bounded, kept over a reload, gauges gone with it", async () => {
  const counting = own("counting", ({ meter }) => {
    for (let i = 0; i < 3000; i++) meter.counter(`many.${i}`).add();
    meter.gauge("level", () => 7, { side: "left" });
    return { plan: () => ({ drop: "", count: [meter.counter("seen", { kind: "all" })] }) };
  });
  await using s = await serve(`[routes]\nx = h:c\n${h("c", "counting", "a = 1")}`, [counting]);
  await s.client.publish({ type: "x", fields: {} });
  const names = () => [...s.stats().keys()].filter((name) => name.startsWith("many."));
  await until("the count", () => s.stats().get("count.ok") === 1);
  assert.equal(names().length, 1000);
  assert.deepEqual(
    [...s.server.statistics.gauges].map(({ handler, name, labels }) => [handler, name, labels.side]),
    [
      ["h:c", "level", "left"],
    ],
  );
  await s.reload(`[routes]\ny = h:sink\n${h("sink", "disposer")}`);
  assert.deepEqual([...s.server.statistics.gauges], []);
  assert.equal(names().length, 1000, "counters stay");
});

test("a handler that only notes messages costs no copy, and one that is not there yet takes none", async () => {
  const seen: string[] = [];
  await using s = await serve(`[routes]\nx = h:n\n${h("n", "note")}`, [
    noting("note", (type) => seen.push(type)),
  ]);
  for (let i = 0; i < 1000; i++) await s.client.publish({ type: `x.${i % 7}`, fields: { i } });
  await until("all", () => seen.length === 1000);
  assert.equal(s.stats().get("count.ok"), 1000);
});
