/** `job.config`: a daemon asks for the options of its section, and is told when they change. */
import type { Draft, ReturnPath } from "../contracts/message.ts";
import type { JobConfig } from "./config.ts";
import type { Job } from "./job.ts";

export const JOB_CONFIG = "job.config";

/** What one who asks has said; of any shape. */
export interface JobConfigRequest {
  readonly job_name?: unknown;
  readonly token?: unknown;
}

/** The answer to one who asks, and what is sent unasked when options change. */
export function provided({ name, provided }: JobConfig): Draft {
  return { type: JOB_CONFIG, fields: { job_name: name, config: provided }, unsealed: true };
}

/**
 * The answer to a request.
 *
 * @param from Where the job is reached from now on, if it is the job that asks.
 * @param isOpen Those who have no token are answered too.
 */
export function answerTo(
  { job_name: name, token }: JobConfigRequest,
  from: ReturnPath,
  jobs: {
    find(name: string): Job | undefined;
    /** Somebody was refused. */
    refused(name: string): void;
  },
  isOpen: boolean,
): Draft {
  if (typeof name !== "string") return refusal({ msg: "Missing job_name" });
  const job = jobs.find(name);
  if (token === undefined && isOpen) {
    return job === undefined ? refusal({ job_name: name, msg: "Unknown job_name" }) : provided(job.config);
  }
  // Who may not ask does not learn which jobs there are.
  if (job === undefined || typeof token !== "string" || !job.isKnownBy(token)) {
    jobs.refused(name);
    return refusal({ job_name: name, msg: "Token is missing or wrong" });
  }
  job.reachedBy(from);
  return provided(job.config);
}

function refusal(fields: Readonly<Record<string, string>>): Draft {
  return { type: `error.${JOB_CONFIG}`, fields, unsealed: true };
}
