/** How a soak judges: what is wrong is seen, and noise is not. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { seeded } from "./helpers/env.ts";
import {
  type Account,
  judgeAccount,
  judgeDescriptors,
  judgeMemory,
  Minima,
  missing,
  type Point,
  slope,
} from "./soak/judge.ts";
import { Ledger } from "./soak/ledger.ts";
import { Times } from "./soak/times.ts";
import { messageOf, Reading } from "./soak/wire.ts";

/** A server of 80 MB that grows by so many MB an hour, each look at it off by up to `noise`. */
function memory(
  seed: number,
  { perHour, minutes, noise = 6 }: { perHour: number; minutes: number; noise?: number },
): Point[] {
  const random = seeded(seed);
  const minima = new Minima(Math.min(60, minutes * 1.5));
  for (let seconds = 0; seconds <= minutes * 60; seconds += 5) {
    minima.add(seconds, 80 + perHour * seconds / 3600 + noise * random());
  }
  return minima.after(Math.max(120, minutes * 12));
}

test("soak: a leak of 5 MB an hour is seen in an hour, and noise is none", () => {
  for (let seed = 0; seed < 200; seed++) {
    const leaks = judgeMemory("host", memory(seed, { perHour: 5, minutes: 60 }), 1);
    assert.match(leaks.fault ?? "", /^host: memory grows by \+[345]\.\d ± /, `seed ${seed}`);
    const flat = judgeMemory("host", memory(seed, { perHour: 0, minutes: 60 }), 1);
    assert.equal(flat.fault, null, `seed ${seed}: ${flat.text}`);
  }
});

test("soak: a leak of 2 MB an hour is seen in a day", () => {
  const day = { minutes: 1440 };
  assert.match(judgeMemory("host", memory(1, { ...day, perHour: 2 }), 24).fault ?? "", /2\.0 ± 0\.\d MB/);
  assert.equal(judgeMemory("host", memory(1, { ...day, perHour: 0.5 }), 24).fault, null);
});

test("soak: ten minutes tell a leak that fills a host, and no more than that", () => {
  for (let seed = 0; seed < 200; seed++) {
    const flat = judgeMemory("host", memory(seed, { perHour: 0, minutes: 10 }), 1 / 6);
    assert.equal(flat.fault, null, `seed ${seed}: ${flat.text}`);
    assert.match(flat.text, /^[+-]\d+\.\d ± \d+\.\d MB\/h$/);
    assert.notEqual(judgeMemory("host", memory(seed, { perHour: 90, minutes: 10 }), 1 / 6).fault, null);
  }
  assert.equal(judgeMemory("host", memory(1, { perHour: 90, minutes: 3 }), 0.05).text, "too short to say");
});

test("soak: one step of memory in ten minutes is no leak, and does not look certain", () => {
  const points = Array.from({ length: 30 }, (_, i) => ({ hours: (i + 8) / 240, value: i < 15 ? 80 : 84 }));
  assert.equal(judgeMemory("host", points, 1 / 6).fault, null);
  assert.ok(slope(points).within > 15);
});

test("soak: a slope is that of the line", () => {
  const { perHour, within } = slope([0, 1, 2, 3].map((hours) => ({ hours, value: 80 - 2 * hours })));
  assert.ok(Math.abs(perHour + 2) < 1e-9 && within < 1e-9);
});

test("soak: of a long run as many figures are kept as of a short one", () => {
  const minima = new Minima(1, 64);
  for (let seconds = 0; seconds < 10_000; seconds++) minima.add(seconds, 1000 - seconds / 10);
  const points = minima.after(0);
  assert.ok(points.length > 16 && points.length <= 64, `${points.length}`);
  assert.ok(points.every(({ value }, i) => i === 0 || value < points[i - 1].value));
  assert.ok(Math.abs(points.at(-1)!.hours - 10_000 / 3600) < 0.2);
});

