/**
 * Runs all tests on Bun, Deno and Node, and closes with `N passed, N failed`. Bun has the machine for itself; then Deno and Node
 * run side by side, as tests mostly wait, and last, one after the other, what measures times or takes all of a processor.
 *
 *     npm test                          everything; builds first
 *     npm test -- --on=bun,node         on some runtimes
 *     npm test -- decoder interop       only test files whose name has one of these words
 *     npm test -- --long                tests that take long on Deno and Node too
 *     npm test -- simulation --seconds=600 --seed=17
 *                                       long suites for so long, from this seed on
 */
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";

const ROOT = resolve(process.cwd());
const BIN = join(ROOT, "node_modules", ".bin");
const NODE_TESTS = join(ROOT, "dist", "test-node");

const { values, positionals } = parseArgs({
  options: {
    on: { type: "string", default: "bun,deno,node" },
    seed: { type: "string" },
    seconds: { type: "string" },
    long: { type: "boolean", default: false },
  },
  allowPositionals: true,
});

if (values.seed !== undefined) process.env.CC_TEST_SEED = values.seed;
if (values.long) process.env.CC_TEST_LONG = "1";
if (values.seconds !== undefined) process.env.CC_TEST_SECONDS = values.seconds;
/** Beyond what the longest suite may take. */
const TIMEOUT_MS = 180_000 + 1000 * Number(values.seconds ?? 0);

const files = readdirSync(join(ROOT, "test"))
  .filter((name) => name.endsWith("_test.ts"))
  .filter((name) => positionals.length === 0 || positionals.some((word) => name.includes(word)))
  .sort()
  .map((name) => `./test/${name}`);
if (files.length === 0) {
  console.error(`no test file matches ${positionals.join(", ")}`);
  process.exit(64);
}

const must = (command: string, args: string[]) => {
  if (spawnSync(command, args, { cwd: ROOT, stdio: "inherit" }).status !== 0) process.exit(1);
};

/** Test files that want the machine for themselves. */
const ALONE =
  /\/(accounting|calm|cms_break|cms_fuzz|edge|frozen|fuzz|gate|limits|noloss|relay|simulation)_test\.ts$/;

interface Runner {
  command: string;
  args: (files: string[]) => string[];
  counts: (output: string) => Counts;
  /** The line that names a test, or a file, that failed; the name is the first group that matched. */
  failure: RegExp;
  /** The part of the output in which the reason of such a line stands. */
  reason: (output: string, line: RegExpMatchArray, name: string) => string;
}

