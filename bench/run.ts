/**
 * The benchmarks: `npm run bench`, `deno task bench`.
 *
 *     npm run bench                        micro, then load on whole processes; about five minutes
 *     npm run bench -- --only=micro        one part: micro, start, load, clients, rtt, beside, idle
 *     npm run bench -- --only=crowd        10,000 clients: at full load, at rest, and back at once behind a kill
 *     npm run bench -- --only=jobs         the job manager beside supervisord; not among the parts above by itself
 *     npm run bench -- --only=seal         signatures beside the bare arithmetic; not among the parts above by itself
 *     npm run bench -- --rounds=5 --seconds=2
 *     npm run bench -- --peers=binary,zmq_proxy --shapes=small,1k
 *     npm run bench -- --gate              judge a release by gate.json; --short: what CI judges
 *     npm run bench -- --gate --server="bun other.ts"   another server than dist/ccserver; --guess=1500000: messages a second
 *                                          that it can about do; --repeats=1: how often what fails is measured again
 *     npm run bench -- --against=REV       what is slower than at that revision; --pairs=20, --bar=WORD, --short
 *
 * Peers are measured in turn, A B A B, and the medians of their rounds compared: this may be a noisy machine.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { Bench } from "tinybench";
import { against } from "./against.ts";
import { buildPeers, type Forwarder, forwarders, ROOT, server } from "./forwarders.ts";
import { runGate } from "./gate.ts";
import { jobs } from "./jobs.ts";
import {
  beside,
  crowd,
  type CrowdResult,
  type Flood,
  idleClients,
  load,
  type LoadOptions,
  median,
  restBytes,
  type Result,
  roundTrips,
  SHAPES,
  statusBytes,
} from "./load.ts";
import dispatch from "./micro/dispatch.ts";
import egressAppend from "./micro/egress_append.ts";
import frameDecode from "./micro/frame_decode.ts";
import infofile from "./micro/infofile.ts";
import iniParse from "./micro/ini_parse.ts";
import relayRun from "./micro/relay_run.ts";
import routeMatch from "./micro/route_match.ts";
import { environment, formatTable, progress, type Table, writeReport } from "./report.ts";

const { values } = parseArgs({
  options: {
    only: {
      type: "string",
      default: "micro,start,load,libzmq,clients,handlers,rtt,beside,idle,crowd,rest,threads,growth",
    },
    gate: { type: "boolean" },
    short: { type: "boolean", default: false },
    bar: { type: "string" },
    repeats: { type: "string" },
    server: { type: "string" },
    guess: { type: "string", default: "1500000" },
    peers: { type: "string" },
    shapes: { type: "string", default: "small,1k,64k,1m" },
    against: { type: "string" },
    pairs: { type: "string", default: "20" },
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "1" },
  },
});
/** Clients of a crowd. */
const CROWD = 10_000;
const parts = values.only.split(",");
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);
const tables: Table[] = [];
const skipped: string[] = [];

function show(table: Table): void {
  tables.push(table);
  console.log(`\n${formatTable(table)}`);
}

console.log(environment(ROOT));
if (!["dist/ccserver", "dist/npm/main.node.js"].every((file) => existsSync(join(ROOT, file)))) {
  console.log("dist/ is not there: building it");
  const { status } = spawnSync(join(ROOT, "node_modules", ".bin", "bun"), ["build.ts"], { cwd: ROOT });
  if (status !== 0) throw new Error('it cannot be built: "npm run build" says why');
}
if (values.against) {
  const { binary } = forwarders(null);
  if (values.server) Object.assign(binary, server(values.server, values.server.split(" "), null, 10_000_000));
  process.exit(
    await against(buildPeers().load, binary, {
        revision: values.against,
        pairs: Number(values.pairs),
        seconds,
        short: values.short,
        only: values.bar,
      })
      ? 0
      : 1,
  );
}
if (values.gate) {
  const { load: tool, libzmqMissing } = buildPeers();
  const all = forwarders(libzmqMissing);
  if (values.server) all.binary = server(values.server, values.server.split(" "), null, Number(values.guess));
  process.exit(
    await runGate(tool, all, {
        short: values.short,
        repeats: values.repeats === undefined ? undefined : Number(values.repeats),
        only: values.bar,
        pairs: Number(values.pairs),
      })
      ? 0
      : 1,
  );
}
if (parts.includes("micro")) await micro();
if (parts.some((part) => part !== "micro")) await processes();
writeReport(ROOT, tables, skipped);
process.exit(0);

