/** The benchmark gate: how it judges, and that a slower router does not pass it. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { judgePairs, LIMITS } from "../bench/against.ts";
import { type Bar, judge, judgeRounds } from "../bench/gate.ts";
import { BIN, ROOT, RUNTIME, seeded, skipFor } from "./helpers/env.ts";

const LEAST: Bar = { of: "binary", to: "relay_c", figure: "messagesPerSecond", least: 4, tolerance: 0.1 };
const MOST: Bar = { of: "deno", to: "bun", figure: "cpuMicros", most: 1.2 };

test("gate: the median of the ratios is judged, so that one bad round does not fail good code", () => {
  assert.equal(judge(LEAST, [4.1, 4.2, 0.9, 4.3, 4.2], 0.5).verdict, "ok");
  assert.equal(judge(LEAST, [3.61, 3.7, 3.65], 0.5).verdict, "ok", "within the tolerance");
  assert.equal(judge(LEAST, [3.5, 3.4, 3.55], 0.5).verdict, "FAILED");
  assert.equal(judge(MOST, [1.1, 1.19, 1.5], 0.5).verdict, "ok");
  assert.equal(judge(MOST, [1.21, 1.25, 1.3], 0.5).verdict, "FAILED");
});

test("gate: ratios far apart are erratic, unless none of them comes up to the bar", () => {
  assert.equal(judge(LEAST, [1, 2, 3, 9, 8], 0.5).verdict, "erratic");
  assert.equal(judge(LEAST, [0.5, 1, 1.5, 3, 3.2], 0.5).verdict, "FAILED");
});

test("gate: a steady bar leaves out rounds in which the peer itself was far from its median", () => {
  const bar: Bar = { of: "binary", to: "relay_c", figure: "messagesPerSecond", least: 2, steady: 0.15 };
  const rounds = (...all: [number, number][]) => all.map(([of, to]) => ({ of, to }));
  const disturbed = rounds([20, 10], [21, 10], [20, 9], [12, 40], [13, 50], [11, 10.5]);
  const { verdict, kept, median } = judgeRounds(bar, disturbed, 5);
  assert.deepEqual([verdict, kept], ["ok", 4]);
  assert.ok(median > 2);
  assert.equal(judgeRounds({ ...bar, steady: undefined }, disturbed, 5).kept, 6);
  // Nothing is judged by peers that never were steady.
  assert.equal(judgeRounds(bar, rounds([20, 10], [20, 20], [20, 40]), 5).verdict, "erratic");
  assert.equal(judgeRounds(bar, rounds([10, 10], [10, 10], [10, 10]), 5).verdict, "FAILED");
});

/** Ratios as pairs give them on a noisy machine: spread around one by so much, with some far out. */
function noisy(seed: number, count: number, around: number, spread: number): number[] {
  const random = seeded(seed);
  return Array.from({ length: count }, () => {
    const near = around * (1 + spread * (random() + random() + random() - 1.5) / 1.5);
    return random() < 0.05 ? near * (0.6 + random() * 0.8) : near;
  });
}

test("against: a slow-down of 10 % is told, and no change is not, through the noise of this kind of machine", () => {
  const told = (around: number, more: boolean) => {
    let worse = 0;
    for (let seed = 0; seed < 200; seed++) {
      if (judgePairs(noisy(seed, 20, around, 0.05), more, LIMITS).worse) worse++;
    }
    return worse;
  };
  assert.equal(told(0.9, true), 200, "a rate that has fallen");
  assert.equal(told(1 / 0.9, false), 200, "a cost that has risen");
  assert.ok(told(1, true) <= 4, `${told(1, true)} false alarms of 200`);
  assert.ok(told(1, false) <= 4);
  assert.equal(told(1.1, true), 0);
});

test("against: the interval holds the median with 90 %, and few pairs convict only for certain", () => {
  let inside = 0;
  for (let seed = 0; seed < 1000; seed++) {
    const random = seeded(seed);
    const { low, high } = judgePairs(Array.from({ length: 20 }, () => 0.5 + random()), true, LIMITS);
    if (low <= 1 && high >= 1) inside++;
  }
  assert.ok(inside > 880 && inside < 970, `${inside} of 1000`);
  const shaky = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 1.2, 1.3];
  assert.equal(judgePairs(shaky, true, LIMITS).worse, true);
  assert.equal(judgePairs(shaky, true, LIMITS, true).worse, false, "the interval reaches above the limit");
  assert.equal(judgePairs(shaky.map((ratio) => ratio * 0.7), true, LIMITS, true).worse, true);
});

const missing = RUNTIME !== "bun"
  ? "processes are measured once, on Bun"
  : spawnSync("which", ["cc"]).status !== 0
  ? "there is no C compiler for the load generator"
  : false;

test(
  "gate: a router that was slowed down on purpose fails it",
  { skip: skipFor(missing) },
  async () => {
    // That ours passes, CI's own gate shows.
    const server = `--server=${join("node_modules", ".bin", "bun")} test/peers/slow_server.ts`;
    const slow = await new Promise<{ code: number | null; output: string }>((resolve) => {
      const child = spawn(
        join(BIN, "bun"),
        [
          "bench/run.ts",
          "--gate",
          "--short",
          "--repeats=1",
          "--guess=200000",
          "--bar=to blind relay, C",
          server,
        ],
        { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] },
      );
      let output = "";
      for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => output += text);
      child.on("close", (code) => resolve({ code, output }));
    });
    assert.equal(slow.code, 1, slow.output);
    assert.match(slow.output, /^FAILED .* to blind relay, C: messages\/s .*\(at least 0\.55/m);
  },
);
