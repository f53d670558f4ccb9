/** What links may read in one turn: shares, and who leaves when. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Budget,
  type HotLink,
  type LightLink,
  type Loop,
  Pace,
  Rounds,
  Share,
  TURN_BYTES,
} from "../src/runtime/turn.ts";

const KIB = 1024;
const MIXED_BYTES = 1024 * KIB;

/** An event loop whose turns the test takes. */
class TestLoop implements Loop {
  readonly mixedBytes = MIXED_BYTES;
  readonly mixedMs = 2;
  time = 1000;
  #next: (() => void) | null = null;
  mixed: boolean | null = null;

  nextTurn(f: () => void, mixed: boolean): void {
    assert.equal(this.#next, null, "asked once a turn");
    this.#next = f;
    this.mixed = mixed;
  }

  now = () => this.time;

  get idle(): boolean {
    return this.#next === null;
  }

  turn(): void {
    const next = this.#next;
    this.#next = null;
    next?.();
  }
}

/** A link that has so much to read. */
class TestLink implements HotLink {
  readonly loop: TestLoop;
  readonly rounds: Rounds;
  readonly #pace = new Pace();
  /** What its bytes cost. */
  msPerByte = 0;
  has: number;
  /** What came, by turns and by reads. */
  read: number[] = [];
  atOnce: number[] = [];
  cooled = 0;
  onread: () => void = () => {};

  constructor(loop: TestLoop, rounds: Rounds, has = Infinity) {
    this.loop = loop;
    this.rounds = rounds;
    this.has = has;
  }

