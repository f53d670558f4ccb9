/** Frames of ZMTP 1.0, translated both ways. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { ProtocolError } from "../src/zmtp/frame.ts";
import { From10, gone10, PASSED_MIN_BYTES, To10 } from "../src/zmtp/frames_1_0.ts";
import { freshSeed, seeded } from "./helpers/env.ts";
import { message } from "./helpers/raw.ts";
import { Egress } from "../src/socket/egress.ts";
import { SocketContext } from "../src/socket/context.ts";
import { Link10 } from "../src/socket/link_1_0.ts";
import { Logger } from "../src/log.ts";
import { POOL } from "../src/memory/pool.ts";
import { copyByView } from "../src/runtime/common.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import type { Link } from "../src/contracts/links.ts";

/** The same in frames of 3.x. */
function push(from: From10, chunk: Uint8Array, at: number, end: number): Uint8Array {
  const out = new Uint8Array(from.room(end - at));
  return out.subarray(0, from.push(chunk, at, end, out, 0));
}

/** Frames as libzmq 2.x writes them. */
function old(...bodies: Uint8Array[]): Buffer {
  return Buffer.concat(bodies.map((body, i) => {
    const flags = i + 1 < bodies.length ? 1 : 0;
    const size = body.length + 1;
    if (size < 255) return Buffer.concat([Buffer.from([size, flags]), body]);
    const head = Buffer.alloc(10);
    head[0] = 0xff;
    head.writeBigUInt64BE(BigInt(size), 1);
    head[9] = flags;
    return Buffer.concat([head, body]);
  }));
}

/** All pieces of frames of 3.x, in 1.0. */
function translated(buf: Uint8Array, at: number, end: number): Buffer {
  const frames = new To10(buf, at, end, copyByView);
  const out = new Uint8Array(2 * PASSED_MIN_BYTES);
  const pieces: Uint8Array[] = [];
  while (!frames.done) {
    const from = frames.at;
    pieces.push(
      frames.passBody() ? buf.subarray(from, frames.at) : out.slice(0, frames.fill(out, 0, out.length)),
    );
  }
  return Buffer.concat(pieces);
}

const SIZES = [0, 1, 252, 253, 254, 255, 256, 257, 1000, 70_000];
const bodyOf = (size: number) => Buffer.alloc(size, size & 0xff);

test("zmtp 1.0: what comes is translated in any chunks, at every bound of the lengths", () => {
  const messages = SIZES.map((size, i) => [bodyOf(0), bodyOf(size), bodyOf(SIZES[SIZES.length - 1 - i])]);
  const stream = Buffer.concat(messages.map((frames) => old(...frames)));
  const wanted = Buffer.concat(messages.map((frames) => message(...frames)));
  const seed = freshSeed();
  const random = seeded(seed);
  for (let round = 0; round < 50; round++) {
    const from = new From10(copyByView);
    const found: Uint8Array[] = [];
    const most = round === 0 ? 1 : 1 + Math.floor(random() * 5000);
    for (let at = 0; at < stream.length;) {
      const end = Math.min(stream.length, at + 1 + Math.floor(random() * most));
      found.push(push(from, stream, at, end));
      at = end;
      if (at < stream.length && round === 0) continue;
    }
    assert.deepEqual(Buffer.concat(found), wanted, `seed ${seed}, round ${round}`);
    assert.ok(from.idle);
  }
});

test("zmtp 1.0: it is between two messages only where one has come whole", () => {
  const from = new From10(copyByView);
  for (
    const [bytes, idle] of [[[3], false], [[1], false], [[7, 7], false], [[1, 0], true], [
      [2],
      false,
    ]] as const
  ) {
    push(from, Uint8Array.from(bytes), 0, bytes.length);
    assert.equal(from.idle, idle, String(bytes));
  }
});

