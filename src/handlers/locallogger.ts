/** Writes `log.*` messages as lines of the server's own log. */
import type { HandlerFactory } from "../handler.ts";
import { clock } from "../log.ts";
import { LogMessage } from "../message/schemas.ts";
import { readOrCount } from "./read.ts";

export const locallogger: HandlerFactory<unknown> = (context) => ({
  handle(message) {
    if (message.type !== "log" && !message.type.startsWith("log.")) {
      context.log.limited("handle", `non-log ${message.type}`, `non-log msg: ${message.type}`);
      return;
    }
    const line = readOrCount(context, message, LogMessage);
    if (line === null) return;
    const { job_name, hostname, log_time, log_level, log_msg } = line;
    context.log.info(
      "handle",
      `[${job_name ?? ""}@${hostname}] ${clock(log_time * 1000)} ${log_level} ${log_msg}`,
    );
  },
});
