/** Writes docs/configuration.md from the option tables: `bun docs/generate.ts`. A test compares the two. */
import process from "node:process";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Options } from "../src/config/options.ts";
import { EGRESS_FULL_BYTES, LOG_TEXT_MAX_CHARS, TYPES_TRACKED } from "../src/limits.ts";
import { BUCKET_SECONDS } from "../src/server/averages.ts";
import { HANDLERS, SERVER_OPTIONS } from "../src/config/schemas.ts";

const DOES: Record<string, string> = {
  echo: "Answers `echo.request` with `echo.response`, along the route of the request.",
  proxy: "Forwards messages to another CC server, unchanged; replies come back to the client that asked.",
  locallogger: "Writes each `log.*` message as one line of the server's own log.",
  disposer: "Discards messages and counts them (`disposed_count`, `disposed_bytes`).",
  filter: "Passes on what `include` names and `exclude` does not (`filter.count`, `.ok`, `.dropped`).",
  delay:
    "Passes messages on later; at most 100 000 messages and 256 MB wait. At the end, what waits is passed on at once.",
};

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
  const handlers = Object.entries(HANDLERS).filter(([, spec]) => !spec.missing).map(
    ([name, { options, roles }]) => {
      const where = roles.filter((role) => role !== "insecure").join(" and ");
      const body = Object.keys(options).length === 0 ? "No options." : table(options);
      return `### ${name}\n\n\`handler = cc.handler.${name}\`, or \`${name}\`; runs where cc-role is ${where}.\n${
        DOES[name]
      }\n\n${body}`;
    },
  );
  return `# Configuration

Made from \`src/config/schemas.ts\` by \`bun docs/generate.ts\`: do not edit.

A config is an ini file as Python's ConfigParser reads it: \`[section]\`, \`key = value\` or \`key: value\`, comments on lines of
their own that start with \`#\` or \`;\`, keys in any case, values continued on lines that start with white space. \`%(name)s\` is
replaced from the same section, then from \`[DEFAULT]\`, then from \`job_name\` (the file's name without folder and \`.ini\`) and
\`service_name\`; \`%%\` is a percent sign. Lists are separated by commas; booleans are yes/no, on/off, true/false, 1/0; sizes are
\`64 KB\`, \`256 MB\`, \`1048576\`, units counted by 1024; \`~\` at the start of a path is the home folder.

\`ccserver --check CONFIG.ini\` tells all that is wrong; \`ccserver --routes TYPE CONFIG.ini\` tells where a message would go.

## [ccserver]

In every role.

${table(SERVER_OPTIONS)}

Not in effect in this version: \`zmq_nthreads\` above 1 (a warning at start says so), and the \`cms-\` options (a config that names a
key does not start). \`zmq_rcvbuf\`, \`zmq_sndbuf\` and the keep-alive times are set in the binary, on Bun, and on Deno
(Linux, with \`--allow-ffi\`); on Node only the idle time of keep-alive.

A peer's queue never counts as full below 64 KB for a client and 1 MB for an upstream: those stand in for the kernel's send
buffer. Above, \`zmq_hwm\` messages are the mark, or ${EGRESS_FULL_BYTES / 2 ** 20} MB.

### Statistics line

Every \`stats-period\`, and once at exit: \`{count: 14, bytes: 883, seconds: 0.0124, count.ok: 6, …}\`, for the outcomes \`ok\`,
\`dropped\` (no route), \`crashed\` (a handler threw) and \`invalid\` (no CC message); then the handlers' own counters; at level 2 also
\`count.ok.msg.TYPE\`, \`bytes.…\`, \`seconds.…\`. The first ${TYPES_TRACKED} types are told apart, all others are \`other\`. A line ends at about
${LOG_TEXT_MAX_CHARS} characters with how many counters it leaves out; the infofile and \`/metrics\` have them all.

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
| \`/readyz\` | 200 when the server listens and all upstreams are up, else 503; JSON with the reasons |

| metric | labels | |
| --- | --- | --- |
| \`cc_messages_total\`, \`cc_bytes_total\`, \`cc_seconds_total\` | outcome | as in the statistics line; none at cc-stats 0 |
| \`cc_type_messages_total\`, \`cc_type_bytes_total\`, \`cc_type_seconds_total\` | type, outcome | at cc-stats 2 |
| \`cc_handler_counter_total\` | counter | the handlers' own counters |
| \`cc_drops_total\` | socket, reason | messages dropped by the listening socket (\`router\`) or a handler's (\`h:name\`) |
| \`cc_peers\` | | connected clients |
| \`cc_upstream_up\`, \`cc_upstream_queued_messages\` | handler, endpoint | is it connected; messages that wait for it |
| \`cc_upstream_round_trip_seconds\` | handler, endpoint | of the latest ping that was answered |
| \`cc_event_loop_lag_seconds\` | quantile | over the last minute or two |
| \`process_resident_memory_bytes\`, \`process_cpu_seconds_total\`, \`process_start_time_seconds\` | | |
| \`cc_info\` | version, runtime, engine | 1 |

It has neither a password nor TLS: keep it on a loopback address, or behind something that has them.

## [routes]

\`type = h:one, h:two\`. A message goes to every handler of every route that matches: \`*\`, then \`a\`, then \`a.b\`, to the full type; within
one route in the order they are written. A type that no route matches is dropped with a warning and counted.

## [h:name]

A handler. \`handler\` names a built-in one, or a module: \`./my_handler.ts\`, relative to the config file, with a default export
\`{ create(context) }\` (see \`examples/count_words.ts\`). \`plugin\` is an older name of \`handler\`.

${handlers.join("\n\n")}

## Reload

SIGHUP, or \`ccserver -r CONFIG.ini\`: the log file is opened again, and the config is read and checked whole. When anything is wrong
in it, nothing changes and every finding is logged. Else the difference is logged and taken over: handlers that it does not
change keep their connections and what they hold; new upstreams are given two seconds to connect before messages go there;
handlers that it changes or removes send what they have queued, and their replies still come for \`zmq_linger\`. Of
[ccserver], \`stats-period\`, \`heartbeat\`, \`zmq_linger\` and \`cc-role\` are taken over; the other options stay as they are
until a restart, and the log says so.

## Bounds

What a peer can cause is bounded in \`src/limits.ts\`, each with its reason: bytes and frames of a message, bytes of a type, seconds of
a handshake, connections, queues.

## Why a connection was closed

The log line ends with a code in brackets:

| code | what came |
| --- | --- |
| \`not-zmtp\` | no ZMTP greeting |
| \`old-version\` | ZMTP 1.0 or 2.0 |
| \`unknown-mechanism\` | a security mechanism other than NULL |
| \`bad-greeting\`, \`bad-handshake\`, \`bad-metadata\` | a greeting or READY that is wrong, or none in 10 s |
| \`bad-identity\` | an identity that is too long, or starts with a zero byte |
| \`socket-type\` | a socket that cannot talk to this one |
| \`peer-error\` | the peer's own ERROR command |
| \`reserved-flags\`, \`length\`, \`bad-command\`, \`command-in-message\` | frames that RFC 23 does not allow |
| \`too-many-frames\`, \`too-large\` | a message above the bounds |

## Exit codes

0 ok; 1 no reply; 64 wrong usage; 69 cannot start, or reach a server; 78 wrong config.
`;
}

const [, script] = process.argv;
if (script !== undefined && fileURLToPath(import.meta.url) === script) {
  writeFileSync(join(dirname(script), "configuration.md"), configurationPage());
}
