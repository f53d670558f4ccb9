/** Who may have an identity that another has: the rules, on a clock of the test's own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Claims, type Takeover, type Verdict } from "../src/socket/claims.ts";
import { TestClock } from "./helpers/clock.ts";

function world(takeover: Takeover = "probe") {
  const clock = new TestClock();
  const holder = { over: false, mute: false, signs: 7, answers: 0, asked: 0, ask: () => void holder.asked++ };
  const claims = new Claims<typeof holder, { over: boolean }>(clock, takeover);
  const verdicts: Verdict[] = [];
  const claim = (claimant = { over: false }, of = holder) =>
    claims.claim("web1", of, claimant, (verdict) => verdicts.push(verdict));
  return { clock, holder, claims, verdicts, claim };
}

test("claims: a holder that answers keeps its name, and nobody is asked again for 5 s", () => {
  const { clock, holder, verdicts, claim } = world();
  assert.equal(claim(), null);
  assert.equal(holder.asked, 1);
  clock.pass(100);
  assert.deepEqual(verdicts, []);
  holder.signs++;
  holder.answers++;
  clock.pass(20);
  assert.deepEqual(verdicts, ["lives"]);
  clock.pass(4900);
  assert.equal(claim(), "lives");
  clock.pass(200);
  assert.equal(claim(), null);
  assert.equal(holder.asked, 2);
});

test("claims: what was found of a holder says nothing of the next one", () => {
  const { clock, holder, verdicts, claim } = world();
  assert.equal(claim(), null);
  holder.answers++;
  clock.pass(20);
  assert.deepEqual(verdicts, ["lives"]);
  // It goes, another comes, and is cut off.
  const next = { ...holder };
  assert.equal(claim({ over: false }, next), null);
  clock.pass(2100);
  assert.deepEqual(verdicts, ["lives", "handed-over"]);
});

test("claims: of one that sends on and does not answer it is unclear whether it lives: it may have sent that before", () => {
  for (const ends of [false, true]) {
    const { clock, holder, verdicts, claim } = world();
    assert.equal(claim(), null);
    holder.signs++;
    clock.pass(1900);
    assert.deepEqual(verdicts, []);
    holder.over = ends;
    clock.pass(120);
    assert.deepEqual(verdicts, [ends ? "handed-over" : "unclear"]);
    clock.pass(4000);
    assert.equal(claim(), ends ? "handed-over" : "unclear");
    clock.pass(1000);
    assert.equal(claim(), ends ? "handed-over" : null);
  }
});

test("claims: a holder that says nothing for 2 s, or ends, loses its name", () => {
  for (const ends of [false, true]) {
    const { clock, holder, verdicts, claim } = world();
    assert.equal(claim(), null);
    clock.pass(1900);
    assert.deepEqual(verdicts, []);
    holder.over = ends;
    clock.pass(ends ? 20 : 120);
    assert.deepEqual(verdicts, ["handed-over"]);
  }
});

test("claims: one that we hold back, or that cannot be asked, keeps its name; one that is over does not", () => {
  const { clock, holder, verdicts, claim } = world();
  holder.mute = true;
  assert.equal(claim(), "unclear");
  holder.mute = false;
  assert.equal(claim(), null);
  // It is held back while it is asked.
  holder.mute = true;
  clock.pass(20);
  assert.deepEqual(verdicts, ["unclear"]);
  // That is not remembered.
  holder.mute = false;
  assert.equal(claim(), null);
  holder.over = true;
  assert.equal(claim(), "handed-over");
});

test("claims: one claimant at a time waits; when it leaves, the next one does", () => {
  const { clock, holder, verdicts, claim } = world();
  const first = { over: false };
  assert.equal(claim(first), null);
  assert.equal(claim(), "unclear", "another waits already");
  clock.pass(1000);
  first.over = true;
  assert.equal(claim(), null);
  clock.pass(1500);
  assert.deepEqual(verdicts, [], "asked anew");
  clock.pass(600);
  assert.deepEqual(verdicts, ["handed-over"]);
  assert.equal(holder.asked, 2);
});

test("claims: never and always ask nobody; once closed, nobody is told", () => {
  for (const [takeover, verdict] of [["never", "unclear"], ["always", "handed-over"]] as const) {
    const { holder, claim } = world(takeover);
    assert.equal(claim(), verdict);
    assert.equal(holder.asked, 0);
  }
  const { clock, claims, verdicts, claim } = world();
  claim();
  claims.close();
  clock.pass(5000);
  assert.deepEqual(verdicts, []);
});
