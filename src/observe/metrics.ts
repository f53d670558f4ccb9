/** What `/metrics` tells: OpenMetrics 1.0 for those who ask for it, Prometheus' text format 0.0.4 for all others. */
import type { Environment } from "../contracts/environment.ts";
import { RESULTS, type Statistics, type Tally } from "../server/counts.ts";
import { dropsBySocket, type ServerState, type UpstreamState } from "../server/state.ts";
import { VERSION } from "../version.ts";
import { type LagMeter, type LagSnapshot, NO_LAG } from "./lag.ts";
import { Utf8Text, type Work } from "./slices.ts";

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
  samples: Iterable<Sample>;
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
  readonly #environment: Environment;
  #since: LagSnapshot = NO_LAG;
  #next: LagSnapshot = NO_LAG;
  #nextAt: number;

  constructor(statistics: Statistics, lag: LagMeter, environment: Environment) {
    this.#statistics = statistics;
    this.#lag = lag;
    this.#environment = environment;
    this.#nextAt = environment.clock.now();
  }

  /** All metrics, as one of the formats writes them. */
  *text(state: ServerState, format: Format): Work<Uint8Array> {
    return yield* render([
      info(state, this.#environment),
      ...traffic(this.#statistics),
      ...yield* ofTypes(this.#statistics),
      ...ofHandlers(this.#statistics),
      ...ofSockets(state),
      this.#lagFamily(),
      ...ofProcess(this.#environment),
    ], format);
  }

  #lagFamily(): Family {
    const now = this.#environment.clock.now();
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

function info(state: ServerState, { host }: Environment): Family {
  return {
    name: "cc",
    type: "info",
    help: "This server",
    samples: [{
      labels: { version: VERSION, runtime: host.runtime, engine: state.engine },
      value: 1,
    }],
  };
}

/** What is counted of messages, and its help. */
const COUNTED: readonly [keyof Tally & ("count" | "bytes" | "seconds"), string, string][] = [
  ["count", "messages", "Messages received"],
  ["bytes", "bytes", "Bytes of messages received, all frames"],
  ["seconds", "seconds", "Time spent on messages"],
];

function traffic(statistics: Statistics): Family[] {
  // Nothing was counted: a zero would say that nothing came.
  if (statistics.level === 0) return [];
  const families = COUNTED.map(([key, name, help]): Family => ({
    name: `cc_${name}`,
    type: "counter",
    help: `${help}, by what became of them`,
    samples: RESULTS.map((outcome) => ({ labels: { outcome }, value: statistics.byResult[outcome][key] })),
  }));
  const { replies, refused } = statistics;
  const one = (name: string, help: string, samples: Sample[]) =>
    families.push({ name, type: "counter", help, samples });
  one(
    "cc_refused",
    "Messages refused, by the code that says why",
    [...refused].map(([code, value]) => ({
      labels: { code },
      value,
    })),
  );
  one("cc_replies", "Messages sent to clients", [{ value: replies.count }]);
  one("cc_reply_bytes", "Bytes of messages sent to clients", [{ value: replies.bytes }]);
  return families;
}

/** Read together, so that a type's figures belong together; made samples of when they are written. */
function* ofTypes(statistics: Statistics): Work<Family[]> {
  const rows: { labels: Labels; figures: Omit<Tally, "add"> }[] = [];
  for (const { name: type, byResult } of statistics.types) {
    yield;
    for (const outcome of RESULTS) {
      const { count, bytes, seconds } = byResult[outcome];
      if (count > 0) rows.push({ labels: { type, outcome }, figures: { count, bytes, seconds } });
    }
  }
  if (rows.length === 0) return [];
  return COUNTED.map(([key, name, help]) => ({
    name: `cc_type_${name}`,
    type: "counter",
    help: `${help}, by message type and what became of them`,
    samples: samplesOf(rows, key),
  }));
}

function* samplesOf<K extends string>(
  rows: Iterable<{ labels: Labels; figures: Readonly<Record<K, number>> }>,
  key: K,
): Iterable<Sample> {
  for (const { labels, figures } of rows) yield { labels, value: figures[key] };
}

function ofHandlers({ counters, gauges }: Statistics): Family[] {
  const gaugeSamples = [...gauges].flatMap(({ handler, name, labels, read }): Sample[] => {
    const value = readGauge(read);
    return value === null ? [] : [{ labels: { ...labels, handler, gauge: name }, value }];
  });
  return [{
    name: "cc_handler",
    type: "counter",
    help: "Counters of the handlers, by the name they have in the statistics line",
    samples: [...counters].map(({ handler, name, labels, value }) => ({
      labels: { ...labels, handler, counter: name },
      value,
    })),
  }, {
    name: "cc_handler_value",
    type: "gauge",
    help: "Figures of the handlers, by name",
    samples: gaugeSamples,
  }];
}

/** A handler's code: what it throws must not keep the other metrics from being told. */
function readGauge(read: () => number | null): number | null {
  try {
    const value = read();
    return typeof value === "number" ? value : null;
  } catch {
    return null;
  }
}

function ofSockets(state: ServerState): Family[] {
  const groups = grouped(state.upstreams, ({ handler, upstream }) => `${handler} ${upstream.endpoint}`);
  const gauge = (name: string, help: string, value: (group: UpstreamState[]) => number | null): Family => ({
    name,
    type: "gauge",
    help,
    samples: groups.flatMap((group) => {
      const [{ handler, upstream: { endpoint } }] = group;
      const found = value(group);
      return found === null ? [] : [{ labels: { handler, endpoint }, value: found }];
    }),
  });
  return [
    { name: "cc_peers", type: "gauge", help: "Connected clients", samples: [{ value: state.peers }] },
    {
      name: "cc_peers_max",
      type: "gauge",
      help: "Clients that there may be",
      samples: state.peersMax === null ? [] : [{ value: state.peersMax }],
    },
    {
      name: "cc_certificate_expiry_timestamp_seconds",
      type: "gauge",
      help: "Until when a certificate or CRL of the key store holds",
      samples: state.expiries.map(({ name, until }) => ({ labels: { file: name }, value: until / 1000 })),
    },
    {
      name: "cc_clients_closed",
      type: "counter",
      help: "Clients closed by the server, by the bound that they were past",
      samples: [...state.closed].map(([reason, value]) => ({ labels: { reason }, value })),
    },
    {
      name: "cc_drops",
      type: "counter",
      help: "Messages dropped, by socket and reason",
      samples: [...dropsBySocket(state)].flatMap(([socket, byReason]) =>
        [...byReason].map(([reason, value]) => ({ labels: { socket, reason }, value }))
      ),
    },
    {
      name: "cc_unconfirmed",
      type: "counter",
      help:
        "Messages that were written to an upstream whose link broke before they were acknowledged, an estimate: " +
        "some may have arrived",
      samples: [...state.unconfirmed].map(([handler, value]) => ({ labels: { handler }, value })),
    },
    gauge(
      "cc_upstream_up",
      "Is the upstream connected?",
      (group) => group.every(({ upstream }) => upstream.up) ? 1 : 0,
    ),
    gauge(
      "cc_upstream_queued_messages",
      "Messages that wait for the upstream",
      (group) => group.reduce((sum, { upstream }) => sum + upstream.queued, 0),
    ),
    gauge(
      "cc_upstream_round_trip_seconds",
      "The latest ping's round trip",
      (group) => group[0].upstream.roundTripSeconds,
    ),
  ];
}

/** A handler may have several sockets, even to one endpoint; a series stands only once. */
function grouped(
  upstreams: readonly UpstreamState[],
  key: (upstream: UpstreamState) => string,
): UpstreamState[][] {
  const groups = new Map<string, UpstreamState[]>();
  for (const upstream of upstreams) {
    const group = groups.get(key(upstream));
    if (group === undefined) groups.set(key(upstream), [upstream]);
    else group.push(upstream);
  }
  return [...groups.values()];
}

function ofProcess({ host }: Environment): Family[] {
  const { userSeconds, systemSeconds, residentBytes, startedMs } = host.usage();
  const one = (name: string, type: Family["type"], help: string, value: number): Family => ({
    name,
    type,
    help,
    samples: [{ value }],
  });
  return [
    one("process_resident_memory_bytes", "gauge", "Resident memory", residentBytes),
    one("process_cpu_seconds", "counter", "Processor time, user and system", userSeconds + systemSeconds),
    one("process_start_time_seconds", "gauge", "When the process started, since 1970", startedMs / 1000),
  ];
}

/** How the formats differ: in OpenMetrics a family has its bare name, and the text says where it ends. */
function* render(families: readonly Family[], format: Format): Work<Uint8Array> {
  const open = format === "openmetrics";
  const text = new Utf8Text();
  for (const { name, type, help, samples } of families) {
    const ending = type === "counter" ? "_total" : type === "info" ? "_info" : "";
    const family = open ? name : name + ending;
    const head = `# HELP ${family} ${escape(help)}\n# TYPE ${family} ${
      !open && type === "info" ? "gauge" : type
    }\n`;
    let first = true;
    for (const { suffix = "", labels = {}, value } of samples) {
      yield;
      // A family without samples is not named.
      if (first) text.add(head);
      first = false;
      text.add(`${name}${ending}${suffix}${labelText(labels)} ${value}\n`);
    }
  }
  if (open) text.add("# EOF\n");
  return text.bytes;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

/** Both formats escape these three, and take all else as it is. */
function escape(text: string): string {
  return text.replace(/[\\"\n]/g, (c) => c === "\n" ? "\\n" : `\\${c}`);
}
