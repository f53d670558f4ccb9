import type { Bench } from "tinybench";
import { Averages } from "../../src/observe/averages.ts";
import { infofileText } from "../../src/observe/infofile.ts";
import { finish } from "../../src/observe/slices.ts";
import { values } from "../../src/observe/stats.ts";
import { MACHINE } from "../../src/runtime/machine.ts";
import { Statistics } from "../../src/server/counts.ts";
import { config, SILENT } from "./fixtures.ts";

/** What statistics cost at their bound, 1000 types that all come within each bucket: once every 5 s, and every 30 s. */
export default function infofile(bench: Bench): void {
  const statistics = new Statistics(2);
  const types = Array.from({ length: 1000 }, (_, i) => statistics.type(`pub.t${i}`));
  const averages = new Averages();
  const sample = () => {
    for (const type of types) statistics.add("ok", 1, 100, 1e-6, type);
    finish(averages.sample(finish(values(statistics))));
  };
  for (let i = 0; i < 180; i++) sample();
  bench.add("averages: a bucket, 1000 types that all changed", sample);
  const read = config("[ccserver]\ncc-socket = tcp://127.0.0.1:1\ninfofile-level = 3\n[routes]\n");
  const parts = {
    config: () => read,
    environment: MACHINE,
    statistics,
    averages,
    log: SILENT,
    startedMs: 0,
  };
  bench.add("infofile: level 3 as text, 1000 types, 180 buckets", () => {
    finish(infofileText(parts, "native", "running", finish(values(statistics)), new Map()));
  });
}