async function micro(): Promise<void> {
  const bench = new Bench({ time: 300, warmupTime: 100 });
  for (const add of [frameDecode, dispatch, routeMatch, relayRun, egressAppend, iniParse, infofile]) {
    await add(bench);
  }
  await bench.run();
  show({
    title: `Micro benchmarks (${process.versions.bun ? "Bun" : "Deno"})`,
    head: ["what", "µs", "±"],
    rows: bench.tasks.map((task) => {
      const { latency } = task.result as { latency: { p50: number; rme: number } };
      return [task.name, (latency.p50 * 1000).toFixed(2), `${latency.rme.toFixed(1)} %`];
    }),
  });
}

/** The forwarders that can run here; what is missing is named. */
function available(all: Record<string, Forwarder>): [string, Forwarder][] {
  // Without statistics our server is only compared by the gate.
  const forwarding = Object.keys(all).filter((key) => !all[key].alone);
  const wanted = values.peers?.split(",") ?? forwarding.filter((key) => key !== "quiet");
  return wanted.flatMap((key): [string, Forwarder][] => {
    const peer = all[key];
    if (!forwarding.includes(key)) throw new Error(`--peers: "${key}" is none of ${forwarding.join(", ")}`);
    if (peer.missing === null) return [[key, peer]];
    skipped.push(`${peer.name}: ${peer.missing} is missing`);
    console.log(`skipped ${skipped.at(-1)}`);
    return [];
  });
}

async function processes(): Promise<void> {
  const { load: tool, zmqLoad, libzmqMissing } = buildPeers();
  if (parts.includes("jobs")) await besideSupervisord(tool);
  if (parts.includes("seal")) seal();
  if (parts.every((part) => ["micro", "jobs", "seal"].includes(part))) return;
  const peers = available(forwarders(libzmqMissing));
  if (parts.includes("start")) {
    await start(peers.filter(([key]) => ["binary", "bun", "deno", "node"].includes(key)));
  }
  if (parts.includes("load")) {
    for (const shape of values.shapes.split(",")) {
      await compare(tool, peers, `Forwarding, ${SHAPES[shape].name}`, {
        shape: SHAPES[shape],
        clients: 1,
        handlers: 1,
        seconds,
      });
    }
  }
  if (parts.includes("libzmq") && libzmqMissing === null) {
    const zmtp = peers.filter(([, peer]) => peer.wire === "zmtp");
    await compare(tool, zmtp, "Forwarding, 150 B body, libzmq as generator and sink", {
      shape: SHAPES.small,
      clients: 1,
      handlers: 1,
      seconds,
      libzmq: zmqLoad,
    });
  }
  const own = peers.filter(([key]) => ["binary", "deno", "node", "zmq_proxy"].includes(key));
  if (parts.includes("clients")) {
    for (const clients of [8, 100, 1000]) {
      await compare(tool, own, `${clients} clients, 150 B body`, {
        shape: SHAPES.small,
        clients,
        handlers: 1,
        seconds,
      });
    }
  }
  const ours = own.filter(([key]) => key !== "zmq_proxy");
  if (parts.includes("handlers")) {
    await compare(tool, ours, "Three handlers that all forward, 150 B body", {
      shape: SHAPES.small,
      clients: 1,
      handlers: 3,
      seconds,
    });
  }
  if (parts.includes("rtt")) await latency(tool, own);
  if (parts.includes("beside")) {
    await besideFloods(
      tool,
      peers.filter(([key]) => ["binary", "deno", "node", "nats", "zmq_proxy"].includes(key)),
    );
  }
  if (parts.includes("idle")) await idle(tool, own);
  if (parts.includes("crowd")) await tenThousand(tool, own);
  if (parts.includes("rest")) await rest(tool, ours);
  if (parts.includes("threads")) await threads(tool, peers.filter(([key]) => key === "binary"));
  if (parts.includes("growth")) {
    await growth(
      tool,
      own.filter(([key]) => key === "binary" || key === "zmq_proxy"),
    );
  }
}

/** Our job manager and supervisord. */
async function besideSupervisord(tool: string): Promise<void> {
  const found = await jobs(tool, rounds, seconds);
  if (typeof found !== "string") return show(found);
  skipped.push(found);
  console.log(`skipped ${found}`);
}

