/** Connections come in a few at a time, however many wait. */
import assert from "node:assert/strict";
import net from "node:net";
import { test } from "node:test";
import { Turnstile } from "../src/runtime/turnstile.ts";
import { SLOW_TARGETS, until } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";

const LISTENER = 7;

/** Descriptors, and which file stands at each; the turns are the test's. */
function world(failing = false) {
  const files = new Map<number, string>([[LISTENER, "listener"]]);
  const turns: (() => void)[] = [];
  let last = LISTENER;
  const turnstile = new Turnstile(
    {
      socket: () => (files.set(++last, "nobody"), last),
      fcntl: (fd) => failing ? -1 : (files.set(++last, files.get(fd)!), last),
      dup3: (from, to) => (files.set(to, files.get(from)!), to),
      close: (fd) => (files.delete(fd), 0),
    },
    LISTENER,
    (f) => void turns.push(f),
  );
  return { files, turnstile, turn: () => turns.splice(0).forEach((f) => f()), turns };
}

test("turnstile: behind 64 in one turn nobody comes in, and in the next others do", () => {
  const { files, turnstile, turn, turns } = world();
  for (let i = 0; i < 63; i++) turnstile.passed();
  assert.equal(files.get(LISTENER), "listener");
  turnstile.passed();
  assert.equal(files.get(LISTENER), "nobody");
  assert.equal(turns.length, 1);
  turn();
  assert.equal(files.get(LISTENER), "listener");
  for (let i = 0; i < 64; i++) turnstile.passed();
  assert.equal(files.get(LISTENER), "nobody");
});

test("turnstile: when it is closed the listener stands at its descriptor, and nowhere else", () => {
  const { files, turnstile, turn } = world();
  for (let i = 0; i < 64; i++) turnstile.passed();
  turnstile.close();
  turn();
  assert.deepEqual([...files], [[LISTENER, "listener"]]);
  turnstile.close();
  turnstile.passed();
  assert.deepEqual([...files], [[LISTENER, "listener"]]);
});

test("turnstile: where a second descriptor cannot be had, all come in", () => {
  const { files, turnstile, turns } = world(true);
  for (let i = 0; i < 200; i++) turnstile.passed();
  turnstile.close();
  assert.deepEqual([...files], [[LISTENER, "listener"]]);
  assert.equal(turns.length, 0);
});

for (const target of SLOW_TARGETS) {
  test(`turnstile: ${target.name}: 600 clients that come at once are all served, again and again, and the port is free at the end`, async () => {
    const config = (port: string) =>
      `[ccserver]
cc-socket = tcp://127.0.0.1:${port}
cc-role = local
[routes]
echo = h:echo
[h:echo]
handler = echo
`;
    const server = await ServerProcess.start(config("*"), target);
    const { port } = server;
    for (let round = 0; round < 2; round++) {
      const clients = await Promise.all(Array.from({ length: 600 }, () => RawPeer.open(port)));
      for (const client of clients) {
        client.write(message("", "echo.request", '{"req":"echo.request","target":"x"}', ""));
      }
      const answers = await Promise.all(clients.map((client) => client.receive(30_000)));
      assert.ok(answers.every((frames) => frames[1].toString() === "echo.response"));
      for (const client of clients) client.close();
    }
    // A stop while clients come in.
    let knocking = true;
    const knocks = Array.from({ length: 200 }, async () => {
      while (knocking) {
        const socket = net.connect({ port, host: "127.0.0.1" });
        await new Promise<void>((resolve) => {
          socket.on("connect", () => socket.resetAndDestroy()).on("close", () => resolve()).on(
            "error",
            () => {},
          );
        });
      }
    });
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
    knocking = false;
    await Promise.all(knocks);
    await using again = await until("the port", () => ServerProcess.start(config(String(port)), target));
    assert.equal(again.port, port);
  });
}
