/** The bodies of the message types that the server itself reads (valibot). Fields of others pass unread. */
import * as v from "valibot";
import type { Schema } from "../contracts/schema.ts";

/** What every body has. Old senders leave some out; that `req` repeats the type is checked before. */
const common = {
  req: v.string(),
  time: v.optional(v.number()),
  hostname: v.optional(v.string(), ""),
  blob_hash: v.optional(v.nullable(v.string()), ""),
};

/** A body whose fields are as they came. */
export type AnyBody = Record<string, unknown>;
/** Takes any body. */
export const AnyBody: Schema<AnyBody> = v.record(v.string(), v.unknown());

/** `log.<level>`: one line of a daemon's log. */
export const LogMessage = v.object({
  ...common,
  log_level: v.string(),
  service_type: v.optional(v.nullable(v.string())),
  job_name: v.optional(v.nullable(v.string()), ""),
  log_msg: v.string(),
  log_time: v.number(),
  log_pid: v.optional(v.nullable(v.number())),
  log_line: v.optional(v.nullable(v.number())),
  log_function: v.optional(v.nullable(v.string())),
});
export type LogMessage = v.InferOutput<typeof LogMessage>;

/** `echo.request`: asks for an `echo.response`. */
export const EchoRequest = v.object({
  ...common,
  target: v.optional(v.nullable(v.string()), ""),
});
export type EchoRequest = v.InferOutput<typeof EchoRequest>;

/** `echo.response`: carries back who asked, whom, and when. */
export const EchoResponse = v.object({
  ...common,
  orig_hostname: v.optional(v.nullable(v.string()), ""),
  orig_target: v.optional(v.nullable(v.string()), ""),
  orig_time: v.optional(v.nullable(v.number())),
});
export type EchoResponse = v.InferOutput<typeof EchoResponse>;