test("zmtp 1.0: reserved flags and frames without any are refused", () => {
  const wrong: [number[], string][] = [
    [[0, 0], "length"],
    [[2, 2, 9], "reserved-flags"],
    [[2, 0x7f, 9], "reserved-flags"],
    [[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0], "length"],
    [[0xff, 0, 0x20, 0, 0, 0, 0, 0, 0, 0], "length"],
  ];
  for (const [bytes, code] of wrong) {
    for (const cut of [bytes.length, 1]) {
      const from = new From10(copyByView);
      const all = Buffer.from([3, 0, 8, 9, ...bytes, 3, 0, 8, 9]);
      const found: Uint8Array[] = [];
      for (let at = 0; at < all.length; at += cut) {
        found.push(push(from, all, at, Math.min(all.length, at + cut)));
      }
      assert.ok(from.error instanceof ProtocolError && from.error.code === code, String(bytes));
      // What came before it is there, and nothing behind it.
      assert.deepEqual(Buffer.concat(found), message(Buffer.from([8, 9])));
    }
  }
});

test("zmtp 1.0: what goes out is translated, and how much of it had gone is known", () => {
  // A long header may have a short length.
  const odd = Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 2, 8, 9]);
  const frames = SIZES.filter((size) => size <= 1000).map(bodyOf);
  const out = Buffer.concat([message(...frames), odd, message(bodyOf(0), bodyOf(300))]);
  const wanted = Buffer.concat([old(...frames), old(Buffer.from([8, 9])), old(bodyOf(0), bodyOf(300))]);
  const padded = Buffer.concat([Buffer.alloc(5), out]);
  assert.deepEqual(Buffer.from(translated(padded, 5, padded.length)), wanted);
  assert.deepEqual(
    Buffer.from(push(new From10(copyByView), wanted, 0, wanted.length)),
    Buffer.concat([
      message(...frames),
      message(Buffer.from([8, 9])),
      message(bodyOf(0), bodyOf(300)),
    ]),
  );
  // Where each frame ends, there and here.
  const ends = new Map<number, number>([[0, 0]]);
  let [from, to] = [0, 0];
  for (const size of [...frames.map(({ length }) => length), -1, 0, 300]) {
    from += size < 0 ? odd.length : size < 256 ? 2 + size : 9 + size;
    to += size < 0 ? 4 : size < 254 ? 2 + size : 10 + size;
    ends.set(to, from);
  }
  let before = 0;
  for (let written = 0; written <= wanted.length; written++) {
    const gone = gone10(padded, 5, padded.length, written);
    assert.ok(gone >= before, "it only grows");
    before = gone;
    const end = ends.get(written);
    if (end !== undefined) assert.equal(gone, end);
    // A frame that has not gone whole does not count as gone.
    const whole = [...ends].findLast(([there]) => there <= written)![1];
    const next = [...ends].find(([there]) => there > written)?.[1] ?? Infinity;
    assert.ok(gone >= whole && gone < next, `${written}: ${gone}`);
  }
});

test("zmtp 1.0: large bodies go from where they lie, the rest piece by piece", () => {
  const sizes = [
    0,
    1,
    253,
    254,
    255,
    256,
    300,
    PASSED_MIN_BYTES - 1,
    PASSED_MIN_BYTES,
    PASSED_MIN_BYTES + 1,
    200_000,
  ];
  const seed = freshSeed();
  const random = seeded(seed);
  for (let round = 0; round < 50; round++) {
    const bodies = Array.from({ length: 40 }, () => bodyOf(sizes[Math.floor(random() * sizes.length)]));
    const whole = message(...bodies);
    assert.ok(translated(whole, 0, whole.length).equals(old(...bodies)), `seed ${seed}, round ${round}`);
  }
});

/** A link that takes so many bytes, at most so many at once, and no more. */
class ShortLink implements Link {
  readonly remote = "test";
  readonly taken: Uint8Array[] = [];
  readonly #atOnce: number;
  #room: number;
  #written = 0;
  #inFlight: Uint8Array | null = null;

  constructor(room: number, atOnce = Infinity) {
    this.#room = room;
    this.#atOnce = atOnce;
  }

