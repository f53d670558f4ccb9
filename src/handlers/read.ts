/** Reading bodies, for handlers that do: what cannot be read is dropped, counted and warned about. */
import type * as v from "valibot";
import type { HandlerContext } from "../handler.ts";
import { type CCMessage, MessageError } from "../message/message.ts";

/** The body as an object of this schema; null when it is not one, which is counted as `NAME.unreadable`. */
export function readOrCount<S extends v.GenericSchema<unknown, { req: string }>>(
  context: HandlerContext<unknown>,
  message: CCMessage,
  schema: S,
): v.InferOutput<S> | null {
  try {
    return message.read(schema);
  } catch (error) {
    if (!(error instanceof MessageError)) throw error;
    const from = message.source?.name ?? "a client";
    context.count(`${context.name.slice(2)}.${error.code}`);
    context.log.limited(
      "handle",
      `${error.code} ${from}`,
      `dropping "${message.type}" from ${from}: ${error.message}`,
    );
    return null;
  }
}
