/**
 * Memory that comes from a pool or an arena: every test of files that take `test` from here ends with nothing taken. (The
 * hooks of `node:test` do not run on every runtime.)
 */
import assert from "node:assert/strict";
import { test as plainTest } from "node:test";
import runtime from "#runtime";
import { POOL } from "../../src/memory/pool.ts";
import { until } from "./env.ts";
import { ARENA } from "./vectors.ts";

type Test = (t: { skip?: (why: string) => void }) => void | Promise<void>;

/** The same as that of `node:test`, and what the test took of memory must have been given back in the end. */
export function test(
  name: string,
  ...rest: [Test] | [{ skip?: string | false; timeout?: number }, Test]
): void {
  const f = rest[rest.length - 1] as Test;
  const options = rest.length === 2 ? rest[0] as { skip?: string | false } : {};
  plainTest(name, options, async (t) => {
    const before = taken();
    await f(t as unknown as Parameters<Test>[0]);
    await untilGivenBack(before);
  });
}

/** What somebody holds. */
interface Taken {
  readonly pool: number;
  readonly arena: number;
  readonly testArena: number;
}

function taken(): Taken {
  return { pool: POOL.used, arena: runtime.arena?.taken ?? 0, testArena: ARENA.taken };
}

/** A link that was closed may still have its last event to come. */
async function untilGivenBack(before: Taken): Promise<void> {
  const back = () => {
    const now = taken();
    return now.pool === before.pool && now.arena === before.arena && now.testArena === before.testArena;
  };
  await until("memory to be given back", back, 3000).catch(() => {
    assert.deepEqual(taken(), before, "blocks of the pool and the arenas that are taken");
  });
}
