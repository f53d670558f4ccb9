/** Answers `echo.request`, and pings other servers. */
import { endpoint, list, option } from "../config/options.ts";
import { EchoRequest } from "../message/schemas.ts";
import { defineHandler, EVERYWHERE } from "./define.ts";

const PING_MS = 1000;

export const echo = defineHandler({
  name: "echo",
  summary: "Answers `echo.request` with `echo.response`, along the route of the request.",
  roles: EVERYWHERE,
  options: {
    "ping-remotes": option(
      list(endpoint("connect")),
      "",
      "servers to ping every second",
      "tcp://collector.example.net:22632",
    ),
  },
  create: ({ options, connect }) => ({
    start() {
      // One ping waits at most: what was asked an hour ago is no answer.
      for (const remote of options["ping-remotes"]) connect(remote, { highWaterMark: 1, pingMs: PING_MS });
    },
    plan: (type) =>
      type === "echo.request" ? { open: EchoRequest } : { drop: `not an echo.request: ${type}`, warn: true },
    handle(message, { hostname, target, time }) {
      message.reply({
        type: "echo.response",
        fields: { orig_hostname: hostname, orig_target: target ?? "", orig_time: time ?? null },
      });
      return "ok";
    },
  }),
});
