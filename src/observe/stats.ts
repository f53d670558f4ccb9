/** A server's counters by name, and the line they are logged as. */
import { LOG_TEXT_MAX_CHARS } from "../limits.ts";
import { type HandlerCounter, RESULTS, type Statistics, type Tally } from "../server/counts.ts";
import type { Work } from "./slices.ts";

/** Characters kept free at the end of a line, for how many counters it leaves out. */
const LINE_REST_CHARS = 40;

/**
 * Every counter that is not zero, by its name: `count`, `bytes`, `seconds`, `count.ok`, …, `replies`, `refused.CODE`,
 * `drops.REASON`, `unconfirmed`, the handlers' own, then those of the types. None at level 0.
 */
function* entries(statistics: Statistics): Generator<readonly [string, number], void, void> {
  if (statistics.level === 0) return;
  const { count, bytes, seconds } = statistics.total();
  yield ["count", count];
  yield ["bytes", bytes];
  yield ["seconds", seconds];
  for (const result of RESULTS) yield* tally(statistics.byResult[result], result);
  for (const [code, count] of statistics.refused) yield [`refused.${code}`, count];
  const { replies } = statistics;
  if (replies.count > 0) {
    yield ["replies", replies.count];
    yield ["replies.bytes", replies.bytes];
  }
  yield* statistics.losses();
  yield* handlerValues(statistics.counters);
  for (const { name, byResult } of statistics.types) {
    for (const result of RESULTS) {
      if (byResult[result].count > 0) yield* tally(byResult[result], `${result}.msg.${name}`);
    }
  }
}

function* tally({ count, bytes, seconds }: Tally, suffix: string): Iterable<readonly [string, number]> {
  if (count === 0) return;
  // Read before the first is told: the three belong together.
  yield [`count.${suffix}`, count];
  yield [`bytes.${suffix}`, bytes];
  yield [`seconds.${suffix}`, seconds];
}

/** All of them. */
export function* values(statistics: Statistics): Work<Map<string, number>> {
  const values = new Map<string, number>();
  for (const [name, value] of entries(statistics)) {
    values.set(name, value);
    yield;
  }
  return values;
}

/** A counter's name is the original's; where several handlers have one of that name, each has its own beside the sum. */
function handlerValues(counters: Iterable<HandlerCounter>): Map<string, number> {
  const byName = new Map<string, Map<string, number>>();
  for (const { handler, name, labels, value } of counters) {
    if (value === 0) continue;
    const labelled = [name, ...Object.values(labels)].join(".");
    const byHandler = byName.get(labelled) ?? new Map<string, number>();
    byHandler.set(handler, (byHandler.get(handler) ?? 0) + value);
    byName.set(labelled, byHandler);
  }
  const values = new Map<string, number>();
  for (const [name, byHandler] of byName) {
    values.set(name, [...byHandler.values()].reduce((sum, value) => sum + value, 0));
    if (byHandler.size > 1) {
      for (const [handler, value] of byHandler) values.set(`${name}.${handler}`, value);
    }
  }
  return values;
}

/**
 * `{count: 14, bytes: 883, seconds: 0.0124, count.ok: 6, …}`. What would make it longer than a log line may be is
 * left out, and says how much that is: `…, 2971 more}`.
 */
export function* statisticsLine(statistics: Statistics): Work<string> {
  let text = "";
  let left = 0;
  for (const [name, value] of entries(statistics)) {
    yield;
    if (left === 0) {
      const part = `${text === "" ? "" : ", "}${name}: ${formatCounter(name, value)}`;
      if (text.length + part.length <= LOG_TEXT_MAX_CHARS - LINE_REST_CHARS) {
        text += part;
        continue;
      }
    }
    left++;
  }
  return left > 0 ? `{${text}, ${left} more}` : `{${text}}`;
}

/** A counter's value as text: seconds with four digits behind the point, all else whole. */
export function formatCounter(name: string, value: number): string {
  const seconds = name.startsWith("seconds") && (name.length === 7 || name[7] === ".");
  return seconds || !Number.isInteger(value) ? value.toFixed(4) : String(value);
}
