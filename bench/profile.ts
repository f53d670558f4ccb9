/**
 * A CPU profile of the hot path: `npm run profile [bun|node|binary] [small|1k|64k|1m] [HANDLERS]`. Prints where the time goes. Of bun
 * and node it is a profile of the JavaScript, which is also written to `bench/report/`, to open in a browser's developer
 * tools; of the binary, with Linux's `perf` (Debian package linux-perf), of everything, the system's part too.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { buildPeers, forwarders, ROOT, server, type Setup } from "./forwarders.ts";
import { load, SHAPES } from "./load.ts";

const [runtime = "bun", shape = "small", handlers = "1"] = process.argv.slice(2);
const COMMANDS: Record<string, string[]> = {
  bun: [join(ROOT, "node_modules", ".bin", "bun"), "--cpu-prof", "src/main.ts"],
  node: ["node", "--cpu-prof", "dist/npm/main.node.js"],
};
if (!(runtime in COMMANDS || runtime === "binary") || !(shape in SHAPES)) {
  console.error("usage: npm run profile [bun|node|binary] [small|1k|64k|1m] [HANDLERS]");
  process.exit(64);
}
if (runtime === "binary") {
  await perf();
  process.exit(0);
}
const dir = join(ROOT, "bench", "report", `profile-${runtime}-${shape}`);
rmSync(dir, { recursive: true, force: true });
mkdirSync(dir, { recursive: true });
const [program, profile, ...rest] = COMMANDS[runtime];

const result = await load(
  buildPeers().load,
  server(
    `profile ${runtime}`,
    [program, profile, `--cpu-prof-dir=${dir}`, "--cpu-prof-interval=200", ...rest],
    null,
    3_000_000,
  ),
  {
    shape: SHAPES[shape],
    clients: 1,
    handlers: Number(handlers),
    seconds: 4,
    async loaded(pid) {
      process.kill(pid, "SIGTERM");
      while (
        !readdirSync(dir).some((name) => statSync(join(dir, name)).size > 0) || existsSync(`/proc/${pid}/exe`)
      ) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
  },
).catch((error) => {
  // The process is gone when its memory is asked for: the profile is what counts.
  if (!/ENOENT/.test(String(error))) throw error;
});
if (result) console.log(result);

/** Samples of the whole process while it forwards, by where they lie and by function. */
async function perf(): Promise<void> {
  const { load: tool, libzmqMissing } = buildPeers();
  const { binary } = forwarders(libzmqMissing);
  if (binary.missing !== null) throw new Error(`${binary.missing} is missing`);
  const data = join(ROOT, "bench", "report", "perf.data");
  mkdirSync(join(ROOT, "bench", "report"), { recursive: true });
  let recorder: ChildProcess | null = null;
  const recorded = {
    ...binary,
    async start(to: number, setup?: Partial<Setup>) {
      const running = await binary.start(to, setup);
      recorder = spawn(
        "perf",
        // The first second compiles.
        [
          "record",
          "-e",
          "cpu-clock",
          "-F",
          "5000",
          "-D",
          "1000",
          "-g",
          "-o",
          data,
          "-p",
          String(running.pid),
        ],
        { stdio: "ignore" },
      );
      recorder.on("error", () => {
        console.error("perf is missing (Debian package linux-perf)");
        process.exit(69);
      });
      return running;
    },
  };
  const result = await load(tool, recorded, {
    shape: SHAPES[shape],
    clients: 1,
    handlers: Number(handlers),
    seconds: 4,
    async loaded() {
      const ended = new Promise((resolve) => recorder!.once("close", resolve));
      recorder!.kill("SIGINT");
      await ended;
    },
  });
  console.log(result);
  for (const by of ["dso", "sym"]) {
    const { stdout } = spawnSync(
      "perf",
      ["report", "-i", data, "--no-children", "-g", "none", "--comm", "ccserver", "--sort", by, "--stdio"],
      { encoding: "utf8" },
    );
    console.log(stdout.split("\n").filter((line) => line.includes("%")).slice(0, 14).join("\n") + "\n");
  }
}

interface CpuProfile {
  nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number } }[];
  samples: number[];
  timeDeltas: number[];
}
const file = join(dir, readdirSync(dir)[0]);
const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(file, "utf8")) as CpuProfile;
const names = new Map(nodes.map(({ id, callFrame }) => [
  id,
  `${callFrame.functionName || "(anonymous)"} ${callFrame.url.replace(/.*\/(src|dist)\//, "")}:${
    callFrame.lineNumber + 1
  }`,
]));
const self = new Map<string, number>();
samples.forEach((id, i) => {
  const name = names.get(id)!;
  if (!/\((idle|program)\)/.test(name)) self.set(name, (self.get(name) ?? 0) + timeDeltas[i]);
});
const total = [...self.values()].reduce((sum, us) => sum + us, 0);
for (const [name, us] of [...self].sort((a, b) => b[1] - a[1]).slice(0, 20)) {
  console.log(`${(100 * us / total).toFixed(1).padStart(5)} %  ${name}`);
}
console.log(`\n${file.replace(ROOT + "/", "")}`);