/** How the cost of a message grows: one chart each. */
async function growth(tool: string, peers: [string, Forwarder][]): Promise<void> {
  const small = { shape: SHAPES.small, clients: 1, handlers: 1, seconds };
  const bodies = [50, 150, 500, 1500, 5000, 15_000, 50_000, 150_000, 500_000];
  const plans: { title: string; unit: string; points: [number, LoadOptions][]; ours?: boolean }[] = [
    {
      title: "CPU a message by its size",
      unit: "bytes of the body",
      points: bodies.map((n) => [n, { ...small, shape: { name: `${n} B`, bodyBytes: n, blobBytes: 0 } }]),
    },
    {
      title: "CPU a message by clients",
      unit: "clients",
      points: [1, 3, 10, 30, 100, 300, 1000].map((n) => [n, { ...small, clients: n }]),
    },
    {
      title: "CPU a message by handlers that forward it",
      unit: "handlers",
      points: [1, 2, 3, 4, 5].map((n) => [n, { ...small, handlers: n }]),
      ours: true,
    },
    {
      title: "CPU a message by routes in the config",
      unit: "routes",
      points: [1, 10, 100, 1000].map((n) => [n, { ...small, routes: n }]),
      ours: true,
    },
  ];
  for (const { title, unit, points, ours } of plans) {
    const measured = peers.filter(([key]) => !ours || key === "binary");
    const lines = measured.map(([, peer]) => ({ label: peer.name, points: [] as [number, number][] }));
    for (const [x, options] of points) {
      for (const [i, [, peer]] of measured.entries()) {
        progress(`${title}: ${x}, ${peer.name}`);
        const costs: number[] = [];
        for (let round = 0; round < rounds; round++) costs.push((await load(tool, peer, options)).cpuMicros);
        lines[i].points.push([x, median(costs)]);
      }
    }
    progress(null);
    show({
      title,
      head: [unit, ...lines.map(({ label }) => `${label}, µs`)],
      rows: points.map(([x], i) => [String(x), ...lines.map((line) => line.points[i][1].toFixed(3))]),
      lines: { unit, series: lines },
    });
  }
}

/** What a second thread could bring at most: two whole servers side by side against one, four clients each. */
async function threads(tool: string, peers: [string, Forwarder][]): Promise<void> {
  for (const [, peer] of peers) {
    const half = { ...peer, guess: peer.guess / 2 };
    const options = { shape: SHAPES.small, clients: 4, handlers: 1, seconds };
    const found: Result[][] = [];
    for (let round = 0; round < rounds; round++) {
      const one = await load(tool, peer, options);
      found.push([one, ...await Promise.all([load(tool, half, options), load(tool, half, options)])]);
    }
    const rate = (pick: (r: Result[]) => number) => (median(found.map(pick)) / 1e6).toFixed(2);
    show({
      title: "One server, and two side by side, 150 B body",
      head: ["servers", "M messages/s"],
      rows: [
        ["one", rate(([one]) => one.messagesPerSecond)],
        ["two", rate(([, a, b]) => a.messagesPerSecond + b.messagesPerSecond)],
      ],
    });
  }
}

/** Memory after a load and a minute of rest. */
async function rest(tool: string, peers: [string, Forwarder][]): Promise<void> {
  const rows: string[][] = [];
  for (const [, peer] of peers) {
    progress(`resting: ${peer.name}`);
    rows.push([peer.name, (await restBytes(tool, peer, 60) / 2 ** 20).toFixed(0)]);
  }
  progress(null);
  show({ title: "Memory after 100 clients' load and a minute of rest", head: ["server", "MiB"], rows });
}

/** From spawn to listening, and the memory of a server that has nothing to do. */
async function start(peers: [string, Forwarder][]): Promise<void> {
  const rows: string[][] = [];
  for (const [, peer] of peers) {
    const times: number[] = [];
    const sizes: number[] = [];
    for (let i = 0; i < 5; i++) {
      const begin = performance.now();
      const running = await peer.start(1, { handlers: 0 });
      times.push(performance.now() - begin);
      await new Promise((resolve) => setTimeout(resolve, 300));
      sizes.push(statusBytes(running.pid, "VmRSS") / 2 ** 20);
      await running.stop();
    }
    rows.push([peer.name, median(times).toFixed(0), median(sizes).toFixed(0)]);
  }
  show({ title: "Start to listening, and memory at rest", head: ["server", "ms", "MiB"], rows });
}

