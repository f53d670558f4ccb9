/**
 * Peers that stop reading, on real TCP: a frozen client and a frozen upstream. Others go on, memory stays bounded, and
 * what is dropped is counted and logged.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import net from "node:net";
import { test } from "node:test";
import { LONG, skipFor, SLOW_TARGETS, until } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";

/** A ROUTER of our own making that forwards nothing: what comes is counted, or not read at all. */
async function upstream(onConnection: (socket: net.Socket, n: number) => void) {
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.write(Buffer.concat([GREETING, ready("ROUTER")]));
    onConnection(socket, sockets.length);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    endpoint: `tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    sockets,
    [Symbol.dispose]() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

const config = (remote: string, more = "") =>
  `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
stats-period = 0.5
${more}
[routes]
echo = h:echo
pub = h:up
[h:echo]
handler = echo
[h:up]
handler = proxy
remote-cc = ${remote}
stall-timeout = 3
`;

const MIB = 1024 * 1024;
const request = (n: number) => message("", "echo.request", `{"req":"echo.request","target":"${n}"}`, "");

/** Round trips that work while others are stuck. */
async function echoes(peer: RawPeer, count: number): Promise<void> {
  for (let n = 0; n < count; n++) {
    peer.write(request(n));
    const [, , body] = await peer.receive(5000);
    assert.equal(JSON.parse(body.toString()).orig_target, String(n));
  }
}

for (const target of SLOW_TARGETS) {
  test(`${target.name}: a frozen upstream holds only the clients that send to it, then counts as down`, async () => {
    using far = await upstream((socket) => socket.once("data", () => socket.pause()));
    await using server = await ServerProcess.start(config(far.endpoint), target);
    await server.until(/is up/);
    const before = server.residentBytes;
    using flooder = await RawPeer.open(server.port);
    using witness = await RawPeer.open(server.port);
    const flood = message("", "pub.infofile", "x".repeat(1000), "");
    const chunk = Buffer.concat(Array.from({ length: 1000 }, () => flood));
    let sent = 0;
    // Until TCP pushes back: the server reads from it no more.
    while (flooder.socket.write(chunk) || await drained(flooder.socket, 700)) {
      sent += 1000;
      assert.ok(sent < 200_000, "it is held back at some time");
    }
    await echoes(witness, 50);
    const grown = server.residentBytes - before;
    assert.ok(grown < 64 * MIB, `memory grew by ${(grown / MIB).toFixed(1)} MiB`);
    assert.doesNotMatch(server.output, /dropped/, "while it is connected nothing is lost");
    // It takes nothing for stall-timeout: down. The flooder is released, and what does not fit is dropped and counted.
    await server.until(/is down: it took nothing for 3 s while its queue was full/);
    await server.until(
      /dropped \d+ messages? for tcp:.*the upstream is down and its queue is full \(upstream-down, \d+ in all, \d+ of them for it\)/,
    );
    await echoes(witness, 50);
    assert.equal((await server.stop()).code, 0);
  });

  test(`${target.name}: many clients wait for a frozen upstream in little memory, and then lose nothing`, async () => {
    const [clients, each, bodyBytes] = [150, 1500, 700];
    const numbered = (n: number) => message("", "pub.x", String(n).padEnd(bodyBytes, "x"), "");
    const stride = 7 + numbered(0).length;
    const next = new Map<string, number>();
    let received = 0;
    let rest: Buffer = Buffer.alloc(0);
    let skip = -1;
    using far = await upstream((socket) => {
      socket.on("data", (data) => {
        rest = rest.length === 0 ? data as Buffer : Buffer.concat([rest, data as Buffer]);
        if (skip < 0) {
          if (rest.length < 66 || rest.length < 66 + rest[65]) return;
          skip = 66 + rest[65];
          rest = rest.subarray(skip);
          socket.pause(); // frozen, until the test says otherwise
        }
        let at = 0;
        for (; at + stride <= rest.length; at += stride) {
          const from = rest.toString("latin1", at + 2, at + 7);
          const body = at + stride - 2 - bodyBytes;
          assert.equal(
            parseInt(rest.toString("latin1", body, body + 8), 10),
            next.get(from) ?? 0,
            "in order",
          );
          next.set(from, (next.get(from) ?? 0) + 1);
          received++;
        }
        rest = rest.subarray(at);
      });
    });
    await using server = await ServerProcess.start(
      config(far.endpoint).replace("stall-timeout = 3", "stall-timeout = 60"),
      target,
    );
    await server.until(/is up/);
    const before = server.residentBytes;
    const peers = await Promise.all(Array.from({ length: clients }, () => RawPeer.open(server.port)));
    const stream = Buffer.concat(Array.from({ length: each }, (_, n) => numbered(n)));
    for (const peer of peers) peer.socket.write(stream);
    // What is not with the server is in kernel buffers, or waits here: all are held once nothing moves any more.
    let left = -1;
    await until(
      "all to be held",
      () => {
        const now = peers.reduce((sum, { socket }) => sum + socket.writableLength, 0);
        const still = now === left;
        left = now;
        return still;
      },
      30_000,
      500,
    );
    const grown = server.residentBytes - before;
    assert.ok(grown < 128 * MIB, `memory grew by ${(grown / MIB).toFixed(1)} MiB`);
    far.sockets[0].resume();
    await until("all messages", () => received >= clients * each, 60_000);
    assert.deepEqual([...next.values()], Array(clients).fill(each));
    assert.doesNotMatch(server.output, /dropped \d/);
    for (const peer of peers) peer.close();
    assert.equal((await server.stop()).code, 0);
  });

  test(
    `${target.name}: a frozen client never holds up the others; its drops are counted, at last it is disconnected`,
    {
      skip: skipFor(LONG),
    },
    async () => {
      // The upstream answers each message with a hundred large replies for the client that sent it.
      const reply = "y".repeat(10_000);
      using far = await upstream((socket) => {
        let rest: Buffer = Buffer.alloc(0);
        let greeted = false;
        socket.on("data", (data) => {
          rest = Buffer.concat([rest, data as Buffer]);
          if (!greeted) {
            if (rest.length < 66 || rest.length < 66 + rest[65]) return;
            rest = rest.subarray(66 + rest[65]);
            greeted = true;
          }
          // Each request: identity (7 bytes), then the message; only the identity matters.
          const one = 7 + message("", "pub.x", "{}", "").length;
          while (rest.length >= one) {
            const identity = rest.subarray(2, 7);
            for (let i = 0; i < 100; i++) socket.write(message(identity, "", "pub.reply", reply, ""));
            rest = rest.subarray(one);
          }
        });
      });
      await using server = await ServerProcess.start(config(far.endpoint), target);
      await server.until(/is up/);
      const before = server.residentBytes;
      const frozen = await RawPeer.open(server.port);
      frozen.socket.pause();
      using witness = await RawPeer.open(server.port);
      using reader = await RawPeer.open(server.port);
      for (let n = 0; n < 60; n++) {
        frozen.write(message("", "pub.x", "{}", ""));
        if (n % 10 === 0) await echoes(witness, 5);
      }
      await server.until(
        /dropped \d+ messages? for tcp:.*: it does not read and its queue is full \(client-full, \d+ in all, \d+ of them for it\)/,
      );
      // Another client of the same upstream gets its replies.
      reader.write(message("", "pub.x", "{}", ""));
      for (let n = 0; n < 100; n++) assert.equal((await reader.receive())[1].toString(), "pub.reply");
      await echoes(witness, 50);
      const grown = server.residentBytes - before;
      assert.ok(grown < 64 * MIB, `memory grew by ${(grown / MIB).toFixed(1)} MiB`);
      await server.until(
        /closed tcp:.*: it took nothing for 15 s while its queue was full \(stalled, 1 in all\)/,
        30_000,
      );
      await echoes(witness, 5);
      frozen.close();
      assert.equal((await server.stop()).code, 0);
    },
  );

  test(`${target.name}: a client that asks but does not read the answers is held back by TCP, and loses none`, async () => {
    await using server = await ServerProcess.start(config("tcp://127.0.0.1:1"), target);
    using slow = await RawPeer.open(server.port);
    using witness = await RawPeer.open(server.port);
    slow.socket.pause();
    const before = server.residentBytes;
    let sent = 0;
    const next = () => Buffer.concat(Array.from({ length: 1000 }, () => request(sent++)));
    while (slow.socket.write(next()) || await drained(slow.socket, 700)) {
      assert.ok(sent < 500_000, "it is held back at some time");
    }
    await echoes(witness, 50);
    const grown = server.residentBytes - before;
    assert.ok(grown < 64 * MIB, `memory grew by ${(grown / MIB).toFixed(1)} MiB`);
    slow.socket.resume();
    for (let n = 0; n < sent; n++) {
      const [, , body] = slow.take() ?? await slow.receive(10_000);
      if (n % 997 === 0) assert.equal(JSON.parse(body.toString()).orig_target, String(n));
    }
    assert.doesNotMatch(server.output, /dropped \d/);
  });
}

/** Was the socket's buffer drained within `ms`? */
async function drained(socket: net.Socket, ms: number): Promise<boolean> {
  let done = false;
  socket.once("drain", () => done = true);
  return await until("drain", () => done, ms).catch(() => false);
}
