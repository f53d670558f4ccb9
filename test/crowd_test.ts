/** A crowd of links that bring much: who is read when, how much is held, and who leaves. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import net from "node:net";
import { test } from "node:test";
import { Crowd, type CrowdLink, type Member, type Readiness } from "../src/runtime/crowd.ts";
import { type Loop, Pace, Rounds } from "../src/runtime/turn.ts";
import { SLOW_TARGETS, until } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** An event loop whose turns the test takes, and which sockets are ready. */
class World implements Loop, Readiness {
  readonly mixedBytes = 4 * MIB;
  readonly mixedMs = 4;
  time = 1000;
  readonly now = () => this.time;
  readonly rounds: Rounds = new Rounds(this);
  readonly crowd: Crowd;
  readonly links: TestLink[] = [];
  pulledIn = 0;
  /** Calls of the batch that all links have. */
  readonly calls: string[] = [];
  readonly batch = {
    begin: () => void this.calls.push("begin"),
    end: () => void this.calls.push("end"),
  };
  readonly #watched = new Map<number, TestLink>();
  readonly #news: [number, boolean][] = [];
  #next: (() => void) | null = null;

  constructor(links: number) {
    this.crowd = new Crowd(this.rounds, this, this, (n) => (this.pulledIn += n) < 100);
    for (let i = 0; i < links; i++) this.links.push(new TestLink(this, i));
    for (const link of this.links) link.member = this.crowd.join(link, link.fd);
  }

