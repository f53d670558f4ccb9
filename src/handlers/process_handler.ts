/**
 * Gives messages to a process of its own, or to a daemon of jobmgr's: a program in any language, which listens on a ZeroMQ
 * socket and answers along the way that a message came.
 *
 * ```
 *   client ──▶ server ── CC_SOCKET (ipc) ──▶ process: DEALER or ROUTER, bound
 *   client ◀── server ◀──────────────────── the same route frames, another message behind them
 * ```
 */
import * as v from "valibot";
import { endpoint, integer, number, option, optional } from "../config/options.ts";
import { linkValues, SOCKET_OPTIONS } from "../config/socket_options.ts";
import type { Finding, Upstream, UpstreamOptions } from "../contracts/handler.ts";
import type { Options, Values } from "../contracts/schema.ts";
import {
  checkJobs,
  type JobConfig,
  jobConfigOf,
  ownSection,
  programFacts,
  socketOf,
} from "../jobs/config.ts";
import { type Digest, loadDigest } from "../jobs/digest.ts";
import { JOB_OPTIONS } from "../jobs/options.ts";
import { steer } from "../jobs/steering.ts";
import { Supervisor } from "../jobs/supervisor.ts";
import { parseEndpoint } from "../endpoint.ts";
import { errorText } from "../errors.ts";
import { defineHandler, EVERYWHERE } from "./define.ts";

const { module: _module, script: _script, after: _after, ...OWN_JOB } = JOB_OPTIONS;

const OPTIONS = {
  daemon: optional<string>(
    v.pipe(v.string(), v.regex(/^d:\S+$/, "expected a daemon such as d:name")),
    "the daemon of jobmgr's that messages go to, instead of a process of this handler's own",
    "d:greeter",
  ),
  endpoint: optional(
    endpoint("connect"),
    "where the process listens; without it, where CC_SOCKET says",
    "ipc:///run/cc/greeter.sock",
  ),
  zmq_hwm: option(
    integer(1, 1_000_000),
    "100",
    "high water mark: messages that may wait for the process",
    "1000",
  ),
  ...SOCKET_OPTIONS,
  "stall-timeout": option(
    number(0.1, 86_400),
    "30",
    "a process that takes nothing for so long, its queue full, counts as down",
    "10",
    "s",
  ),
  ...OWN_JOB,
} satisfies Options;

type ProcessValues = Values<typeof OPTIONS>;

/** It is on this host: looking for it costs little. */
const RECONNECT_MAX_MS = 250;
/** A process that starts has so long until it is said to be missing. */
const AWAITED_MS = 5000;
/** What is queued is looked at so often while the handler stops. */
const DRAIN_LOOK_MS = 10;

export const processHandler = defineHandler({
  name: "process",
  summary: "Gives messages to a process, started here or by jobmgr, which answers along their way.",
  roles: EVERYWHERE,
  options: OPTIONS,
  check(options, _sections, server, name) {
    const findings: Finding[] = [];
    const find = (option: string | null, message: string) =>
      void findings.push({ section: name, option, message });
    if (options.daemon === null && options.command === null) {
      find(null, `[${name}] needs the option "command", or "daemon"`);
    } else if (options.daemon !== null && options.command !== null) {
      find("daemon", `[${name}] has command and daemon: one of them is expected`);
    } else if (options.daemon === null) {
      const section = ownSection(name, options, server);
      findings.push(
        ...checkJobs(
          { daemons: [name], pidfiledir: null },
          new Map([[name, section]]),
          server,
          name,
          () => null,
        ),
      );
    }
    const socket = options.endpoint ?? socketOf(options.daemon ?? name, server);
    if (socket === null) {
      find(
        null,
        `[${name}] needs the option "endpoint", or a pidfile in [ccserver], beside which the socket is`,
      );
    } else {
      try {
        parseEndpoint(socket, "connect");
      } catch (error) {
        find("endpoint", `[${name}] needs the option "endpoint": ${errorText(error)}`);
      }
    }
    return findings;
  },
  create({ name, options, server, environment, log, meter, connect, publish, send }) {
    const endpointOf = (values: ProcessValues) => values.endpoint ?? socketOf(values.daemon ?? name, server)!;
    const own = options.daemon === null;
    const { clock } = environment;
    let lingerMs = options.zmq_linger;
    let digest: Digest;
    let remote: Upstream | null = null;
    const supervisor = new Supervisor({
      environment,
      log,
      meter,
      publish,
      send,
      digest: (text) => digest(text),
      isRouted: () => false,
      isOurs: (section) => section === name,
    });
    const configOf = (values: ProcessValues): JobConfig => {
      const config = jobConfigOf(
        ownSection(name, values, server),
        { daemons: [name], pidfiledir: null },
        server,
        programFacts(environment, digest),
      );
      return { ...config, facts: { ...config.facts, CC_SOCKET: endpointOf(values) } };
    };
    const upstreamOptions = (values: ProcessValues): UpstreamOptions => ({
      ...linkValues(values),
      highWaterMark: values.zmq_hwm,
      lingerMs: values.zmq_linger,
      stallMs: values["stall-timeout"] * 1000,
      reconnectMaxMs: RECONNECT_MAX_MS,
      awaitedMs: AWAITED_MS,
      onChange(up, why) {
        if (up) log.info("connect", `the process listens on ${endpointOf(options)}`);
        else log.warn("connect", `the process is down: ${why}`);
      },
    });
    return {
      async start() {
        if (own) digest = await loadDigest();
        remote = connect(endpointOf(options), upstreamOptions(options));
      },
      listening() {
        if (own) supervisor.start([configOf(options)]);
      },
      reconfigure(next) {
        if (endpointOf(next) !== endpointOf(options) || next.daemon !== options.daemon) return false;
        remote!.reconfigure(upstreamOptions(next));
        lingerMs = next.zmq_linger;
        if (own) supervisor.reconfigure([configOf(next)]);
        return true;
      },
      plan: () => ({ forward: remote! }),
      unready() {
        const why = own ? supervisor.unready() : null;
        return why ?? (remote === null || remote.up ? null : `the process of ${name} is down`);
      },
      control: (verb, request) => own ? steer(supervisor, verb, request, (job) => job === name) : undefined,
      stopMs: () => own ? supervisor.stopMs + lingerMs : 0,
      async stop() {
        if (!own) return;
        // What waits for the process is still its.
        const until = clock.now() + lingerMs;
        while (remote?.up === true && remote.queued > 0 && clock.now() < until) {
          await new Promise<void>((resolve) => void clock.after(DRAIN_LOOK_MS, resolve));
        }
        await supervisor.stop();
        // Not every program removes what it has made.
        const socket = socketOf(name, server);
        if (options.endpoint !== null || socket === null) return;
        await environment.files.remove(socket.slice("ipc://".length)).catch(() => {/* it stays */});
      },
    };
  },
});
