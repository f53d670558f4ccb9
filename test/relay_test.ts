/**
 * A server whose relay kernel takes runs of messages does the same as one without it, which takes them one by one: the same
 * bytes to each upstream, in the same order, the same counts, whatever the chunks, however little the links take at once, and
 * when they break.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import runtime from "#runtime";
import { CCServer, type Environment, Logger, readConfig } from "../mod.ts";
import { MESSAGE_MAX_FRAMES, TYPE_MAX_BYTES } from "../src/limits.ts";
import { POOL } from "../src/memory/pool.ts";
import { RelayTable } from "../src/relay/table.ts";
import { SocketContext } from "../src/socket/context.ts";
import { Egress } from "../src/socket/egress.ts";
import { ROOT, RUNTIME, seeded, skipFor, until } from "./helpers/env.ts";
import { PuppetLink, PuppetNetwork } from "./helpers/puppet.ts";
import { GREETING, message, ready } from "./helpers/raw.ts";
import { type Driver, World } from "./helpers/simulation.ts";
import { ARENA, READ_BLOCK } from "./helpers/vectors.ts";
import { test } from "./helpers/memory.ts";

const LIMITS = { messageMaxBytes: 300_000, messageMaxFrames: MESSAGE_MAX_FRAMES };

/** Messages that the kernel has taken: copied, listed where they lie, and only counted. */
const relayed = { copied: 0, listed: 0, skipped: 0 };
{
  const { run, list, skip } = RelayTable.prototype;
  RelayTable.prototype.run = function (...given) {
    const next = run.apply(this, given);
    relayed.copied += this.taken;
    return next;
  };
  RelayTable.prototype.list = function (...given) {
    const next = list.apply(this, given);
    relayed.listed += this.taken;
    return next;
  };
  RelayTable.prototype.skip = function (...given) {
    const next = skip.apply(this, given);
    relayed.skipped += this.taken;
    return next;
  };
}

interface Setting {
  /** Type to the upstreams it is forwarded to. */
  readonly routes: Readonly<Record<string, readonly number[]>>;
  readonly driver: Driver;
  readonly identity: string;
  /** Of so many bytes, how many an upstream's link takes at once; all when missing. */
  readonly takes?: (bytes: number) => number;
  /** Asked after each chunk: does an upstream's link break now? */
  readonly breaks?: () => boolean;
}

/** A server between a client and upstreams that are in our hands. */
class Between {
  readonly #setting: Setting;
  readonly #world = new World(1);
  readonly #network: PuppetNetwork;
  readonly #server: CCServer;
  #client!: PuppetLink;

  constructor(setting: Setting) {
    this.#setting = setting;
    this.#network = new PuppetNetwork(setting.driver, setting.takes ?? ((bytes) => bytes));
    const environment = { ...this.#world.machine("between", setting.driver), links: this.#network };
    const upstreams = [...new Set(Object.values(setting.routes).flat())].sort();
    const config = readConfig(
      `[ccserver]\ncc-socket = tcp://127.0.0.1:1\ncc-role = local\ncc-stats = 2\nzmq_maxmsgsize = ${LIMITS.messageMaxBytes}\n` +
        "stats-period = 86400\nheartbeat = 0\n[routes]\n" +
        Object.entries(setting.routes).map(([type, to]) =>
          `${type} = ${to.map((i) => `h:p${i}`).join(", ")}\n`
        ).join("") +
        "gone = h:gone\n[h:gone]\nhandler = disposer\n" +
        upstreams.map((i) =>
          `[h:p${i}]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:${100 + i}\nzmq_hwm = 1000000\n`
        ).join(""),
      "between.ini",
    );
    const log = new Logger("test", { sink: () => {}, pid: 1, level: "CRITICAL" });
    this.#server = new CCServer(config, { environment, log });
  }

  async start(): Promise<this> {
    await this.#world.run("the start", this.#server.start(), 1000);
    await this.#settle();
    this.#client = this.#network.accept();
    this.#client.give(GREETING, ready("DEALER", this.#setting.identity));
    await this.#settle();
    return this;
  }

  /** Time for what was put off until later, and for connecting anew. */
  #settle(ms = 0): Promise<void> {
    return this.#world.run("a moment", this.#world.sleep(ms), 100_000);
  }

