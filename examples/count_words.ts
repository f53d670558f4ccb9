/**
 * A handler of one's own. `examples/count_words.ini` names this file; the server loads it as it is, the compiled binary
 * too. Try:
 *
 *     ccserver examples/count_words.ini
 *     ccserver send --reply tcp://127.0.0.1:10002 text.count "text=how many words are these"
 *
 * The server opens each message before the handler gets it: its size, JSON, type and encryption are checked by then.
 */
import type { HandlerToolkit } from "../mod.ts";

export default ({ AnyBody, defineHandler, EVERYWHERE, integer, option }: HandlerToolkit) =>
  defineHandler({
    name: "count_words",
    summary: "Answers text.count with text.counted, the number of words.",
    roles: EVERYWHERE,
    options: {
      "least-length": option(integer(1), "1", "words with fewer letters are not counted", "4"),
    },
    create({ options, log, meter }) {
      const counted = meter.counter("words");
      return {
        plan: (type) =>
          type === "text.count" ? { open: AnyBody } : { drop: `not a text.count: ${type}`, warn: true },
        handle(message, { text }) {
          if (typeof text !== "string") {
            message.reply({ type: "error", fields: { msg: 'field "text" is missing' } });
            return "ok";
          }
          const words = text.split(/\s+/).filter((word) => word.length >= options["least-length"]).length;
          counted.add(words);
          log.debug("handle", `${words} words`);
          message.reply({ type: "text.counted", fields: { words } });
          return "ok";
        },
      };
    },
  });
