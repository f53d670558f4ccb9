/**
 * A handler of one's own. `examples/count_words.ini` names this file; the server loads it as it is, the compiled binary
 * too. Try:
 *
 *     ccserver examples/count_words.ini
 *     ccserver send --reply tcp://127.0.0.1:10002 text.count "text=how many words are these"
 */
import type { HandlerModule } from "../mod.ts";

const handler: HandlerModule = {
  create({ options, hostname, log, toClient, count }) {
    const leastLength = Number(options["least-length"] ?? 1);
    if (!Number.isInteger(leastLength)) {
      throw new Error(`least-length = ${options["least-length"]}: expected a number`);
    }
    return {
      handle(message) {
        const body: { text?: unknown } = JSON.parse(new TextDecoder().decode(message.body));
        if (typeof body.text !== "string") {
          toClient(message.reply("error", { msg: 'field "text" is missing' }, { hostname }));
          return;
        }
        const words = body.text.split(/\s+/).filter((word) => word.length >= leastLength).length;
        count("words", words);
        log.debug("handle", `${words} words`);
        toClient(message.reply("text.counted", { words }, { hostname }));
      },
    };
  },
};
export default handler;
