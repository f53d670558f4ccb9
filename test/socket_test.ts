/** Router and Dealer in one process: identities, queues, marks, linger, reconnecting. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import {
  AnyBody,
  CCServer,
  Dealer,
  decodeFrames,
  encodeFrames,
  type Environment,
  Logger,
  type MessageSink,
  type Outcome,
  readConfig,
  Router,
  type Source,
} from "../mod.ts";
import { Block } from "../src/memory/block.ts";
import { BLOCK_BYTES } from "../src/memory/blocks.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { SocketContext } from "../src/socket/context.ts";
import { Dealer as PlainDealer } from "../src/socket/dealer.ts";
import { Egress } from "../src/socket/egress.ts";
import { Router as PlainRouter } from "../src/socket/router.ts";
import { tempFolder, text, until, utf8 } from "./helpers/env.ts";
import { PuppetLink, PuppetNetwork } from "./helpers/puppet.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";
import { own } from "./helpers/server.ts";
import { World } from "./helpers/simulation.ts";
import { test } from "./helpers/memory.ts";

const NO_IDENTITY = new Uint8Array(0);
const OPTIONS = {
  hwm: 1,
  receiveBufferBytes: 0,
  sendBufferBytes: 0,
  keepAlive: null,
  messageMaxBytes: 1000,
};

const ROUTER_OPTIONS = {
  ...OPTIONS,
  identityTakeover: "probe" as const,
  maxClients: 100,
  messageTimeoutMs: 60_000,
  memoryBudgetBytes: Infinity,
};

/** Keeps what comes: source and frames as text. */
class Inbox implements MessageSink {
  got: { from: Source; frames: string[] }[] = [];
  message(source: Source, buf: Uint8Array, start: number, end: number): void {
    this.got.push({ from: source, frames: decodeFrames(buf, start, end).map(text) });
  }
  chunkEnd(): void {}
  /** The n-th message's frames. */
  async frames(n = 0): Promise<string[]> {
    return (await until(`message ${n}`, () => this.got[n])).frames;
  }
}

function send(dealer: { send: PlainDealer["send"] }, ...frames: string[]): ReturnType<PlainDealer["send"]> {
  const bytes = encodeFrames(frames.map(utf8));
  return dealer.send(NO_IDENTITY, bytes, 0, bytes.length, null);
}

function reply(router: Router, to: Source, ...frames: string[]): boolean {
  const bytes = new Uint8Array([...to.identityFrame, ...encodeFrames(frames.map(utf8))]);
  return router.send(bytes, 0, bytes.length, null);
}

/** A network of our own, under a clock of our own. */
function simulated(takes: (bytes: number) => number = (bytes) => bytes) {
  const world = new World(7);
  const network = new PuppetNetwork("plain", takes);
  const lines: string[] = [];
  const environment: Environment = { ...world.machine("here", "plain"), links: network };
  const log = new Logger("test", { sink: (line) => lines.push(line), pid: 1 });
  return { world, network, lines, environment, log, context: new SocketContext(environment, log) };
}

const portOf = (endpoint: string) => Number(/:(\d+)$/.exec(endpoint)![1]);

async function routerAndInbox(options = {}) {
  const lines: string[] = [];
  const inbox = new Inbox();
  const router = new Router(inbox, {
    ...options,
    log: new Logger("test", { sink: (line) => lines.push(line), pid: 1, level: "DEBUG" }),
  });
  const endpoint = await router.bind("tcp://127.0.0.1:*");
  return { router, inbox, endpoint, port: portOf(endpoint), lines };
}

test("a DEALER and a ROUTER talk; identities are five bytes, a zero byte first", async () => {
  const { router, inbox, endpoint } = await routerAndInbox();
  const answers = new Inbox();
  const dealer = new Dealer(endpoint, answers);
  send(dealer, "", "hello");
  assert.deepEqual(await inbox.frames(), ["", "hello"]);
  const { from } = inbox.got[0];
  assert.equal(from.identityFrame.length, 7);
  assert.deepEqual([...from.identityFrame.subarray(0, 3)], [1, 5, 0]);
  assert.equal(reply(router, from, "", "there"), true);
  assert.deepEqual(await answers.frames(), ["", "there"]);
  await dealer.close(100);
  await router.close(100);
});

