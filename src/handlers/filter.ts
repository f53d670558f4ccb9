/** Passes on the messages whose types are included and not excluded. */
import { handlerName, list, option, required, text } from "../config/options.ts";
import { globs } from "../toolkit/globs.ts";
import { defineHandler, EVERYWHERE } from "./define.ts";

export const filter = defineHandler({
  name: "filter",
  summary: "Passes on what `include` names and `exclude` does not (`filter.count`, `.ok`, `.dropped`).",
  roles: EVERYWHERE,
  options: {
    "forward-to": required(handlerName, "the handler that gets what passes", "h:next"),
    include: option(
      list(text),
      "*",
      "message types that pass; * and ? stand for any text and any character",
      "log.*, pub.infofile",
    ),
    exclude: option(list(text), "", "message types that do not, even when included", "log.debug"),
  },
  create({ options, meter }) {
    const passes = globs(options.include, options.exclude);
    const all = meter.counter("filter.count");
    const ok = [all, meter.counter("filter.count.ok")];
    const dropped = [all, meter.counter("filter.count.dropped")];
    return {
      plan: (type) =>
        passes(type) ? { pass: options["forward-to"], count: ok } : { drop: "excluded", count: dropped },
    };
  },
});
