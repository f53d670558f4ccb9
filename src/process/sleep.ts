/** Stands still, and all else of this program with it: for its end, or while another one has a lock for a moment. */
export function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