test("a peer's own identity is kept, and a peer that comes with it takes it over", async () => {
  const { router, inbox, port, lines } = await routerAndInbox();
  using first = await RawPeer.open(port, "DEALER", "me");
  first.write(message("one"));
  await inbox.frames(0);
  assert.deepEqual([...inbox.got[0].from.identityFrame], [1, 2, 0x6d, 0x65]);
  using second = await RawPeer.open(port, "DEALER", "me");
  await until("the first to be closed", () => first.closed);
  second.write(message("two"));
  await inbox.frames(1);
  reply(router, inbox.got[0].from, "for me");
  assert.equal((await second.receive())[0].toString(), "for me");
  assert.equal(router.peers, 1);
  assert.ok(lines.some((line) => line.includes('takes over the identity "me"')));
  await router.close(0);
});

test("a message for nobody is dropped, counted and told", async () => {
  const { router, lines } = await routerAndInbox();
  const bytes = encodeFrames([utf8("nobody"), utf8("x")]);
  assert.equal(router.send(bytes, 0, bytes.length, null), false);
  assert.equal(router.drops.byReason.get("no-such-peer"), 1);
  assert.ok(lines.some((line) => line.includes('dropped 1 message for "nobody": no peer has this identity')));
  const only = encodeFrames([utf8("identity only")]);
  assert.equal(router.send(only, 0, only.length, null), false);
  assert.equal(router.drops.byReason.get("no-route"), 1);
  await router.close(0);
});

test("while the upstream is down, messages wait up to the high water mark; the newest after that are dropped", async () => {
  const free = await routerAndInbox();
  await free.router.close(0);
  const dealer = new Dealer(free.endpoint, new Inbox(), { hwm: 5 });
  for (let i = 0; i < 8; i++) send(dealer, String(i));
  assert.equal(dealer.queued, 5);
  assert.equal(dealer.drops.byReason.get("upstream-down"), 3);
  assert.equal(dealer.drops.byPeer.get(free.endpoint)?.get("upstream-down"), 3);
  const inbox = new Inbox();
  const router = new Router(inbox);
  await router.bind(free.endpoint);
  await inbox.frames(4);
  assert.deepEqual(inbox.got.map(({ frames }) => frames[0]), ["0", "1", "2", "3", "4"]);
  await dealer.close(100);
  await router.close(100);
});

test("one upstream that is down leaves memory for the others that are", async () => {
  const { context, network } = simulated();
  network.refuse = () => {};
  context.upstreams.budgetBytes = 400_000;
  const options = { ...OPTIONS, hwm: 1000 };
  const [greedy, modest] = [1, 2].map((n) =>
    new PlainDealer(context, `tcp://192.0.2.${n}:1`, options, new Inbox())
  );
  const fill = (dealer: PlainDealer) => {
    let taken = 0;
    while (send(dealer, "x".repeat(900)) === "queued") taken += 903;
    return taken;
  };
  // Half of what they have together at once, then the other takes its part: half of it.
  assert.ok(fill(greedy) <= 101_000);
  const taken = fill(modest);
  assert.ok(taken > 98_000 && taken < 101_000, `${taken} bytes`);
  await Promise.all([greedy.close(0), modest.close(0)]);
});

test("a DEALER takes another high water mark, and what waits stays", async () => {
  const { context, network } = simulated();
  network.refuse = () => {};
  const options = { ...OPTIONS, hwm: 2 };
  const dealer = new PlainDealer(context, "tcp://192.0.2.1:1", options, new Inbox());
  const results = () => Array.from({ length: 3 }, (_, n) => send(dealer, `${n}`));
  assert.deepEqual(results(), ["queued", "queued", "dropped"]);
  dealer.reconfigure({ ...options, hwm: 4 });
  assert.deepEqual(results(), ["queued", "queued", "dropped"]);
  dealer.reconfigure({ ...options, hwm: 1 });
  assert.deepEqual(results(), ["dropped", "dropped", "dropped"]);
  assert.equal(dealer.queued, 4);
  await dealer.close(0);
  assert.equal(dealer.drops.byReason.get("linger"), 4);
});

