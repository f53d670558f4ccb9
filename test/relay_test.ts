/** The relay kernel takes the same messages as the decoder and the dispatcher do one by one, in the same order. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import runtime from "#runtime";
import { MESSAGE_MAX_FRAMES, TYPE_MAX_BYTES } from "../src/limits.ts";
import type { Piece } from "../src/runtime/arena.ts";
import { LIST_BYTES, Vectors } from "../src/runtime/vectors.ts";
import { Logger } from "../src/log.ts";
import { Dispatcher } from "../src/server/dispatch.ts";
import { Statistics } from "../src/server/stats.ts";
import { Context, SYSTEM_CLOCK } from "../src/socket/context.ts";
import { Egress } from "../src/socket/egress.ts";
import type { DealerSocket, Source } from "../src/socket/types.ts";
import { type CommandSink, Decoder } from "../src/zmtp/decoder.ts";
import { ProtocolError } from "../src/zmtp/frame.ts";
import { Relay } from "../src/zmtp/relay.ts";
import { ROOT, RUNTIME, seeded, until } from "./helpers/env.ts";
import { message } from "./helpers/raw.ts";

const LIMITS = {
  messageMaxBytes: 300_000,
  messageMaxFrames: MESSAGE_MAX_FRAMES,
  commandMaxBytes: 512,
  announcedMaxBytes: 1 << 20,
};
/** Vectors whose addresses mean something here: the arena's lie above this, those of other buffers above their number. */
const BASE = 2 ** 40;
const others: Uint8Array[] = [];
const { arena } = runtime;
const VECTORS = new Vectors(arena!, arena!.take(LIST_BYTES)!, (buf, at) => {
  if (buf === arena!.buf) return BASE + at;
  if (!others.includes(buf)) others.push(buf);
  return (2 + others.indexOf(buf)) * BASE + at;
});

/** The bytes of entries of the list. */
function gathered(first: number, count: number): Buffer {
  const parts: Uint8Array[] = [];
  for (let i = first; i < first + count; i++) {
    const number = Math.floor(VECTORS.address(i) / BASE);
    const buf = number === 1 ? arena!.buf : others[number - 2];
    const at = VECTORS.address(i) - number * BASE;
    parts.push(buf.subarray(at, at + VECTORS.bytes(i)));
  }
  return Buffer.concat(parts);
}

const log = () => new Logger("test", { sink: () => {}, pid: 1, level: "CRITICAL" });
const context = (vectors?: Vectors) =>
  new Context({
    transport: { ...runtime, vectors },
    clock: SYSTEM_CLOCK,
    random: Math.random,
    resolve: () => Promise.resolve([]),
    log: log(),
  });

/** An upstream that keeps what it takes: everything at once, unless it is said otherwise. */
class Upstream implements DealerSocket {
  readonly up = true;
  readonly queued = 0;
  readonly drops = { total: 0, byReason: new Map(), byPeer: new Map() };
  readonly egress: Egress;
  readonly written: Uint8Array[] = [];
  /** Messages that came in runs. */
  ran = 0;
  /** Of them, those that were listed. */
  listed = 0;
  /** The write in flight. */
  #inFlight: (() => Uint8Array) | null = null;

