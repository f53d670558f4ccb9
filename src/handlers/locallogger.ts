/** Writes `log.*` messages as lines of the server's own log. */
import { timeOfDay } from "../log.ts";
import { LogMessage } from "../message/schemas.ts";
import { defineHandler, EVERYWHERE } from "./define.ts";

export const locallogger = defineHandler({
  name: "locallogger",
  summary: "Writes each `log.*` message as one line of the server's own log.",
  roles: EVERYWHERE,
  options: {},
  create: ({ log }) => ({
    plan: (type) =>
      type === "log" || type.startsWith("log.")
        ? { open: LogMessage }
        : { drop: `non-log msg: ${type}`, warn: true },
    handle(_message, { job_name, hostname, log_time, log_level, log_msg }) {
      log.info(
        "handle",
        `[${job_name ?? ""}@${hostname}] ${timeOfDay(log_time * 1000)} ${log_level} ${log_msg}`,
      );
      return "ok";
    },
  }),
});
