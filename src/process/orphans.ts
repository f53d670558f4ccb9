/**
 * As process 1 of a container, a server is the parent of whatever loses its own, and has to collect it when it has ended.
 * One by one, and never a child that the runtime waits for itself: that one's exit code would be lost.
 */
import type { Cancel, Environment } from "../contracts/environment.ts";

/** A child of our own that has ended is collected long before the second of two looks. */
const LOOK_MS = 1000;

/** Collects orphans from now on, where this is process 1 and can. */
export function collectOrphans({ clock, host, processes }: Environment): Cancel {
  if (host.pid !== 1 || !processes.collectsOrphans) return () => {};
  let seen = new Map<number, number>();
  return clock.every(LOOK_MS, () => {
    const now = new Map<number, number>();
    for (const { pid, parent, state, started } of processes.list()) {
      if (state !== "Z" || parent !== host.pid) continue;
      if (seen.get(pid) === started) processes.collect(pid);
      else now.set(pid, started);
    }
    seen = now;
  });
}
