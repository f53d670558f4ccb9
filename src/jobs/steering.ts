/** The verbs of the control channel that are about jobs: `jobs` lists them, `job` starts, stops and restarts some. */
import type { JobsAnswer } from "../contracts/jobs.ts";
import { CCError } from "../errors.ts";
import type { Supervisor } from "./supervisor.ts";

/**
 * Answers an operator.
 *
 * @param mayBeMine Names of jobs that are not another handler's.
 * @returns Undefined: the verb, or all that is named, is not for these jobs.
 * @throws {CCError} What was asked for cannot be done.
 */
export async function steer(
  supervisor: Supervisor,
  verb: string,
  { action, names }: Readonly<Record<string, unknown>>,
  mayBeMine: (name: string) => boolean,
): Promise<JobsAnswer | undefined> {
  if (verb === "jobs") return { jobs: await supervisor.view() };
  if (verb !== "job") return undefined;
  if (
    typeof action !== "string" || !Array.isArray(names) || !names.every((name) => typeof name === "string")
  ) {
    throw new CCError("bad-request", "job needs an action and names");
  }
  const mine = names.filter(mayBeMine);
  return mine.length === 0 ? undefined : { jobs: await supervisor.act(action, mine) };
}
