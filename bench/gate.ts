/**
 * The gate: `npm run bench -- --gate`. Fails a release that falls below the ratios of gate.json.
 *
 * Everything a bar compares is measured in one run, in turn, round by round; a bar is judged by the median of the ratios
 * of its rounds, never by absolute times. A bar that does not hold is measured again, and judged by all rounds. Ratios that
 * lie too far apart make it erratic: what stays erratic fails only if no round at all came up to the bar. Where a bar says
 * `steady`, rounds in which the peer itself was far from its median are left out: a peer that was disturbed proves nothing.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { buildRevision, runAgainst } from "./against.ts";
import { type Forwarder, ROOT, type Setup } from "./forwarders.ts";
import { formatTable, progress } from "./report.ts";
import {
  beside,
  type Flood,
  idleClients,
  load,
  median,
  restBytes,
  type Result,
  roundTrips,
  SHAPES,
} from "./load.ts";

/** One line of gate.json. */
export interface Bar {
  of: string;
  ofHandlers?: number;
  ofClients?: number;
  /** What stands in front of its proxies. */
  ofBefore?: Setup["before"];
  /** Clients that flood beside one that sends little, on both sides, and how; `send` when missing. */
  floods?: number;
  does?: Flood["does"];
  /** Missing for figures that are not compared: memory in absolute numbers. */
  to?: string;
  figure: keyof typeof FIGURES;
  shape?: string;
  /** What the other side is given, where it is not the same. */
  toShape?: string;
  /** The ratio is at least, or at most, so much. */
  least?: number;
  most?: number;
  /** The part that noise may take off. */
  tolerance?: number;
  /** Only rounds count in which the other's own figure lies within this part of its median. */
  steady?: number;
  short?: boolean;
}

interface Gate {
  /** The last release: nothing may be slower than it. See against.ts. */
  release: string;
  rounds: number;
  seconds: number;
  /** Ratios whose quartiles lie farther apart than this part of their median are erratic. */
  spread: number;
  /** How often a bar that does not hold is measured again. */
  repeats: number;
  bars: Bar[];
}

const AGAINST = "against the last release,";
/** A light client's time beside floods: a thousand echoes, so that ten are beyond p99. */
const BESIDE_SECONDS = 2;
/** Pairs of a short run. */
const SHORT_PAIRS = 6;

const FIGURES = {
  messagesPerSecond: "messages/s",
  megabytesPerSecond: "MB/s",
  cpuMicros: "CPU a message",
  p99: "p99 through two hops",
  besideP50: "p50 of a light client's echo",
  besideP99: "p99 of a light client's echo",
  besideP999: "p99.9 of a light client's echo",
  peakMiB: "peak memory of all runs, MiB",
  restMiB: "memory after a minute of rest, MiB",
  idleKiB: "memory of an idle client, KiB",
} as const;

/** What is judged of a bar. */
export interface Verdict {
  verdict: "ok" | "FAILED" | "erratic";
  median: number;
  /** Distance of the quartiles as a part of the median. */
  spread: number;
}

/** Judges ratios, one of each round. */
export function judge(bar: Bar, ratios: readonly number[], erraticSpread: number): Verdict {
  const tolerance = bar.tolerance ?? 0;
  const holds = (ratio: number) =>
    bar.least !== undefined ? ratio >= bar.least * (1 - tolerance) : ratio <= bar.most! * (1 + tolerance);
  const sorted = [...ratios].sort((a, b) => a - b);
  const middle = median(sorted);
  const quartile = (q: number) => sorted[Math.round(q * (sorted.length - 1))];
  const spread = (quartile(0.75) - quartile(0.25)) / middle;
  if (holds(middle)) return { verdict: "ok", median: middle, spread };
  const erratic = spread > erraticSpread && sorted.some(holds);
  return { verdict: erratic ? "erratic" : "FAILED", median: middle, spread };
}

/** What one round showed: our figure, and the other's. */
export interface Round {
  of: number;
  to: number;
}

/** Rounds that a steady bar needs; with fewer it is erratic. */
const STEADY_MIN = 3;

/** Judges the rounds of a bar. */
export function judgeRounds(
  bar: Bar,
  rounds: readonly Round[],
  erraticSpread: number,
): Verdict & { kept: number } {
  const middle = median(rounds.map(({ to }) => to));
  const { steady = Infinity } = bar;
  const kept = rounds.filter(({ to }) => Math.abs(to - middle) <= steady * middle);
  const few = bar.steady !== undefined && kept.length < STEADY_MIN;
  const judged = judge(bar, (few ? rounds : kept).map(({ of, to }) => of / to), erraticSpread);
  return { ...judged, verdict: few ? "erratic" : judged.verdict, kept: kept.length };
}

