/** Gives back what a load left on V8's heap: its collector comes only when something is allocated, so not while nothing is. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** After so much traffic there is something to collect; while more than that comes in between, there is no rest. */
const LOAD_BYTES = 16 * 1024 * 1024;
const REST_BYTES = 1024 * 1024;

let traffic = 0;
let collectedAt = 0;
let lookedAt = 0;
let gc: (() => void) | null = null;

/** So many bytes came. */
export function countTraffic(bytes: number): void {
  traffic += bytes;
}

/** Collects, when there was a load and it is over; called every half minute. A collection of a small heap takes some milliseconds. */
export function collect(): void {
  const since = traffic - lookedAt;
  lookedAt = traffic;
  if (traffic - collectedAt < LOAD_BYTES || since > REST_BYTES) return;
  collectedAt = traffic;
  if (gc === null) {
    setFlagsFromString("--expose-gc");
    gc = runInNewContext("gc") as () => void;
  }
  gc();
}
