/** Copies of signed messages: none is handled twice, whatever happens to clocks, bounds and servers. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Outcome, Seal, Upstream } from "../mod.ts";
import type { Files } from "../src/contracts/environment.ts";
import { REPLAYS_A_SIGNER } from "../src/limits.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { loadReplays, Replays, saveReplays } from "../src/seal/replays.ts";
import { IDENTITY } from "../src/seal/identity.ts";
import { tempFolder, until } from "./helpers/env.ts";
import { h, noting, opening, own, serve } from "./helpers/server.ts";

const WINDOW_MS = 10_000;
const SIGNER = "a".repeat(64);

/** A clock that a test moves; `jump` moves only what a person may set. */
function world(startMs = 1_000_000_000) {
  let now = 0;
  let wall = startMs;
  const told: string[] = [];
  const parts = {
    clock: {
      ...MACHINE.clock,
      now: () => now,
      time: () => wall,
    },
    log: { warnRarely: (_where: string, _subject: string, text: unknown) => void told.push(String(text)) },
  };
  return {
    parts,
    told,
    time: () => wall,
    pass(ms: number) {
      now += ms;
      wall += ms;
    },
    jump(ms: number) {
      wall += ms;
    },
  };
}

const idOf = (n: number) => n.toString(16).padStart(32, "0");

/** What becomes of a message that is within the window. */
function outcome(replays: Replays, n: number, sentMs: number, handled = true): string {
  try {
    const claim = replays.claim(SIGNER, idOf(n), sentMs);
    if (claim.state === "new") claim.settle(handled);
    return claim.state;
  } catch (error) {
    return (error as { code: string }).code;
  }
}

test("replays: what was handled is seen; what failed may come again; another signer's is another's", () => {
  const { parts, time } = world();
  const replays = new Replays(parts, WINDOW_MS);
  assert.equal(outcome(replays, 1, time(), false), "new");
  assert.equal(outcome(replays, 1, time()), "new");
  assert.equal(outcome(replays, 1, time()), "seen");
  assert.equal(replays.claim("b".repeat(64), idOf(1), time()).state, "new");
  assert.equal(replays.size, 1);
});

test("replays: a copy that comes while the first is handled waits for what becomes of it", async () => {
  const { parts, time } = world();
  const replays = new Replays(parts, WINDOW_MS);
  for (const handled of [false, true]) {
    const first = replays.claim(SIGNER, idOf(1), time());
    const copy = replays.claim(SIGNER, idOf(1), time());
    assert.deepEqual([first.state, copy.state], ["new", "pending"]);
    let over = false;
    const waits = copy.over!.then(() => over = true);
    await Promise.resolve();
    assert.equal(over, false);
    first.settle(handled);
    await waits;
    assert.equal(outcome(replays, 1, time(), false), handled ? "seen" : "new");
  }
});

test("replays: within the window nothing is forgotten, and what is forgotten does not come again, also by a clock set back", () => {
  const w = world();
  const replays = new Replays(w.parts, WINDOW_MS);
  const sent = w.time();
  // From a host whose clock is ahead: it may come again for two windows.
  assert.equal(outcome(replays, 1, sent + WINDOW_MS), "new");
  w.pass(2 * WINDOW_MS - 1);
  assert.equal(outcome(replays, 1, sent + WINDOW_MS), "seen");
  w.pass(2);
  assert.equal(outcome(replays, 2, w.time()), "new");
  assert.equal(replays.size, 1, "the first is forgotten");
  w.jump(-2 * WINDOW_MS);
  assert.equal(outcome(replays, 1, sent + WINDOW_MS), "out-of-time");
  // A clock that was ahead for a day shuts nobody out when it is right again.
  w.jump(86_400_000);
  assert.equal(outcome(replays, 3, w.time()), "new");
  w.pass(2 * WINDOW_MS + 1);
  assert.equal(outcome(replays, 4, w.time()), "new");
  w.jump(-86_400_000);
  assert.equal(outcome(replays, 5, w.time()), "new");
  assert.equal(outcome(replays, 3, w.time() + 86_400_000 - 2 * WINDOW_MS - 1), "out-of-time");
});

test("replays: past the bound the oldest go, their time is shut out, and it is said how short the window has become", () => {
  const w = world();
  const replays = new Replays(w.parts, 1000 * WINDOW_MS);
  const begin = w.time();
  for (let n = 0; n < REPLAYS_A_SIGNER + 10; n++) {
    assert.equal(outcome(replays, n, w.time()), "new");
    w.pass(1);
  }
  assert.equal(replays.size, REPLAYS_A_SIGNER);
  assert.equal(outcome(replays, 0, begin), "out-of-time");
  assert.equal(outcome(replays, 11, begin + 11), "seen");
  assert.match(w.told[0], /its cms-time-window is 6\d s for now/);
});

