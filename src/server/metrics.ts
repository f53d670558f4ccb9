/** What `/metrics` tells: OpenMetrics 1.0 for those who ask for it, Prometheus' text format 0.0.4 for all others. */
import process from "node:process";
import runtime from "#runtime";
import type { Drops } from "../socket/types.ts";
import { VERSION } from "../version.ts";
import { type LagMeter, type LagSnapshot, NO_LAG } from "./lag.ts";
import type { ServerState, Upstream } from "./state.ts";
import { type Counter, OUTCOMES, type Statistics } from "./stats.ts";

/** The two formats. */
export type Format = "openmetrics" | "prometheus";

export const CONTENT_TYPES: Readonly<Record<Format, string>> = {
  openmetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8",
  prometheus: "text/plain; version=0.0.4; charset=utf-8",
};

type Labels = Readonly<Record<string, string>>;

interface Sample {
  /** Behind the family's name, such as `_sum`. */
  suffix?: string;
  labels?: Labels;
  value: number;
}

interface Family {
  name: string;
  type: "counter" | "gauge" | "summary" | "info";
  help: string;
  samples: Sample[];
}

/** The format that a request's Accept header prefers. */
export function formatFor(accept: string): Format {
  const openmetrics = quality(accept, "application/openmetrics-text");
  return openmetrics > 0 && openmetrics >= quality(accept, "text/plain") ? "openmetrics" : "prometheus";
}

/** How much a media type is wanted, 0 to 1; wildcards are not counted: who says nothing gets the plain format. */
function quality(accept: string, type: string): number {
  let most = 0;
  for (const range of accept.toLowerCase().split(",")) {
    const [name, ...parameters] = range.split(";").map((part) => part.trim());
    if (name !== type) continue;
    const q = parameters.find((parameter) => parameter.startsWith("q="));
    most = Math.max(most, q === undefined ? 1 : Number(q.slice(2)) || 0);
  }
  return most;
}

/** The lag's quantiles are those of the last one to two minutes, whoever asks how often. */
const LAG_WINDOW_MS = 60_000;
const QUANTILES = [0.5, 0.9, 0.99];

export class Metrics {
  readonly #statistics: Statistics;
  readonly #lag: LagMeter;
  readonly #now: () => number;
  #since: LagSnapshot = NO_LAG;
  #next: LagSnapshot = NO_LAG;
  #nextAt: number;

  /** @param now Milliseconds; only differences count. */
  constructor(statistics: Statistics, lag: LagMeter, now: () => number) {
    this.#statistics = statistics;
    this.#lag = lag;
    this.#now = now;
    this.#nextAt = now();
  }