/** A bar in words. */
export function describe(bar: Bar, names: (key: string) => string): string {
  const setup = [
    bar.shape === undefined ? "" : SHAPES[bar.shape].name,
    bar.ofHandlers ? `${bar.ofHandlers} handlers to one` : "",
    bar.ofClients ? `${bar.ofClients} clients to one` : "",
    bar.toShape === undefined ? "" : `to ${SHAPES[bar.toShape].name}`,
    bar.floods ? `beside ${bar.floods} ${besideWhat(bar)}` : "",
    bar.ofBefore ? `${bar.ofBefore} and proxy to proxy alone` : "",
  ].filter((text) => text !== "").join(", ");
  const to = bar.to === undefined || bar.to === bar.of ? "" : ` to ${names(bar.to)}`;
  return `${names(bar.of)}${to}: ${FIGURES[bar.figure]}${setup === "" ? "" : ` (${setup})`}`;
}

function besideWhat({ floods, does = "send" }: Bar): string {
  const many = floods !== 1;
  if (does === "knock") return many ? "that connect and leave" : "that connects and leaves";
  const what = many ? "floods" : "flood";
  return does === "ask" ? `${what} of questions and replies` : what;
}

/** One thing to measure; bars that want the same share it. */
interface Task {
  key: string;
  forwarder: Forwarder;
  measure: () => Promise<Partial<Record<keyof typeof FIGURES | keyof Result, number>>>;
}

/**
 * Measures and judges all bars.
 *
 * @param only Words: only bars whose description has one of them.
 * @returns False when one failed.
 */
