/**
 * A CPU profile of the hot path: `bun bench/profile.ts [bun|node] [small|1k|64k|1m]`. Prints where the time goes and writes
 * the profile to `bench/report/`, to open in a browser's developer tools.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { buildPeers, ROOT, server } from "./forwarders.ts";
import { load, SHAPES } from "./load.ts";

const [runtime = "bun", shape = "small"] = process.argv.slice(2);
const COMMANDS: Record<string, string[]> = {
  bun: [join(ROOT, "node_modules", ".bin", "bun"), "--cpu-prof", "src/main.ts"],
  node: ["node", "--cpu-prof", "dist/node/main.js"],
};
if (!(runtime in COMMANDS) || !(shape in SHAPES)) {
  console.error("usage: bun bench/profile.ts [bun|node] [small|1k|64k|1m]");
  process.exit(64);
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
    handlers: 1,
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
