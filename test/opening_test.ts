/** Messages that are opened beside the main thread: their order and bounds, and stops and reloads in the middle of it. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { AnyBody, type Outcome, type Seal } from "../mod.ts";
import type { Claim, SealedParts } from "../src/contracts/seal.ts";
import { ENC1, IDENTITY } from "../src/seal/identity.ts";
import type { HandlerUpstream } from "../src/server/upstream.ts";
import { OPENING_ALL_MAX, OPENING_CROWD_MAX } from "../src/limits.ts";
import { until } from "./helpers/env.ts";
import { message, RawPeer } from "./helpers/raw.ts";
import { h, opening, own, serve } from "./helpers/server.ts";

/** A seal that opens each message when the test says so; and all at once, when it is not asynchronous any more. */
function slowSeal() {
  const open: (() => void)[] = [];
  const seal: { -readonly [K in keyof Seal]: Seal[K] } = {
    ...IDENTITY,
    asynchronous: true,
    open(parts) {
      const opened = { json: parts.body, blob: parts.blob, signer: null };
      if (!this.asynchronous) return opened;
      return new Promise((resolve) => open.push(() => resolve(opened)));
    },
  };
  return { open, seal };
}

const tick = () => new Promise((resolve) => setTimeout(resolve, 20));

/** A handler that notes what it gets, and whether that is after its stop. */
function noting(got: string[], inStop: () => Promise<unknown>) {
  return own("noting", () => {
    let stopped = false;
    return {
      plan: () => ({ open: AnyBody }),
      handle(_message, body) {
        got.push(`${(body as { word: string }).word}${stopped ? " late" : ""}`);
        return "ok";
      },
      async stop() {
        stopped = true;
        await inStop();
      },
    };
  });
}

test("opening: a handler that is stopped gets nothing more, and what is not open by then is counted", async () => {
  const { open, seal } = slowSeal();
  const got: string[] = [];
  const handler = noting(got, async () => {
    open[1]();
    await tick();
  });
  const sections = `zmq_linger = 100\n[routes]\nx = h:a\n${h("a", "noting")}`;
  const s = await serve(sections, [handler], undefined, seal);
  for (const word of ["one", "two", "three"]) await s.client.publish({ type: "x", fields: { word } });
  await until("they have come", () => open.length === 3);
  open[0]();
  await s.server.stop();
  const counted = () => {
    const { ok, dropped } = s.server.statistics.byResult;
    return [ok.count, dropped.count];
  };
  assert.deepEqual([got, counted()], [["one"], [1, 2]]);
  open[2]();
  await tick();
  assert.deepEqual([got, counted()], [["one"], [1, 2]], "and nothing twice");
  await s.client.close(0);
});

test("opening: a handler that a reload has ended gets nothing more", async () => {
  const { open, seal } = slowSeal();
  const got: string[] = [];
  const handler = noting(got, () => Promise.resolve());
  const sections = (more: string) => `zmq_linger = 0\n[routes]\nx = h:a\n${h("a", "noting", more)}`;
  await using s = await serve(sections(""), [handler], undefined, seal);
  await s.client.publish({ type: "x", fields: { word: "one" } });
  await until("it has come", () => open.length === 1);
  await s.reload(sections("other = 1"));
  open[0]();
  await until("it is counted", () => s.server.statistics.byResult.dropped.count === 1);
  assert.deepEqual(got, []);
});

test("opening: no more are under way with a handler than it wants, and they keep their order", async () => {
  const { open, seal } = slowSeal();
  const got: unknown[] = [];
  const ends: ((outcome: Outcome) => void)[] = [];
  const handler = opening("single", (_message, { n }) => {
    got.push(n);
    return new Promise<Outcome>((resolve) => ends.push(resolve));
  }, { inFlight: 1 });
  await using s = await serve(`[routes]\nx = h:a\n${h("a", "single")}`, [handler], undefined, seal);
  for (let n = 0; n < 5; n++) await s.client.publish({ type: "x", fields: { n } });
  await until("they have come", () => open.length === 5);
  for (const one of open.reverse()) one();
  for (let n = 0; n < 5; n++) {
    await until("the next", () => got.length > n);
    await tick();
    assert.deepEqual(got, Array.from({ length: n + 1 }, (_, i) => i));
    ends[n]("ok");
  }
});

test("opening: what waits for others stays as it came, when a reload turns verification off", async () => {
  const { open, seal } = slowSeal();
  const got: unknown[] = [];
  const handler = opening("words", (_message, { word }) => {
    got.push(word);
    return "ok";
  });
  await using s = await serve(`[routes]\nx = h:a\n${h("a", "words")}`, [handler], undefined, seal);
  const words = Array.from({ length: 100 }, (_, n) => `word ${n}`);
  await s.client.publish({ type: "x", fields: { word: words[0] } });
  await until("it has come", () => open.length === 1);
  seal.asynchronous = false;
  for (const word of words.slice(1)) {
    await s.client.publish({ type: "x", fields: { word } });
  }
  await tick();
  open[0]();
  await until("all of them", () => got.length === words.length || s.lines.some((line) => /refus/.test(line)));
  assert.deepEqual(got, words);
});

test("opening: a pong that is encrypted is one, also when it is opened beside the main thread", async () => {
  const hiding: Seal = {
    ...IDENTITY,
    seal: (draft) => {
      const parts = IDENTITY.seal(draft) as SealedParts;
      return { ...parts, body: ENC1, signature: parts.body };
    },
  };
  let claims = 0;
  const finding: Seal = {
    ...IDENTITY,
    asynchronous: true,
    open({ signature: json, blob }) {
      const claim = (): Claim => ({ state: "new", over: null, settle: () => claims++ });
      return Promise.resolve({ json, blob, signer: null, claim });
    },
  };
  await using far = await serve(`[routes]\necho = h:echo\n${h("echo", "echo")}`, [], undefined, hiding);
  let upstream: HandlerUpstream | null = null;
  const pinging = own("pinging", ({ connect }) => ({
    start: () => void (upstream = connect(far.endpoint, { pingMs: 10 }) as HandlerUpstream),
    plan: () => ({ drop: "nothing comes" }),
  }));
  await using _near = await serve(
    `[routes]\nx = h:a\n${h("a", "pinging")}`,
    [pinging],
    undefined,
    finding,
  );
  await until("a pong", () => upstream?.roundTripSeconds);
  assert.equal(claims, 0, "a pong is nobody's to claim");
});

test("opening: of many clients each has only a few messages that wait, and all are handled in the end", async () => {
  const { open, seal } = slowSeal();
  let count = 0;
  const handler = opening("words", () => {
    count++;
    return "ok";
  });
  await using s = await serve(`[routes]\nx = h:a\n${h("a", "words")}`, [handler], undefined, seal);
  const clients = 120;
  const each = 300;
  const peers = await Promise.all(Array.from({ length: clients }, () => RawPeer.open(s.port)));
  const bytes = Buffer.concat(
    Array.from({ length: each }, (_, n) => message("", "x", JSON.stringify({ req: "x", n }), "")),
  );
  for (const peer of peers) peer.write(bytes);
  await until("many wait", () => open.length >= OPENING_ALL_MAX);
  let before = -1;
  // No more come.
  while (before !== open.length) {
    before = open.length;
    await tick();
    await tick();
  }
  assert.ok(before < OPENING_ALL_MAX + clients * OPENING_CROWD_MAX, `${before} of ${clients * each} wait`);
  let opened = 0;
  await until("all are handled", () => {
    while (opened < open.length) open[opened++]();
    return count === clients * each;
  }, 30_000);
  for (const peer of peers) peer.close();
});
