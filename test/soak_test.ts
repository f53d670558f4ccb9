/** A short soak: it runs, accounts for all, and ends when it is told to. `npm run soak` is the long one. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { BIN, ROOT, RUNTIME, secondsFor, SEED, skipFor, tempFolder, until } from "./helpers/env.ts";

const skip = skipFor(
  RUNTIME !== "bun" && "the servers of a soak are processes; it has run on Bun, on the binary",
);

class Soak implements AsyncDisposable {
  output = "";
  readonly ended: Promise<number | null>;
  readonly #child: ChildProcess;
  readonly #folder = tempFolder();

  constructor(seconds: number) {
    const args = [`--seconds=${seconds}`, "--built", ...SEED === null ? [] : [`--seed=${SEED}`]];
    this.#child = spawn(join(BIN, "bun"), ["test/soak.ts", ...args], {
      cwd: ROOT,
      env: { ...process.env, TMPDIR: this.#folder.path },
    });
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.setEncoding("utf8");
      stream.on("data", (text: string) => this.output += text);
    }
    this.ended = new Promise((resolve) => this.#child.on("close", (code) => resolve(code)));
  }
  /** Temporary folders and files of it. */
  get files(): string[] {
    return readdirSync(this.#folder.path);
  }
  signal(signal: "SIGINT" | "SIGTERM"): void {
    process.kill(this.#child.pid!, signal);
  }
  /** Servers that it started and that live. */
  get servers(): number[] {
    return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
      try {
        return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) ===
          this.#child.pid;
      } catch {
        return false; // it has just ended
      }
    });
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGTERM");
    await this.ended;
    this.#folder[Symbol.dispose]();
  }
}

test("soak: a short one accounts for every message", { skip }, async () => {
  await using soak = new Soak(secondsFor(20));
  const code = await soak.ended;
  assert.equal(code, 0, soak.output);
  assert.match(soak.output, /^soak: seed \d+, \d+ s, servers on binary/);
  const row = (name: string, pattern: string) =>
    assert.match(soak.output, new RegExp(`^\\| ${name} +\\| +${pattern}`, "m"));
  // Sent, arrived, dropped; missing, unconfirmed, may miss, twice, out of order.
  row("whole", "\\d{4,} \\| +\\d{4,} \\| +\\d+ \\| +0 \\| +\\d+ \\| +0 \\| +0 \\| +0 \\|$");
  row("cut", "\\d{3,} \\| +\\d{3,} \\| +\\d+ \\| +\\d+ \\| +\\d+ \\| +\\d+ \\| +0 \\| +0 \\|$");
  row("echoes", "\\d{2,} ");
  row("host", "1 \\| +\\d+ \\| ");
  row("killed", "[2-9]\\d* \\| ");
  assert.match(soak.output, /\d × kill -9/);
  assert.match(soak.output, /^all is well$/m);
});

test("soak: told to end, it prints its table and leaves nothing", { skip }, async () => {
  await using soak = new Soak(600);
  await until(() => `servers:\n${soak.output}`, () => soak.servers.length >= 4, 60_000);
  const { servers, files } = soak;
  assert.equal(files.length, 1);
  soak.signal("SIGINT");
  const code = await soak.ended;
  assert.equal(code, 0, soak.output);
  assert.match(soak.output, /^\| whole /m);
  for (const pid of servers) assert.throws(() => process.kill(pid, 0), /ESRCH/);
  assert.deepEqual(soak.files, []);
});
