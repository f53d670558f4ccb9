/** Waiting, at most so long. */
import type { Clock } from "../contracts/environment.ts";

/**
 * Waits until a promise has settled, at most `ms`, or until `aborted`; true when it has resolved by then.
 *
 * @throws What it rejects with.
 */
export async function within(
  clock: Clock,
  ms: number,
  promise: Promise<unknown>,
  aborted?: AbortSignal,
): Promise<boolean> {
  let end = () => {};
  const over = new Promise<boolean>((resolve) => end = () => resolve(false));
  const cancel = clock.after(ms, end);
  if (aborted?.aborted) end();
  else aborted?.addEventListener("abort", end);
  try {
    return await Promise.race([promise.then(() => true), over]);
  } finally {
    cancel();
    aborted?.removeEventListener("abort", end);
    // Whoever does not wait any more is not told, and must not be troubled.
    promise.catch(() => {});
  }
}
