/** Peers of ZMTP 1.0 and 2.0, as clients and as upstreams: the server as a process, old libzmq byte by byte, and JeroMQ. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Collector, Flood, numbers } from "./helpers/collector.ts";
import { ROOT, skipFor, SLOW_TARGETS, until } from "./helpers/env.ts";
import { OldPeer, oldRouter } from "./helpers/old_peer.ts";
import { ServerProcess } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";

const JEROMQ = "/usr/share/java/jeromq.jar";
const jero = skipFor(
  !existsSync(JEROMQ)
    ? "JeroMQ is missing (Debian package libjeromq-java)"
    : spawnSync("javac", ["-version"]).status !== 0
    ? "there is no Java (Debian package openjdk-17-jdk-headless)"
    : false,
);

const config = (more: string, options = "") => `
[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
${options}
${more}`;
const ECHO = "[routes]\necho = h:echo\n[h:echo]\nhandler = echo\n";
const proxyTo = (port: number) =>
  `[routes]\n* = h:up\n[h:up]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:${port}\n`;
const echo = (target: string) => ["", "echo.request", JSON.stringify({ req: "echo.request", target }), ""];

const SIZES = [1, 100, 253, 254, 255, 256, 1000, 70_000, 1_500_000];

for (const target of SLOW_TARGETS) {
  for (const version of ["1.0", "2.0"] as const) {
    const on = `${target.name}, ZMTP ${version}`;

    test(`${on}: a client is answered, and known by its identity, whatever the size and the chunks`, async () => {
      await using server = await ServerProcess.start(config(ECHO), target, ["-v", "-v"]);
      for (const identity of ["", "host1", "x".repeat(250)]) {
        using peer = await OldPeer.open(server.port, version, identity);
        const text = "y".repeat(300);
        // Its first messages come with the handshake, or in single bytes.
        const bytes = peer.encode(...echo(text));
        for (const byte of bytes) peer.write(Uint8Array.of(byte));
        for (let i = 0; i < 500; i++) peer.send(...echo(`n${i}`));
        const targets: string[] = [];
        while (targets.length < 501) {
          const [delimiter, type, body, signature] = await peer.receive();
          assert.deepEqual([delimiter.length, String(type), signature.length], [0, "echo.response", 0]);
          targets.push(JSON.parse(String(body)).orig_target);
        }
        assert.deepEqual(targets, [text, ...Array.from({ length: 500 }, (_, i) => `n${i}`)]);
        assert.equal(peer.identity, "");
        assert.equal(peer.take(), null);
      }
      assert.match(server.output, new RegExp(`connected as "host1", ZMTP ${version.replace(".", "\\.")}`));
      assert.doesNotMatch(server.output, /WARNING|ERROR/);
    });

    test(`${on}: what a client sends goes on as others', and the answer comes back to it`, async () => {
      await using far = await ServerProcess.start(config(ECHO), target);
      await using near = await ServerProcess.start(config(proxyTo(far.port)), target);
      await near.until(/is up/);
      using old = await OldPeer.open(near.port, version, "old");
      using other = await RawPeer.open(near.port, "DEALER", "new");
      // Larger ones are not read.
      for (const size of SIZES.filter((size) => size <= 1000)) {
        old.send(...echo("o".repeat(size)));
        other.write(message(...echo("n".repeat(size))));
        const answers = [await old.receive(), await other.receive()];
        const found = answers.map(([, , body]) => JSON.parse(String(body)).orig_target as string);
        assert.deepEqual(found.map((text) => [text[0], text.length]), [["o", size], ["n", size]]);
      }
    });

    test(`${on}: an upstream gets all of it, in order, and nothing that it does not know; a reply goes back`, async () => {
      const taken: Buffer[][] = [];
      using far = await oldRouter(version, (peer) => {
        const look = setInterval(() => {
          for (let frames = peer.take(); frames !== null; frames = peer.take()) {
            taken.push(frames);
            const delimiter = frames.findIndex(({ length }) => length === 0);
            peer.send(...frames.slice(0, delimiter), "", "some.reply", frames[delimiter + 2], "");
          }
          if (peer.closed) clearInterval(look);
        }, 5);
      });
      await using near = await ServerProcess.start(config(proxyTo(far.port)), target);
      await near.until(/is up/);
      using client = await RawPeer.open(near.port, "DEALER", "web1");
      const bodies = [...SIZES, ...Array.from({ length: 500 }, (_, i) => i % 300)].map((size, i) =>
        JSON.stringify({ req: "pub.x", i, text: "z".repeat(size) })
      );
      for (const body of bodies) client.write(message("", "pub.x", body, ""));
      for (const body of bodies) {
        const [delimiter, type, back] = await client.receive();
        assert.deepEqual([delimiter.length, String(type)], [0, "some.reply"]);
        assert.equal(String(back), body);
      }
      assert.deepEqual(taken.map(([, , , body]) => String(body)), bodies);
      assert.ok(taken.every(([identity]) => String(identity) === "web1"));
    });

    test(`${on}: an upstream that breaks off in the middle of messages gets them in order, none twice`, async () => {
      const numbers: number[] = [];
      const count = 400;
      const text = "w".repeat(100_000);
      using far = await oldRouter(version, (peer, n) => {
        const look = setInterval(() => {
          for (let frames = peer.take(); frames !== null; frames = peer.take()) {
            numbers.push(JSON.parse(String(frames[3])).n);
          }
          const breaks = n < 3 && numbers.length > 5 * n;
          if (breaks) peer.socket.resetAndDestroy();
          if (breaks || peer.closed) clearInterval(look);
        }, 5);
      });
      await using near = await ServerProcess.start(config(proxyTo(far.port)), target);
      await near.until(/is up/);
      using client = await RawPeer.open(near.port);
      const send = (n: number) =>
        client.write(message("", "pub.x", JSON.stringify({ req: "pub.x", n, text }), ""));
      for (let n = 0; n < count - 1; n++) send(n);
      // The last one is sent when no link will break any more.
      await until("the fourth link", () => far.peers.length === 4, 20_000);
      send(count - 1);
      await until("the last", () => numbers.at(-1) === count - 1, 30_000);
      assert.deepEqual(numbers, [...new Set(numbers)].sort((a, b) => a - b), "in order, and once");
    });

    test(`${on}: what a client sent in front of bytes that are none of ZMTP is taken`, async () => {
      using far = new Collector();
      const port = Number(/:(\d+)$/.exec(await far.listen())![1]);
      await using near = await ServerProcess.start(config(proxyTo(port)), target);
      await near.until(/is up/);
      for (const count of [1, 500, 5000]) {
        const name = `of${count}`;
        using client = await OldPeer.open(near.port, version, name);
        const bodies = Array.from({ length: count }, (_, i) => `{"req":"pub.x","i":${i}}`);
        const messages = bodies.map((body) => client.encode("", "pub.x", body, ""));
        // Reserved bits, in both.
        client.write(Buffer.concat([...messages, Buffer.from([0x82, 0x82, 0, 0])]));
        await near.until(/reserved flag bits in 0x82/);
        await until("all of them", () => far.bodies.get(name)?.length === count);
        assert.deepEqual(far.bodies.get(name), bodies);
        await until("its end", () => client.closed);
      }
    });

    test(`${on}: a stopping server handles all that clients had sent before they saw that it ends`, async () => {
      using far = new Collector();
      const port = Number(/:(\d+)$/.exec(await far.listen())![1]);
      await using near = await ServerProcess.start(
        config(`${proxyTo(port)}zmq_linger = 10000\n`, "zmq_linger = 10000"),
        target,
      );
      await near.until(/is up/);
      const peers = await Promise.all([1, 2, 3, 4].map((n) => OldPeer.open(near.port, version, `c${n}`)));
      const floods = peers.map((peer) => new Flood(peer, "pub.n"));
      await until("messages", () => far.count > 2000);
      const { code } = await near.stop();
      await Promise.all(floods.map(({ done }) => done));
      assert.equal(code, 0);
      const sent = floods.reduce((sum, { sent }) => sum + sent, 0);
      await until(() => `all of them, ${far.count} of ${sent}`, () => far.count === sent);
      for (const bodies of far.bodies.values()) {
        assert.deepEqual(numbers(bodies), Array.from({ length: bodies.length }, (_, n) => n));
      }
      assert.doesNotMatch(near.output, /dropped/);
    });

    test(`${on}: what was read from a client that ignores the end, and was not handled, is counted`, async () => {
      using far = new Collector();
      const port = Number(/:(\d+)$/.exec(await far.listen())![1]);
      await using near = await ServerProcess.start(
        config(proxyTo(port), "zmq_linger = 1000\ncc-stats = 2"),
        target,
      );
      await near.until(/is up/);
      using peer = await OldPeer.open(near.port, version, "deaf", true);
      const flood = new Flood(peer, "pub.n", false);
      await until("messages", () => far.count > 2000);
      const { code } = await near.stop();
      await flood.done;
      assert.equal(code, 0);
      const last = (name: string) =>
        Number(
          [...near.output.matchAll(new RegExp(`[{ ]${name.replaceAll(".", "\\.")}: (\\d+)`, "g"))].at(-1)
            ?.[1] ?? 0,
        );
      const found = numbers(far.bodies.get("deaf"));
      assert.deepEqual(
        found,
        Array.from({ length: found.length }, (_, n) => n),
        "a beginning, whole and in order",
      );
      assert.equal(found.length + last("drops.linger"), last("count.ok"));
    });

    test(`${on}: a client that begins a frame and sends nothing more is closed`, async () => {
      await using server = await ServerProcess.start(config(ECHO, "message-timeout = 1"), target);
      using peer = await OldPeer.open(server.port, version);
      using idle = await OldPeer.open(server.port, version);
      peer.write(Buffer.from(version === "1.0" ? [0xff, 0, 0] : [3, 0, 0]));
      await server.until(/it began a message and sent nothing more of it for 1 s \(message-timeout/);
      await until("its end", () => peer.closed);
      idle.send(...echo("x"));
      assert.equal((await idle.receive()).length, 4);
    });

    test(`${on}: zmtp-min-version refuses it, and says so once`, async () => {
      const options = "zmtp-min-version = 3.0";
      await using server = await ServerProcess.start(config(ECHO, options), target);
      for (let i = 0; i < 3; i++) {
        await assert.rejects(async () => {
          using peer = await OldPeer.open(server.port, version);
          peer.send(...echo("x"));
          await peer.receive();
        }, /the connection has ended/);
      }
      const [line] = await server.until(/WARNING .*closed .*\n/);
      assert.match(
        line,
        new RegExp(`peer speaks ZMTP ${version}, zmtp-min-version = 3.0 wants a later one \\(old-version\\)`),
      );
      assert.equal(server.output.match(/WARNING/g)!.length, 1);
      using peer = await RawPeer.open(server.port);
      peer.write(message(...echo("y")));
      assert.equal((await peer.receive()).length, 4);
    });
  }

  test(`${target.name}: to translate what comes and what goes takes little memory`, async () => {
    let bytes = 0;
    using far = await oldRouter("1.0", ({ socket }) => {
      socket.removeAllListeners("data");
      socket.on("data", (chunk) => bytes += chunk.length);
    });
    await using near = await ServerProcess.start(config(proxyTo(far.port)), target);
    await near.until(/is up/);
    using client = await OldPeer.open(near.port, "1.0");
    const before = near.residentBytes;
    const [size, count, some] = [2000, 300_000, 500];
    const one = client.encode("", "pub.x", '{"req":"pub.x"}', "", Buffer.alloc(size));
    const many = Buffer.concat(Array.from({ length: some }, () => one));
    let most = 0;
    for (let sent = 0; sent < count; sent += some) {
      if (!client.socket.write(many)) await new Promise((resolve) => client.socket.once("drain", resolve));
      most = Math.max(most, near.residentBytes);
    }
    await until("all of it", () => bytes >= count * size, 30_000);
    const grown = (most - before) / 2 ** 20;
    console.log(`${target.name}: ${count} messages of ${size} bytes, ${grown.toFixed(0)} MiB more`);
    assert.ok(grown < 80, `${grown} MiB`);
  });

  test(`${target.name}: a peer of ZMTP 2.0 that sends a command is closed, with the reason`, async () => {
    await using server = await ServerProcess.start(config(ECHO), target);
    using peer = await OldPeer.open(server.port, "2.0");
    peer.write(Buffer.from("\x04\x07\x04PING\0\0", "latin1"));
    await server.until(/PING from a peer of ZMTP 2\.0, which has no commands \(bad-command\)/);
    await until("its end", () => peer.closed);
  });

  test(`${target.name}: JeroMQ is served, as a client and as an upstream`, { skip: jero }, async () => {
    await using server = await ServerProcess.start(config(ECHO), target, ["-v", "-v"]);
    const asked = await jeroPeer("dealer", server.endpoint, "jero", "20");
    const lines = asked.split("\n").map(framesOf);
    assert.deepEqual(lines.map(([, type, body]) => [type, JSON.parse(body).orig_target]), [
      ...Array.from({ length: 20 }, (_, i) => ["echo.response", String(i)]),
    ]);
    assert.match(server.output, /connected as "jero", ZMTP 2\.0/);
    const child = spawn("java", ["-cp", JEROMQ, join("test", "peers", "JeroPeer.java"), "router"], {
      cwd: ROOT,
    });
    try {
      const output = collected(child);
      const [, port] = await until("its port", () => /^port (\d+)$/m.exec(output()), 30_000);
      await using near = await ServerProcess.start(config(proxyTo(Number(port)), ""), target, ["-v", "-v"]);
      await near.until(/is up, ZMTP 2\.0/);
      using client = await RawPeer.open(near.port, "DEALER", "web1");
      for (const size of SIZES) {
        const body = JSON.stringify({ req: "pub.x", text: "j".repeat(size) });
        client.write(message("", "pub.x", body, ""));
        assert.deepEqual((await client.receive()).map(String), [
          "",
          "jero.reply",
          '{"req": "jero.reply"}',
          "",
        ]);
      }
      const seen = output().trim().split("\n").slice(1).map(framesOf);
      assert.deepEqual(seen.map((frames) => JSON.parse(frames.at(-2)!).text.length), SIZES);
      // A flood, behind which an echo comes back.
      await using relay = await ServerProcess.start(config(proxyTo(server.port)), target);
      await relay.until(/is up/);
      const flood = framesOf((await jeroPeer("flood", relay.endpoint, "", "5000")).trim());
      assert.equal(JSON.parse(flood[2]).orig_target, "5000");
    } finally {
      child.kill("SIGKILL");
    }
  });
}

function collected(child: ChildProcess): () => string {
  let output = "";
  for (const stream of [child.stdout!, child.stderr!]) stream.on("data", (chunk) => output += chunk);
  return () => output;
}

/** What a JeroMQ peer prints. */
async function jeroPeer(...args: string[]): Promise<string> {
  const child = spawn("java", ["-cp", JEROMQ, join("test", "peers", "JeroPeer.java"), ...args], {
    cwd: ROOT,
  });
  const output = collected(child);
  const code = await new Promise((resolve) => child.on("close", resolve));
  assert.equal(code, 0, output());
  return output().trim();
}

/** The frames of a line as texts. */
function framesOf(line: string): string[] {
  return line.split(" ").map((hex) => hex === "-" ? "" : Buffer.from(hex, "hex").toString());
}
