/**
 * An earlier revision beside the tree as it is: `npm run bench -- --against=REV`. Both are built, then measured in pairs,
 * before and after in turn, and the ratios of the pairs are judged: their median, and the interval that it lies in with
 * 90 % certainty, so that a noisy hour neither hides a loss nor makes one up.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { type Forwarder, ROOT, server } from "./forwarders.ts";
import { load, type LoadOptions, median, roundTrips, SHAPES } from "./load.ts";
import { formatTable, progress, type Table } from "./report.ts";

/** Figures of one run. All but rates are better when they are less. */
type Figures = Partial<Record<keyof typeof FIGURES, number>>;

const FIGURES = {
  messagesPerSecond: "messages/s",
  cpuMicros: "CPU a message",
  peakBytes: "peak memory",
  p50: "p50 through two hops",
  p99: "p99 through two hops",
} as const;

/** What is measured of both, and which of its figures are judged; the others are shown. */
interface Scenario {
  name: string;
  judged: readonly (keyof typeof FIGURES)[];
  /** Part of the short run, which CI judges. */
  short: boolean;
  measure(tool: string, forwarder: Forwarder, time: Time): Promise<Figures>;
}

const RATE_AND_CPU = ["messagesPerSecond", "cpuMicros"] as const;

/** How long one run is measured, and not measured before. */
type Time = Required<Pick<LoadOptions, "seconds" | "warmUpSeconds">>;

/** Until then a server compiles its code, on the other core: more of it shows in the figures as much as slower code would. */
const WARM_UP_SECONDS = 4;
/** The same of a short run, whose few pairs convict only for certain. */
const SHORT_WARM_UP_SECONDS = 2;

function loaded(name: string, short: boolean, options: Omit<LoadOptions, keyof Time>): Scenario {
  return {
    name,
    short,
    judged: RATE_AND_CPU,
    measure: (tool, forwarder, time) => load(tool, forwarder, { ...options, ...time }),
  };
}

const SCENARIOS: readonly Scenario[] = [
  loaded("150 B", true, { shape: SHAPES.small, clients: 1 }),
  loaded("1 KiB", true, { shape: SHAPES["1k"], clients: 1 }),
  loaded("64 KiB", false, { shape: SHAPES["64k"], clients: 1 }),
  loaded("1000 clients", false, { shape: SHAPES.small, clients: 1000 }),
  loaded("log lines", true, { shape: SHAPES.log, clients: 1 }),
  {
    name: "round trip",
    short: false,
    judged: [],
    measure: (tool, forwarder, { seconds }) => roundTrips(tool, forwarder, 20_000, Math.max(1, seconds)),
  },
];

/** How a pair's figures are judged. */
export interface Limits {
  /** The median of the ratios is at least so much, ... */
  median: number;
  /** ... and so is the lower end of its interval. For figures that should be small, both are turned over. */
  low: number;
}

/** What a release keeps of the last one. */
export const LIMITS: Limits = { median: 0.97, low: 0.94 };
/** A log line may cost a little more than before. */
const LOG_LIMITS: Limits = { median: 1 / 1.1, low: 1 / 1.15 };

/** A figure's ratios, judged. */
export interface Judgement {
  median: number;
  low: number;
  high: number;
  worse: boolean;
}

/** Chance that the median lies between the smallest and the largest value of this rank (1: the very ones), of independent ones. */
function coverage(count: number, rank: number): number {
  let probability = 0;
  let choose = 1;
  for (let k = 0; k < rank; k++) {
    probability += choose;
    choose = choose * (count - k) / (k + 1);
  }
  return 1 - 2 * probability / 2 ** count;
}

/**
 * Judges ratios, after to before.
 *
 * @param more Is a higher figure the better one?
 * @param surely Worse is only what lies below the limit with the whole interval: for few pairs on a noisy machine.
 */
export function judgePairs(
  ratios: readonly number[],
  more: boolean,
  limits: Limits,
  surely = false,
): Judgement {
  const sorted = [...ratios].sort((a, b) => a - b);
  // The narrowest interval of the order statistics that holds the median with 90 %.
  let rank = 1;
  while (rank + 1 <= sorted.length / 2 && coverage(sorted.length, rank + 1) >= 0.9) rank++;
  const low = sorted[rank - 1];
  const high = sorted[sorted.length - rank];
  const middle = median(sorted);
  const short = (value: number, limit: number) => more ? value < limit : value > 1 / limit;
  const [poor, good] = more ? [low, high] : [high, low];
  const worse = surely ? short(good, limits.median) : short(middle, limits.median) || short(poor, limits.low);
  return { median: middle, low, high, worse };
}

/**
 * Builds the binary of a revision, once: it stays in `dist/against/` for the next time.
 *
 * @throws {Error} There is no such revision here, or it cannot be built.
 */
export function buildRevision(revision: string): { sha: string; binary: string } {
  const git = (...args: string[]) => spawnSync("git", args, { cwd: ROOT, encoding: "utf8" });
  const { status, stdout, stderr } = git("rev-parse", "--verify", "--quiet", `${revision}^{commit}`);
  if (status !== 0) throw new Error(`there is no revision ${revision} here ${stderr.trim()}`.trim());
  const sha = stdout.trim().slice(0, 12);
  const folder = join(ROOT, "dist", "against", sha);
  const binary = join(folder, "dist", "ccserver");
  if (existsSync(binary)) return { sha, binary };
  const beside = `${folder}.new`;
  rmSync(beside, { recursive: true, force: true });
  mkdirSync(beside, { recursive: true });
  must("sh", ["-c", `git archive ${sha} | tar -x -C '${beside}'`], ROOT);
  if (sameTools(beside)) symlinkSync(join(ROOT, "node_modules"), join(beside, "node_modules"));
  else must("npm", ["ci", "--no-audit", "--no-fund"], beside);
  rmSync(folder, { recursive: true, force: true });
  renameSync(beside, folder);
  must(join(folder, "node_modules", ".bin", "bun"), ["build.ts"], folder);
  return { sha, binary };
}

