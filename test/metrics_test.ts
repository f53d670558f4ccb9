/** Metrics and health over HTTP, as a scraper, a probe and a stranger meet them. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { ConfigError, readConfig } from "../mod.ts";
import { HTTP_CONNECTIONS_MAX } from "../src/limits.ts";
import { formatFor } from "../src/observe/metrics.ts";
import { skipFor, SLOW_TARGETS, tempFolder, until } from "./helpers/env.ts";
import { run, type ServerProcess } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";
import { httpUrl, SINK, untilMetrics, watched } from "./helpers/watched.ts";

const HTTP = "http-listen = 127.0.0.1:*";
const ECHO = "[routes]\necho = h:echo\n[h:echo]\nhandler = echo\n";
const OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/** As Prometheus sends it. */
const SCRAPER = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
const noPromtool = spawnSync("promtool", ["--version"]).error === undefined
  ? false
  : "promtool is missing (Debian: prometheus)";

/** A proxy to this endpoint, and routes that reach it. */
const proxyTo = (endpoint: string) =>
  `[routes]\n* = h:p\n[h:p]\nhandler = proxy\nremote-cc = ${endpoint}\nping = yes\nzmq_hwm = 1\n`;

/** Bytes to a server's HTTP port, and all that comes back until it closes. */
async function raw(server: ServerProcess, bytes: string): Promise<string> {
  const socket = net.connect(Number(new URL(httpUrl(server)).port), "127.0.0.1");
  let got = "";
  let closed = false;
  socket.on("data", (chunk) => got += chunk);
  socket.on("error", () => {});
  socket.on("close", () => closed = true);
  socket.write(bytes);
  await until("the end of the connection", () => closed);
  return got;
}

/** Reads OpenMetrics strictly: each sample belongs to the family above it, each family and series stands once. */
function readOpenMetrics(text: string): Map<string, string> {
  const lines = text.split("\n");
  assert.equal(lines.pop(), "", "it ends with a newline");
  assert.equal(lines.pop(), "# EOF");
  const types = new Map<string, string>();
  const series = new Set<string>();
  let family = "";
  for (const line of lines) {
    const meta = /^# (HELP|TYPE|UNIT) (\S+) (.+)$/.exec(line);
    if (meta) {
      if (meta[1] === "TYPE") {
        assert.equal(types.has(meta[2]), false, line);
        types.set(meta[2], meta[3]);
      }
      family = meta[2];
      continue;
    }
    const sample = /^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+\})? (-?\d+(?:\.\d+)?(?:e[+-]\d+)?)$/
      .exec(line);
    assert.ok(sample, line);
    const suffixes: Record<string, string[]> = {
      counter: ["_total"],
      gauge: [""],
      info: ["_info"],
      summary: ["", "_sum", "_count"],
    };
    assert.ok(suffixes[types.get(family)!].some((suffix) => sample[1] === family + suffix), line);
    assert.equal(series.has(sample[1] + sample[2]), false, line);
    series.add(sample[1] + sample[2]);
  }
  return types;
}