async function compare(
  tool: string,
  peers: [string, Forwarder][],
  title: string,
  options: LoadOptions,
): Promise<void> {
  const results = new Map<string, Result[]>();
  const failed = new Set<string>();
  for (let round = 0; round < rounds; round++) {
    for (const [key, peer] of peers) {
      if (failed.has(key)) continue;
      progress(`${title}: round ${round + 1}, ${peer.name}`);
      try {
        results.set(key, [...results.get(key) ?? [], await load(tool, peer, options)]);
      } catch (error) {
        failed.add(key);
        skipped.push(`${peer.name}, ${title}: ${(error as Error).message}`);
        console.log(`\nfailed ${skipped.at(-1)}`);
      }
    }
  }
  progress(null);
  const rows: string[][] = [];
  const bars: Table["bars"] = [];
  for (const [key, peer] of peers) {
    const found = results.get(key);
    if (found === undefined) {
      rows.push([peer.name, "failed"]);
      continue;
    }
    const of = (pick: (r: Result) => number) => median(found.map(pick));
    const rates = found.map((r) => r.messagesPerSecond);
    const rate = of((r) => r.messagesPerSecond);
    rows.push([
      peer.name,
      rate.toLocaleString("en", { maximumFractionDigits: 0 }),
      `${((Math.max(...rates) - Math.min(...rates)) / rate * 100).toFixed(0)} %`,
      of((r) => r.megabytesPerSecond).toFixed(0),
      of((r) => r.cpuMicros).toFixed(2),
      (of((r) => r.peakBytes) / 2 ** 20).toFixed(0),
    ]);
    bars.push({ label: peer.name, value: rate, unit: `${(rate / 1e6).toFixed(2)} M/s` });
  }
  show({
    title,
    head: ["forwarder", "messages/s", "spread", "MB/s", "CPU µs/message", "peak MiB"],
    rows,
    bars,
  });
}

async function latency(tool: string, peers: [string, Forwarder][]): Promise<void> {
  const rate = 20_000;
  const found = new Map<string, { p50: number; p99: number; p999: number }[]>();
  for (let round = 0; round < rounds; round++) {
    for (const [key, peer] of peers) {
      progress(`round trips: round ${round + 1}, ${peer.name}`);
      found.set(key, [...found.get(key) ?? [], await roundTrips(tool, peer, rate, Math.max(2, seconds))]);
    }
  }
  progress(null);
  show({
    title: `Round trip through two hops at ${rate} messages/s, open loop`,
    head: ["two of", "p50 µs", "p99 µs", "p99.9 µs"],
    rows: peers.map(([key, peer]) => [
      peer.name,
      ...(["p50", "p99", "p999"] as const).map((p) => median(found.get(key)!.map((r) => r[p])).toFixed(0)),
    ]),
  });
}

/** What one that sends little waits for its echo while others send all they can. */
async function besideFloods(tool: string, all: [string, Forwarder][]): Promise<void> {
  const small = { shape: SHAPES.small, does: "send", answers: "server" } as const;
  const floods: [string, Flood][] = [
    ["1 that sends", { ...small, floods: 1 }],
    ["8 that send", { ...small, floods: 8 }],
    ["1, 64 KiB each", { ...small, floods: 1, shape: SHAPES["64k"] }],
    ["8, 64 KiB each", { ...small, floods: 8, shape: SHAPES["64k"] }],
    ["1 of log lines", { ...small, floods: 1, shape: SHAPES.log }],
    ["8 of log lines", { ...small, floods: 8, shape: SHAPES.log }],
    ["1 without a route", { ...small, floods: 1, shape: SHAPES.unrouted }],
    ["1 of signed messages, verified", { ...small, floods: 1, shape: SHAPES.signed }],
    ["1 that gets replies", { ...small, floods: 1, does: "ask" }],
    ["8 that connect and leave", { ...small, floods: 8, does: "knock" }],
    ["1 that sends; the upstream answers", { ...small, floods: 1, answers: "upstream" }],
  ];
  const rows: string[][] = [];
  for (const [what, flood] of floods) {
    const peers = all.filter(([key]) =>
      flood.answers === "upstream" ? key !== "nats" : key !== "zmq_proxy" &&
        (key !== "nats" || flood.does !== "ask" && !flood.shape.logs && !flood.shape.signed)
    );
    const found = new Map<string, { p50: number; p99: number; p999: number }[]>();
    for (let round = 0; round < rounds; round++) {
      for (const [key, peer] of peers) {
        progress(`beside ${what}: round ${round + 1}, ${peer.name}`);
        found.set(key, [...found.get(key) ?? [], await beside(tool, peer, { ...flood, seconds: 2 })]);
      }
    }
    for (const [key, peer] of peers) {
      const of = (p: "p50" | "p99" | "p999") => (median(found.get(key)!.map((r) => r[p])) / 1000).toFixed(2);
      rows.push([what, peer.name, of("p50"), of("p99"), of("p999")]);
    }
  }
  progress(null);
  show({
    title: "Echo of a client that sends little, 150 B messages beside it",
    head: ["beside", "server", "p50 ms", "p99 ms", "p99.9 ms"],
    rows,
  });
}

