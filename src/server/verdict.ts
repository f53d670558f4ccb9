/** What became of a message with one handler, or with all of them. */
import type { Outcome } from "../contracts/message.ts";
import { CCError } from "../errors.ts";
import type { Result } from "./counts.ts";

/** An outcome that a handler told, or that it failed to. From the best to the worst. */
export type Verdict = Outcome | "duplicate" | "refused" | "crashed";
const ORDER: readonly Verdict[] = ["duplicate", "ok", "dropped", "retry", "refused", "crashed"];

/** Of several handlers' verdicts, the worst is the message's. */
export function worse(a: Verdict, b: Verdict): Verdict {
  return a === b || ORDER.indexOf(a) > ORDER.indexOf(b) ? a : b;
}

/** How the statistics count it: what a handler drops on purpose was taken by it. */
export function resultOf(verdict: Verdict): Result {
  return verdict === "dropped" ? "ok" : verdict === "retry" ? "dropped" : verdict;
}

export function isOutcome(value: unknown): value is Outcome {
  return value === "ok" || value === "dropped" || value === "retry";
}

/** The handler that a message was passed to did not take it; that is logged and counted there, and not again. */
export class PassError extends CCError {
  override name = "PassError";
  readonly verdict: Verdict;
  constructor(verdict: "refused" | "crashed", handler: string) {
    super(verdict, `the message was ${verdict === "refused" ? "refused" : "lost"} by ${handler}`);
    this.verdict = verdict;
  }
}
