/** The body of `log.<level>`, as the original's daemons write it. */
import type { Draft } from "../contracts/message.ts";
import type { Level } from "../log.ts";

/** One line of a log. */
export interface LogLine {
  readonly level: Level;
  /** The section that speaks: `d:name`. */
  readonly service: string;
  /** `SERVER.d:name` */
  readonly job: string;
  readonly text: string;
  /** Milliseconds since 1970. */
  readonly timeMs: number;
  readonly pid: number;
  /** Where in the program. */
  readonly where: string;
}

/** The message that carries a line of a log. */
export function logDraft({ level, service, job, text, timeMs, pid, where }: LogLine): Draft {
  return {
    type: `log.${level.toLowerCase()}`,
    fields: {
      log_level: level,
      service_type: service,
      job_name: job,
      log_msg: text,
      log_time: timeMs / 1000,
      log_pid: pid,
      log_line: 0,
      log_function: where,
    },
  };
}
