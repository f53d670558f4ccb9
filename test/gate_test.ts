/** The benchmark gate: how it judges, and that a slower router does not pass it. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { type Bar, judge } from "../bench/gate.ts";
import { BIN, ROOT, RUNTIME } from "./helpers/env.ts";

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

const missing = RUNTIME !== "bun"
  ? "processes are measured once, on Bun"
  : spawnSync("which", ["cc"]).status !== 0
  ? "there is no C compiler for the load generator"
  : false;

test("gate: a router that was slowed down on purpose fails it; ours passes", { skip: missing }, async () => {
  const gate = (...args: string[]) =>
    new Promise<{ code: number | null; output: string }>((resolve) => {
      const child = spawn(
        join(BIN, "bun"),
        ["bench/run.ts", "--gate", "--short", "--bar=to blind relay, C", ...args],
        { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] },
      );
      let output = "";
      for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => output += text);
      child.on("close", (code) => resolve({ code, output }));
    });
  const slow = await gate(`--server=${join("node_modules", ".bin", "bun")} test/peers/slow_server.ts`);
  assert.equal(slow.code, 1, slow.output);
  assert.match(slow.output, /^FAILED .* to blind relay, C: messages\/s .*\(at least 0\.45/m);
  const ours = await gate();
  assert.equal(ours.code, 0, ours.output);
  assert.match(ours.output, /^(ok|erratic) /m);
});
