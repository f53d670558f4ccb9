/**
 * A small fleet for a day: clients that come, flood, read slowly and leave, while links are cut, servers are reloaded, stopped
 * and killed. Every message is accounted for; memory and descriptors stay as they are.
 *
 *     npm run soak -- --minutes=10
 *     npm run soak -- --minutes=1440 --seed=17     a day; what happens when is the seed's, how it ends the machine's
 *     npm run soak -- --minutes=60 --on=deno       the servers run on: binary (when missing), bun, deno, node
 *
 * ```
 *             ┌────────── whole ──────────┐                ┌─▶ stopped ─▶ sink     by SIGTERM, again and again
 *  clients ─▶ host                        collector ───────┼─▶ killed ──▶ sink     by SIGKILL or SIGTERM
 *             └─ cut ─▶ stalls, FIN, RST ─┘                └─▶ sink
 * ```
 *
 * Paths are apart, so that each can be held to what is promised for it: `whole` is never cut, and all that does not arrive is
 * counted. Of `cut`, links break and a server is killed: what is missing is no more than what is `unconfirmed` and what was with
 * them. Clients on `left` break off themselves.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { errorText } from "../src/errors.ts";
import { ALL, BIN, ROOT, seeded, tempFolder } from "./helpers/env.ts";
import { Fleet } from "./soak/fleet.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    seconds: { type: "string" },
    seed: { type: "string" },
    on: { type: "string", default: "binary" },
    /** dist/ is as it should be. */
    built: { type: "boolean", default: false },
  },
});
const seconds = Number(values.seconds ?? Number(values.minutes) * 60);
const seed = Number(values.seed ?? Math.floor(Math.random() * 1_000_000_000));
const target = ALL[values.on];
if (target === undefined || !(seconds > 0) || !Number.isInteger(seed)) {
  console.error("expected --minutes=N or --seconds=N, --seed=N, --on=" + Object.keys(ALL).join("|"));
  process.exit(64);
}
if (!values.built) {
  const { status } = spawnSync(join(BIN, "bun"), ["build.ts"], { cwd: ROOT, stdio: "inherit" });
  if (status !== 0) process.exit(1);
}
console.log(`soak: seed ${seed}, ${seconds} s, servers on ${values.on}; Ctrl-C ends it with its table`);
const folder = tempFolder("cc-soak-");
const fleet = new Fleet({ target, folder: folder.path, seconds, random: seeded(seed) });
let asked = 0;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  // Asked twice, there is no table.
  process.on(signal, () => ++asked > 1 ? process.exit(1) : fleet.end());
}
// Whatever happens here, nothing that was started stays.
process.on("exit", () => {
  fleet.kill();
  folder[Symbol.dispose]();
});
let code = 1;
try {
  await fleet.start();
  await fleet.run();
  code = await fleet.settle() ? 0 : 1;
} catch (error) {
  console.error(`soak: seed ${seed}: ${error instanceof Error ? error.stack : errorText(error)}`);
}
process.exit(code);