  /** @param takes How many of so many bytes it takes at once. */
  constructor(context: Context, takes: (bytes: number) => number) {
    this.egress = new Egress(context, { hwm: 1_000_000, floorBytes: 1 << 20, maxBytes: 1 << 27 });
    this.egress.attach({
      remote: "test",
      write: (chunk, start, end) => {
        assert.equal(this.#inFlight, null, "one write at a time");
        const rest = takes(end - start);
        this.written.push(new Uint8Array(chunk.subarray(start, start + rest)));
        if (rest === end - start) return true;
        this.#inFlight = () => new Uint8Array(chunk.subarray(start + rest, end));
        return false;
      },
      ...(context.vectors && {
        writev: (first: number, count: number) => {
          assert.equal(this.#inFlight, null, "one write at a time");
          const bytes = gathered(first, count);
          this.written.push(new Uint8Array(bytes.subarray(0, takes(bytes.length))));
          return this.written.at(-1)!.length;
        },
      }),
      taken: () => 0,
      pause() {},
      resume() {},
      end() {},
      destroy() {},
    });
    this.egress.open();
  }
  /** The link has room again. */
  drain(): void {
    while (this.#inFlight !== null) {
      this.written.push(this.#inFlight());
      this.#inFlight = null;
      this.egress.written();
    }
  }
  get bytes(): Buffer {
    this.egress.flush();
    this.drain();
    return Buffer.concat(this.written);
  }
  send(prefix: Uint8Array, buf: Uint8Array, start: number, end: number, owned: boolean): boolean {
    this.egress.append(prefix, buf, start, end, owned);
    return true;
  }
  get runs() {
    const { egress } = this;
    return {
      runRoom: () => egress.runRoom(),
      runLimit: () => egress.runLimit(),
      get runBlock() {
        return egress.runBlock;
      },
      get runAt() {
        return egress.runAt;
      },
      ran: (messages: number, bytes: number) => {
        this.ran += messages;
        egress.ran(messages, bytes);
      },
      ranAs: (block: Piece, at: number, messages: number, bytes: number) => {
        this.ran += messages;
        egress.ranAs(block, at, messages, bytes);
      },
      get writesNow() {
        return egress.writesNow;
      },
      ranListed: (prefix: Uint8Array, messages: number, bytes: number) => {
        this.ran += messages;
        this.listed += messages;
        egress.ranListed(prefix, messages, bytes);
      },
    };
  }
  hold() {}
  stopReceiving() {}
  close() {
    return Promise.resolve();
  }
}

/** A source, a decoder and a dispatcher to upstreams, with the kernel or without. */
function server(
  routes: Record<string, number[]>,
  options: { kernel: boolean; prefix: Uint8Array; vectors?: Vectors; takes?: (bytes: number) => number },
) {
  const shared = context(options.vectors);
  const count = Math.max(...Object.values(routes).flat()) + 1;
  const upstreams = Array.from(
    { length: count },
    () => new Upstream(shared, options.takes ?? ((bytes) => bytes)),
  );
  // One object each, as a DEALER's own queue is.
  const queues = upstreams.map((upstream) => upstream.runs);
  upstreams.forEach((upstream, i) => Object.defineProperty(upstream, "runs", { value: queues[i] }));
  const handlers = upstreams.map((forwardsTo, i) => ({
    name: `h:p${i}`,
    handler: { forwardsTo, handle() {} },
  }));
  const statistics = new Statistics(2);
  const dispatcher = new Dispatcher(
    (type) => (routes[type.split(".")[0]] ?? []).map((i) => handlers[i]),
    statistics,
    () => 0,
    log(),
  );
  const taken = options.kernel ? shared.takeRelay(LIMITS) : null;
  dispatcher.relay = taken?.relay ?? null;
  const commands: string[] = [];
  const source: Source & CommandSink = {
    prefix: options.prefix,
    name: "test",
    hold() {},
    release() {},
    command(buf, start, end) {
      commands.push(Buffer.from(buf.subarray(start, end)).toString("latin1"));
    },
  };
  const decoder = new Decoder<typeof source>(source, dispatcher, LIMITS, options.prefix);
  return {
    /** Gives chunks by way of the arena; returns the code of the error that ended it. */
    feed(stream: Uint8Array, cuts: number[]): string | null {
      const stage = runtime.arena!.stage!;
      try {
        for (let at = 0; at < stream.length;) {
          const size = Math.min(cuts.shift() ?? stream.length, stream.length - at, stage.end - stage.start);
          stage.buf.set(stream.subarray(at, at + size), stage.start);
          shared.enter(stage.buf, stage.start, stage.start + size);
          try {
            assert.equal(decoder.push(stage.buf, stage.start, stage.start + size), stage.start + size);
            dispatcher.chunkEnd();
          } finally {
            shared.leave();
          }
          // Nothing may be needed of a chunk any more.
          stage.buf.fill(0xee, stage.start, stage.start + size);
          if (options.takes && options.takes(2) > 0) { for (const upstream of upstreams) upstream.drain(); }
          at += size;
        }
        return null;
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        return error.code;
      } finally {
        dispatcher.chunkEnd();
      }
    },
    outcome: () => ({
      bytes: upstreams.map((upstream) => upstream.bytes.toString("latin1")),
      statistics: Object.fromEntries(
        [...statistics.values()].filter(([name]) => !name.startsWith("seconds")).sort(),
      ),
      commands,
    }),
    ran: () => upstreams.reduce((sum, { ran }) => sum + ran, 0),
    listed: () => upstreams.reduce((sum, { listed }) => sum + listed, 0),
    done: () => void (taken && shared.returnRelay(taken)),
  };
}

test("relay: there is a kernel on this runtime", () => {
  const taken = context().takeRelay(LIMITS);
  assert.ok(taken);
  context().returnRelay(taken);
});

test("relay: relay_wasm.ts is made from kernel/relay.ts", {
  skip: RUNTIME === "bun" ? false : "the compiler is run once, on Bun",
}, async () => {
  const { relayWasm } = await import("../src/zmtp/kernel/build.ts");
  assert.equal(await relayWasm(), readFileSync(join(ROOT, "src/zmtp/relay_wasm.ts"), "utf8"));
});

test("relay: any split of any stream gives the same output bytes as one by one (400 seeded streams)", () => {
  let ran = 0;
  let listed = 0;
  for (let seed = 1; seed <= 400; seed++) {
    const random = seeded(seed);
    const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)];
    const prefix = new Uint8Array(
      message(pick(["\0\x01\x02\x03\x04", "web1", "x".repeat(40), "y".repeat(255)]), ""),
    ).subarray(0, -2);
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
    ];
    const routes = { pub: [0], a: [0], log: [0, 1], abc: [0], [long]: [1], [`${long}u`]: [1], other: [2, 0] };
    const body = () =>
      "b".repeat(pick([0, 1, 15, 16, 17, 150, 150, 150, 255, 256, 1000, random() < 0.02 ? 70_000 : 30]));
    const one = (): Buffer => {
      const r = random();
      // What is not plain, now and then: commands, odd frames, other types, and what ends a connection.
      if (r < 0.01) return Buffer.concat([Buffer.from([4, 5, 4]), Buffer.from("PING")]);
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
        random() < 0.9 ? types[0] : pick(types),
        body(),
        pick(["", "sig"]),
        ...blob,
      );
    };
    const stream = new Uint8Array(Buffer.concat(Array.from({ length: 120 }, one)));
    const cuts = () => Array.from({ length: 60 }, () => 1 + Math.floor(random() ** 3 * 20_000));
    const plain = server(routes, { kernel: false, prefix });
    const fast = server(routes, { kernel: true, prefix });
    const whole = server(routes, { kernel: true, prefix });
    // Some of what is written at once is taken only in part, and waits for a later chunk.
    const listing = server(routes, {
      kernel: true,
      prefix,
      vectors: VECTORS,
      takes: (bytes) => random() < 0.7 ? bytes : Math.floor(random() * bytes),
    });
    assert.equal(fast.feed(stream, cuts()), plain.feed(stream, []), `seed ${seed}: the same error`);
    whole.feed(stream, []);
    listing.feed(stream, cuts());
    assert.deepEqual(listing.outcome(), plain.outcome(), `seed ${seed}, written from where it lies`);
    assert.deepEqual(fast.outcome(), plain.outcome(), `seed ${seed}`);
    assert.deepEqual(whole.outcome(), plain.outcome(), `seed ${seed}, in one chunk`);
    ran += fast.ran() + whole.ran();
    listed += listing.listed();
    fast.done();
    whole.done();
    listing.done();
    others.length = 0;
  }
  assert.ok(listed > 2000, `${listed} messages were written from where they lay`);
  assert.ok(ran > 10_000, `the kernel took ${ran} messages`);
});

