/** Writes docs/configuration.md from the option tables: `npx bun docs/generate.ts`. A test compares the two. */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { SERVER_OPTIONS } from "../src/config/server_options.ts";
import type { Options } from "../src/contracts/schema.ts";
import { HANDLERS } from "../src/handlers/index.ts";
import { DAEMONS } from "../src/daemons/index.ts";
import { JOB_OPTIONS, MODULE_OPTIONS } from "../src/jobs/options.ts";
import {
  BODY_DEFAULT_MAX_BYTES,
  CONFIG_MAX_BYTES,
  CONFIG_VALUE_MAX_CHARS,
  EGRESS_FULL_BYTES,
  HANDLER_START_MAX_MS,
  HANDLER_STOP_EXTRA_MS,
  IN_FLIGHT_MAX_BYTES,
  IN_FLIGHT_MESSAGES,
  LOG_TEXT_MAX_CHARS,
  TYPES_TRACKED,
} from "../src/limits.ts";
import { BUCKET_SECONDS } from "../src/observe/averages.ts";

function table(options: Options): string {
  const rows = Object.entries(options).map(([name, { default: fallback, unit, doc, example }]) => {
    const value = fallback === undefined
      ? "required"
      : fallback === null || fallback === ""
      ? "–"
      : `\`${fallback}\``;
    return `| \`${name}\` | ${value} | ${unit ?? ""} | ${doc.replaceAll("|", "\\|")} | \`${example}\` |`;
  });
  return [
    "| option | default | unit | what it does | for example |",
    "| --- | --- | --- | --- | --- |",
    ...rows,
  ].join("\n");
}