  write(chunk: Uint8Array, start: number, end: number): boolean {
    assert.equal(this.#inFlight, null, "one write at a time");
    this.#written = 0;
    this.#inFlight = chunk.subarray(start, end);
    return this.takeMore();
  }

  get inFlight(): Uint8Array | null {
    return this.#inFlight;
  }

  /** Is all taken that is in flight? */
  takeMore(): boolean {
    const rest = this.#inFlight!.subarray(this.#written);
    const size = Math.min(rest.length, this.#room, this.#atOnce);
    this.#room -= size;
    this.#written += size;
    this.taken.push(new Uint8Array(rest.subarray(0, size)));
    if (size < rest.length) return false;
    this.#inFlight = null;
    return true;
  }

  /** Takes what it has room for. */
  drain(written: () => void): void {
    while (this.#inFlight !== null && this.#room > 0) if (this.takeMore()) written();
  }

  writtenBytes(): number {
    return this.#written;
  }

  pause(): void {}
  resume(): void {}
  end(): void {}
  destroy(): void {}
}

test("zmtp 1.0: a link that breaks anywhere leaves whole messages, and the next one goes on with the first that is not", () => {
  const log = new Logger("test", { sink: () => {}, level: "ERROR", pid: 1, clock: MACHINE.clock });
  const messages = [[0, 3], [1, 253], [300], [254, 0, 255], [2], [5000, 1], [1, 20_000, 70], [9], [100_000], [
    7,
  ]]
    .map((sizes, i) => sizes.map((size) => Buffer.alloc(size, i)));
  const whole = messages.map((frames) => old(...frames));
  const total = whole.reduce((sum, { length }) => sum + length, 0);
  const seed = freshSeed();
  const random = seeded(seed);
  const before = POOL.used;
  for (let room = 0; room <= total; room += room < 700 ? 1 : 1 + Math.floor(random() * 370)) {
    const context = new SocketContext(MACHINE, log);
    const egress = new Egress(context, { hwm: 100, floorBytes: 0, maxBytes: 1 << 20 });
    const attach = (link: ShortLink) => {
      const translating = new Link10(link, copyByView);
      egress.attach(link, translating);
      egress.open();
      egress.flush();
      link.drain(() => translating.written() && egress.written());
      return translating;
    };
    for (const frames of messages) {
      const bytes = message(...frames);
      egress.append(new Uint8Array(0), bytes, 0, bytes.length, null);
    }
    const first = new ShortLink(room, random() < 0.5 ? Infinity : 1 + Math.floor(random() * 30_000));
    const broken = attach(first);
    broken.release();
    assert.equal(egress.detach(), 0);
    const second = new ShortLink(Infinity, 10_000);
    attach(second);
    // What the first took of a message that it did not take whole is lost with it.
    let gone = 0;
    let count = 0;
    while (count < whole.length && gone + whole[count].length <= room) gone += whole[count++].length;
    const taken = Buffer.concat([...first.taken]).subarray(0, gone);
    const all = Buffer.concat([taken, ...second.taken]);
    assert.ok(all.equals(Buffer.concat(whole)), `${room} of ${total} bytes, seed ${seed}`);
    assert.ok(egress.empty);
  }
  assert.equal(POOL.used, before);
});

test("zmtp 1.0: a large write that does not move holds one piece, and its large bodies are not copied", () => {
  const before = POOL.usedBytes;
  const frames = message(
    bodyOf(100),
    bodyOf(5_000_000),
    ...Array.from({ length: 10_000 }, () => bodyOf(300)),
  );
  const room = message(bodyOf(100)).length + 10 + 1_000_000;
  const stuck = new ShortLink(room);
  const link = new Link10(stuck, copyByView);
  assert.equal(link.write(frames, 0, frames.length), false);
  assert.equal(link.writtenBytes(), room - 1, "its head has a byte less there");
  assert.equal(stuck.inFlight?.buffer, frames.buffer);
  const slow = new ShortLink(6_000_000);
  const other = new Link10(slow, copyByView);
  assert.equal(other.write(frames, 0, frames.length), false);
  for (const one of [link, other]) {
    assert.ok(one.heldBytes > 0 && one.heldBytes < 80 * 1024, `${one.heldBytes}`);
  }
  assert.equal(POOL.usedBytes - before, link.heldBytes + other.heldBytes, "it counts as what is held");
  link.release();
  other.release();
  assert.equal(POOL.usedBytes, before);
});
