/** Writes docs/configuration.md from the option tables: `bun docs/generate.ts`. A test compares the two. */
import process from "node:process";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Options } from "../src/config/options.ts";
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
  const rows = Object.entries(options).map(([name, { default: fallback, unit, doc }]) => {
    const value = fallback === undefined
      ? "required"
      : fallback === null || fallback === ""
      ? "–"
      : `\`${fallback}\``;
    return `| \`${name}\` | ${value} | ${unit ?? ""} | ${doc.replaceAll("|", "\\|")} |`;
  });
  return ["| option | default | unit | what it does |", "| --- | --- | --- | --- |", ...rows].join("\n");
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

${table(SERVER_OPTIONS)}

Not in effect in this version: \`infofile\` (a warning at start says so), \`zmq_nthreads\` above 1 (likewise), and the \`cms-\` options
(a config that names a key does not start). \`zmq_rcvbuf\`, \`zmq_sndbuf\` and the keep-alive times are set where the runtime can:
all of them in the binary and on Bun, the idle time on Node; on Deno keep-alive is switched on or off.

A peer's queue never counts as full below 64 KB for a client and 1 MB for an upstream: those stand in for the kernel's send
buffer. Above, \`zmq_hwm\` messages are the mark, or 128 MB.

## [routes]

\`type = h:one, h:two\`. A message goes to every handler of every route that matches: \`*\`, then \`a\`, then \`a.b\`, to the full type; within
one route in the order they are written. A type that no route matches is dropped with a warning and counted.

## [h:name]

A handler. \`handler\` names a built-in one, or a module: \`./my_handler.ts\`, relative to the config file, with a default export
\`{ create(context) }\` (see \`examples/count_words.ts\`). \`plugin\` is an older name of \`handler\`.

${handlers.join("\n\n")}

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