export async function runGate(
  tool: string,
  forwarders: Record<string, Forwarder>,
  options: { short: boolean; repeats?: number; only?: string; pairs: number },
): Promise<boolean> {
  const gate = JSON.parse(readFileSync(join(ROOT, "bench", "gate.json"), "utf8")) as Gate;
  const names = (key: string) => forwarders[key].name;
  let failed = 0;
  const peaks = new Map<string, number>();
  const report = (verdict: string, bar: Bar, rest: string) => {
    if (verdict === "FAILED") failed++;
    console.log(`${verdict.padEnd(7)}  ${describe(bar, names)}: ${rest}`);
  };
  const bars = gate.bars.filter((bar) =>
    (!options.short || bar.short) &&
    (options.only === undefined || describe(bar, names).includes(options.only))
  ).filter((bar) => {
    const missing = [bar.of, bar.to].map((key) => key === undefined ? null : forwarders[key].missing).find(
      Boolean,
    );
    if (missing) report("skipped", bar, `${missing} is missing`);
    return !missing;
  });
  const rounds = options.short ? 3 : gate.rounds;

  const compared = bars.filter((bar) => bar.to !== undefined);
  let open = compared;
  const measured = new Map<Bar, Round[]>(compared.map((bar) => [bar, []]));
  const broken = new Map<string, string>();
  const { repeats = gate.repeats } = options;
  for (let attempt = 0; open.length > 0 && attempt <= repeats; attempt++) {
    if (attempt > 0) {
      console.log(`measured again: ${open.map((bar) => describe(bar, names)).join("; ")}`);
    }
    await measureRounds(open, rounds);
    open = open.filter((bar) =>
      measured.get(bar)!.length > 0 && judgeRounds(bar, measured.get(bar)!, gate.spread).verdict !== "ok"
    );
  }
  for (const bar of compared) {
    const found = measured.get(bar)!;
    if (found.length === 0) {
      // A peer that stops is named; our own server that stops has failed.
      const why = broken.get(bar.to!) ?? broken.get(bar.of) ?? "no round came to its end";
      report(broken.has(bar.of) ? "FAILED" : "skipped", bar, why);
      continue;
    }
    const { verdict, median, spread, kept } = judgeRounds(bar, found, gate.spread);
    const left = kept < found.length
      ? `, ${names(bar.to!)} was steady in ${kept} of ${found.length} rounds`
      : "";
    const ratio = `${median.toPrecision(3)} ${limit(bar)}, spread ${(spread * 100).toFixed(0)} %`;
    report(verdict, bar, `${ratio}${left}`);
  }
  for (const bar of bars.filter((bar) => bar.to === undefined)) await judgeMemory(bar);
  if (options.only === undefined || AGAINST.includes(options.only)) await judgeRelease();
  console.log(failed === 0 ? "gate: passed" : `gate: ${failed} FAILED`);
  return failed === 0;

  async function judgeRelease(): Promise<void> {
    const { short, pairs } = options;
    try {
      buildRevision(gate.release);
    } catch (error) {
      // A shallow clone does not have it.
      console.log(`skipped  ${AGAINST} ${gate.release}: ${(error as Error).message.split("\n")[0]}`);
      return;
    }
    const { table, worse } = await runAgainst(tool, forwarders.binary, {
      revision: gate.release,
      pairs: short ? SHORT_PAIRS : pairs,
      seconds: gate.seconds,
      short,
    });
    console.log(`\n${formatTable(table)}`);
    for (const line of worse) console.log(`FAILED   ${AGAINST} ${line}`);
    if (worse.length === 0) console.log(`ok       ${AGAINST} ${gate.release}: nothing got worse`);
    failed += worse.length;
  }

  async function measureRounds(wanted: Bar[], count: number): Promise<void> {
    const tasks = new Map<string, Task>();
    for (const bar of wanted) {
      for (const task of [taskOf(bar, true), taskOf(bar, false)]) tasks.set(task.key, task);
    }
    for (let round = 0; round < count; round++) {
      const results = new Map<string, Record<string, number | undefined>>();
      for (const { key, forwarder, measure } of tasks.values()) {
        progress(`round ${round + 1} of ${count}: ${key}`);
        try {
          const result = await measure();
          results.set(key, { ...result });
          peaks.set(forwarder.name, Math.max(peaks.get(forwarder.name) ?? 0, result.peakBytes ?? 0));
        } catch (error) {
          const name = Object.entries(forwarders).find(([, f]) => f === forwarder)![0];
          broken.set(name, (error as Error).message.split("\n")[0]);
          tasks.delete(key);
        }
      }
      progress(null);
      for (const bar of wanted) {
        const of = results.get(taskOf(bar, true).key)?.[bar.figure];
        const to = results.get(taskOf(bar, false).key)?.[bar.figure];
        if (of !== undefined && to !== undefined && to > 0) measured.get(bar)!.push({ of, to });
      }
    }
  }

  function taskOf(bar: Bar, ours: boolean): Task {
    const name = ours ? bar.of : bar.to!;
    const forwarder = forwarders[name];
    const { alone } = forwarder;
    if (alone) return { key: name, forwarder, measure: () => alone(gate.seconds) };
    if (bar.figure === "p99") {
      return { key: `${name} two hops`, forwarder, measure: () => roundTrips(tool, forwarder, 20_000, 1) };
    }
    if (bar.floods !== undefined) {
      const { floods, does = "send" } = bar;
      return {
        key: `${name} ${bar.shape} beside ${floods} ${does}`,
        forwarder,
        measure: async () => {
          const flood: Flood = { shape: SHAPES[bar.shape!], floods, does, answers: "server" };
          const { p50, p99, p999 } = await beside(tool, forwarder, { ...flood, seconds: BESIDE_SECONDS });
          return { besideP50: p50, besideP99: p99, besideP999: p999 };
        },
      };
    }
    const clients = ours ? bar.ofClients ?? 1 : 1;
    const handlers = ours ? bar.ofHandlers ?? 1 : 1;
    const before = ours ? bar.ofBefore ?? "nothing" : "nothing";
    const shape = SHAPES[ours ? bar.shape! : bar.toShape ?? bar.shape!];
    return {
      key: `${name} ${shape.name} ${clients} ${handlers} ${before}`,
      forwarder,
      measure: () => load(tool, forwarder, { shape, clients, handlers, before, seconds: gate.seconds }),
    };
  }

  async function judgeMemory(bar: Bar): Promise<void> {
    const forwarder = forwarders[bar.of];
    const value = bar.figure === "idleKiB"
      ? await idleClients(tool, forwarder, 5000) / 1024
      : bar.figure === "restMiB"
      ? await restBytes(tool, forwarder, 60) / 2 ** 20
      : (peaks.get(forwarder.name) ?? 0) / 2 ** 20;
    report(value <= bar.most! ? "ok" : "FAILED", bar, `${value.toPrecision(3)} ${limit(bar)}`);
  }
}

function limit(bar: Bar): string {
  const noise = bar.tolerance ? ` ± ${bar.tolerance * 100} %` : "";
  return bar.least !== undefined ? `(at least ${bar.least}${noise})` : `(at most ${bar.most}${noise})`;
}
