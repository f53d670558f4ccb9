/** Answers `echo.request`, and pings other servers. */
import type { EchoOptions } from "../config/schemas.ts";
import type { HandlerFactory } from "../handler.ts";
import { EchoRequest } from "../message/schemas.ts";
import type { DealerSocket } from "../socket/types.ts";
import { Pinger } from "./pinger.ts";
import { readOrCount } from "./read.ts";
import { ResponseSink } from "./response_sink.ts";

const NO_PREFIX = new Uint8Array(0);

export const echo: HandlerFactory<EchoOptions> = (context) => {
  const remotes: { dealer: DealerSocket; pinger: Pinger }[] = [];
  return {
    start() {
      for (const endpoint of context.options["ping-remotes"]) {
        const pinger = new Pinger(
          context,
          endpoint,
          (ping) => void dealer.send(NO_PREFIX, ping, 0, ping.length, true),
        );
        // One ping waits at most: what was asked an hour ago is no answer.
        const dealer = context.dealer(
          endpoint,
          { hwm: 1 },
          new ResponseSink((message) => pinger.pong(message)),
        );
        remotes.push({ dealer, pinger });
        pinger.start();
      }
    },
    handle(message) {
      if (message.type !== "echo.request") {
        context.log.limited("handle", `type ${message.type}`, `not an echo.request: ${message.type}`);
        return;
      }
      const request = readOrCount(context, message, EchoRequest);
      if (request === null) return;
      context.toClient(message.reply("echo.response", {
        orig_hostname: request.hostname,
        orig_target: request.target ?? "",
        orig_time: request.time ?? null,
      }, { hostname: context.hostname }));
    },
    async stop() {
      for (const { pinger } of remotes) pinger.stop();
      await Promise.all(remotes.map(({ dealer }) => dealer.close(0)));
    },
  };
};
