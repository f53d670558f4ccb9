/**
 * Forwards to another CC server: messages go out with their client's identity in front, else unchanged, and replies come
 * back along it. While the other server is slow, the clients that send to it are held back; while it is down, messages
 * wait up to the high water mark, and the newest after that are dropped and counted.
 */
import { boolean, endpoint, integer, number, option, required } from "../config/options.ts";
import { linkValues, SOCKET_OPTIONS } from "../config/socket_options.ts";
import type { Upstream, UpstreamOptions } from "../contracts/handler.ts";
import { defineHandler, EVERYWHERE } from "./define.ts";

const PING_MS = 1000;

export const proxy = defineHandler({
  name: "proxy",
  summary: "Forwards messages to another CC server, unchanged; replies come back to the client that asked.",
  roles: EVERYWHERE,
  options: {
    "remote-cc": required(
      endpoint("connect"),
      "the CC server that messages go to",
      "tcp://collector.example.net:22632",
    ),
    verify: option(
      boolean,
      "no",
      "only messages that cms-verify-ca lets pass go on, bytes as they came; for encrypted ones cms-decrypt is needed too",
      "yes",
    ),
    ping: option(boolean, "no", "send an echo.request every second and warn when no answer comes", "yes"),
    zmq_hwm: option(
      integer(1, 1_000_000),
      "100",
      "high water mark: messages that may wait for the remote server",
      "1000",
    ),
    ...SOCKET_OPTIONS,
    "stall-timeout": option(
      number(0.1, 86_400),
      "30",
      "a connected remote server that takes nothing for so long, its queue full, counts as down",
      "10",
      "s",
    ),
  },
  check: ({ verify }, _sections, { cms }, name) =>
    verify && cms["cms-verify-ca"] === undefined
      ? [{
        section: name,
        option: "verify",
        message: `verify = yes in [${name}] needs "cms-verify-ca": it says who may have signed`,
      }]
      : [],
  create({ options, connect, log, replan }) {
    const endpoint = options["remote-cc"];
    let { verify } = options;
    let remote: Upstream | null = null;
    const upstreamOptions = (values: typeof options): UpstreamOptions => ({
      ...linkValues(values),
      highWaterMark: values.zmq_hwm,
      lingerMs: values.zmq_linger,
      stallMs: values["stall-timeout"] * 1000,
      pingMs: values.ping ? PING_MS : 0,
      onChange(up, why) {
        if (up) log.info("connect", `${endpoint} is up`);
        else log.warn("connect", `${endpoint} is down: ${why}`);
      },
    });
    return {
      start() {
        remote = connect(endpoint, upstreamOptions(options));
      },
      reconfigure(next) {
        if (next["remote-cc"] !== endpoint) return false;
        remote!.reconfigure(upstreamOptions(next));
        if (next.verify !== verify) {
          verify = next.verify;
          replan();
        }
        return true;
      },
      plan: () => verify ? { verify: remote! } : { forward: remote! },
      unready: () => remote === null || remote.up ? null : `upstream ${remote.endpoint} is down`,
    };
  },
});
