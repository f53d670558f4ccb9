/** What a server tells of the jobs that it keeps: the answer to the verbs `jobs` and `job` of its control channel. */

/** Where a job stands. */
export type JobState = "starting" | "running" | "backoff" | "stopping" | "stopped" | "failed";

/** A job, as an operator sees it. */
export interface JobView {
  /** `d:one` */
  readonly name: string;
  readonly state: JobState;
  /** Null: there is no process. */
  readonly pid: number | null;
  /** When this state began, milliseconds since 1970. */
  readonly since: number;
  /** Starts that followed an end. */
  readonly restarts: number;
  /** Processor time of its processes; null: unknown. */
  readonly cpuSeconds: number | null;
  /** Resident memory of its processes; null: unknown. */
  readonly memoryBytes: number | null;
  /** How it ended last: `exit code 1`, `SIGKILL`; null: it has not. */
  readonly lastExit: string | null;
  /** In words: `again in 4.2 s`, or what it says of itself. */
  readonly detail: string | null;
}

/** What is done with a job. */
export type JobAction = "start" | "stop" | "restart";

/** What a handler answers to `jobs`, and to `job` with the jobs named. */
export interface JobsAnswer {
  readonly jobs: readonly JobView[];
}