test("relay: a type has the same slot in the kernel and outside, at every length", () => {
  for (let size = 1; size <= TYPE_MAX_BYTES; size++) {
    const type = "abcdefgh.".repeat(30).slice(0, size).replace(/\.$/, "x");
    const prefix = new Uint8Array([1, 5, 0, 1, 2, 3, 4]);
    const s = server({ abcdefgh: [0], [type]: [0] }, { kernel: true, prefix });
    const one = message("", type, "x".repeat(600), "");
    s.feed(new Uint8Array(Buffer.concat([one, one, one])), []);
    assert.equal(s.ran(), size <= 64 ? 2 : 0, `${size} bytes`);
    s.done();
  }
});

test("relay: types that share a slot do not take each other's way", () => {
  const slots = new Map<number, string>();
  let pair: [string, string] | null = null;
  for (let i = 0; pair === null; i++) {
    const type = `pub.t${i}`;
    const bytes = new TextEncoder().encode(type);
    const slot = Relay.slotOf(bytes, 0, bytes.length);
    const other = slots.get(slot);
    if (other !== undefined) pair = [other, type];
    slots.set(slot, type);
  }
  const prefix = new Uint8Array([1, 5, 0, 1, 2, 3, 4]);
  const make = (kernel: boolean) => server({ pub: [0] }, { kernel, prefix });
  const stream = new Uint8Array(
    Buffer.concat(
      Array.from({ length: 200 }, (_, i) => message("", pair![(i >> 2) % 2], "x".repeat(100), "")),
    ),
  );
  const [fast, plain] = [make(true), make(false)];
  fast.feed(stream, []);
  plain.feed(stream, []);
  assert.deepEqual(fast.outcome(), plain.outcome());
  fast.done();
});