  /** Gives the client's bytes in chunks of these sizes, the last of which takes the rest. */
  async feed(stream: Uint8Array, cuts: number[]): Promise<void> {
    for (let at = 0; at < stream.length && !this.#client.destroyed;) {
      const size = Math.min(cuts.shift() ?? stream.length, stream.length - at, READ_BLOCK.size);
      this.#client.give(stream.subarray(at, at + size));
      at += size;
      await this.#settle();
      for (const link of this.#network.upstreams) {
        if (link.destroyed) continue;
        if (this.#setting.breaks?.()) link.break();
        else if (this.#setting.takes === undefined || this.#setting.takes(2) > 0) link.drain();
      }
      this.#client.drain();
    }
  }

  /** What came out, once all links have taken what waited. */
  async outcome() {
    // Longer than the longest wait before connecting anew.
    await this.#settle(20_000);
    for (let i = 0; i < 3; i++) {
      for (const link of this.#network.upstreams) link.drain();
      await this.#settle();
    }
    const statistics = [...this.#server.statistics].filter(([name]) => !name.startsWith("seconds"))
      .sort();
    return {
      upstreams: Object.fromEntries([...this.#network.messages()].sort()),
      statistics: Object.fromEntries(statistics),
      drops: this.#server.drops,
      // What was to be sent when the connection ended may have gone or not: that depends on the chunks.
      client: this.#client.destroyed ? "ended" : this.#client.bytes.toString("latin1"),
    };
  }

  async end(): Promise<void> {
    this.#client.break();
    await this.#world.run("the stop", this.#server.stop(), 100_000);
  }
}

/** What a server makes of a stream. */
async function outcomeOf(setting: Setting, stream: Uint8Array, cuts: number[]) {
  const taken = [POOL.used, ARENA.taken];
  const server = await new Between(setting).start();
  await server.feed(stream, cuts);
  const outcome = await server.outcome();
  await server.end();
  assert.deepEqual([POOL.used, ARENA.taken], taken, "memory was given back");
  return outcome;
}

function context(links: PuppetNetwork): SocketContext {
  const environment: Environment = { ...new World(1).machine("context", "plain"), links };
  return new SocketContext(environment, new Logger("test", { sink: () => {}, pid: 1, level: "CRITICAL" }));
}

test("relay: there is a kernel on this runtime", () => {
  const table = RelayTable.make(runtime.arena!, LIMITS);
  assert.ok(table);
  table.close();
});

test("relay: wasm.ts is made from kernel/relay.ts", {
  skip: skipFor(RUNTIME === "bun" ? false : "the compiler is run once, on Bun"),
}, async () => {
  const { relayWasm } = await import("../src/relay/kernel/build.ts");
  assert.equal(await relayWasm(), readFileSync(join(ROOT, "src/relay/wasm.ts"), "utf8"));
});

test("relay: any split of any stream gives the same as one by one (400 seeded streams)", async () => {
  const before = { ...relayed };
  for (let seed = 1; seed <= 400; seed++) {
    const random = seeded(seed);
    const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)];
    const identity = pick(["", "web1", "x".repeat(40), "y".repeat(255)]);
    const long = "t".repeat(64);
    const types = [
      "pub.infofile",
      "a",
      "pub",
      "log.info",
      "abc.defg",
      long,
      `${long}u`,
      "other.one",
      "none.x",
      "gone.x",
    ];
    // What comes most: forwarded, or what no handler takes, or one throws away.
    const most = ["pub.infofile", "pub.infofile", "pub.infofile", "none.x", "gone.x"][seed % 5];
    const routes = { pub: [0], a: [0], log: [0, 1], abc: [0], [long]: [1], [`${long}u`]: [1], other: [2, 0] };
    const sizes = [
      0,
      1,
      15,
      16,
      17,
      150,
      150,
      150,
      255,
      256,
      1000,
      ...seed % 3 === 0 ? Array(12).fill(1200) : [],
    ];
    const body = () => "b".repeat(pick([...sizes, random() < 0.02 ? 70_000 : 30]));
    const one = (): Buffer => {
      const r = random();
      // What is not plain, now and then: commands, odd frames, other types, and what ends a connection.
      if (r < 0.01) {
        return Buffer.concat([Buffer.from([4, 9, 4]), Buffer.from("PING"), Buffer.from([0, 0, 65, 66])]);
      }
      if (r < 0.02) return message("", pick(types), body());
      if (r < 0.03) return message("", "bad type!", body(), "");
      if (r < 0.04) return message("no delimiter", "x");
      if (r < 0.05) return message("", pick(types), body(), "", "blob", "surplus");
      if (r < 0.055) return message("r".repeat(300), "", pick(types), body(), "");
      if (r < 0.06) {
        return message(...Array(pick([31, 32, 33, 34, 40])).fill("r"), "", "pub", "{}", "", "blob");
      }
      if (r < 0.061) return message("", "pub", "x".repeat(299_000), "", "y".repeat(pick([900, 1100])));
      if (r < 0.062) return Buffer.from([pick([0x08, 0x81, 0x06]), 1, 0]);
      const route = random() < 0.3 ? Array(pick([1, 1, 2, 5])).fill(0).map(() => `id${pick([1, 2])}`) : [];
      const blob = random() < 0.2 ? [body()] : [];
      return message(
        ...route,
        "",
        random() < 0.9 ? most : random() < 0.2 ? types[0] : pick(types),
        body(),
        pick(["", "sig"]),
        ...blob,
      );
    };
    const stream = new Uint8Array(Buffer.concat(Array.from({ length: 120 }, one)));
    const cuts = () => Array.from({ length: 60 }, () => 1 + Math.floor(random() ** 3 * 20_000));
    const plain = await outcomeOf({ routes, identity, driver: "plain" }, stream, []);
    const fast = await outcomeOf({ routes, identity, driver: "has an arena" }, stream, cuts());
    assert.deepEqual(fast, plain, `seed ${seed}`);
    const whole = await outcomeOf({ routes, identity, driver: "has an arena" }, stream, []);
    assert.deepEqual(whole, plain, `seed ${seed}, in one chunk`);
    // Of what is written at once some is taken in part, and waits for a later chunk; and links break in its middle.
    const breaking = await outcomeOf(
      {
        routes,
        identity,
        driver: pick(["has an arena", "writes many pieces", "writes many pieces"]),
        takes: (bytes) => random() < 0.7 ? bytes : Math.floor(random() * bytes),
        breaks: () => random() < 0.1,
      },
      stream,
      cuts(),
    );
    assert.deepEqual(breaking, plain, `seed ${seed}, in parts, over links that break`);
  }
  const copied = relayed.copied - before.copied;
  const listed = relayed.listed - before.listed;
  const skipped = relayed.skipped - before.skipped;
  assert.ok(skipped > 5000, `the kernel skipped ${skipped} messages`);
  assert.ok(copied > 5000, `the kernel copied ${copied} messages`);
  assert.ok(listed > 800, `the kernel listed ${listed} messages`);
});

test("relay: a type has the same slot in the kernel and outside, at every length", async () => {
  for (let size = 1; size <= TYPE_MAX_BYTES; size++) {
    const type = "abcdefghijklmnopq.".repeat(15).slice(0, size).replace(/\.$/, "x");
    const one = message("", type, "x".repeat(600), "");
    const before = relayed.copied;
    await outcomeOf(
      { routes: { [type]: [0] }, identity: "", driver: "has an arena" },
      new Uint8Array(Buffer.concat([one, one, one])),
      [],
    );
    assert.equal(relayed.copied - before, size <= 64 ? 2 : 0, `${size} bytes`);
  }
});

test("relay: types that share a slot do not take each other's way", async () => {
  const slots = new Map<number, string>();
  let pair: [string, string] | null = null;
  for (let i = 0; pair === null; i++) {
    const type = `pub.t${i}`;
    const bytes = new TextEncoder().encode(type);
    const slot = RelayTable.slotOf(bytes, 0, bytes.length);
    const other = slots.get(slot);
    if (other !== undefined) pair = [other, type];
    slots.set(slot, type);
  }
  const stream = new Uint8Array(
    Buffer.concat(
      Array.from({ length: 200 }, (_, i) => message("", pair![(i >> 2) % 2], "x".repeat(100), "")),
    ),
  );
  const routes = { pub: [0] };
  const plain = await outcomeOf({ routes, identity: "", driver: "plain" }, stream, []);
  assert.deepEqual(await outcomeOf({ routes, identity: "", driver: "has an arena" }, stream, []), plain);
});

test("relay: a long run for several upstreams is written by each from one block, which is used again after the last", async () => {
  const stream = new Uint8Array(
    Buffer.concat(
      Array.from({ length: 20_000 }, (_, i) => message("", "log.info", `${i} ${"x".repeat(i % 200)}`, "")),
    ),
  );
  const routes = { log: [0, 1, 2] };
  const before = relayed.copied;
  const fast = await outcomeOf(
    { routes, identity: "", driver: "has an arena" },
    stream,
    Array(100).fill(200_000),
  );
  assert.ok(relayed.copied - before > 19_000, `${relayed.copied - before} in runs`);
  const [one, ...others] = Object.values(fast.upstreams);
  assert.equal(others.length, 2);
  for (const other of others) assert.ok(other.every((text, i) => text === one[i]));
  assert.deepEqual(fast, await outcomeOf({ routes, identity: "", driver: "plain" }, stream, []));
});

/** An egress queue on a link of ours. */
function queueOn(links: PuppetNetwork, shared: SocketContext): { egress: Egress; link: PuppetLink } {
  const egress = new Egress(shared, { hwm: 1_000_000, floorBytes: 1 << 20, maxBytes: 1 << 27 });
  const link = new PuppetLink(links, "tcp://192.0.2.1:1");
  link.events = {
    data() {},
    readTarget: () => null,
    commitRead() {},
    written: () => egress.written(),
    ended() {},
    closed() {},
  };
  egress.attach(link);
  egress.open();
  return { egress, link };
}

/** Messages of these sizes in the arena, as a chunk that is being taken in; afterwards it is overwritten. */
function inChunk(shared: SocketContext, sizes: number[], take: (at: number, end: number) => void): void {
  const sent = sizes.map((size, i) => message("", "pub.x", String(i).repeat(size), ""));
  let at = READ_BLOCK.start;
  for (const one of sent) {
    ARENA.buf.set(one, at);
    at += one.length;
  }
  shared.flusher.beginChunk(ARENA.buf, READ_BLOCK.start, at);
  try {
    at = READ_BLOCK.start;
    for (const one of sent) take(at, at += one.length);
  } finally {
    try {
      shared.flusher.endChunk();
    } finally {
      ARENA.buf.fill(0xee, READ_BLOCK.start, READ_BLOCK.end);
    }
  }
}

const bytesOf = (sizes: number[]) =>
  Buffer.concat(sizes.map((size, i) => message("", "pub.x", String(i).repeat(size), "")));

test("egress: what was borrowed and does not go is copied to a block, and what comes behind it goes behind it", () => {
  let takes = 0;
  const links = new PuppetNetwork("writes many pieces", (bytes) => Math.min(bytes, takes));
  const shared = context(links);
  const { egress, link } = queueOn(links, shared);
  const sizes = [30_000, 30_000, 5000, 100];
  inChunk(shared, sizes, (at, end) => {
    egress.append(new Uint8Array(0), ARENA.buf, at, end, null);
    // Room that is made for a run that does not come about.
    egress.reserveRun();
  });
  assert.equal(egress.unwritten, 4);
  takes = Infinity;
  link.drain();
  assert.deepEqual(link.bytes, bytesOf(sizes));
  egress.clear();
});

test("egress: when another's flush fails, what was borrowed is copied all the same, and sent", async () => {
  const links = new PuppetNetwork("writes many pieces", (bytes) => bytes);
  const shared = context(links);
  const { egress, link } = queueOn(links, shared);
  shared.flusher.flush();
  const failing = {
    flush() {
      throw new Error("made to fail");
    },
  };
  const sizes = [20_000, 30_000];
  assert.throws(() =>
    inChunk(shared, sizes, (at, end) => {
      if (egress.empty) shared.flusher.scheduleFlush(failing);
      egress.append(new Uint8Array(0), ARENA.buf, at, end, null);
    }), /made to fail/);
  assert.equal(link.bytes.length, 0);
  await until("the rest of the flush", () => link.bytes.length > 0);
  assert.deepEqual(link.bytes, bytesOf(sizes));
  egress.clear();
});

test("egress: of a write that is cut, what the link took whole is gone, and the rest is the next link's", () => {
  const sizes = [3000, 100, 20_000, 40_000, 5];
  const whole = bytesOf(sizes);
  for (let cut = 0; cut <= whole.length; cut += 1 + Math.floor(cut / 7)) {
    for (const driver of ["writes many pieces", "has an arena"] as const) {
      let takes = cut;
      const links = new PuppetNetwork(driver, (bytes) => {
        const taken = Math.min(bytes, takes);
        takes -= taken;
        return taken;
      });
      const shared = context(links);
      const { egress, link } = queueOn(links, shared);
      inChunk(shared, sizes, (at, end) => egress.append(new Uint8Array(0), ARENA.buf, at, end, null));
      assert.equal(egress.detach(), 0, "the link tells how far it came");
      takes = Infinity;
      const next = new PuppetLink(links, "tcp://192.0.2.1:2");
      egress.attach(next);
      egress.open();
      egress.flush();
      const first = wholeOf(link.bytes);
      assert.deepEqual(Buffer.concat([first, next.bytes]), whole, `${driver}: cut after ${cut} bytes`);
      egress.clear();
    }
  }
});

/** Of some bytes, the messages that are whole. */
function wholeOf(bytes: Buffer): Buffer {
  let end = 0;
  for (let at = 0; at + 2 <= bytes.length;) {
    const long = (bytes[at] & 2) !== 0;
    if (long && at + 9 > bytes.length) break;
    const more = (bytes[at] & 1) !== 0;
    at += long ? 9 + bytes.readUInt32BE(at + 5) : 2 + bytes[at + 1];
    if (at > bytes.length) break;
    if (!more) end = at;
  }
  return bytes.subarray(0, end);
}