  readTurn(): void {
    let sum = 0;
    for (let most; (most = this.rounds.next(this.#pace)) > 0 && this.has > 0;) {
      const n = Math.min(most, this.has);
      this.atOnce.push(n);
      this.has -= n;
      sum += n;
      this.loop.time += n * this.msPerByte;
      this.rounds.took(this.#pace, n);
    }
    this.read.push(sum);
    if (this.has === 0) this.rounds.remove(this);
    this.onread();
  }

  cool(): void {
    this.cooled++;
  }
}

/** A link that brings little, and counts how often it is asked. */
class TestLight implements LightLink {
  asked = 0;
  stays = true;

  readLight(): boolean {
    this.asked++;
    return this.stays;
  }
}

function world(links: number) {
  const loop = new TestLoop();
  const rounds = new Rounds(loop);
  const hot = Array.from({ length: links }, () => new TestLink(loop, rounds));
  for (const link of hot) rounds.add(link);
  return { loop, rounds, hot };
}

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

test("turn: alone, one link has all bytes of a turn; beside one that brings little, fewer, for some time", () => {
  const { loop, rounds, hot: [link] } = world(1);
  loop.turn();
  rounds.light(new TestLight());
  loop.turn();
  loop.time += 1999;
  loop.turn();
  loop.time += 2;
  loop.turn();
  assert.deepEqual(link.read, [TURN_BYTES, MIXED_BYTES, MIXED_BYTES, TURN_BYTES]);
});

test("turn: hot links have their turns one after the other, each of 16 MiB, however many turns that takes", () => {
  const { loop, rounds, hot } = world(3);
  for (let i = 0; i < 16 * 3; i++) {
    rounds.light(new TestLight());
    loop.turn();
  }
  assert.deepEqual(hot.map(({ read }) => sum(read)), hot.map(() => 16 * MIXED_BYTES));
  assert.deepEqual(hot.map(({ read }) => read.length), [16, 16, 16]);
});

test("turn: what one link leaves of a turn, the next has", () => {
  const { loop, hot: [a, b] } = world(2);
  a.has = 10 * KIB;
  loop.turn();
  assert.deepEqual([a.read, b.read], [[10 * KIB], [TURN_BYTES - 10 * KIB]]);
  loop.turn();
  assert.deepEqual(a.read, [10 * KIB]);
});

test("turn: links that brought little are asked every 128 KiB, the latest eight, until they are gone", () => {
  const { loop, rounds } = world(1);
  const light = Array.from({ length: 10 }, () => new TestLight());
  for (const link of [...light, ...light.slice(5)]) rounds.light(link);
  loop.turn();
  assert.deepEqual(light.map(({ asked }) => asked), [0, 0, 8, 8, 8, 8, 8, 8, 8, 8]);
  light[3].stays = false;
  loop.turn();
  loop.turn();
  assert.deepEqual(light.map(({ asked }) => asked), [0, 0, 24, 9, 24, 24, 24, 24, 24, 24]);
  loop.time += 2001;
  loop.turn();
  assert.equal(light[9].asked, 24, "nobody is taken to wait any more");
});

test("turn: links that leave in the middle of a round, by themselves or not, upset nobody's turn", () => {
  const { loop, rounds, hot } = world(4);
  // The third's bytes make somebody end the second, and itself.
  hot[2].onread = () => {
    rounds.remove(hot[1]);
    rounds.remove(hot[2]);
  };
  for (const link of hot) link.has = 10 * KIB;
  hot[0].has = hot[3].has = Infinity;
  for (let i = 0; i < 4; i++) loop.turn();
  assert.deepEqual(hot.map(({ read }) => sum(read) > 0), [true, true, true, true]);
  assert.deepEqual(hot.map(({ read }) => read.length), [2, 1, 1, 2]);
  rounds.remove(hot[0]);
  rounds.remove(hot[3]);
  loop.turn();
  assert.ok(loop.idle, "without hot links no turn is asked for");
  rounds.remove(hot[0]);
  rounds.add(hot[0]);
  loop.turn();
  assert.equal(hot[0].read.length, 3);
});

test("turn: a crowd of hot links is given back to the loop, and none of it is hot for a while", () => {
  const { loop, rounds, hot } = world(16);
  loop.turn();
  const another = new TestLink(loop, rounds);
  assert.ok(!rounds.add(another));
  assert.deepEqual(hot.map(({ cooled }) => cooled), hot.map(() => 1));
  assert.equal(another.cooled, 0, "it never was hot");
  loop.turn();
  assert.ok(loop.idle);
  loop.time += 199;
  assert.ok(!rounds.add(another));
  loop.time += 2;
  assert.ok(rounds.add(another));
});

test("turn: what is dear is read in small pieces, and its turn ends by time", () => {
  const { loop, rounds, hot: [a, b] } = world(2);
  // Log lines, about.
  a.msPerByte = b.msPerByte = 15 / (1024 * KIB);
  for (let i = 0; i < 10; i++) loop.turn();
  a.atOnce = [];
  let before = loop.time;
  loop.turn();
  assert.ok(loop.time - before < 12, `${loop.time - before} ms`);
  assert.ok(Math.max(...a.atOnce, ...b.atOnce.slice(-1)) <= 256 * KIB, "a read takes 4 ms");
  a.read = [];
  b.read = [];
  for (let i = 0; i < 200; i++) {
    const light = new TestLight();
    rounds.light(light);
    a.atOnce = [];
    b.atOnce = [];
    before = loop.time;
    loop.turn();
    const ms = loop.time - before;
    assert.ok(ms < 2.6, `turn ${i} took ${ms} ms`);
    assert.deepEqual(new Set([...a.atOnce, ...b.atOnce]), new Set([32 * KIB]));
    assert.ok(light.asked >= 4, `turn ${i}: asked ${light.asked} times`);
  }
  const [ofA, ofB] = [sum(a.read), sum(b.read)];
  assert.ok(Math.max(ofA, ofB) < Math.min(ofA, ofB) * 1.2, `${ofA} and ${ofB} bytes: each has its time`);
});

test("turn: links that the loop reads and that are dear rest by time, and are asked for less at once", () => {
  const loop = new TestLoop();
  const budget = new Budget(loop);
  const share = new Share();
  const msPerByte = 15 / (1024 * KIB);
  const turn = () => {
    const before = loop.time;
    const reads: number[] = [];
    for (let goesOn = true; goesOn;) {
      const cameAt = loop.time;
      const bytes = budget.next(share, 512 * KIB);
      reads.push(bytes);
      loop.time += bytes * msPerByte;
      goesOn = budget.spend(share, bytes, cameAt);
    }
    loop.turn();
    return { ms: loop.time - before, reads };
  };
  for (let i = 0; i < 10; i++) turn();
  const alone = turn();
  assert.ok(alone.ms > 8 && alone.ms < 12, `${alone.ms} ms`);
  const light = new Share();
  assert.ok(budget.spend(light, 100, loop.time));
  turn();
  assert.ok(turn().ms > 8, "that was its handshake: nobody waits");
  assert.ok(budget.spend(light, 200, loop.time));
  turn();
  assert.ok(turn().ms > 8, "and that may be the beginning of much");
  assert.ok(budget.spend(light, 200, loop.time));
  turn();
  for (let i = 0; i < 5; i++) {
    const { ms, reads } = turn();
    assert.ok(ms < 2.6, `${ms} ms`);
    assert.deepEqual(new Set(reads), new Set([32 * KIB]), "not taken for one that brings little");
    loop.time += 300;
  }
  loop.time += 2000;
  turn();
  assert.ok(turn().ms > 8, "nobody waits any more");
});

test("turn: links that the loop reads rest when a turn's bytes are spent, and go on together in the next", () => {
  const loop = new TestLoop();
  const budget = new Budget(loop);
  const [a, b, light] = [new Share(), new Share(), new Share()];
  const rested: string[] = [];
  /** Reads until it has to rest; how often it went on. */
  const flood = (share: Share, bytes: number, name: string) => {
    let reads = 0;
    while (budget.spend(share, bytes, loop.time)) reads++;
    budget.rest(() => rested.push(name));
    return reads;
  };
  assert.equal(flood(a, 512 * KIB, "a"), 15);
  assert.equal(flood(b, 64 * KIB, "b"), 3, "each has 256 KiB, whatever others had");
  assert.deepEqual(rested, []);
  loop.turn();
  assert.deepEqual(rested, ["a", "b"]);
  assert.ok(budget.spend(a, 1000, loop.time), "one that was busy a moment ago does not wait");
  assert.equal(flood(a, 512 * KIB, "a"), 15);
  for (let i = 0; i < 2; i++) {
    assert.ok(budget.spend(light, 1000, loop.time), "little is not counted, but somebody waits");
  }
  loop.turn();
  assert.equal(flood(a, 512 * KIB, "a"), 1);
  loop.turn();
  assert.equal(loop.mixed, true);
  loop.time += 2001;
  flood(a, 512 * KIB, "a");
  loop.turn();
  assert.equal(flood(a, 512 * KIB, "a"), 15);
});