test("relay: a long run for several upstreams is written by each from one block, which is used again after the last", () => {
  const prefix = new Uint8Array([1, 5, 0, 1, 2, 3, 4]);
  const stream = new Uint8Array(
    Buffer.concat(
      Array.from({ length: 20_000 }, (_, i) => message("", "log.info", `${i} ${"x".repeat(i % 200)}`, "")),
    ),
  );
  const make = (kernel: boolean) => server({ log: [0, 1, 2] }, { kernel, prefix });
  const [fast, plain] = [make(true), make(false)];
  fast.feed(stream, Array(100).fill(200_000));
  plain.feed(stream, []);
  assert.ok(fast.ran() > 3 * 19_000, `${fast.ran()} in runs`);
  const [one, ...others] = plain.outcome().bytes;
  assert.ok(others.every((bytes) => bytes === one));
  assert.deepEqual(fast.outcome(), plain.outcome());
  fast.done();
});

/** Messages of these sizes in the stage, as a chunk that is being taken in; afterwards it is overwritten. */
function inChunk(shared: Context, sizes: number[], take: (at: number, end: number) => void): Buffer {
  const stage = runtime.arena!.stage!;
  const sent = sizes.map((size, i) => message("", "pub.x", String(i).repeat(size), ""));
  let at = stage.start;
  for (const one of sent) {
    stage.buf.set(one, at);
    at += one.length;
  }
  shared.enter(stage.buf, stage.start, at);
  try {
    at = stage.start;
    for (const one of sent) take(at, at += one.length);
  } finally {
    try {
      shared.leave();
    } finally {
      stage.buf.fill(0xee, stage.start, stage.end);
    }
  }
  return Buffer.concat(sent);
}

test("egress: what was borrowed and does not go is copied to a block, and what comes behind it goes behind it", () => {
  const shared = context(VECTORS);
  let takes = 0;
  const upstream = new Upstream(shared, (bytes) => Math.min(bytes, takes));
  const { egress } = upstream;
  const sent = inChunk(shared, [30_000, 30_000, 5000, 100], (at, end) => {
    egress.append(new Uint8Array(0), runtime.arena!.buf, at, end, false);
    // Room that is made for a run that does not come about.
    egress.runRoom();
  });
  assert.equal(egress.unwritten, 4);
  takes = Infinity;
  assert.deepEqual(upstream.bytes, sent);
});

test("egress: when another's flush fails, what was borrowed is copied all the same, and sent", async () => {
  const shared = context(VECTORS);
  const upstream = new Upstream(shared, (bytes) => bytes);
  shared.flush();
  const failing = {
    flush() {
      throw new Error("made to fail");
    },
  };
  const sizes = [20_000, 30_000];
  assert.throws(() =>
    inChunk(shared, sizes, (at, end) => {
      if (upstream.egress.empty) shared.mark(failing);
      upstream.egress.append(new Uint8Array(0), runtime.arena!.buf, at, end, false);
    }), /made to fail/);
  assert.equal(upstream.written.length, 0);
  await until("the rest of the flush", () => upstream.written.length > 0);
  const sent = sizes.map((size, i) => message("", "pub.x", String(i).repeat(size), ""));
  assert.deepEqual(upstream.bytes, Buffer.concat(sent));
});
