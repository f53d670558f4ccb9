/** The time to live of a PING (RFC 37): who is silent for longer is cut, and nobody for what we did not read. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import process from "node:process";
import { test } from "node:test";
import { Logger, type MessageSink, Router, type Source } from "../mod.ts";
import { SLOW_TARGETS, until } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";

/** A PING whose time to live is so many tenths of a second. */
const ping = (tenths: number, context = "") =>
  Buffer.from([
    4,
    7 + context.length,
    4,
    ...Buffer.from("PING"),
    tenths >> 8,
    tenths & 0xff,
    ...Buffer.from(context),
  ]);

async function router() {
  const sources: Source[] = [];
  const lines: string[] = [];
  const sink: MessageSink = { message: (source) => void sources.push(source), chunkEnd() {} };
  const log = new Logger("test", { sink: (line) => lines.push(line), pid: 1, level: "DEBUG" });
  const router = new Router(sink, { log });
  const endpoint = await router.bind("tcp://127.0.0.1:*");
  return { router, sources, lines, port: Number(/:(\d+)$/.exec(endpoint)![1]) };
}

/** The whole program stands still for so long. */
function standStill(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

test("ping: a shorter time to live counts from its PING on, whatever the one before", async () => {
  const { router: r, port, lines } = await router();
  using peer = await RawPeer.open(port);
  const begin = performance.now();
  peer.write(ping(65_535), ping(1000), ping(2));
  await until("its end", () => peer.closed, 3000);
  assert.ok(performance.now() - begin >= 190);
  await until("its line", () => lines.some((line) => /it was silent for 0\.2 s/.test(line)));
  await r.close(0);
});

test("ping: who was held back by us is heard first, when it goes on just as its time is up", async () => {
  const { router: r, port, sources, lines } = await router();
  using peer = await RawPeer.open(port);
  peer.write(message("x"), ping(3));
  await peer.receive();
  const [source] = sources;
  source.pause();
  let pings = 0;
  const talk = setInterval(() => {
    peer.write(ping(3));
    pings++;
  }, 20);
  await until("some PINGs", () => pings === 5);
  source.resume();
  standStill(400);
  await until("a PONG", () => peer.take());
  clearInterval(talk);
  assert.equal(peer.closed, false);
  assert.doesNotMatch(lines.join("\n"), /silent/);
  // And then it is silent.
  await until("its end", () => peer.closed, 3000);
  await r.close(0);
});

for (const target of SLOW_TARGETS) {
  test(`${target.name}: a server that was stopped for longer hears who spoke meanwhile, and keeps it`, async () => {
    const sections = "[routes]\necho = h:echo\n[h:echo]\nhandler = echo\n";
    await using server = await ServerProcess.start(
      `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\n${sections}`,
      target,
      ["-v", "-v"],
    );
    const peers = await Promise.all(Array.from({ length: 20 }, () => RawPeer.open(server.port)));
    try {
      for (const peer of peers) peer.write(ping(2));
      for (const peer of peers) assert.match(String((await peer.receive())[0]), /PONG/);
      process.kill(server.pid, "SIGSTOP");
      let pings = 0;
      const talk = setInterval(() => {
        for (const peer of peers) peer.write(ping(2));
        pings++;
      }, 20);
      await until("long enough", () => pings === 25);
      process.kill(server.pid, "SIGCONT");
      for (const peer of peers) await peer.receive();
      clearInterval(talk);
      assert.equal(peers.filter(({ closed }) => closed).length, 0, server.output);
      assert.doesNotMatch(server.output, /silent/);
    } finally {
      for (const peer of peers) peer.close();
    }
  });
}