/** A crowd at full load, beside one client, and what connecting, resting and coming back costs. */
async function tenThousand(tool: string, peers: [string, Forwarder][]): Promise<void> {
  const rows: string[][] = [];
  for (const [key, peer] of peers) {
    const loads: { one: Result; all: Result }[] = [];
    const crowds: CrowdResult[] = [];
    let failed = "";
    // With so many clients Deno and Node do less; a run that takes too long is given up.
    const guess = peer.guess / (key === "binary" ? 2 : 5);
    for (let round = 0; round < rounds && failed === ""; round++) {
      progress(`${CROWD} clients: round ${round + 1}, ${peer.name}`);
      try {
        const options = { shape: SHAPES.small, handlers: 1, seconds };
        const one = await load(tool, peer, { ...options, clients: 1 });
        const all = await load(tool, { ...peer, guess }, { ...options, clients: CROWD });
        loads.push({ one, all });
        if (key !== "zmq_proxy") crowds.push(await crowd(tool, peer, CROWD));
      } catch (error) {
        failed = (error as Error).message.split("\n")[0];
        skipped.push(`${peer.name}, ${CROWD} clients: ${failed}`);
        console.log(`\nfailed ${skipped.at(-1)}`);
      }
    }
    const ofLoads = (pick: (r: { one: Result; all: Result }) => number, digits: number) =>
      loads.length === 0 ? "failed" : median(loads.map(pick)).toFixed(digits);
    const ofCrowds = (pick: (r: CrowdResult) => number, digits: number) =>
      crowds.length === 0 ? "" : median(crowds.map(pick)).toFixed(digits);
    rows.push([
      peer.name,
      ofLoads(({ all }) => all.messagesPerSecond / 1e6, 2),
      ofLoads(({ one, all }) => all.messagesPerSecond / one.messagesPerSecond, 2),
      ofLoads(({ all }) => all.peakBytes / 2 ** 20, 0),
      ofCrowds((r) => r.connectedMs / 1000, 1),
      ofCrowds((r) => r.restBytesEach / 1024, 1),
      ofCrowds((r) => r.stormMs / 1000, 1),
      ofCrowds((r) => r.cut, 0),
      ofCrowds((r) => r.p99 / 1000, 1),
    ]);
  }
  progress(null);
  show({
    title: `${
      CROWD.toLocaleString("en")
    } clients: at full load, connecting at once, at rest, and back behind a kill`,
    head: [
      "forwarder",
      "M messages/s",
      "of one client's",
      "peak MiB",
      "connected s",
      "KiB each",
      "back s",
      "cut",
      "echo p99 ms",
    ],
    rows,
  });
}

async function idle(tool: string, peers: [string, Forwarder][]): Promise<void> {
  const rows: string[][] = [];
  for (const [, peer] of peers) {
    rows.push([peer.name, (await idleClients(tool, peer, 5000) / 1024).toFixed(1)]);
  }
  show({ title: "5000 clients at rest", head: ["forwarder", "KiB a client"], rows });
}

/** A program of its own: it runs on one runtime, and on others by hand. */
function seal(): void {
  const { status } = spawnSync(join(ROOT, "node_modules", ".bin", "bun"), ["bench/seal.ts"], {
    cwd: ROOT,
    stdio: "inherit",
  });
  if (status !== 0) throw new Error("bench/seal.ts failed");
}