  nextTurn(f: () => void): void {
    assert.equal(this.#next, null, "asked once a turn");
    this.#next = f;
  }

  get idle(): boolean {
    return this.#next === null;
  }

  turn(): void {
    const next = this.#next;
    this.#next = null;
    next?.();
  }

  add(fd: number, id: number): boolean {
    this.#watched.set(id, this.links[fd]);
    return true;
  }

  remove(fd: number): void {
    for (const [id, link] of this.#watched) if (link.fd === fd) this.#watched.delete(id);
  }

  poll(ready: (id: number, ended: boolean) => void): void {
    for (const [id, ended] of this.#news.splice(0)) ready(id, ended);
  }

  /** Bytes come in for a link, and perhaps its end. */
  bring(link: TestLink, bytes: number, ended = false): void {
    link.has += bytes;
    link.ended ||= ended;
    for (const [id, one] of this.#watched) if (one === link) this.#news.push([id, ended]);
  }
}

class TestLink implements CrowdLink {
  readonly world: World;
  readonly fd: number;
  readonly #pace = new Pace();
  member: Member | null = null;
  has = 0;
  ended = false;
  /** Is it paused by what it brings? */
  pauses = false;
  reads: number[] = [];
  leftAs: "few" | "one" | null = null;

  constructor(world: World, fd: number) {
    this.world = world;
    this.fd = fd;
  }

  get batch() {
    return this.world.batch;
  }

  readOnce(mostBytes: number): number {
    const { rounds, crowd } = this.world;
    const asked = Math.min(mostBytes, rounds.next(this.#pace), 64 * KIB);
    if (this.has === 0) return this.ended ? 0 : -1;
    const n = Math.min(asked, this.has);
    this.has -= n;
    this.reads.push(n);
    rounds.took(this.#pace, n);
    this.member!.more = n === asked;
    if (this.pauses) crowd.pause(this.member!, 0);
    return n;
  }

  resume(): void {
    this.world.crowd.resume(this.member!);
  }

  left(few: boolean): void {
    this.leftAs = few ? "few" : "one";
  }
}

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);
/** More than a few, so that it is a crowd. */
const MANY = 40;

test("crowd: those that have something are read to its end, one after the other, until the turn is over", () => {
  const world = new World(MANY);
  const { links } = world;
  for (const link of links) world.bring(link, MIB);
  world.turn();
  assert.deepEqual(links.map(({ reads }) => sum(reads) / MIB), links.map((_, i) => i < 8 ? 1 : 0));
  world.turn();
  assert.equal(sum(links.map(({ reads }) => sum(reads))), 16 * MIB);
  for (let i = 0; i < 5; i++) world.turn();
  assert.ok(links.every(({ has }) => has === 0));
});

test("crowd: of one that never rests eight MiB are read, then it is the next one's turn", () => {
  const world = new World(MANY);
  const [flood, other] = world.links;
  world.bring(flood, 100 * MIB);
  world.bring(other, 10 * KIB);
  world.turn();
  assert.deepEqual([sum(flood.reads), sum(other.reads)], [8 * MIB, 0]);
  world.turn();
  assert.deepEqual([sum(flood.reads) > 8 * MIB, sum(other.reads)], [true, 10 * KIB]);
});

test("crowd: who is paused is not read, and has what came meanwhile when it goes on", () => {
  const world = new World(MANY);
  const [link] = world.links;
  link.pauses = true;
  world.bring(link, 20 * KIB);
  world.turn();
  world.bring(link, 30 * KIB);
  world.turn();
  assert.deepEqual(link.reads, [20 * KIB]);
  link.pauses = false;
  link.resume();
  world.turn();
  assert.deepEqual(link.reads, [20 * KIB, 30 * KIB]);
});

test("crowd: a turn ends when four have been paused, as there is no room", () => {
  const world = new World(MANY);
  for (const link of world.links) {
    link.pauses = true;
    world.bring(link, 64 * KIB);
  }
  world.turn();
  assert.equal(world.links.filter(({ reads }) => reads.length > 0).length, 4);
});

test("crowd: much is held: the loop's links come in, nobody is read who was paused last, and of others a little at first", () => {
  const world = new World(400);
  const { links } = world;
  for (const link of links) {
    link.pauses = true;
    world.bring(link, 64 * KIB);
  }
  // 8 MiB, and the one that was more than that.
  for (let i = 0; i < 33; i++) world.turn();
  const held = links.filter(({ reads }) => sum(reads) === 64 * KIB);
  assert.ok(held.length >= 129 && held.length <= 132, `${held.length} are held`);
  assert.ok(world.pulledIn >= 100);
  // One whose messages go elsewhere is read as ever, behind a little.
  const free = links[300];
  free.pauses = false;
  while (links.some(({ reads }) => reads.length === 0)) world.turn();
  assert.deepEqual(free.reads, [KIB, 4 * KIB, 16 * KIB, 43 * KIB]);
  assert.deepEqual(links[301].reads, [KIB]);
  // Who goes on was paused last: it waits until a quarter of it all has been taken.
  const [first] = links;
  first.pauses = false;
  world.bring(first, 10 * KIB);
  first.resume();
  world.turn();
  assert.deepEqual(first.reads, [64 * KIB]);
  for (const link of links.slice(1, 80)) link.resume();
  while (!world.idle && sum(first.reads) === 64 * KIB) world.turn();
  assert.deepEqual(first.reads, [64 * KIB, 10 * KIB]);
});

test("crowd: who is deferred, and paused meanwhile or gone, does not keep others from being read", () => {
  const world = new World(300);
  const { links } = world;
  for (const link of links.slice(0, 200)) {
    link.pauses = true;
    world.bring(link, 64 * KIB);
  }
  while (links.slice(0, 200).some(({ reads }) => reads.length === 0)) world.turn();
  // They go on, are deferred as too much is held, and paused again by somebody else, or gone.
  const again = links.slice(150, 170);
  for (const link of again) link.resume();
  world.turn();
  assert.ok(again.every(({ member }) => member!.deferred));
  for (const link of again.slice(0, 10)) world.crowd.pause(link.member!, 0);
  for (const link of again.slice(10)) world.crowd.drop(link.member!, true);
  for (const link of links.slice(200)) {
    world.bring(link, 10 * KIB);
    world.turn();
    assert.equal(sum(link.reads), 10 * KIB);
  }
});

test("crowd: who is deferred stays, however long that lasts", () => {
  const world = new World(200);
  const { links } = world;
  for (const link of links) {
    link.pauses = true;
    world.bring(link, 64 * KIB);
  }
  while (links.some(({ reads }) => reads.length === 0)) world.turn();
  const [deferred] = links;
  world.bring(deferred, 64 * KIB);
  deferred.resume();
  for (let i = 0; i < 10; i++) {
    world.time += 1000;
    world.turn();
  }
  assert.deepEqual([deferred.leftAs, deferred.reads.length], [null, 1]);
  assert.ok(world.idle, "nothing is looked at while all wait");
});

test("crowd: who brings little twice, nothing for two seconds, or its end, leaves", () => {
  const world = new World(MANY);
  const [little, ended, both, ...others] = world.links;
  world.bring(little, 100);
  world.bring(ended, 0, true);
  world.bring(both, 5 * KIB, true);
  world.turn();
  world.bring(little, 100);
  world.turn();
  world.turn();
  assert.deepEqual([little, ended, both].map(({ leftAs }) => leftAs), ["one", "one", "one"]);
  assert.equal(sum(both.reads), 5 * KIB, "its last bytes were read first");
  assert.ok(others.every(({ leftAs }) => leftAs === null));
  world.time += 1900;
  world.bring(others[0], 10 * KIB);
  world.turn();
  world.time += 200;
  for (let i = 0; i < 3; i++) world.turn();
  assert.deepEqual(others.map(({ leftAs }) => leftAs), others.map((_, i) => i === 0 ? null : "one"));
});

test("crowd: when only few are left they are no crowd, but for one that is paused; and nothing is asked for any more", () => {
  const world = new World(5);
  const [paused, ...others] = world.links;
  paused.pauses = true;
  world.bring(paused, 10 * KIB);
  for (let i = 0; i < 30; i++) {
    for (const link of others) world.bring(link, 10 * KIB);
    world.turn();
    world.time += 100;
  }
  assert.deepEqual(world.links.map(({ leftAs }) => leftAs), [null, "few", "few", "few", "few"]);
  assert.equal(world.crowd.size, 1);
  assert.ok(world.idle);
});

test("crowd: what reads cause is written together, and each batch ends, also when a read fails", () => {
  const world = new World(MANY);
  for (const link of world.links.slice(0, 8)) world.bring(link, 64 * KIB);
  world.turn();
  assert.deepEqual(
    world.calls,
    ["begin", "end", "begin", "end", "begin", "end"].slice(0, world.calls.length),
  );
  assert.ok(world.calls.length >= 4 && world.calls.length % 2 === 0);
  world.calls.length = 0;
  world.links[9].readOnce = () => {
    throw new Error("as it should");
  };
  world.bring(world.links[9], 1);
  assert.throws(() => world.turn(), /as it should/);
  assert.deepEqual(world.calls, ["begin", "end"]);
});

test("crowd: one that is gone is not read, whatever was told of it", () => {
  const world = new World(MANY);
  const [gone] = world.links;
  world.bring(gone, 10 * KIB);
  world.crowd.drop(gone.member!, true);
  world.turn();
  assert.deepEqual(gone.reads, []);
  assert.equal(world.crowd.size, MANY - 1);
});

const CLIENTS = 300;
const EACH = 150;
/** What clients that cannot go on may cost: what may be held, and the upstream's queue. Deno and Node read each once more. */
const HELD_MAX = 32 * MIB;

/** Counts the messages of a numbered client each, and notes where one is not the next. */
class Sink {
  readonly next = new Map<string, number>();
  count = 0;
  outOfOrder = 0;
  peer!: RawPeer;
  readonly #server = net.createServer((socket) => {
    this.peer = new RawPeer(socket);
    this.peer.write(GREETING, ready("ROUTER"));
    // Nothing is taken until the test says so.
    void this.peer.handshake().then(() => socket.pause());
  });
  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `tcp://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }
  take(): void {
    const take = () => {
      for (let frames = this.peer.take(); frames !== null; frames = this.peer.take()) {
        const [client, n] = frames[3].toString("latin1", 0, 40).split(" ");
        if ((this.next.get(client) ?? 0) !== Number(n)) this.outOfOrder++;
        this.next.set(client, Number(n) + 1);
        this.count++;
      }
    };
    this.peer.socket.on("data", take).resume();
    take();
  }
  [Symbol.dispose](): void {
    this.peer?.close();
    this.#server.close();
  }
}

for (const target of SLOW_TARGETS) {
  test(`crowd: ${target.name}: ${CLIENTS} clients whose upstream takes nothing are held back, cost little, and lose nothing`, async () => {
    using sink = new Sink();
    await using server = await ServerProcess.start(
      `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
[routes]
pub = h:up
echo = h:echo
[h:up]
handler = proxy
remote-cc = ${await sink.listen()}
[h:echo]
handler = echo
`,
      target,
    );
    await server.until(/ is up/);
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => RawPeer.open(server.port)));
    const before = server.residentBytes;
    const body = "x".repeat(2000);
    for (const [i, { socket }] of clients.entries()) {
      socket.write(Buffer.concat(
        Array.from({ length: EACH }, (_, n) => message("", "pub.x", `${i} ${n} ${body}`, "")),
      ));
    }
    // One that asks elsewhere is answered meanwhile, and for as long as it goes on.
    using light = await RawPeer.open(server.port);
    let most = 0;
    for (let i = 0; i < 100; i++) {
      light.write(message("", "echo.request", '{"req":"echo.request","target":"x"}', ""));
      await light.receive();
      most = Math.max(most, server.residentBytes - before);
    }
    if (target.name === "binary") assert.ok(most < HELD_MAX, `${(most / MIB).toFixed(0)} MiB`);
    sink.take();
    await until(() => `${sink.count} messages`, () => sink.count === CLIENTS * EACH, 60_000);
    assert.deepEqual([sink.outOfOrder, sink.next.size], [0, CLIENTS]);
    for (const client of clients) client.close();
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
  });
}