  /** All metrics, as one of the formats writes them. */
  text(state: ServerState, format: Format): string {
    return render([
      info(state),
      ...traffic(this.#statistics),
      ...ofTypes(this.#statistics),
      ...ofHandlers(this.#statistics),
      ...ofSockets(state),
      this.#lagFamily(),
      ...ofProcess(),
    ], format);
  }

  #lagFamily(): Family {
    const now = this.#now();
    if (now - this.#nextAt >= LAG_WINDOW_MS) {
      this.#since = this.#next;
      this.#next = this.#lag.snapshot();
      this.#nextAt = now;
    }
    const { count, sumMs } = this.#lag.snapshot();
    return {
      name: "cc_event_loop_lag_seconds",
      type: "summary",
      help: "How late the event loop is, looked at ten times a second",
      samples: [
        ...QUANTILES.map((share) => ({
          labels: { quantile: String(share) },
          value: this.#lag.quantileMs(share, this.#since) / 1000,
        })),
        { suffix: "_sum", value: sumMs / 1000 },
        { suffix: "_count", value: count },
      ],
    };
  }
}

function info(state: ServerState): Family {
  return {
    name: "cc",
    type: "info",
    help: "This server",
    samples: [{
      labels: { version: VERSION, runtime: `${runtime.name} ${runtime.version}`, engine: state.engine },
      value: 1,
    }],
  };
}

/** What is counted of messages, and its help. */
const COUNTED: readonly [keyof Counter & ("count" | "bytes" | "seconds"), string, string][] = [
  ["count", "messages", "Messages received"],
  ["bytes", "bytes", "Bytes of messages received, all frames"],
  ["seconds", "seconds", "Time spent on messages"],
];

function traffic(statistics: Statistics): Family[] {
  // Nothing was counted: a zero would say that nothing came.
  if (statistics.level === 0) return [];
  return COUNTED.map(([key, name, help]) => ({
    name: `cc_${name}`,
    type: "counter",
    help: `${help}, by what became of them`,
    samples: OUTCOMES.map((outcome) => ({
      labels: { outcome },
      value: statistics.byOutcome[outcome][key],
    })),
  }));
}

function ofTypes({ types }: Statistics): Family[] {
  if (types.size === 0) return [];
  return COUNTED.map(([key, name, help]) => ({
    name: `cc_type_${name}`,
    type: "counter",
    help: `${help}, by message type and what became of them`,
    samples: [...types.values()].flatMap(({ name: type, byOutcome }) =>
      OUTCOMES.filter((outcome) => byOutcome[outcome].count > 0)
        .map((outcome) => ({ labels: { type, outcome }, value: byOutcome[outcome][key] }))
    ),
  }));
}

function ofHandlers({ own }: Statistics): Family[] {
  if (own.size === 0) return [];
  return [{
    name: "cc_handler_counter",
    type: "counter",
    help: "Counters of the handlers, by the name they have in the statistics line",
    samples: [...own].map(([counter, value]) => ({ labels: { counter }, value })),
  }];
}

function ofSockets(state: ServerState): Family[] {
  const groups = grouped(state.upstreams, ({ handler, endpoint }) => `${handler} ${endpoint}`);
  const gauge = (name: string, help: string, value: (group: Upstream[]) => number | null): Family => ({
    name,
    type: "gauge",
    help,
    samples: groups.flatMap((group) => {
      const [{ handler, endpoint }] = group;
      const found = value(group);
      return found === null ? [] : [{ labels: { handler, endpoint }, value: found }];
    }),
  });
  return [
    { name: "cc_peers", type: "gauge", help: "Connected clients", samples: [{ value: state.peers }] },
    {
      name: "cc_drops",
      type: "counter",
      help: "Messages dropped, by socket and reason",
      samples: drops(state),
    },
    gauge(
      "cc_upstream_up",
      "Is the upstream connected?",
      (group) => group.every(({ dealer }) => dealer.up) ? 1 : 0,
    ),
    gauge(
      "cc_upstream_queued_messages",
      "Messages that wait for the upstream",
      (group) => group.reduce((sum, { dealer }) => sum + dealer.queued, 0),
    ),
    gauge(
      "cc_upstream_round_trip_seconds",
      "The latest ping's round trip",
      (group) => group[0].roundTripSeconds,
    ),
  ];
}

function drops(state: ServerState): Sample[] {
  const samples = state.drops === null ? [] : dropSamples("router", [state.drops]);
  for (const group of grouped(state.upstreams, ({ handler }) => handler)) {
    samples.push(...dropSamples(group[0].handler, group.map(({ dealer }) => dealer.drops)));
  }
  return samples;
}

function dropSamples(socket: string, all: Drops[]): Sample[] {
  const sums = new Map<string, number>();
  for (const { byReason } of all) {
    for (const [reason, count] of byReason) sums.set(reason, (sums.get(reason) ?? 0) + count);
  }
  return [...sums].map(([reason, value]) => ({ labels: { socket, reason }, value }));
}

/** A handler may have several sockets, even to one endpoint; a series stands only once. */
function grouped(upstreams: readonly Upstream[], key: (upstream: Upstream) => string): Upstream[][] {
  const groups = new Map<string, Upstream[]>();
  for (const upstream of upstreams) {
    const group = groups.get(key(upstream));
    if (group === undefined) groups.set(key(upstream), [upstream]);
    else group.push(upstream);
  }
  return [...groups.values()];
}

function ofProcess(): Family[] {
  const { user, system } = process.cpuUsage();
  const one = (name: string, type: Family["type"], help: string, value: number): Family => ({
    name,
    type,
    help,
    samples: [{ value }],
  });
  return [
    one("process_resident_memory_bytes", "gauge", "Resident memory", process.memoryUsage().rss),
    one("process_cpu_seconds", "counter", "Processor time, user and system", (user + system) / 1e6),
    one(
      "process_start_time_seconds",
      "gauge",
      "When the process started, since 1970",
      performance.timeOrigin / 1000,
    ),
  ];
}

/** How the formats differ: in OpenMetrics a family has its bare name, and the text says where it ends. */
function render(families: readonly Family[], format: Format): string {
  const open = format === "openmetrics";
  let text = "";
  for (const { name, type, help, samples } of families) {
    if (samples.length === 0) continue;
    const ending = type === "counter" ? "_total" : type === "info" ? "_info" : "";
    const family = open ? name : name + ending;
    text += `# HELP ${family} ${escape(help)}\n# TYPE ${family} ${
      !open && type === "info" ? "gauge" : type
    }\n`;
    for (const { suffix = "", labels = {}, value } of samples) {
      text += `${name}${ending}${suffix}${labelText(labels)} ${value}\n`;
    }
  }
  return open ? `${text}# EOF\n` : text;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

/** Both formats escape these three, and take all else as it is. */
function escape(text: string): string {
  return text.replace(/[\\"\n]/g, (c) => c === "\n" ? "\\n" : `\\${c}`);
}