test("soak: descriptors that grow are seen, and those that come and go are not", () => {
  const random = seeded(1);
  const series = (perPoint: number) =>
    Array.from(
      { length: 50 },
      (_, i) => ({ hours: i / 60, value: 20 + Math.round(perPoint * i + 3 * random()) }),
    );
  assert.equal(judgeDescriptors("host", series(0)).fault, null);
  assert.match(judgeDescriptors("host", series(0.2)).fault ?? "", /^host: descriptors .* grow: 2\d → \d\d$/);
});

const RIGHT: Account = {
  name: "whole",
  sent: 1000,
  arrived: 990,
  dropped: 10,
  allowed: 0,
  twice: 0,
  late: 0,
  strange: 0,
};

test("soak: one message that is lost, counted twice or not on its place is seen", () => {
  assert.deepEqual(judgeAccount(RIGHT), []);
  assert.deepEqual(judgeAccount({ ...RIGHT, arrived: 989 }), ["whole: 1 messages are missing, and 0 may be"]);
  assert.deepEqual(judgeAccount({ ...RIGHT, arrived: 989, allowed: 1 }), []);
  assert.equal(judgeAccount({ ...RIGHT, dropped: 11, allowed: 5 }).length, 1);
  for (const what of ["twice", "late", "strange"]) {
    assert.equal(judgeAccount({ ...RIGHT, [what]: 1 }).length, 1, what);
  }
});

test("soak: the ledger tells what is missing, came twice, came late and came from nowhere", () => {
  const ledger = new Ledger();
  const client = ledger.join();
  for (let i = 0; i < 10_000; i++) ledger.next(client);
  const gone = new Set([17, 4000]);
  for (let n = 0; n < 9000; n++) if (!gone.has(n)) ledger.arrive(client, n);
  assert.equal(missing({ ...RIGHT, sent: ledger.sent, arrived: ledger.arrived, dropped: 1000 }), 2);
  assert.deepEqual([ledger.twice, ledger.late, ledger.strange], [0, 0, 0]);
  ledger.arrive(client, 8999);
  ledger.arrive(client, 8000);
  assert.deepEqual([ledger.twice, ledger.late, ledger.arrived], [2, 0, 8998]);
  // Past all that is remembered, then one that had been left out.
  ledger.arrive(client, 9800);
  ledger.arrive(client, 9500);
  ledger.arrive(client, 9500);
  assert.deepEqual([ledger.twice, ledger.late, ledger.arrived], [3, 1, 9000]);
  ledger.arrive(client, 10_000);
  ledger.arrive(77, 0);
  assert.equal(ledger.strange, 2);
  ledger.leave(client, 0);
  ledger.sweep(60_000);
  ledger.arrive(client, 9999);
  assert.equal(ledger.arrived, 9001);
  ledger.sweep(1_000_000);
  ledger.arrive(client, 9999);
  assert.equal(ledger.strange, 3);
});

test("soak: numbers are read off messages however they are cut", () => {
  const whole = Buffer.concat([
    Buffer.alloc(64),
    Buffer.from([4, 3, 1, 2, 3]),
    ...[0, 1, 2].map((n) =>
      Buffer.concat([
        Buffer.from([1, 2, 7, 7]),
        messageOf({ type: "whole", client: 12, n, padBytes: 100 * n, blobBytes: n === 1 ? 70_000 : 0 }),
      ])
    ),
  ]);
  for (const step of [1, 7, 1000, whole.length]) {
    const found: number[][] = [];
    const reading = new Reading((client, n) => found.push([client, n]));
    for (let at = 0; at < whole.length; at += step) reading.push(whole.subarray(at, at + step));
    assert.deepEqual(found, [[12, 0], [12, 1], [12, 2]], `in steps of ${step}`);
  }
});

test("soak: times are told to a tenth", () => {
  const times = new Times();
  for (let ms = 1; ms <= 1000; ms++) times.add(ms);
  assert.ok(Math.abs(times.quantile(0.5) / 500 - 1) < 0.1);
  assert.ok(Math.abs(times.quantile(0.99) / 990 - 1) < 0.1);
});