test("a DEALER connects anew when its upstream comes back, and what waited goes out in order", async () => {
  const first = await routerAndInbox();
  const states: string[] = [];
  const dealer = new Dealer(first.endpoint, new Inbox(), {
    events: { up: () => states.push("up"), down: () => states.push("down") },
  });
  send(dealer, "before");
  await first.inbox.frames();
  await first.router.close(0);
  await until("down", () => states.includes("down"));
  for (let i = 0; i < 3; i++) send(dealer, `while away ${i}`);
  const inbox = new Inbox();
  const router = new Router(inbox);
  await router.bind(first.endpoint);
  await inbox.frames(2);
  assert.deepEqual(inbox.got.map(({ frames }) => frames[0]), [
    "while away 0",
    "while away 1",
    "while away 2",
  ]);
  assert.deepEqual(states, ["up", "down", "up"]);
  await dealer.close(100);
  await router.close(100);
});

test("a link that breaks in the middle of a write: the message that was not whole is sent again, none twice", async () => {
  // A raw upstream that reads a little and resets, then one that reads all.
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.write(GREETING);
    socket.write(ready("ROUTER"));
    if (sockets.length === 1) socket.once("data", () => socket.pause());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const port = (server.address() as net.AddressInfo).port;
  const dealer = new Dealer(`tcp://127.0.0.1:${port}`, new Inbox(), { hwm: 100_000 });
  await until("up", () => dealer.up);
  const total = 300;
  const size = 100_000;
  for (let i = 0; i < total; i++) send(dealer, String(i), "x".repeat(size));
  await until("a queue that stands", () => dealer.queued > 0 && dealer.queued < total);
  const peer = await new Promise<RawPeer>((resolve) => {
    server.once("connection", (socket) => resolve(new RawPeer(socket)));
    sockets[0].destroy();
  });
  await peer.handshake();
  const seen: number[] = [];
  while (seen.at(-1) !== total - 1) {
    const frames = await peer.receive();
    assert.equal(frames[1].length, size, "the message is whole");
    seen.push(Number(frames[0]));
  }
  const lost = dealer.drops.byReason.get("link-lost") ?? 0;
  for (let i = 1; i < seen.length; i++) assert.equal(seen[i], seen[i - 1] + 1, "in order, none twice");
  assert.ok(seen[0] > 0 && seen[0] + lost < total);
  peer.close();
  server.close();
  await dealer.close(0);
});

