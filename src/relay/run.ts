/** Runs: messages of one group that follow one another in a chunk, forwarded at once. */
import type { Group, RunQueue } from "./group.ts";
import type { RelayTable } from "./table.ts";

/**
 * From messages of this size on, a run for one upstream is written from where it lies. Below, and for several that can
 * share a copy, copying costs less than a list of so many pieces.
 */
const LIST_MIN_BYTES = 1024;

/**
 * Forwards messages of `buf[at, end)` to the queues of a group, each behind `identityFrame`: as many as are plain, of this
 * group, and fit before a queue could be full. They are counted in the table; those of the group without queues are only
 * counted.
 *
 * @param lastBytes Size of the message before: those that follow are often alike.
 * @returns Where the first message stands that was not forwarded; `at` when none was.
 */
export function forwardRun(
  table: RelayTable,
  group: Group,
  identityFrame: Uint8Array,
  buf: Uint8Array,
  at: number,
  end: number,
  lastBytes: number,
): number {
  if (buf !== table.buf) return at;
  const { queues } = group;
  if (queues.length === 0) return table.skip(at, end, group.number);
  const first = queues[0];
  if (table.lists && queues.length === 1 && lastBytes >= LIST_MIN_BYTES && first.writesNow) {
    return writeRun(table, group, identityFrame, at, end, first);
  }
  const space = first.reserveRun();
  let room = space.bytes;
  for (let i = 1; i < queues.length; i++) {
    const limit = queues[i].runLimit();
    if (limit < room) room = limit;
  }
  const { block, at: to } = space;
  if (room <= 0 || block === null || block.buf !== buf) return at;
  const next = table.run(identityFrame, at, end, to, to + room, group.number);
  const { taken } = table;
  if (taken === 0) return at;
  const bytes = next - at + taken * identityFrame.length;
  first.commitRun(taken, bytes);
  for (let i = 1; i < queues.length; i++) queues[i].shareRun(block, to, taken, bytes);
  return next;
}

/** The same without a copy: the run is written from where it lies. */
function writeRun(
  table: RelayTable,
  group: Group,
  identityFrame: Uint8Array,
  at: number,
  end: number,
  queue: RunQueue,
): number {
  // Identity frames are a few bytes each: they are not counted against the limit.
  const most = at + queue.runLimit();
  const next = table.list(identityFrame, at, end < most ? end : most, group.number);
  const { taken } = table;
  if (taken > 0) queue.writeRun(identityFrame, taken, next - at + taken * identityFrame.length);
  return next;
}