test("replays: a server that stops leaves what it has seen to the next; after a kill all that may have been seen is shut out", async () => {
  using folder = tempFolder();
  const file = join(folder.path, "test.seen");
  const { files } = MACHINE;
  const w = world();
  const start = (more: Partial<Files> = {}) => loadReplays(w.parts, WINDOW_MS, file, { ...files, ...more });
  // The first of all: what waits at hosts is let in.
  const first = await start();
  assert.equal(outcome(first, 1, w.time() - 5000), "new");
  for (let n = 2; n < 100; n++) outcome(first, n, w.time());
  await saveReplays(first, file, files);
  w.pass(1000);
  const second = await start();
  assert.equal(second.size, 99);
  assert.equal(outcome(second, 1, w.time() - 6000), "seen");
  assert.equal(outcome(second, 100, w.time() - 6000), "new");
  // Killed.
  w.pass(1000);
  const third = await start();
  assert.equal(outcome(third, 100, w.time() - 7000), "out-of-time");
  assert.equal(outcome(third, 101, w.time() - 7000), "out-of-time");
  w.pass(1);
  assert.equal(outcome(third, 101, w.time()), "new");
  await saveReplays(third, file, files);
  const bytes = readFileSync(file);
  for (const wrong of ["", "something else", bytes.subarray(0, 5)]) {
    writeFileSync(file, wrong);
    assert.equal(outcome(await start(), 102, w.time() - 1), "out-of-time");
  }
  // Where nothing can be kept.
  const failing = await start({ replace: () => Promise.reject(new Error("no space left")) });
  assert.equal(outcome(failing, 103, w.time() - 1), "out-of-time");
  assert.equal(outcome(await loadReplays(w.parts, WINDOW_MS, null, files), 104, w.time() - 1), "out-of-time");
  assert.ok(existsSync(file));
});

/** Lets in what comes, once: messages have an id, and their time. */
function remembering(replays: Replays): Seal {
  return {
    ...IDENTITY,
    open(parts) {
      const { id, sent } = JSON.parse(new TextDecoder().decode(parts.body));
      const claim = () => replays.claim(SIGNER, idOf(id), sent);
      return { json: parts.body, blob: parts.blob, signer: null, claim };
    },
  };
}

test("replays: a handler that passes a message on takes the place of no copy", async () => {
  const { parts, time } = world();
  const replays = new Replays(parts, WINDOW_MS);
  const ends: ((outcome: Outcome) => void)[] = [];
  const handlers = [
    opening("passing", (message, _body, { pass }) => pass(message, "h:last")),
    opening("last", () => new Promise<Outcome>((resolve) => ends.push(resolve))),
  ];
  const sections = `[routes]\nx = h:passing\n${h("passing", "passing", "to = h:last")}${h("last", "last")}`;
  await using server = await serve(sections, handlers, undefined, remembering(replays));
  const send = () => server.client.publish({ type: "x", fields: { id: 1, sent: time() } });
  for (let i = 0; i < 2; i++) await send();
  await until("the first is handled", () => ends.length === 1);
  await new Promise((resolve) => setTimeout(resolve, 50));
  ends[0]("retry");
  await until("its copy is handled", () => ends.length === 2);
  ends[1]("ok");
  await until("it counts", () => replays.size === 1);
});

test("replays: a proxy that verifies remembers nothing, and lets in what was sent before the start", async () => {
  const { parts, time } = world();
  const replays = new Replays(parts, WINDOW_MS);
  replays.shutOutPast();
  await using far = await serve(
    `[routes]\nx = h:far\n${h("far", "far")}`,
    [noting("far", () => {})],
  );
  let seen = 0;
  const verifying = own("verifying", ({ connect }) => {
    let upstream: Upstream | null = null;
    return {
      start: () => void (upstream = connect(far.endpoint)),
      plan: () => ({ verify: upstream! }),
    };
  });
  const sections = `[routes]\nx = h:verifying, h:near\n${h("verifying", "verifying")}${h("near", "near")}`;
  await using server = await serve(
    sections,
    [verifying, noting("near", () => seen++)],
    undefined,
    remembering(replays),
  );
  for (let i = 0; i < 3; i++) {
    await server.client.publish({ type: "x", fields: { id: 1, sent: time() - 1000 } });
  }
  await until("all have come", () => seen === 3);
  await until("all have passed", () => far.server.statistics.byResult.ok.count === 3);
  assert.equal(server.server.statistics.byResult.refused.count, 0);
});

test("replays: a copy that waits when the server stops is counted, and given to no handler that has ended", async () => {
  const { parts, time } = world();
  const replays = new Replays(parts, WINDOW_MS);
  let got = 0;
  const handler = opening("never", () => {
    got++;
    return new Promise<Outcome>(() => {});
  });
  const sections = `zmq_linger = 50\n[routes]\nx = h:a\n${h("a", "never")}`;
  const s = await serve(sections, [handler], undefined, remembering(replays));
  for (let i = 0; i < 2; i++) await s.client.publish({ type: "x", fields: { id: 1, sent: time() } });
  await until("it is handled", () => got > 0);
  await s.server.stop();
  assert.equal(got, 1);
  assert.equal(s.server.statistics.byResult.dropped.count, 2);
  await s.client.close(0);
});
