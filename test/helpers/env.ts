/** Where tests run, and on which builds of the server. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import runtime from "#runtime";

/** The project's folder: tests are started there. */
export const ROOT = resolve(process.cwd());
export const RUNTIME = runtime.name as "bun" | "deno" | "node";
export const BIN = join(ROOT, "node_modules", ".bin");

/** A way to start the server. */
export interface Target {
  name: string;
  command: string[];
}

export const ALL: Record<string, Target> = {
  bun: { name: "bun", command: [join(BIN, "bun"), "src/main.ts"] },
  deno: { name: "deno", command: [join(BIN, "deno"), "run", "-A", "--quiet", "src/main.ts"] },
  node: { name: "node", command: ["node", "dist/npm/main.js"] },
  binary: { name: "binary", command: [join(ROOT, "dist", "ccserver")] },
};

/** The server on the runtime the tests run on; with Bun the compiled binary too. `test/run.ts` has built them. */
export const TARGETS: Target[] = (RUNTIME === "bun" ? ["bun", "binary"] : [RUNTIME]).map((name) => ALL[name]);
/** The one that most tests use. */
export const TARGET: Target = TARGETS[TARGETS.length - 1];
/** For tests that take long: the binary and Bun are one runtime. */
export const SLOW_TARGETS: Target[] = [TARGET];

for (const { command } of TARGETS) {
  const built = command[command.length - 1];
  if (!existsSync(resolve(ROOT, built))) throw new Error(`${built} is missing: run "npm run build" first`);
}

/** A folder that is removed when the test ends. */
export function tempFolder(prefix = "cc-test-"): { path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), prefix));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** Waits until `check` gives something true; an error says what was waited for. */
export async function until<T>(
  what: string | (() => string),
  check: () => T,
  timeoutMs = 10_000,
  periodMs = 5,
): Promise<NonNullable<T>> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = check();
    if (value) return value;
    if (performance.now() > end) {
      throw new Error(`waited ${timeoutMs / 1000} s for ${typeof what === "string" ? what : what()}`);
    }
    await new Promise((r) => setTimeout(r, periodMs));
  }
}

/** The seed of a suite: `npm test -- --seed=17` sets it, otherwise each run has another. Whoever uses it prints it. */
export const SEED: number | null = process.env.CC_TEST_SEED === undefined
  ? null
  : Number(process.env.CC_TEST_SEED);

/** Another one at each run. */
export function freshSeed(): number {
  return SEED ?? Math.floor(Math.random() * 1_000_000_000);
}

/** How long a long suite goes on: its share, or what `npm test -- --seconds=600` says. */
export function secondsFor(share: number): number {
  return Number(process.env.CC_TEST_SECONDS ?? share);
}

/**
 * For `skip` of a test that takes long, of code that is the same on all runtimes: elsewhere than on Bun it runs by
 * `npm test -- --long`.
 */
export const LONG: string | false = RUNTIME === "bun" || process.env.CC_TEST_LONG !== undefined
  ? false
  : "it takes long, and has run on Bun; --long runs it here too";

/** Random numbers under a seed (mulberry32). */
export function seeded(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

/** For `skip` of a test: no runner but Node's prints the reason. */
export function skipFor(reason: string | false): string | false {
  if (reason !== false) console.log(`skipped: ${reason}`);
  return reason;
}

export function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
