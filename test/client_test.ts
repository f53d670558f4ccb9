/** The client: publish, query, messages; what it loses is counted, what it waits for can be ended. */
import assert from "node:assert/strict";
import type { Buffer } from "node:buffer";
import net from "node:net";
import {
  CCClient,
  CCError,
  ClientError,
  connect,
  MessageError,
  type Outcome,
  type Received,
  type ReturnPath,
} from "../mod.ts";
import { tempFolder, until } from "./helpers/env.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";
import { configOf, h, keptLog, opening, own, serve, serverOn } from "./helpers/server.ts";
import { test } from "./helpers/memory.ts";

const ECHO = `[routes]\necho = h:echo\n${h("echo", "echo")}`;
const failsWith = (code: string) => (e: unknown) => e instanceof ClientError && e.code === code;

/** A ROUTER of our own making, with its one peer. */
async function listening(onPeer: (peer: RawPeer, n: number) => void | Promise<void>) {
  const sockets: net.Socket[] = [];
  let over = false;
  const server = net.createServer((socket) => {
    sockets.push(socket);
    const peer = new RawPeer(socket);
    peer.write(GREETING, ready("ROUTER"));
    peer.handshake().then(() => onPeer(peer, sockets.length)).catch((error) => {
      if (!over && !peer.closed) throw error;
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    endpoint: `tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    sockets,
    [Symbol.dispose]() {
      over = true;
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

test("client: no server, no reply, closed: each is told by its code", async () => {
  const client = connect("tcp://127.0.0.1:1");
  await assert.rejects(client.ready({ timeoutMs: 50 }), failsWith("unreachable"));
  assert.equal(client.up, false);
  await client.close(0);
  await client.close(0);
  const draft = { type: "x", fields: {} };
  await assert.rejects(client.publish(draft), failsWith("closed"));
  await assert.rejects(client.query(draft), failsWith("closed"));
  await assert.rejects(client.ready(), failsWith("closed"));
  {
    await using s = await serve(`[routes]\nx = h:sink\n${h("sink", "disposer")}`);
    await assert.rejects(s.client.query(draft, { timeoutMs: 50 }), failsWith("timeout"));
    await assert.rejects(s.client.publish({ type: "not a type", fields: {} }), MessageError);
    await assert.rejects(s.client.query({ type: "x", fields: { n: 1n } }), MessageError);
    const waiting = assert.rejects(s.client.query(draft), failsWith("closed"));
    await until("it to be sent", () => s.stats().get("count.ok.msg.x") === 2);
    await s.client.close(100);
    await waiting;
  }
  assert.throws(() => connect("tcp://nowhere"), (e) => e instanceof CCError && e.code === "bad-endpoint");
  assert.throws(
    () => connect("tcp://a:1", { name: "\0x" }),
    (e) => e instanceof CCError && e.code === "bad-name",
  );
});

test("client: whatever waits can be ended by its signal, before and meanwhile", async () => {
  const client = connect("tcp://127.0.0.1:1", { highWaterMark: 1 });
  await client.publish({ type: "x", fields: {} });
  const aborted = AbortSignal.abort();
  await assert.rejects(client.ready({ signal: aborted }), failsWith("aborted"));
  await assert.rejects(client.publish({ type: "x", fields: {} }, { signal: aborted }), failsWith("aborted"));
  await assert.rejects(client.query({ type: "x", fields: {} }, { signal: aborted }), failsWith("aborted"));
  for (
    const begin of [
      (signal: AbortSignal) => client.ready({ signal }),
      (signal: AbortSignal) => client.publish({ type: "x", fields: {} }, { signal }),
      (signal: AbortSignal) => client.query({ type: "x", fields: {} }, { signal }),
    ]
  ) {
    const controller = new AbortController();
    const waiting = assert.rejects(begin(controller.signal), failsWith("aborted"));
    await new Promise((resolve) => setImmediate(resolve));
    controller.abort();
    await waiting;
  }
  await assert.rejects(client.publish({ type: "x", fields: {} }, { timeoutMs: 20 }), failsWith("timeout"));
  await client.close(0);
  assert.equal(client.drops.get("linger"), 1, "the one that waited");
});

test("client: an error reply rejects with its text; replies of other types do not", async () => {
  await using s = await serve(`[routes]\nx = h:e\n${h("e", "error")}`, [
    opening("error", (m, { reply }) => {
      m.reply({
        type: String(reply),
        fields: { msg: "cannot route to web7" },
        blob: new Uint8Array([1, 2, 3]),
      });
      return "ok";
    }),
  ]);
  const ask = (reply: string) => s.client.query({ type: "x", fields: { reply } });
  await assert.rejects(
    ask("error"),
    (e) => failsWith("refused")(e) && (e as Error).message === "cannot route to web7",
  );
  await assert.rejects(ask("error.job.config"), failsWith("refused"));
  const { type, body, blob, signer } = await ask("errors");
  assert.deepEqual([type, body.msg, [...blob!], signer], ["errors", "cannot route to web7", [1, 2, 3], null]);
});

test("client: a reply is taken by its own query only; late ones and strangers are counted", async () => {
  const ids: string[] = [];
  const { log, lines } = keptLog();
  using far = await listening(async (peer) => {
    for (let n = 0;; n++) {
      const [id] = await peer.receive(60_000);
      ids.push(id.toString());
      const reply = (route: string[], type = "told") =>
        message(...route, "", type, `{"req":"${type}","n":${n}}`, "");
      // Not an answer: no route, another id, two frames, no CC message.
      peer.write(reply([]), reply(["Q000001"]), reply([id.toString(), id.toString()]), message("x", "y"));
      if (n === 0) continue; // too late: with the next one
      if (n === 1) peer.write(reply([ids[0]]));
      peer.write(reply([id.toString()]));
    }
  });
  const client = connect(far.endpoint, { log });
  await assert.rejects(client.query({ type: "x", fields: {} }, { timeoutMs: 100 }), failsWith("timeout"));
  const { body } = await client.query({ type: "x", fields: {} });
  assert.equal(body.n, 1);
  await until("drops", () => client.drops.get("late") === 5);
  assert.equal(client.drops.get("unasked"), 2);
  assert.equal(client.drops.get("invalid"), 2);
  assert.match(ids[0], /^Q[0-9a-f]{12}$/);
  assert.match(
    lines.join("\n"),
    /WARNING CC\.drop: dropping a message from tcp:\S+: the query that it answers does not wait/,
  );
  const other = connect(far.endpoint);
  void other.query({ type: "x", fields: {} }).catch(() => {});
  await until("its id", () => ids.length === 3);
  assert.notEqual(ids[2].slice(0, 7), ids[1].slice(0, 7), "ids start at random");
  await other.close(0);
  await client.close(0);
});

test("client: a reply whose body cannot be read rejects its query", async () => {
  using far = await listening(async (peer) => {
    for (;;) {
      const [id, , type] = await peer.receive(60_000);
      const body = type.toString() === "list" ? "[]" : "no JSON";
      peer.write(
        type.toString() === "none" ? message(id, "", "bad type!", "{}") : message(id, "", "x", body, ""),
      );
    }
  });
  const client = connect(far.endpoint);
  for (const type of ["text", "list", "none"]) {
    await assert.rejects(client.query({ type, fields: {} }), failsWith("bad-reply"), type);
  }
  await client.close(0);
});

test("client: a query that was sent fails when the link breaks; one that still waits is sent to the next", async () => {
  const first: Buffer[][] = [];
  using far = await listening(async (peer, n) => {
    if (n === 1) {
      first.push(await peer.receive());
      peer.socket.destroy();
      return;
    }
    for (;;) {
      const [id] = await peer.receive(60_000);
      peer.write(message(id, "", "told", '{"req":"told"}', ""));
    }
  });
  const changes: string[] = [];
  const client = connect(far.endpoint, { onChange: (up, why) => changes.push(up ? "up" : why) });
  await client.ready();
  const begin = performance.now();
  await assert.rejects(
    client.query({ type: "x", fields: {} }, { timeoutMs: 20_000 }),
    failsWith("unreachable"),
  );
  assert.ok(performance.now() - begin < 10_000, "not by its time-out");
  assert.equal(first.length, 1);
  const { type } = await client.query({ type: "x", fields: {} }, { timeoutMs: 20_000 });
  assert.equal(type, "told");
  assert.equal(changes.length, 3);
  await client.close(0);
});

test("client: query waits for room as publish does, and is not lost", async () => {
  using folder = tempFolder();
  const endpoint = `ipc://${folder.path}/cc.sock`;
  const client = connect(endpoint, { highWaterMark: 3 });
  const replies = Array.from(
    { length: 50 },
    (_, n) => client.query({ type: "echo.request", fields: { target: String(n) } }, { timeoutMs: 20_000 }),
  );
  const config = configOf(ECHO);
  const server = serverOn({ ...config, options: { ...config.options, "cc-socket": endpoint } });
  await server.start();
  assert.deepEqual(
    (await Promise.all(replies)).map(({ body }) => body.orig_target),
    Array.from({ length: 50 }, (_, n) => String(n)),
  );
  assert.equal(client.drops.size, 0);
  await client.close(0);
  await server.stop();
});

test("client: publish waits while the server is slow, so that any number may be sent from a plain loop", async () => {
  let seen = 0;
  await using s = await serve(`[routes]\nx = h:count\n${h("count", "count")}`, [
    own("count", () => ({
      plan: () => ({ raw: true }),
      handle() {
        seen++;
        return "ok";
      },
    })),
  ]);
  for (let i = 0; i < 20_000; i++) await s.client.publish({ type: "x", fields: { fill: "y".repeat(500) } });
  await until("all", () => seen === 20_000);
  assert.equal(s.client.drops.size, 0);
});

test("client: publish waits while the server is away and the queue is full; then all arrive in order", async () => {
  using folder = tempFolder();
  const endpoint = `ipc://${folder.path}/cc.sock`;
  const client = new CCClient(endpoint, { highWaterMark: 100 });
  const sent = Array.from({ length: 1000 }, (_, n) => client.publish({ type: "x", fields: { n } }));
  const seen: unknown[] = [];
  const keep = opening("keep", (_m, { n }) => {
    seen.push(n);
    return "ok";
  });
  const config = configOf(`[routes]\nx = h:keep\n${h("keep", "keep")}`, [keep]);
  const server = serverOn({ ...config, options: { ...config.options, "cc-socket": endpoint } });
  await server.start();
  await Promise.all(sent);
  await until("all messages", () => seen.length >= sent.length);
  assert.deepEqual(seen, sent.map((_, n) => n));
  assert.equal(client.drops.size, 0);
  await client.close(0);
  await server.stop();
  const away = new CCClient("tcp://127.0.0.1:1", { highWaterMark: 1 });
  const waits = [1, 2, 3].map(() => away.publish({ type: "x", fields: {} }));
  const results = Promise.allSettled(waits);
  await away.close(0);
  assert.deepEqual((await results).map(({ status }) => status), ["fulfilled", "rejected", "rejected"]);
});

/** A server that sends messages unasked to whoever has said `join`. */
async function broadcaster() {
  const ways: ReturnPath[] = [];
  let send!: (way: ReturnPath, type: string, n: number, fill?: string) => Outcome | Promise<Outcome>;
  const s = await serve(`[routes]\njoin = h:b\n${h("b", "broadcaster")}`, [
    opening("broadcaster", (m, _body, context) => {
      send = (way, type, n, fill = "") => context.send(way, { type, fields: { n, fill } });
      ways.push(m.from);
      return "ok";
    }),
  ]);
  return {
    s,
    ways,
    send: (type: string, n: number, fill?: string) => send(ways[ways.length - 1], type, n, fill),
  };
}

test("client: messages() gives what answers no query, by type, in order, and ends with its signal or the client", async () => {
  const { s, ways, send } = await broadcaster();
  await using _s = s;
  const all = s.client.messages();
  const some = s.client.messages({ type: "pub.a" });
  await s.client.publish({ type: "join", fields: {} });
  await until("the way", () => ways.length === 1);
  for (const [n, type] of ["pub.a", "pub.ab", "pub.a.b", "other"].entries()) send(type, n);
  const taken: Received[] = [];
  for await (const received of all) if (taken.push(received) === 4) break;
  assert.deepEqual(taken.map(({ type, body }) => `${type} ${body.n}`), [
    "pub.a 0",
    "pub.ab 1",
    "pub.a.b 2",
    "other 3",
  ]);
  assert.equal((await some.next()).value.body.n, 0);
  assert.equal((await some.next()).value.body.n, 2);
  const controller = new AbortController();
  const ended = (async () => {
    for await (const _ of s.client.messages({ signal: controller.signal })) assert.fail("nothing comes");
  })();
  const waiting = some.next();
  controller.abort();
  await ended;
  await s.client.close(0);
  assert.deepEqual(await waiting, { value: undefined, done: true });
  assert.equal(s.client.drops.size, 0);
});

test("client: messages nobody asks for are counted", async () => {
  const { s, ways, send } = await broadcaster();
  await using _s = s;
  await s.client.publish({ type: "join", fields: {} });
  await until("the way", () => ways.length === 1);
  for (let n = 0; n < 3; n++) send("pub.a", n);
  await until("the count", () => s.client.drops.get("unasked") === 3);
});

test("client: who takes messages slowly makes the server wait, and loses none", async () => {
  const { s, ways, send } = await broadcaster();
  await using _s = s;
  const client = connect(s.endpoint, { highWaterMark: 10 });
  const inbox = client.messages();
  await client.publish({ type: "join", fields: {} });
  await until("the way", () => ways.length === 1);
  const total = 3000;
  const fill = "y".repeat(2000);
  let sent = 0;
  // Until its queue at the server is full: then no more may be sent there.
  for (; sent < total; sent++) {
    if (send("pub.a", sent, fill) !== "ok") break;
    if (sent % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  const first = await inbox.next();
  assert.equal(first.value.body.n, 0);
  let waited = 0;
  for (let n = 1; n < sent; n++) {
    const { value } = await inbox.next();
    assert.equal(value.body.n, n, "in order");
    waited = n;
  }
  assert.equal(waited, sent - 1);
  assert.equal(client.drops.size, 0);
  await client.close(0);
});

test("client: a client that has a name is found by it", async () => {
  await using s = await serve(ECHO);
  const client = connect(s.endpoint, { name: "web7" });
  await client.ready();
  await until("its name", () => s.lines.some((line) => line.includes('connected as "web7"')));
  const { body } = await client.query({ type: "echo.request", fields: { target: "x" } });
  assert.equal(body.orig_target, "x");
  await client.close();
});

test("client: 100,000 small messages from a plain loop arrive, at the speed that is promised on Bun", async () => {
  await using s = await serve(`[routes]\nx = h:sink\n${h("sink", "disposer")}`);
  const total = 100_000;
  const begin = performance.now();
  for (let n = 0; n < total; n++) await s.client.publish({ type: "x", fields: { n } });
  await until("all", () => s.stats().get("disposed_count") === total, 30_000);
  const seconds = (performance.now() - begin) / 1000;
  console.log(`client: ${(total / seconds).toFixed(0)} messages/s, server in the same process`);
  assert.equal(s.client.drops.size, 0);
});