/** The whole page. */
export function configurationPage(): string {
  const handlers = HANDLERS.map(({ name, summary, roles, options = {} }) => {
    const where = roles.filter((role) => role !== "insecure").join(" and ");
    const body = Object.keys(options).length === 0 ? "No options." : table(options);
    return `### ${name}\n\n\`handler = cc.handler.${name}\`, or \`${name}\`; runs where cc-role is ${where}.\n${summary}\n\n${body}`;
  });
  const daemons = DAEMONS.map(({ name, summary, options }) =>
    `### ${name}\n\n\`module = cc.daemon.${name}\`. ${summary}\n\n${table(options)}`
  );
  return `# Configuration

Made from the option tables in \`src/\` by \`npx bun docs/generate.ts\`: do not edit.

A config is an ini file as the original read it, with Python 2's ConfigParser:

- \`[section]\`, then \`key = value\` or \`key: value\`; keys in any case. Lines that begin with \`#\` or \`;\` are comments, and so are
  those that begin with \`rem\` in the first column. Inside a line, white space and a semicolon begin a comment:
  \`cc-socket = tcp://*:22632 ; the port\`. \`""\` is the empty string.
- A line that is indented deeper than its option continues the value. One that is indented alike is an option of its own where it
  reads \`name =\`, and continues the value otherwise; a warning names such lines. An indented \`[section]\` behind an empty line is a
  section, so that a file may be indented as a whole.
- \`%(name)s\` is replaced from the same section, then from \`[DEFAULT]\`, then from \`job_name\` (the file's name without folder and
  \`.ini\`), \`service_name\`, \`host_name\`, \`config_dir\` and \`config_file\`; \`%%\` is a percent sign. A value has at most
  ${CONFIG_VALUE_MAX_CHARS / 1024} Ki characters when all is replaced, a file ${
    CONFIG_MAX_BYTES / 2 ** 20
  } MiB.
- Lists are separated by commas; booleans are yes/no, on/off, true/false, 1/0; sizes are \`64 KB\`, \`256 MB\`, \`1048576\`, units counted
  by 1024; \`~\` at the start of a path is the home folder.

\`ccserver check CONFIG.ini\` tells all that is wrong, and warns of what is perhaps not meant: a handler that no route leads
to, and what a server says of its options when it starts (a role that does not go with its socket, HTTP for other hosts, …). With \`--strict\` a
warning is an error. \`ccserver routes TYPE CONFIG.ini\` tells where a message would go, with \`--signer NAME\` also whether that signer may send it. A section
that nothing reads is an error: it would seem to work.

## [ccserver]

In every role.

${table(SERVER_OPTIONS)}

The \`cms-\` options sign, encrypt and verify: [security.md](security.md) tells how they work together, and how a fleet is moved.

Not in effect in this version: \`zmq_nthreads\` above 1 (a warning at start says so). \`zmq_rcvbuf\`, \`zmq_sndbuf\` and the
keep-alive times are set in the binary, on Bun, and on Deno (Linux, with \`--allow-ffi\`); on Node only the idle time of keep-alive.

A peer's queue never counts as full below 64 KB for a client and 1 MB for an upstream: those stand in for the kernel's send
buffer. Above, \`zmq_hwm\` messages are the mark, or ${EGRESS_FULL_BYTES / 2 ** 20} MB.

Two clients may claim one identity: one host that comes back while its old connection is half open, or two hosts with one name. With
\`identity-takeover = probe\` the one that has it is asked (PING) when another claims it. Any byte of it within 2 s, and it keeps the name
for at least 5 s more; the other is closed. If it has answered (PONG), the other is told so (ERROR): libzmq does not come again then, as it
does otherwise. One that is held back by this server, or that speaks a ZMTP before 3.1 and cannot be asked, counts as alive until its
connection ends. \`never\` is what libzmq does, \`always\` gives the name to who came last.

### Statistics line

Every \`stats-period\`, and once at exit: \`{count: 14, bytes: 883, seconds: 0.0124, count.ok: 6, …}\`. Each message counts under one
outcome:

| outcome | |
| --- | --- |
| \`ok\` | its handlers took it, if only to drop it. What an upstream lost after that is in \`drops.REASON\` and \`unconfirmed\` |
| \`dropped\` | no handler took it: its type has no route, or a handler said that it cannot now |
| \`refused\` | it cannot be read, or a handler would not have it; \`refused.CODE\` counts by the code ([errors.md](errors.md#messages)) |
| \`crashed\` | a handler threw, or did not answer within \`handler-timeout\` |
| \`invalid\` | not a CC message |
| \`duplicate\` | a copy of a message that was handled before, within \`cms-time-window\` |

Then \`replies\` and \`replies.bytes\`: what was sent to clients; \`drops.REASON\` and \`unconfirmed\`: what was lost, by
[reliability.md](reliability.md#what-is-counted); the handlers' own counters (where several handlers count under one name,
the sum, and each under \`NAME.h:HANDLER\`); at level 2 also \`count.ok.msg.TYPE\`, \`bytes.…\`, \`seconds.…\`. The first ${TYPES_TRACKED} types are
told apart, and those that \`[routes]\` names; all others are \`other\`. One that has not come for 15 minutes makes room, where there is
none. A line ends at about ${LOG_TEXT_MAX_CHARS} characters with how many counters it leaves out; the infofile
and \`/metrics\` have them all.

### Infofile

\`key: value\` lines: name, version, service, pid, started, status (running, stopped), time-consumed (processor seconds: user, system,
and those of children), info-period, info-written, platform, runtime, zeromq. After an empty line, sorted by key: \`[total]\`, the counters
since the start, and \`[latest]\`, since the file was written last. At level 3 \`[avg:60]\`, \`[avg:300]\` and \`[avg:900]\`: total, average in
${BUCKET_SECONDS} seconds and average a second, over the last minute, five and fifteen. Counters that stood still are left out.

A file that cannot be written at start is an error. Later it is one warning, and the server goes on.

### Heartbeat

How long the server is up, messages and bytes since the last line, clients and upstreams that are connected, messages dropped since the
start, how late the event loop was since the last line (half of the time, and 99 % of it, it was less), resident memory.

### Metrics and health

With \`http-listen\`:

| path | answer |
| --- | --- |
| \`/metrics\` | OpenMetrics 1.0 where the Accept header asks for it, else Prometheus' text format 0.0.4 |
| \`/healthz\` | 200: the process lives |
| \`/readyz\` | 200 when the server listens, all upstreams are up and no certificate in use has expired, else 503; JSON with the reasons, and warnings of what expires within 30 days |

| metric | labels | |
| --- | --- | --- |
| \`cc_messages_total\`, \`cc_bytes_total\`, \`cc_seconds_total\` | outcome | as in the statistics line; none at cc-stats 0 |
| \`cc_type_messages_total\`, \`cc_type_bytes_total\`, \`cc_type_seconds_total\` | type, outcome | at cc-stats 2 |
| \`cc_refused_total\` | code | messages that were refused |
| \`cc_replies_total\`, \`cc_reply_bytes_total\` | | messages sent to clients |
| \`cc_handler_total\`, \`cc_handler_value\` | handler, counter or gauge, and the handler's own | what the handlers count and measure |
| \`cc_drops_total\` | socket, reason | messages dropped by the listening socket (\`router\`) or a handler's (\`h:name\`) |
| \`cc_unconfirmed_total\` | handler | messages that were written to an upstream whose link broke before they were acknowledged: an estimate |
| \`cc_clients_closed_total\` | reason | clients that were closed over a bound: \`max-clients\`, \`memory-budget\`, \`message-timeout\`, \`stalled\` |
| \`cc_peers\`, \`cc_peers_max\` | | connected clients; as many as there may be |
| \`cc_upstream_up\`, \`cc_upstream_queued_messages\` | handler, endpoint | is it connected; messages that wait for it |
| \`cc_upstream_round_trip_seconds\` | handler, endpoint | of the latest ping that was answered; none while the upstream is down |
| \`cc_event_loop_lag_seconds\` | quantile | over the last minute or two |
| \`process_resident_memory_bytes\`, \`process_cpu_seconds_total\`, \`process_start_time_seconds\` | | |
| \`cc_info\` | version, runtime, engine | 1 |

It has neither a password nor TLS: keep it on a loopback address, or behind something that has them. A request must name an IP
address, \`localhost\`, this host or one of \`http-hosts\` as its host, so that no page in a browser reads it by a name of its own.

## [routes]

\`type = h:one, h:two\`. A message goes to every handler of every route that matches: \`*\`, then \`a\`, then \`a.b\`, to the full type; within
one route in the order they are written. A type that no route matches is dropped with a warning and counted.

## [cms-allow]

\`signer = type, type\`: which signer may send which types; without the section, every signer under a CA of \`cms-verify-ca\` may send
all. The signer is one of these, in any case:

| signer | whose certificate |
| --- | --- |
| \`host*\` | has such a common name; \`*\` and \`?\` stand for any text and any character |
| \`OU/Hosts*\` | has such a value in one part of its subject |
| \`1529…d14f\` | has this SHA-256 fingerprint: 64 hex digits without colons, as \`keys list --json\` prints it |

Types are patterns too. Unlike a route, \`log\` is this type alone: \`log.*\` is all below it, \`log, log.*\` is both. One line that
fits is enough; their order does not matter.

## [h:name]

A handler. \`handler\` names a built-in one, or a file: \`./my_handler.ts\` (\`.js\` on Node), relative to the config file; how one is
written is told in [handlers.md](handlers.md). \`plugin\` is an older name of \`handler\`.

A handler that answers later has at most ${IN_FLIGHT_MESSAGES} messages under way, and ${
    IN_FLIGHT_MAX_BYTES / 2 ** 20
  } MiB of them, where it does not say otherwise;
past that those who send to it wait. Bodies of more than ${
    BODY_DEFAULT_MAX_BYTES / 1024
  } KiB are refused where a handler does not ask for more. A handler has
${HANDLER_START_MAX_MS / 1000} s to start, and \`zmq_linger\` and ${HANDLER_STOP_EXTRA_MS / 1000} s to stop.

${handlers.join("\n\n")}

## Daemons: [d:name]

Read by \`jobmgr\`, which starts those that its \`daemons\` names; [jobs.md](jobs.md) tells how they live. One of \`command\` and
\`script\` is needed. \`%(job_name)s\` is \`SERVER.d:name\` here, \`%(service_name)s\` is \`d:name\`. \`pidfile\` is that of [ccserver] where
the section has none, with these names in it. A \`script\` reads options of its own in its section; others may not be there.

${table(JOB_OPTIONS)}

With \`module\`:

${table(MODULE_OPTIONS)}

${daemons.join("\n\n")}

## Reload

SIGHUP, or \`ccserver -r CONFIG.ini\`: the log file is opened again, and the config is read and checked whole. When anything is wrong
in it, nothing changes and every finding is logged. Else the difference is logged and taken over: handlers that it does not
change keep their connections and what they hold; new upstreams are given two seconds to connect before messages go there;
handlers that it changes or removes pass on what they hold, send what they have queued, and their replies still come for
\`zmq_linger\`. Of [ccserver], \`stats-period\`, \`heartbeat\`, \`zmq_linger\`, \`cc-role\` and the \`cms-\` options are taken over, with
[cms-allow]; keys, certificates and CRLs are read again. The other options stay as they are until a restart, and the log says so.
So it is with a handler's file that has changed, or one that it imports: the old code runs on until a restart, and the log says so.
Daemons whose section has not changed are not touched; others are ended and started anew.

## Bounds

What a peer can cause is bounded in \`src/limits.ts\`, each with its reason: bytes and frames of a message, bytes of a type, seconds of
a handshake, connections, queues.

Codes in the log, of connections that were closed and of messages that were refused, are explained in [errors.md](errors.md).

## Exit codes

0 ok; 1 no reply, or a fault in a key store; 64 wrong usage; 69 cannot start, or reach a server; 74 a result cannot be written; 78 wrong config.
`;
}

const [, script] = process.argv;
if (script !== undefined && fileURLToPath(import.meta.url) === script) {
  writeFileSync(join(dirname(script), "configuration.md"), configurationPage());
}