/** Does a revision lock the same versions of what goes into the binary? */
function sameTools(folder: string): boolean {
  const versions = (root: string) => {
    const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as {
      packages: Record<string, { version?: string }>;
    };
    return ["bun", "valibot", "zeromq"].map((name) => packages[`node_modules/${name}`]?.version).join();
  };
  return versions(folder) === versions(ROOT);
}

function must(command: string, args: string[], cwd: string): void {
  const { status, error, stdout, stderr } = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (status === 0) return;
  throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `${stdout}${stderr}`.slice(-2000)}`);
}

/** How a comparison is run. */
export interface AgainstOptions {
  revision: string;
  pairs: number;
  seconds: number;
  /** Only what CI judges. */
  short: boolean;
  /** Words: only scenarios whose name has one of them. */
  only?: string;
}

/**
 * Measures and judges.
 *
 * @returns The table, and a line for each figure that got worse.
 */
export async function runAgainst(
  tool: string,
  after: Forwarder,
  options: AgainstOptions,
): Promise<{ table: Table; worse: string[] }> {
  const { revision, pairs, short, only, seconds } = options;
  const time = { seconds, warmUpSeconds: short ? SHORT_WARM_UP_SECONDS : WARM_UP_SECONDS };
  const { sha, binary } = buildRevision(revision);
  const before = server(`ccserver ${sha}`, [binary], null, after.guess);
  const rows: string[][] = [];
  const worse: string[] = [];
  for (const scenario of SCENARIOS) {
    if (short && !scenario.short || only !== undefined && !scenario.name.includes(only)) continue;
    const found: Pair[] = [];
    let judged: Judged[] = [];
    // What seems worse is measured again, and judged by all pairs.
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      for (let i = 0; i < pairs; i++) {
        progress(`${scenario.name}: pair ${found.length + 1}`);
        found.push(await measurePair(tool, scenario, before, after, found.length, time));
      }
      progress(null);
      judged = judgeScenario(scenario, found, short);
      if (!judged.some(({ verdict }) => verdict === "WORSE")) break;
    }
    for (const { key, judgement, verdict } of judged) {
      const { median: ratio, low, high } = judgement;
      const figure = (of: "before" | "after") =>
        formatFigure(key, median(found.map((pair) => pair[of][key]!)));
      const interval = `${low.toFixed(3)} – ${high.toFixed(3)}`;
      rows.push([
        scenario.name,
        FIGURES[key],
        figure("before"),
        figure("after"),
        ratio.toFixed(3),
        interval,
        String(found.length),
        verdict,
      ]);
      if (verdict === "WORSE") {
        worse.push(`${scenario.name}, ${FIGURES[key]}: ${ratio.toFixed(3)} of ${sha}'s (${interval})`);
      }
    }
  }
  const table: Table = {
    title: `Against ${sha}`,
    head: ["what", "figure", "before", "after", "ratio", "90 % interval", "pairs", ""],
    rows,
  };
  return { table, worse };
}

/** So often is a scenario measured at most. */
const ATTEMPTS = 3;

interface Pair {
  before: Figures;
  after: Figures;
}

/** The one that goes first has the machine as the last pair left it: they take turns. */
async function measurePair(
  tool: string,
  { measure }: Scenario,
  before: Forwarder,
  after: Forwarder,
  index: number,
  time: Time,
): Promise<Pair> {
  if (index % 2 === 0) {
    const first = await measure(tool, before, time);
    return { before: first, after: await measure(tool, after, time) };
  }
  const first = await measure(tool, after, time);
  return { before: await measure(tool, before, time), after: first };
}

interface Judged {
  key: keyof typeof FIGURES;
  judgement: Judgement;
  /** Empty for figures that are only shown. */
  verdict: "ok" | "WORSE" | "";
}

function judgeScenario({ judged, name }: Scenario, found: readonly Pair[], short: boolean): Judged[] {
  const limits = name === "log lines" ? LOG_LIMITS : LIMITS;
  return (Object.keys(FIGURES) as (keyof typeof FIGURES)[])
    .filter((key) => found[0].after[key] !== undefined)
    .map((key) => {
      const ratios = found.map(({ before, after }) => after[key]! / before[key]!);
      const judgement = judgePairs(ratios, key === "messagesPerSecond", limits, short);
      return { key, judgement, verdict: !judged.includes(key) ? "" : judgement.worse ? "WORSE" : "ok" };
    });
}

function formatFigure(key: keyof typeof FIGURES, value: number): string {
  switch (key) {
    case "messagesPerSecond":
      return value.toLocaleString("en", { maximumFractionDigits: 0 });
    case "cpuMicros":
      return `${value.toFixed(3)} µs`;
    case "peakBytes":
      return `${(value / 2 ** 20).toFixed(0)} MiB`;
    default:
      return `${value.toFixed(0)} µs`;
  }
}

/** Runs the comparison for the command line; false when something got worse. */
export async function against(tool: string, after: Forwarder, options: AgainstOptions): Promise<boolean> {
  const { table, worse } = await runAgainst(tool, after, options);
  process.stdout.write(`\n${formatTable(table)}\n`);
  for (const line of worse) console.log(`WORSE    ${line}`);
  console.log(worse.length === 0 ? "nothing got worse" : `${worse.length} figures got worse`);
  return worse.length === 0;
}
