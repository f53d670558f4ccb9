/** Discards messages and counts them. */
import type { HandlerFactory } from "../handler.ts";

export const disposer: HandlerFactory<unknown> = ({ count }) => ({
  handle(message) {
    count("disposed_count");
    count("disposed_bytes", message.size);
  },
});