for (const target of SLOW_TARGETS) {
  const on = target.name;

  test(`${on}: /metrics tells messages, drops, peers, upstreams and the process, in both formats`, async () => {
    await using far = await watched([], ECHO, target);
    await using s = await watched(["cc-stats = 2", HTTP], proxyTo(far.endpoint), target);
    await s.until(/h:p\.connect: .* is up/);
    using peer = await RawPeer.open(s.port);
    peer.write(message("", "echo.request", '{"req":"echo.request"}', ""));
    await peer.receive();
    // A message without a type, and a reply for somebody who is not there.
    peer.write(message("", "no type!", "{}", ""));
    const samples = await untilMetrics(
      s,
      (v) => [...v.keys()].some((name) => name.startsWith("cc_upstream_round_trip_seconds")),
    );
    const of = `handler="h:p",endpoint="${far.endpoint}"`;
    assert.equal(samples.get('cc_messages_total{outcome="ok"}'), 1);
    assert.equal(samples.get('cc_messages_total{outcome="invalid"}'), 1);
    assert.equal(samples.get('cc_messages_total{outcome="crashed"}'), 0);
    assert.equal(
      samples.get('cc_bytes_total{outcome="ok"}'),
      message("", "echo.request", '{"req":"echo.request"}', "").length,
    );
    assert.equal(samples.get('cc_type_messages_total{type="echo.request",outcome="ok"}'), 1);
    assert.equal(samples.get("cc_peers"), 1);
    assert.equal(samples.get(`cc_upstream_up{${of}}`), 1);
    assert.equal(samples.get(`cc_upstream_queued_messages{${of}}`), 0);
    const rtt = samples.get(`cc_upstream_round_trip_seconds{${of}}`)!;
    assert.ok(rtt >= 0 && rtt < 5, `${rtt}`);
    assert.ok(samples.get('cc_event_loop_lag_seconds{quantile="0.99"}')! < 10);
    assert.ok(Math.abs(samples.get("process_start_time_seconds")! - Date.now() / 1000) < 60);
    assert.ok(samples.get("process_cpu_seconds_total")! > 0);
    assert.ok(samples.get("process_resident_memory_bytes")! > 2 ** 20);
    assert.match(
      [...samples.keys()].find((name) => name.startsWith("cc_info"))!,
      /^cc_info\{version="\d+\.\d+\.\d+",runtime="\w+ \d.*",engine="native \(ZMTP 3\.1\)"\}$/,
    );

    const open = await fetch(`${httpUrl(s)}/metrics`, { headers: { accept: SCRAPER } });
    assert.equal(open.headers.get("content-type"), OPENMETRICS);
    const types = readOpenMetrics(await open.text());
    assert.equal(types.get("cc_messages"), "counter");
    assert.equal(types.get("cc"), "info");
    const plain = await fetch(`${httpUrl(s)}/metrics`, { headers: { accept: "*/*" } });
    assert.match(plain.headers.get("content-type")!, /^text\/plain; version=0\.0\.4(;|$)/);
    const text = await plain.text();
    assert.match(text, /^# TYPE cc_messages_total counter$/m);
    assert.doesNotMatch(text, /# EOF/);
  });

  test(`${on}: drops are told by socket and reason`, async () => {
    await using s = await watched([HTTP], proxyTo("tcp://127.0.0.1:1"), target);
    using peer = await RawPeer.open(s.port);
    peer.write(...Array.from({ length: 20 }, () => message("", "x", "{}", "")));
    const samples = await untilMetrics(
      s,
      (v) => v.get('cc_drops_total{socket="h:p",reason="upstream-down"}') === 19,
    );
    const of = 'handler="h:p",endpoint="tcp://127.0.0.1:1"';
    assert.equal(samples.get(`cc_upstream_queued_messages{${of}}`), 1);
    assert.equal(samples.get(`cc_upstream_up{${of}}`), 0);
  });

  test(`${on}: promtool finds nothing wrong with either format`, { skip: skipFor(noPromtool) }, async () => {
    await using s = await watched(["cc-stats = 2", HTTP], proxyTo("tcp://127.0.0.1:1"), target);
    using peer = await RawPeer.open(s.port);
    peer.write(...Array.from({ length: 20 }, (_, i) => message("", `x.${i}`, "{}", "")));
    await untilMetrics(s, (v) => v.get('cc_messages_total{outcome="ok"}') === 20);
    const plain = await (await fetch(`${httpUrl(s)}/metrics`)).text();
    const checked = spawnSync("promtool", ["check", "metrics"], { input: plain, encoding: "utf8" });
    assert.deepEqual([checked.status, checked.stdout, checked.stderr], [0, "", ""], plain);
    // Its reader of OpenMetrics wants times.
    const open = await (await fetch(`${httpUrl(s)}/metrics`, { headers: { accept: SCRAPER } })).text();
    using folder = tempFolder();
    const file = join(folder.path, "metrics.txt");
    writeFileSync(file, open.replace(/^([^#\n].*)$/gm, "$1 1700000000"));
    mkdirSync(join(folder.path, "blocks"));
    const read = spawnSync(
      "promtool",
      ["tsdb", "create-blocks-from", "openmetrics", file, join(folder.path, "blocks")],
      { encoding: "utf8" },
    );
    assert.equal(read.status, 0, read.stderr + open);
  });

  test(`${on}: what is refused, what is replied, and the counters of two filters are told apart`, async () => {
    await using s = await watched(
      [HTTP, "cc-stats = 2"],
      "[routes]\necho = h:echo\na = h:f\nb = h:g\n[h:echo]\nhandler = echo\n" +
        "[h:f]\nhandler = filter\nforward-to = h:sink\nexclude = a.no\n" +
        "[h:g]\nhandler = filter\nforward-to = h:sink\nexclude = b.no\n[h:sink]\nhandler = disposer\n",
      target,
    );
    using peer = await RawPeer.open(s.port);
    const echo = JSON.stringify({ req: "echo.request", hostname: "x", time: 1, target: "x" });
    peer.write(
      ...["{", "[]", '{"req": "other"}', echo, echo].map((body) => message("", "echo.request", body, "")),
      ...["a.yes", "a.no", "b.no", "b.no"].map((type) => message("", type, "{}", "")),
    );
    const expected: Record<string, number> = {
      'cc_messages_total{outcome="ok"}': 6,
      'cc_messages_total{outcome="refused"}': 3,
      'cc_refused_total{code="not-json"}': 1,
      'cc_refused_total{code="bad-body"}': 1,
      'cc_refused_total{code="hijacked"}': 1,
      'cc_type_messages_total{type="echo.request",outcome="refused"}': 3,
      cc_replies_total: 2,
      'cc_handler_total{handler="h:f",counter="filter.count"}': 2,
      'cc_handler_total{handler="h:f",counter="filter.count.ok"}': 1,
      'cc_handler_total{handler="h:g",counter="filter.count"}': 2,
      'cc_handler_total{handler="h:g",counter="filter.count.dropped"}': 2,
      'cc_handler_total{handler="h:sink",counter="disposed_count"}': 1,
    };
    const samples = await untilMetrics(s, (found) => found.get("cc_replies_total") === 2);
    for (const [name, value] of Object.entries(expected)) assert.equal(samples.get(name), value, name);
    assert.ok(samples.get("cc_reply_bytes_total")! > 100);
    assert.equal((await s.stop()).code, 0);
    assert.match(
      s.output,
      /CCServer\.stats: \{.*count\.refused: 3, .*refused\.not-json: 1, .*replies: 2, replies\.bytes: \d+, .*filter\.count: 4, filter\.count\.h:f: 2, filter\.count\.h:g: 2/,
    );
  });

  test(`${on}: /healthz lives; /readyz is ready when all upstreams are up, and says why when not`, async () => {
    await using far = await watched([], ECHO, target);
    await using s = await watched(
      [HTTP],
      `${proxyTo(far.endpoint)}[h:unused]\nhandler = disposer\n`,
      target,
    );
    await s.until(/h:p\.connect: .* is up/);
    const health = await fetch(`${httpUrl(s)}/healthz`);
    assert.deepEqual([health.status, await health.text()], [200, "ok\n"]);
    const ready = await fetch(`${httpUrl(s)}/readyz`);
    assert.equal(ready.headers.get("content-type"), "application/json");
    assert.deepEqual([ready.status, await ready.json()], [200, { ready: true, reasons: [] }]);
    await far.stop();
    await s.until(/h:p\.connect: .* is down/);
    const unready = await fetch(`${httpUrl(s)}/readyz`);
    assert.deepEqual([unready.status, await unready.json()], [503, {
      ready: false,
      reasons: [`h:p: upstream ${far.endpoint} is down`],
    }]);
    assert.equal((await fetch(`${httpUrl(s)}/healthz`)).status, 200);
    assert.equal((await s.stop()).code, 0);
    await assert.rejects(fetch(`${httpUrl(s)}/healthz`));
  });

  test(`${on}: while it stops, it is not ready`, async () => {
    // A message for an upstream that is not there keeps the server for as long as it lingers.
    await using s = await watched(
      [HTTP, "zmq_linger = 20000"],
      `[routes]\n* = h:p\n[h:p]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:1\nzmq_linger = 20000\n`,
      target,
    );
    using peer = await RawPeer.open(s.port);
    peer.write(message("", "x", "{}", ""));
    await untilMetrics(s, (v) => v.get('cc_messages_total{outcome="ok"}') === 1);
    const stopping = s.stop();
    await s.until(/SIGTERM: stopping/);
    const unready = await fetch(`${httpUrl(s)}/readyz`);
    assert.equal(unready.status, 503);
    assert.match((await unready.json()).reasons[0], /^the server is stopping$/);
    assert.equal((await fetch(`${httpUrl(s)}/healthz`)).status, 200);
    s.child.kill("SIGKILL");
    await stopping;
  });

  test(`${on}: GET and HEAD only, no other paths, small heads; what is no HTTP harms nobody`, async () => {
    await using s = await watched([HTTP], SINK, target);
    const head = await fetch(`${httpUrl(s)}/metrics`, { method: "HEAD", headers: { accept: SCRAPER } });
    assert.equal(head.status, 200);
    assert.equal(head.headers.get("content-type"), OPENMETRICS);
    assert.ok(Number(head.headers.get("content-length")) > 100);
    assert.equal(await head.text(), "");
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
      const refused = await fetch(`${httpUrl(s)}/metrics`, { method });
      assert.equal(refused.status, 405, method);
      assert.equal(refused.headers.get("allow"), "GET, HEAD");
      await refused.text();
    }
    for (const path of ["/", "/metrics/", "/..%2f", "/healthz/x"]) {
      const none = await fetch(httpUrl(s) + path);
      assert.equal(none.status, 404, path);
      await none.text();
    }
    assert.equal((await fetch(`${httpUrl(s)}/healthz?from=probe`)).status, 200);
    assert.match(
      await raw(s, `GET / HTTP/1.1\r\nx: ${"y".repeat(100_000)}\r\n\r\n`),
      /^(HTTP\/1\.1 4\d\d |$)/,
    );
    assert.match(await raw(s, "\xff\x00 no http at all\r\n\r\n"), /^(HTTP\/1\.1 4\d\d |$)/);
    // A second request on the connection is not answered.
    const twice = await raw(s, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2));
    assert.equal(twice.match(/HTTP\/1\.1 200/g)?.length, 1);
    assert.equal((await fetch(`${httpUrl(s)}/healthz`)).status, 200);
    assert.equal((await s.stop()).code, 0);
  });

  test(`${on}: connections are few, and none is held for long`, async () => {
    await using s = await watched([HTTP], SINK, target);
    const port = Number(new URL(httpUrl(s)).port);
    const closed = new Set<net.Socket>();
    const sockets = Array.from({ length: HTTP_CONNECTIONS_MAX + 8 }, (_, i) => {
      const socket = net.connect(port, "127.0.0.1");
      socket.on("error", () => {});
      socket.on("close", () => closed.add(socket));
      socket.resume();
      // Some say nothing, some never come to the end of what they say.
      if (i % 2 === 0) socket.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\n");
      return socket;
    });
    await until("those past the bound are refused", () => closed.size === 8);
    await until("the others are closed", () => closed.size === sockets.length, 20_000);
    assert.equal((await fetch(`${httpUrl(s)}/healthz`)).status, 200);
  });

  test(`${on}: an address that is taken keeps the server from starting; one that others reach is warned about`, async () => {
    using folder = tempFolder();
    const ini = join(folder.path, "test.ini");
    await using s = await watched(["http-listen = 0.0.0.0:0"], SINK, target);
    assert.match(s.output, /WARNING CCServer\.startup: http-listen is on 0\.0\.0\.0: other hosts can read/);
    const { port } = new URL(httpUrl(s));
    writeFileSync(
      ini,
      `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\nhttp-listen = 0.0.0.0:${port}\n${SINK}`,
    );
    const { code, output } = await run([ini], target);
    assert.equal(code, 69, output);
    assert.match(
      output,
      new RegExp(
        `ccserver: .*test\\.ini: cannot listen for HTTP on 0\\.0\\.0\\.0:${port}: the address is in use\n$`,
      ),
    );
    assert.doesNotMatch(output, /listening on/);
  });
}

test("metrics: the Accept header picks the format", () => {
  for (
    const accept of [
      SCRAPER,
      "application/openmetrics-text",
      "text/plain;q=0.5, Application/OpenMetrics-Text",
    ]
  ) {
    assert.equal(formatFor(accept), "openmetrics", accept);
  }
  for (
    const accept of [
      "",
      "*/*",
      "text/plain",
      "application/openmetrics-text;q=0",
      "application/openmetrics-text;q=0.1,text/plain",
      "text/html,application/xhtml+xml",
    ]
  ) assert.equal(formatFor(accept), "prometheus", accept);
});

test("config: http-listen takes HOST:PORT, and says what it expected", () => {
  const read = (value: string) =>
    readConfig(
      `[ccserver]\ncc-socket = tcp://127.0.0.1:1\nhttp-listen = ${value}\n[routes]\n`,
      "test.ini",
    ).options["http-listen"];
  assert.deepEqual(read("127.0.0.1:9108"), { host: "127.0.0.1", port: 9108 });
  assert.deepEqual(read("[::1]:9108"), { host: "::1", port: 9108 });
  assert.deepEqual(read("localhost:*"), { host: "localhost", port: 0 });
  assert.deepEqual(read("*:0"), { host: "0.0.0.0", port: 0 });
  for (const wrong of ["9108", "::1:9108", "127.0.0.1", "http://127.0.0.1:9108", "127.0.0.1:99999"]) {
    assert.throws(
      () => read(wrong),
      (e) => e instanceof ConfigError && e.message.includes("expected HOST:PORT such as 127.0.0.1:9108"),
      wrong,
    );
  }
});
