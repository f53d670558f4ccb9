import type { Bench } from "tinybench";
import type { HandlerConfig } from "../../src/config/reader.ts";
import { HANDLERS_BY_NAME } from "../../src/handlers/index.ts";
import { MACHINE } from "../../src/runtime/machine.ts";
import { IDENTITY } from "../../src/seal/identity.ts";
import { Statistics } from "../../src/server/counts.ts";
import { Deliverer } from "../../src/server/deliver.ts";
import { Dispatcher } from "../../src/server/dispatch.ts";
import { Host } from "../../src/server/host.ts";
import { Post } from "../../src/server/post.ts";
import type { RouterSocket, Source } from "../../src/socket/types.ts";
import { Decoder, type DecoderOwner } from "../../src/zmtp/decoder.ts";
import { chunkOf, encoded, MESSAGES_PER_CHUNK, SILENT } from "./fixtures.ts";

const LIMITS = {
  messageMaxBytes: 1 << 26,
  skipMaxBytes: 1 << 26,
  messageMaxFrames: 37,
  commandMaxBytes: 512,
  announcedMaxBytes: 1 << 22,
};

/** From a chunk to a built-in handler without options; what it answers goes nowhere. */
async function dispatching(handler: string): Promise<(chunk: Uint8Array) => void> {
  const statistics = new Statistics(2);
  const post = new Post(MACHINE, IDENTITY, statistics, SILENT);
  post.router = { send: () => true } as unknown as RouterSocket;
  const deliverer = new Deliverer(IDENTITY, statistics, SILENT, MACHINE.clock);
  const definition = HANDLERS_BY_NAME.get(handler)!;
  const config: HandlerConfig = {
    name: "h:bench",
    definition,
    module: null,
    options: { "ping-remotes": [] },
    sections: new Map(),
    sectionsRead: new Map(),
    edges: [],
    line: 1,
  };
  const host = new Host(config, {
    environment: MACHINE,
    log: SILENT,
    statistics,
    post,
    deliverer,
    handlerTimeoutMs: 60_000,
    facts: {
      jobName: "bench",
      configFile: "bench.ini",
      socket: "",
      pidfile: null,
      cms: {},
      receivesDatagrams: false,
    },
    upstreams: null as never,
    publish: () => "ok",
    routedTo: () => [],
    replan() {},
  });
  host.create();
  await host.start(new AbortController().signal);
  const { clock } = MACHINE;
  const dispatcher = new Dispatcher({
    resolve: () => [host],
    statistics,
    deliverer,
    post,
    clock,
    log: SILENT,
  });
  const source: Source & DecoderOwner = {
    identityFrame: new Uint8Array([1, 5, 0, 1, 2, 3, 4]),
    name: "bench",
    pause() {},
    resume() {},
    command() {},
    oversized() {},
    look() {},
  };
  const decoder = new Decoder<typeof source>(source, dispatcher, LIMITS);
  return (chunk) => {
    decoder.push(chunk, 0, chunk.length);
    dispatcher.chunkEnd();
  };
}

/** Decode, find the type, and do what its handler's plan says. */
export default async function dispatch(bench: Bench): Promise<void> {
  const toDisposer = await dispatching("disposer");
  for (const types of [1, 3, 300]) {
    const messages = Array.from({ length: types }, (_, i) => encoded(`pub.t${i}`, {}));
    const chunk = chunkOf(MESSAGES_PER_CHUNK, messages);
    const name = `${MESSAGES_PER_CHUNK} messages of ${types} ${types === 1 ? "type" : "types in turn"}`;
    bench.add(`dispatch: ${name}, to a disposer`, () => toDisposer(chunk));
  }
  const toLogger = await dispatching("locallogger");
  const line = encoded("log.info", {
    log_level: "INFO",
    job_name: "cc",
    log_msg: "x".repeat(70),
    log_time: 1795331293.1,
  });
  const lines = chunkOf(MESSAGES_PER_CHUNK, [line]);
  bench.add(`dispatch: ${MESSAGES_PER_CHUNK} log messages, to a locallogger`, () => toLogger(lines));
  const toEcho = await dispatching("echo");
  const requests = chunkOf(MESSAGES_PER_CHUNK, [encoded("echo.request", { target: "tcp://127.0.0.1:1" })]);
  bench.add(`dispatch: ${MESSAGES_PER_CHUNK} echo requests, answered`, () => toEcho(requests));
}
