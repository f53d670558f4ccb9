/**
 * The benchmarks: `npm run bench`, `deno task bench`.
 *
 *     npm run bench                        micro, then load on whole processes; about five minutes
 *     npm run bench -- --only=micro        one part: micro, start, load, clients, rtt, idle
 *     npm run bench -- --rounds=5 --seconds=2
 *     npm run bench -- --peers=binary,zmq_proxy --shapes=small,1k
 *
 * Peers are measured in turn, A B A B, and the medians of their rounds compared: this may be a noisy machine.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { Bench } from "tinybench";
import {
  buildPeers,
  type Forwarder,
  forwarders,
  idleClients,
  load,
  type LoadOptions,
  median,
  type Result,
  ROOT,
  roundTrips,
  SHAPES,
  statusBytes,
} from "./load.ts";
import bodyParse from "./micro/body_parse.ts";
import egressAppend from "./micro/egress_append.ts";
import frameDecode from "./micro/frame_decode.ts";
import infofile from "./micro/infofile.ts";
import iniParse from "./micro/ini_parse.ts";
import routeMatch from "./micro/route_match.ts";
import typeLookup from "./micro/type_lookup.ts";
import { environment, formatTable, type Table, writeReport } from "./report.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "micro,start,load,clients,rtt,idle" },
    peers: { type: "string" },
    shapes: { type: "string", default: Object.keys(SHAPES).join() },
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "1" },
  },
});
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
if (parts.includes("micro")) await micro();
if (parts.some((part) => part !== "micro")) await processes();
writeReport(ROOT, tables, skipped);
process.exit(0);

async function micro(): Promise<void> {
  const bench = new Bench({ time: 300, warmupTime: 100 });
  for (const add of [frameDecode, typeLookup, routeMatch, egressAppend, iniParse, bodyParse, infofile]) {
    add(bench);
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
  const wanted = values.peers?.split(",") ?? Object.keys(all);
  return wanted.flatMap((key): [string, Forwarder][] => {
    const peer = all[key];
    if (peer === undefined) throw new Error(`--peers: "${key}" is none of ${Object.keys(all).join(", ")}`);
    if (peer.missing === null) return [[key, peer]];
    skipped.push(`${peer.name}: ${peer.missing} is missing`);
    console.log(`skipped ${skipped.at(-1)}`);
    return [];
  });
}

async function processes(): Promise<void> {
  const { load: tool, proxyMissing } = buildPeers();
  const peers = available(forwarders(proxyMissing));
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
    const ours = own.filter(([key]) => key !== "zmq_proxy");
    await compare(tool, ours, "Three handlers that all forward, 150 B body", {
      shape: SHAPES.small,
      clients: 1,
      handlers: 3,
      seconds,
    });
  }
  if (parts.includes("rtt")) await latency(tool, own);
  if (parts.includes("idle")) await idle(tool, own);
}

/** From spawn to listening, and the memory of a server that has nothing to do. */
async function start(peers: [string, Forwarder][]): Promise<void> {
  const rows: string[][] = [];
  for (const [, peer] of peers) {
    const times: number[] = [];
    const sizes: number[] = [];
    for (let i = 0; i < 5; i++) {
      const begin = performance.now();
      const running = await peer.start(1, 0);
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
      process.stderr.write(`\r${title}: round ${round + 1}, ${peer.name}${" ".repeat(20)}`);
      try {
        results.set(key, [...results.get(key) ?? [], await load(tool, peer, options)]);
      } catch (error) {
        failed.add(key);
        skipped.push(`${peer.name}, ${title}: ${(error as Error).message}`);
        console.log(`\nfailed ${skipped.at(-1)}`);
      }
    }
  }
  process.stderr.write(`\r${" ".repeat(100)}\r`);
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
      process.stderr.write(`\rround trips: round ${round + 1}, ${peer.name}${" ".repeat(20)}`);
      found.set(key, [...found.get(key) ?? [], await roundTrips(tool, peer, rate, Math.max(2, seconds))]);
    }
  }
  process.stderr.write(`\r${" ".repeat(100)}\r`);
  show({
    title: `Round trip through two hops at ${rate} messages/s, open loop`,
    head: ["two of", "p50 µs", "p99 µs", "p99.9 µs"],
    rows: peers.map(([key, peer]) => [
      peer.name,
      ...(["p50", "p99", "p999"] as const).map((p) => median(found.get(key)!.map((r) => r[p])).toFixed(0)),
    ]),
  });
}

async function idle(tool: string, peers: [string, Forwarder][]): Promise<void> {
  const rows: string[][] = [];
  for (const [, peer] of peers) {
    rows.push([peer.name, (await idleClients(tool, peer, 5000) / 1024).toFixed(1)]);
  }
  show({ title: "5000 clients at rest", head: ["forwarder", "KiB a client"], rows });
}