/** Each runtime's runner, and how it says what passed. */
const RUNNERS: Record<string, Runner> = {
  bun: {
    command: join(BIN, "bun"),
    args: (files) => ["test", `--timeout=${TIMEOUT_MS}`, ...files],
    counts: (output) => ({
      passed: last(output, /^ *(\d+) pass$/gm),
      failed: last(output, /^ *(\d+) fail$/gm),
      skipped: last(output, /^ *(\d+) skip$/gm),
    }),
    failure: /^\(fail\) (.*?)(?: \[[\d.]+ms\])?$/gm,
    reason: (output, { index }) => output.slice(0, index).split(/^\((?:pass|fail|skip)\) .*$/m).at(-1)!,
  },
  deno: {
    command: join(BIN, "deno"),
    args: (files) => ["test", "-A", "--no-check", "--quiet", ...files],
    counts: (output) => ({
      passed: last(output, /(\d+) passed/g),
      failed: last(output, /(\d+) failed/g),
      skipped: last(output, /(\d+) ignored/g),
    }),
    failure: /^(?:(.+) \.\.\. FAILED \(.*|Uncaught error from (.+) FAILED)$/gm,
    reason: (output, _line, name) => output.slice(output.indexOf(`\n${name} => `)),
  },
  node: {
    command: "node",
    args(files) {
      rmSync(NODE_TESTS, { recursive: true, force: true });
      mkdirSync(NODE_TESTS, { recursive: true });
      must(join(BIN, "bun"), [
        "build",
        "--target=node",
        "--external=zeromq",
        `--outdir=${NODE_TESTS}`,
        ...files,
      ]);
      const built = readdirSync(NODE_TESTS).filter((name) => name.endsWith("_test.js"));
      return ["--test", "--test-concurrency=1", ...built.map((name) => join(NODE_TESTS, name))];
    },
    counts: (output) => ({
      passed: last(output, /^# pass (\d+)$/gm),
      failed: last(output, /^# fail (\d+)$/gm),
      skipped: last(output, /^# skipped (\d+)$/gm),
    }),
    failure: /^ *not ok \d+ - (.*)$/gm,
    reason: (output, { index }) => output.slice(index).split(/^ *stack: .*$/m)[0],
  },
};

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Of an error's text, so that who reads the end of the output alone learns why. */
const REASON_MAX_LINES = 6;

function reasonIn(part: string): string {
  const lines = part.split("\n");
  const at = lines.findIndex((line) => /^\s*\w*error: /i.test(line));
  return at < 0 ? "" : lines.slice(at, at + REASON_MAX_LINES).map((line) => `\n    ${line}`).join("");
}

function last(output: string, pattern: RegExp): number {
  return Number([...output.matchAll(pattern)].at(-1)?.[1] ?? 0);
}

/** @param live Its output is shown as it comes; otherwise when it has ended. */
function runTests(name: string, files: string[], live: boolean): Promise<Counts> {
  if (files.length === 0) return Promise.resolve({ passed: 0, failed: 0, skipped: 0 });
  const { command, args, counts, failure, reason } = RUNNERS[name];
  const title = `\n=== tests on ${name} ===`;
  if (live) console.log(title);
  const child = spawn(command, args(files), {
    cwd: ROOT,
    env: { ...process.env, NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8");
    stream.on("data", (chunk: string) => {
      output += chunk;
      if (live) process.stdout.write(chunk);
    });
  }
  return new Promise((done) =>
    child.on("close", (code) => {
      if (!live) console.log(`${title}\n${output}`);
      const found = counts(output);
      const failed = new Map<string, string>();
      for (const line of output.matchAll(failure)) {
        const test = line.slice(1).find(Boolean)!;
        if (!failed.has(test)) failed.set(test, reasonIn(reason(output, line, test)));
      }
      for (const [test, why] of failed) failures.push(`failed on ${name}: ${test}${why}`);
      // A runner that ended badly with no test to blame has failed all the same.
      if (code !== 0 && found.failed === 0) found.failed = 1;
      if (found.passed + found.failed === 0) found.failed = 1;
      done(found);
    })
  );
}

must(join(BIN, "bun"), ["build.ts"]);
// Peers that run on Node: libzmq's addon is at home there. Node 20 runs no TypeScript.
must(join(BIN, "bun"), [
  "build",
  "--target=node",
  "--external=zeromq",
  "--outdir=dist/peers",
  "test/peers/libzmq.ts",
  "test/peers/witness.ts",
]);
const failures: string[] = [];
const wanted = values.on.split(",");
for (const name of wanted) {
  if (!(name in RUNNERS)) {
    console.error(`--on=${name}: expected ${Object.keys(RUNNERS).join(", ")}`);
    process.exit(64);
  }
}
const sums = new Map<string, Counts & { seconds: number }>(
  wanted.map((name) => [name, { passed: 0, failed: 0, skipped: 0, seconds: 0 }]),
);
const run = async (name: string, files: string[], live: boolean) => {
  const begin = performance.now();
  const counts = await runTests(name, files, live);
  const sum = sums.get(name)!;
  for (const key of ["passed", "failed", "skipped"] as const) sum[key] += counts[key];
  sum.seconds += (performance.now() - begin) / 1000;
};
if (wanted.includes("bun")) await run("bun", files, true);
const others = wanted.filter((name) => name !== "bun");
const [alone, together] = [true, false].map((is) => files.filter((file) => ALONE.test(file) === is));
if (others.length === 1) {
  await run(others[0], files, true);
} else {
  await Promise.all(others.map((name) => run(name, together, false)));
  for (const name of others) await run(name, alone, true);
}
const total: Counts = { passed: 0, failed: 0, skipped: 0 };
const lines: string[] = [];
for (const [name, counts] of sums) {
  for (const key of ["passed", "failed", "skipped"] as const) total[key] += counts[key];
  const { passed, failed, skipped, seconds } = counts;
  lines.push(`${name}: ${passed} passed, ${failed} failed, ${skipped} skipped in ${seconds.toFixed(0)} s`);
}
console.log(`\n${[...failures, ...lines].join("\n")}`);
console.log(
  `${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ""}`,
);
process.exit(total.failed > 0 ? 1 : 0);
