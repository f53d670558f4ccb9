/** Real libzmq peers against the server as a process: each runtime, and the compiled binary. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ROOT, RUNTIME, TARGETS, tempFolder, text } from "./helpers/env.ts";
import { Libzmq, ServerProcess } from "./helpers/process.ts";

const VECTORS = readdirSync(join(ROOT, "test", "vectors")).filter((name) => /^(?!cms-).*\.json$/.test(name))
  .map(
    (name) => {
      const { frames } = JSON.parse(readFileSync(join(ROOT, "test", "vectors", name), "utf8")) as {
        frames: string[];
      };
      return {
        name: name.replace(".json", ""),
        frames: frames.map((frame) => new Uint8Array(Buffer.from(frame, "base64"))),
      };
    },
  );

const ECHO = `
[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
[routes]
echo = h:echo
log = h:log
[h:echo]
handler = cc.handler.echo
[h:log]
handler = cc.handler.locallogger
`;

const proxyTo = (endpoint: string, socket = "tcp://127.0.0.1:*", options = "") => `
[ccserver]
cc-socket = ${socket}
cc-role = local
${options}
[routes]
* = h:up
[h:up]
handler = cc.handler.proxy
remote-cc = ${endpoint}
`;

const request = (
  target: string,
) => [
  "",
  "echo.request",
  JSON.stringify({ req: "echo.request", time: 1, hostname: "t", target, blob_hash: "" }),
  "",
];
const bytes = (frames: Uint8Array[]) => frames.map((frame) => Buffer.from(frame).toString("base64"));

for (const target of TARGETS) {
  // The binary has Bun's driver; libzmq as the engine is compared where its addon runs.
  const engines = RUNTIME === "bun" ? ["native"] : ["native", "libzmq"];
  for (const engine of engines) {
    describe(`${target.name}, zmq-engine ${engine}`, () => {
      let peer: Libzmq;
      before(() => {
        peer = new Libzmq();
      });
      after(() => peer[Symbol.asyncDispose]());
      const withEngine = (ini: string) =>
        ini.replace("cc-role = local", `cc-role = local\nzmq-engine = ${engine}`);

      test("answers a DEALER, a REQ and a ROUTER", async () => {
        await using server = await ServerProcess.start(withEngine(ECHO), target);
        const dealer = await peer.open("Dealer", server.endpoint);
        await dealer.send(request("by dealer"));
        const [empty, type, body, signature] = await dealer.receive();
        assert.equal(empty.length, 0);
        assert.equal(text(type), "echo.response");
        const { req, orig_target, orig_hostname, orig_time } = JSON.parse(text(body));
        assert.deepEqual(
          { req, orig_target, orig_hostname, orig_time },
          { req: "echo.response", orig_target: "by dealer", orig_hostname: "t", orig_time: 1 },
        );
        assert.equal(signature.length, 0);

        const req1 = await peer.open("Request", server.endpoint);
        for (let i = 0; i < 3; i++) {
          await req1.send(request(`by req ${i}`).slice(1));
          assert.equal(JSON.parse(text((await req1.receive())[1])).orig_target, `by req ${i}`);
        }

        const routed = await peer.open("Dealer", server.endpoint, { routingId: "named-client" });
        await routed.send(["Q000042", ...request("routed")]);
        const reply = await routed.receive();
        assert.equal(text(reply[0]), "Q000042");
        assert.equal(text(reply[2]), "echo.response");
        for (const socket of [dealer, req1, routed]) await socket.close();
        const stopped = await server.stop();
        assert.equal(stopped.code, 0, `${JSON.stringify(stopped)}\n${server.output}`);
      });

      test("forwards to a ROUTER upstream, and its replies come back, byte for byte, for all vectors", async () => {
        const upstream = await peer.open("Router", "tcp://127.0.0.1:*");
        await using server = await ServerProcess.start(withEngine(proxyTo(upstream.endpoint)), target);
        const client = await peer.open("Dealer", server.endpoint);
        for (const { name, frames } of VECTORS) {
          await client.send(frames);
          const [hop, identity, ...rest] = await upstream.receive();
          assert.deepEqual(bytes(rest), bytes(frames), `${name} on its way`);
          assert.equal(identity.length, 5, "the client's identity is as libzmq makes them");
          await upstream.send([hop, identity, "extra", ...frames]);
          assert.deepEqual(
            bytes(await client.receive()),
            bytes([Buffer.from("extra"), ...frames]),
            `${name} on its way back`,
          );
        }
        await client.close();
        await upstream.close();
      });

      test("forwards to a DEALER upstream", async () => {
        const upstream = await peer.open("Dealer", "tcp://127.0.0.1:*");
        await using server = await ServerProcess.start(withEngine(proxyTo(upstream.endpoint)), target);
        const client = await peer.open("Dealer", server.endpoint);
        await client.send(["", "a.b", "{}", ""]);
        const received = await upstream.receive();
        assert.deepEqual(received.slice(1).map(text), ["", "a.b", "{}", ""]);
        await upstream.send(received);
        assert.deepEqual((await client.receive()).map(text), ["", "a.b", "{}", ""]);
        await client.close();
        await upstream.close();
      });

      test("all vectors pass a chain of two servers, byte for byte, and replies come back along their route", async () => {
        const upstream = await peer.open("Router", "tcp://127.0.0.1:*");
        await using second = await ServerProcess.start(withEngine(proxyTo(upstream.endpoint)), target);
        await using first = await ServerProcess.start(withEngine(proxyTo(second.endpoint)), target);
        const client = await peer.open("Dealer", first.endpoint);
        for (const { name, frames } of VECTORS) {
          await client.send(frames);
          const received = await upstream.receive();
          assert.deepEqual(bytes(received.slice(3)), bytes(frames), `${name} on its way`);
          await upstream.send(received);
          assert.deepEqual(bytes(await client.receive()), bytes(frames), `${name} on its way back`);
        }
        await client.close();
        await upstream.close();
      });

      test("large blobs pass whole", async () => {
        const upstream = await peer.open("Router", "tcp://127.0.0.1:*");
        await using server = await ServerProcess.start(withEngine(proxyTo(upstream.endpoint)), target);
        const client = await peer.open("Dealer", server.endpoint);
        for (const size of [255, 256, 16_000, 70_000, 1 << 20, 9_000_001]) {
          const blob = Buffer.alloc(size, `${size}.`);
          await client.send(["", "pub.infofile", "{}", "", blob]);
          const received = await upstream.receive(30_000);
          assert.ok(blob.equals(received[received.length - 1]), `${size} bytes`);
          await upstream.send(received.slice(0));
          assert.ok(blob.equals((await client.receive(30_000))[4]), `${size} bytes back`);
        }
        await client.close();
        await upstream.close();
      });

      test("an ipc endpoint serves libzmq too", async () => {
        using folder = tempFolder();
        await using server = await ServerProcess.start(
          withEngine(ECHO).replace("tcp://127.0.0.1:*", `ipc://${folder.path}/cc.sock`),
          target,
        );
        const client = await peer.open("Dealer", server.endpoint);
        await client.send(request("over a file"));
        assert.equal(JSON.parse(text((await client.receive())[2])).orig_target, "over a file");
        await client.close();
        const stopped = await server.stop();
        assert.equal(stopped.code, 0, `${JSON.stringify(stopped)}\n${server.output}`);
        assert.deepEqual(readdirSync(folder.path), [], "no socket file is left behind");
      });
    });
  }
}

test("a libzmq peer of a type that does not fit is refused with one line, others are served", async () => {
  await using server = await ServerProcess.start(ECHO);
  await using peer = new Libzmq();
  const push = await peer.open("Push", server.endpoint);
  await server.until(
    /closed tcp:\/\/127\.0\.0\.1:\d+: a PUSH socket cannot talk to a ROUTER \(socket-type\)/,
  );
  const client = await peer.open("Dealer", server.endpoint);
  await client.send(request("still there"));
  assert.equal(text((await client.receive())[1]), "echo.response");
  await push.close();
  await client.close();
});
