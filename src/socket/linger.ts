/** Waiting on egress queues: until they are empty, or while they do not move. */
import type { Clock } from "../contracts/environment.ts";
import type { Connection } from "./connection.ts";
import type { Egress } from "./egress.ts";

/** A queue's progress is looked at this often within the time allowed. */
const STALL_LOOKS = 5;

/** Calls `stalled` once nothing has moved for about `ms`; the returned function ends the watch. */
export function watchStall(clock: Clock, egress: Egress, ms: number, stalled: () => void): () => void {
  let last = egress.progress;
  let still = 0;
  let cancel = clock.after(ms / STALL_LOOKS, look);
  function look() {
    const now = egress.progress;
    still = now === last ? still + 1 : 0;
    last = now;
    if (still >= STALL_LOOKS) stalled();
    else cancel = clock.after(ms / STALL_LOOKS, look);
  }
  return () => cancel();
}

/** Waits up to `ms` until nothing is queued. */
export function waitEmpty(clock: Clock, queues: readonly Egress[], ms: number): Promise<void> {
  return within(clock, ms, queues.filter((egress) => !egress.empty), (egress, resolve) => {
    egress.onempty = resolve;
    egress.flush();
  });
}

/** Sends FIN to each, once nothing is queued for it, and waits until it has closed its side too: by then it has read all. */
export function finish(clock: Clock, connections: readonly Connection[], ms: number): Promise<void> {
  return within(clock, ms, connections.filter(({ over }) => !over), (connection, resolve) => {
    const { egress } = connection;
    const end = () => {
      egress.onempty = null;
      connection.finish(resolve);
    };
    if (egress.empty) return end();
    egress.onempty = end;
    egress.flush();
  });
}

/** Begins something with each and waits for all, at most `ms`; without time, nothing is begun. */
async function within<T>(
  clock: Clock,
  ms: number,
  all: readonly T[],
  begin: (one: T, resolve: () => void) => void,
): Promise<void> {
  if (all.length === 0 || ms <= 0) return;
  let cancel = () => {};
  const timeout = new Promise<void>((resolve) => cancel = clock.after(ms, resolve));
  await Promise.race([Promise.all(all.map((one) => new Promise<void>((r) => begin(one, r)))), timeout]);
  cancel();
}
