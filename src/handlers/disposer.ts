/** Discards messages and counts them. */
import { defineHandler, EVERYWHERE } from "./define.ts";

export const disposer = defineHandler({
  name: "disposer",
  summary: "Discards messages and counts them (`disposed_count`, `disposed_bytes`).",
  roles: EVERYWHERE,
  options: {},
  create({ meter }) {
    const count = [meter.counter("disposed_count")];
    const bytes = [meter.counter("disposed_bytes")];
    return { plan: () => ({ drop: "disposed", count, bytes }) };
  },
});