test("reconnecting backs off exponentially, with jitter and a cap, and asks for the name each time", async () => {
  const { world, network, environment, log } = simulated();
  const asked: number[] = [];
  const resolve = (host: string) => {
    assert.equal(host, "collector.example");
    asked.push(world.now);
    return Promise.resolve(["192.0.2.1", "192.0.2.2"]);
  };
  const tried: string[] = [];
  network.refuse = (address) => {
    assert.equal(address.transport, "tcp");
    if (address.transport === "tcp") tried.push(address.host);
  };
  const context = new SocketContext({ ...environment, resolve }, log);
  const dealer = new PlainDealer(context, "tcp://collector.example:22632", OPTIONS, new Inbox());
  await world.run("fourteen attempts", world.sleep(90_000), 100_000);
  assert.ok(asked.length >= 14, `the name was resolved ${asked.length} times`);
  assert.deepEqual(tried.slice(0, 4), ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"]);
  const waits = asked.slice(1).map((at, i) => at - asked[i]);
  waits.slice(0, 14).forEach((wait, i) => {
    const most = Math.min(10_000, 100 * 2 ** i);
    assert.ok(wait >= most / 2 && wait <= most, `wait ${i}: ${wait} ms, at most ${most}`);
  });
  assert.ok(new Set(waits.slice(8, 14)).size > 3, "the waits differ by chance");
  await world.run("the end", dealer.close(0), 1000);
});

test("two contexts of one program never get the same block", () => {
  const log = new Logger("test", { sink: () => {}, pid: 1 });
  const contexts = [new SocketContext(MACHINE, log), new SocketContext(MACHINE, log)];
  for (const size of BLOCK_BYTES.keys()) {
    const blocks = contexts.flatMap(({ blocks }) => [blocks.take(size), blocks.take(size)]);
    blocks.forEach((a, i) =>
      blocks.slice(i + 1).forEach((b) => assert.ok(a.buf !== b.buf || a.end <= b.start || b.end <= a.start))
    );
    for (const block of blocks) block.release();
  }
});

test("a chunk is borrowed: its buffer is used again, while sources are paused and types are remembered", async () => {
  const { world, network, environment, log } = simulated();
  const seen: string[] = [];
  let goOn: ((outcome: Outcome) => void) | null = null;
  // Every third message is under way until we say so, and no other comes meanwhile.
  const third = own("third", () => ({
    plan: () => ({ open: AnyBody }),
    handle: (m, body) => {
      seen.push(`${m.type} ${(body as { n: string }).n}`);
      return seen.length % 3 === 1 ? new Promise<Outcome>((resolve) => goOn = resolve) : "ok";
    },
  }), { inFlight: 1 });
  const config = readConfig(
    "[ccserver]\ncc-socket = tcp://127.0.0.1:1\ncc-role = local\n[routes]\n* = h:t\n[h:t]\nhandler = third\n",
    "t.ini",
    { handlers: [third] },
  );
  const server = new CCServer(config, { environment, log });
  await world.run("the start", server.start(), 1000);
  const client = network.accept();
  client.give(GREETING, ready("DEALER", "identity"));
  const one = (type: string, n: string) => message("", type, JSON.stringify({ req: type, n }), "");
  for (let round = 0; round < 4; round++) {
    client.give(one("a.b", `${round}.0`), one("c.d", `${round}.1`), one("a.b", `${round}.2`));
    assert.equal(seen.length, 3 * round + 1, "paused in the middle of the chunk");
    assert.equal(client.paused, true);
    goOn!("ok");
    await world.run("the rest", world.sleep(1), 100);
    assert.equal(seen.length, 3 * round + 3);
  }
  assert.deepEqual(seen, [0, 1, 2, 3].flatMap((r) => [`a.b ${r}.0`, `c.d ${r}.1`, `a.b ${r}.2`]));

  // A peer that goes while it is paused: what had come is still taken.
  client.give(one("a.b", "last 0"), one("a.b", "last 1"), one("a.b", "last 2"));
  assert.equal(seen.length, 13);
  client.break();
  assert.deepEqual(seen.slice(12), ["a.b last 0", "a.b last 1", "a.b last 2"]);
  goOn!("ok");
  assert.equal(server.drops, 0);
  await world.run("the end", server.stop(), 10_000);
});

test("a peer that does not finish its handshake is closed in time", async () => {
  const { world, network, lines, context } = simulated();
  const router = new PlainRouter(context, ROUTER_OPTIONS, new Inbox());
  await router.bind("tcp://127.0.0.1:1");
  const client = network.accept();
  client.give(GREETING.subarray(0, 30));
  await world.run("a while", world.sleep(9990), 10_000);
  assert.equal(client.destroyed, false);
  await world.run("a little more", world.sleep(20), 100);
  assert.equal(client.destroyed, true);
  assert.match(lines.join(), /closed tcp:\/\/192\.0\.2\.1:1: no handshake within 10 s \(bad-handshake\)/);
  await world.run("the end", router.close(0), 1000);
});

test("a peer of ZMTP 3.0 cannot be asked: it keeps its identity until what waits for it has stood still for 15 s", async () => {
  // What is long is not taken.
  const { world, network, context, lines } = simulated((bytes) => bytes < 300 ? bytes : 0);
  const inbox = new Inbox();
  const router = new PlainRouter(context, { ...ROUTER_OPTIONS, messageMaxBytes: 10_000 }, inbox);
  await router.bind("tcp://127.0.0.1:1");
  const old = Buffer.from(GREETING);
  old[11] = 0;
  const come = async () => {
    const link = network.accept();
    link.give(old, ready("DEALER", "web1"));
    await world.run("a probe, if there is one", world.sleep(2500), 3000);
    return link;
  };
  const holder = await come();
  holder.give(message("hello"));
  assert.equal((await come()).destroyed, true);
  // Nothing waits for it: it may be quiet for long.
  await world.run("a minute", world.sleep(60_000), 70_000);
  assert.equal((await come()).destroyed, true);
  const bytes = new Uint8Array([
    ...inbox.got[0].from.identityFrame,
    ...encodeFrames([utf8("x".repeat(1000))]),
  ]);
  assert.equal(router.send(bytes, 0, bytes.length, null), true);
  assert.equal((await come()).destroyed, true);
  await world.run("not long enough", world.sleep(10_000), 11_000);
  assert.equal((await come()).destroyed, true);
  await world.run("long enough", world.sleep(3000), 4000);
  const heir = await come();
  assert.deepEqual([holder.destroyed, heir.destroyed], [true, false], lines.join("\n"));
  await world.run("the end", router.close(0), 1000);
});

test("closing sends all to a peer that reads slowly, within linger", async () => {
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.write(GREETING);
    socket.write(ready("ROUTER"));
    socket.once("data", () => socket.pause());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const dealer = new Dealer(`tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`, new Inbox());
  await until("up", () => dealer.up);
  const total = 100;
  for (let i = 0; i < total; i++) send(dealer, "x".repeat(10_000));
  await until("the kernel has it", () => dealer.queued === 0);
  const closing = dealer.close(8000);
  let received = 0;
  const ended = new Promise((resolve) => sockets[0].on("end", resolve));
  sockets[0].on("data", (chunk) => received += chunk.length);
  let closed = false;
  closing.then(() => closed = true);
  // It has our FIN behind all that waits: nothing but linger ends it now.
  await until("the end of what is sent", () => !dealer.up || dealer.queued === 0);
  assert.equal(closed, false);
  sockets[0].resume();
  await ended;
  sockets[0].end();
  await closing;
  assert.ok(received >= total * 10_000, `${received} bytes`);
  assert.equal(dealer.drops.total, 0);
  server.close();
});

test("a ROUTER that closes sends all to a client that sends on, and takes that", async () => {
  const { router, inbox, port } = await routerAndInbox({ messageMaxBytes: 8_000_000 });
  using client = await RawPeer.open(port);
  client.write(message("", "first"));
  await inbox.frames();
  const size = 3_000_000;
  assert.equal(reply(router, inbox.got[0].from, "x".repeat(size)), true);
  const closing = router.close(5000);
  // Our FIN stands behind the answer, which is not read yet.
  for (let n = 0; n < 100; n++) client.write(message("", `more ${n}`));
  assert.equal((await client.receive())[0].length, size);
  client.socket.end();
  await closing;
  assert.equal(inbox.got.length, 101);
  assert.equal(router.drops.total, 0);
});

test("what waits when a ROUTER stops taking is counted, also where it ends in the middle of a message", async () => {
  const lines: string[] = [];
  const inbox = new Inbox();
  const { message: take } = inbox;
  inbox.message = function (from, ...rest) {
    from.pause();
    return take.call(this, from, ...rest);
  };
  const log = new Logger("test", { sink: (line) => lines.push(line), pid: 1 });
  const router = new PlainRouter(new SocketContext(MACHINE, log), ROUTER_OPTIONS, inbox);
  using client = await RawPeer.open(portOf(await router.bind("tcp://127.0.0.1:*")));
  const cut = message("", "is begun");
  const [taken, ...waiting] = ["is taken", "waits", "waits too"].map((text) => message("", text));
  client.write(Buffer.concat([taken, ...waiting, cut.subarray(0, 5)]));
  await inbox.frames();
  const drained = router.drain(50);
  // It is not read before what waits has been counted.
  client.write(Buffer.concat([cut.subarray(5), message("", "comes behind")]));
  await drained;
  assert.equal(router.drops.byReason.get("unread"), 2);
  await router.close(2000);
  assert.equal(inbox.got.length, 1);
  assert.equal(router.drops.byReason.get("unread"), 4);
  assert.deepEqual(lines.filter((line) => line.includes("closing")), []);
});

test("the rate limiter holds when subjects are made up", () => {
  const lines: string[] = [];
  let now = 0;
  const clock = { now: () => now, time: () => now };
  const log = new Logger("test", { sink: (line) => lines.push(line), pid: 1, clock });
  for (let i = 0; i < 50_000; i++) log.warnRarely("w", `subject ${i}`, "x");
  assert.ok(lines.length <= 1001, `${lines.length} lines`);
  now += 20_000;
  log.warnRarely("w", "subject 49999", "later");
  assert.match(lines.at(-1)!, /later/);
});

test("a block that was in flight when its link ended is used again", () => {
  const { network, context } = simulated(() => 0);
  for (const end of [(egress: Egress) => egress.clear(), (egress: Egress) => egress.detach()]) {
    const written = new Set<Uint8Array>();
    const places = new Set<number>();
    for (let i = 0; i < 500; i++) {
      const egress = new Egress(context, { hwm: 10, floorBytes: 0, maxBytes: 1 << 20 });
      const link = new PuppetLink(network, "test");
      // As on a runtime that cannot tell how far a write came.
      link.writtenBytes = () => -1;
      const { write } = link;
      link.write = (buf, start, finish) => {
        written.add(buf);
        places.add(start);
        return write.call(link, buf, start, finish);
      };
      egress.attach(link);
      egress.open();
      egress.append(NO_IDENTITY, message("x"), 0, 3, null);
      egress.flush();
      assert.equal(end(egress), 1);
    }
    assert.equal(written.size, 1, "one array");
    assert.equal(places.size, 1, "one place in it");
  }
  assert.equal(context.blocks.taken, 0);
});

test("PING is answered with PONG and its context", async () => {
  const { router, port } = await routerAndInbox();
  using peer = await RawPeer.open(port);
  peer.write(new Uint8Array([4, 10, 4, ...utf8("PING"), 0, 100, ...utf8("ctx")]));
  assert.equal((await peer.receive())[0].toString(), "\x04PONGctx");
  await router.close(0);
});

test("the time to live of a PING is kept: who is silent for longer is closed, who speaks is not", async () => {
  const { router, inbox, port } = await routerAndInbox();
  const ping = (tenths: number) => new Uint8Array([4, 7, 4, ...utf8("PING"), 0, tenths]);
  using silent = await RawPeer.open(port);
  using speaking = await RawPeer.open(port);
  using patient = await RawPeer.open(port);
  const begin = performance.now();
  silent.write(ping(3));
  speaking.write(ping(3));
  // The last one counts.
  patient.write(ping(3), ping(0));
  let spoken = 0;
  const talk = setInterval(() => {
    spoken++;
    speaking.write(ping(3));
  }, 50);
  await until("its end", () => silent.closed);
  const took = performance.now() - begin;
  assert.ok(took >= 290 && took < 3000, `${took} ms`);
  // A message does as well.
  speaking.write(message("x"));
  await inbox.frames(0);
  const before = spoken;
  await until("it has spoken for long", () => spoken > before + 12);
  assert.deepEqual([speaking.closed, patient.closed], [false, false]);
  clearInterval(talk);
  await until("its end", () => speaking.closed);
  assert.equal(patient.closed, false);
  await router.close(0);
});

test("closing waits for what is queued, at most linger", async () => {
  const { router, inbox, endpoint } = await routerAndInbox();
  const answers = new Inbox();
  const dealer = new Dealer(endpoint, answers);
  for (let i = 0; i < 100; i++) send(dealer, `${i}`, "x".repeat(10_000));
  await dealer.close(5000);
  await inbox.frames(99);
  assert.equal(dealer.drops.total, 0);
  await router.close(100);

  const nobody = new Dealer(endpoint, new Inbox());
  send(nobody, "never");
  const begin = performance.now();
  await nobody.close(200);
  const took = performance.now() - begin;
  assert.ok(took >= 190 && took < 1500, `${took} ms`);
  assert.equal(nobody.drops.byReason.get("linger"), 1);
});

test("a large message is not copied on its way, and whole", async () => {
  const blocks: Block[] = [];
  const router = new Router({
    message(source, buf, start, end, delimiter, _after, block) {
      assert.ok(block !== null && block.buf === buf, "it lies in a block of its own");
      assert.deepEqual(buf.slice(start - source.identityFrame.length, start), source.identityFrame);
      assert.equal(delimiter, start);
      assert.deepEqual(decodeFrames(buf, start, end)[2], blob);
      block.retain();
      blocks.push(block);
    },
    chunkEnd() {},
  });
  const endpoint = await router.bind("tcp://127.0.0.1:*");
  const dealer = new Dealer(endpoint, new Inbox());
  await until("up", () => dealer.up);
  const blob = new Uint8Array(3_000_000).map((_, i) => i % 253);
  for (let i = 0; i < 3; i++) {
    const bytes = encodeFrames([new Uint8Array(0), utf8("x"), blob]);
    dealer.send(NO_IDENTITY, bytes, 0, bytes.length, new Block(bytes, 0, bytes.length, null));
  }
  await until("three messages", () => blocks.length === 3);
  for (const block of blocks) {
    assert.equal(block.holders, 1, "nobody else holds it");
    block.release();
  }
  await dealer.close(100);
  await router.close(100);
});

test("endpoints: names, IPv4, IPv6, ipc", async () => {
  const inbox = new Inbox();
  const router = new Router(inbox);
  const byName = await router.bind("tcp://localhost:*");
  const any = await router.bind("tcp://*:0");
  assert.match(any, /^tcp:\/\/0\.0\.0\.0:\d+$/);
  const dealers = [
    new Dealer(byName.replace(/\/\/.*:/, "//localhost:"), inbox),
    new Dealer(any.replace("0.0.0.0", "127.0.0.1"), inbox),
  ];
  for (const dealer of dealers) send(dealer, "x");
  await inbox.frames(1);
  for (const dealer of dealers) await dealer.close(0);
  await router.close(0);
});

test("ipc: a live socket and another file are left alone, and the own file is removed", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "cc.sock");
  const live = new Router(new Inbox());
  await live.bind(`ipc://${path}`);
  const second = new Router(new Inbox());
  await assert.rejects(second.bind(`ipc://${path}`), {
    code: "EADDRINUSE",
    message: /the address is in use/,
  });
  await live.close(0);
  assert.equal(existsSync(path), false, "the socket file is removed");

  const other = join(folder.path, "file");
  writeFileSync(other, "precious");
  await assert.rejects(second.bind(`ipc://${other}`), /a file that is not a socket stands there/);
  await assert.rejects(second.bind(`ipc://${folder.path}`), /a file that is not a socket stands there/);
  assert.equal(readFileSync(other, "utf8"), "precious");
  await second.close(0);
});

test("an upstream that reads nothing: its sources are paused, and resume when it counts as down", async () => {
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.write(GREETING);
    socket.write(ready("ROUTER"));
    socket.once("data", () => socket.pause());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  const states: string[] = [];
  const dealer = new Dealer(`tcp://127.0.0.1:${port}`, new Inbox(), {
    hwm: 10,
    stallMs: 300,
    events: { up: () => states.push("up"), down: (why) => states.push(why) },
  });
  await until("up", () => dealer.up);
  let pauses = 0;
  const source: Source = {
    identityFrame: NO_IDENTITY,
    name: "test",
    pause: () => pauses++,
    resume: () => pauses--,
  };
  let messages = 0;
  while (pauses === 0) {
    assert.ok(messages++ < 100_000, "the queue fills at some time");
    if (send(dealer, "x".repeat(10_000)) === "full") dealer.pause(source);
    if (messages % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await until("counts as down", () => states.length > 1);
  assert.match(states[1], /took nothing for 0\.3 s while its queue was full/);
  assert.equal(pauses, 0, "the source goes on");
  server.close();
  for (const socket of sockets) socket.destroy();
  await dealer.close(0);
});
