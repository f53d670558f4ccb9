/** Every option of `[ccserver]`, with defaults and units. The reference is made from it. */
import type { Role } from "../contracts/handler.ts";
import type { Option } from "../contracts/schema.ts";
import { CMS_THREADS_MAX, MESSAGE_BOUND_MAX_BYTES, MESSAGE_MAX_BYTES, PEERS_MAX } from "../limits.ts";
import {
  choice,
  endpoint,
  type HostPort,
  hostPort,
  integer,
  list,
  number,
  option,
  optional,
  path,
  pathOrNone,
  required,
  size,
  text,
} from "./options.ts";
import { SOCKET_OPTIONS, type ZmqValues } from "./socket_options.ts";

/** The values of `[ccserver]`; the reference has each option's meaning. */
export interface ServerOptions extends ZmqValues {
  /** The server's name; null: the file's. */
  readonly job_name: string | null;
  /** Where it listens. */
  readonly "cc-socket": string;
  /** Which handlers may run. */
  readonly "cc-role": Role;
  /** What is counted: 0 nothing, 1 totals, 2 by type too. */
  readonly "cc-stats": number;
  /** Seconds between two statistics lines, and between two infofiles. */
  readonly "stats-period": number;
  /** An absolute path. */
  readonly infofile: string | null;
  /** 0 to 3. */
  readonly "infofile-level": number;
  /** Seconds; 0: never. */
  readonly heartbeat: number;
  /** Where /metrics is served. */
  readonly "http-listen": HostPort | null;
  /** Names that HTTP may be asked for by. */
  readonly "http-hosts": string[] | null;
  /** Messages that may wait for one client. */
  readonly zmq_hwm: number;
  /** I/O threads that were asked for. */
  readonly zmq_nthreads: number;
  /** Bytes of the largest message that is taken. */
  readonly zmq_maxmsgsize: number;
  /** Which implementation of ZeroMQ. */
  readonly "zmq-engine": "native" | "libzmq";
  /** Clients at one time; null: what descriptors allow. */
  readonly "max-clients": number | null;
  /** Bytes; null: a quarter of the memory. */
  readonly "memory-budget": number | null;
  /** Seconds. */
  readonly "message-timeout": number;
  /** What happens when two clients claim one identity. */
  readonly "zmtp-min-version": "1.0" | "2.0" | "3.0";
  /** Who has an identity that two peers claim. */
  readonly "identity-takeover": "probe" | "never" | "always";
  /** Seconds that an asynchronous handler has for a message. */
  readonly "handler-timeout": number;
  /** An absolute path. */
  readonly pidfile: string | null;
  /** An absolute path; empty: none is wanted; null: the pidfile decides. See {@link controlSocketOf}. */
  readonly "control-socket": string | null;
  /** An absolute path. */
  readonly logfile: string | null;
  /** Seconds. */
  readonly "log-linger": number;
  /** How log lines are written. */
  readonly "log-format": "text" | "json";
  /** Lines below are not written; `-v` and `-q` say otherwise. */
  readonly "log-level": "error" | "warning" | "info" | "debug" | "trace";
  /** As it is written: the folder of the config file is looked in first. */
  readonly "cms-keystore": string | null;
  /** The name of a key. */
  readonly "cms-sign": string | null;
  /** Names of CAs. */
  readonly "cms-verify-ca": string[] | null;
  /** Names of certificates. */
  readonly "cms-encrypt": string[] | null;
  /** The name of a key. */
  readonly "cms-decrypt": string | null;
  /** Seconds; 0: any time will do. */
  readonly "cms-time-window": number;
  /** What is written and read; null: modern, with a warning. */
  readonly "cms-profile": "modern" | "legacy" | "accept-legacy" | null;
  /** What a certificate must say of the host in a body. */
  readonly "cms-hostname": "off" | "cn" | "san";
  /** 1: the main thread verifies. */
  readonly "cms-threads": number;
}

/** Options about signatures, of a server and of a daemon of this program. */
export const SEAL_OPTIONS = {
  "cms-keystore": optional(
    text,
    "folder of certificates NAME.crt, keys private/NAME.key and lists NAME.crl; from the folder of the config file",
    "keys",
  ),
  "cms-sign": optional(
    text,
    "NAME of the key to sign with: what is made here, not what is forwarded; NAME.crt and private/NAME.key are needed",
    "server",
  ),
  "cms-verify-ca": optional(
    list(text),
    "NAMEs of CAs: what is handled here must be signed by a certificate under one of them; NAME.crt is needed, and " +
      "NAME.crl to know what is revoked",
    "ca, old_ca",
  ),
  "cms-encrypt": optional(
    list(text),
    "NAMEs of certificates to encrypt for: what is made here, not what is forwarded; NAME.crt is needed, no key",
    "confdb",
  ),
  "cms-decrypt": optional(
    text,
    "NAME of the key to decrypt with: what is handled here must be encrypted for it; NAME.crt and private/NAME.key are " +
      "needed",
    "server",
  ),
  "cms-time-window": option(
    number(0),
    "0",
    "largest difference between a message's time and now; a copy within it is not handled again; 0 is off",
    "300",
    "s",
  ),
  "cms-profile": optional(
    choice("modern", "legacy", "accept-legacy"),
    "modern (when missing): SHA-256, AES-GCM; legacy: written as the original (0.8) reads it, which needs RSA keys, and " +
      "both are read; accept-legacy: written modern, and both are read",
    "legacy",
  ),
  "cms-threads": option(
    integer(1, CMS_THREADS_MAX),
    "1",
    "threads, at most 16: at 1 the main thread verifies signatures, from 2 on the others do most of it; of use where " +
      "the host has processors to spare",
    "2",
  ),
  "cms-hostname": option(
    choice("off", "cn", "san"),
    "off",
    "cn: the field hostname of a message must be the common name of its signer's certificate; san: one of its DNS names; " +
      "off: any",
    "cn",
  ),
} satisfies { [K in SealOptionName]: Option<ServerOptions[K]> };

export type SealOptionName = keyof ServerOptions & `cms-${string}`;

/** The options of `[ccserver]`. */
export const SERVER_OPTIONS = {
  job_name: optional(text, "name of this server; the file's name without folder and .ini", "collector"),
  "cc-socket": required(
    endpoint("bind"),
    "where to listen: tcp://127.0.0.1:10000, tcp://*:22632, ipc:///run/cc.sock",
    "tcp://*:22632",
  ),
  "cc-role": option(
    choice("insecure", "local", "remote"),
    "insecure",
    "local: for its own host; remote: for others; insecure: all handlers may run",
    "local",
  ),
  "cc-stats": option(integer(0, 2), "1", "statistics: 0 none, 1 totals, 2 also by message type", "2"),
  "stats-period": option(
    number(0.1, 86_400),
    "30",
    "how often statistics are logged and the infofile is written; also once at exit",
    "60",
    "s",
  ),
  infofile: optional(
    path,
    "file with the server's state; written beside and renamed",
    "~/log/%(job_name)s.info",
  ),
  "infofile-level": option(
    integer(0, 3),
    "2",
    "0 none, 1 head, 2 also [total] and [latest], 3 also the averages [avg:60], [avg:300], [avg:900]",
    "3",
  ),
  heartbeat: option(number(0, 86_400), "60", "how often a heartbeat line is logged; 0 never", "300", "s"),
  "http-listen": optional(
    hostPort,
    "where /metrics, /healthz and /readyz are served, such as 127.0.0.1:9108; port * is a free one",
    "127.0.0.1:9108",
  ),
  "http-hosts": optional(
    list(text),
    "names by which HTTP may be asked for, besides addresses, localhost and this host's name; * is any",
    "web1.example.net, metrics",
  ),
  zmq_hwm: option(
    integer(1, 1_000_000),
    "50",
    "high water mark: messages that may wait for one client",
    "200",
  ),
  ...SOCKET_OPTIONS,
  zmq_nthreads: option(
    integer(1, 64),
    "1",
    "I/O threads; one serves everything, and more are not used: a warning at start says so",
    "1",
  ),
  zmq_maxmsgsize: option(
    size(1024, MESSAGE_BOUND_MAX_BYTES),
    "64 MB",
    "largest message taken from a peer, all frames; a larger one is dropped and counted, above 1 GB it ends its connection",
    "16 MB",
    "bytes",
  ),
  "zmq-engine": option(
    choice("native", "libzmq"),
    "native",
    "ZeroMQ implementation; libzmq needs Node or Deno",
    "libzmq",
  ),
  "max-clients": optional(
    integer(1, PEERS_MAX),
    "clients at one time; those past it are closed at once. Without it: what the limit of descriptors leaves",
    "10000",
  ),
  "memory-budget": optional(
    size(MESSAGE_MAX_BYTES / 4, 2 ** 40),
    "memory of unfinished messages and large ones that wait, all together; past it the client that holds most is " +
      "closed. Without it: a quarter of the memory there is",
    "512 MB",
    "bytes",
  ),
  "message-timeout": option(
    number(0.1, 86_400),
    "60",
    "a client that has begun a message and sends nothing for so long is closed",
    "30",
    "s",
  ),
  "zmtp-min-version": option(
    choice("1.0", "2.0", "3.0"),
    "1.0",
    "peers of earlier versions of ZMTP are refused: libzmq 2.x speaks 1.0, libzmq 3.2 and JeroMQ 0.3 speak " +
      "2.0; the engine libzmq refuses none",
    "3.0",
  ),
  "identity-takeover": option(
    choice("probe", "never", "always"),
    "probe",
    "a client claims the identity of another: probe hands it over unless the other still answers; libzmq asks nobody",
    "never",
  ),
  "handler-timeout": option(
    number(0.1, 86_400),
    "60",
    "an asynchronous handler that has not answered a message within this time has crashed on it",
    "300",
    "s",
  ),
  pidfile: optional(path, "file with the server's process id", "~/pid/%(job_name)s.pid"),
  "control-socket": optional(
    pathOrNone,
    "Unix socket that `ccserver jobs` asks, for this user alone. Without it: the pidfile's place, with .ctl for its " +
      "extension; without pidfile none. none switches it off",
    "/run/cc/%(job_name)s.ctl",
  ),
  logfile: optional(
    path,
    "log lines are appended here instead of going to the terminal",
    "~/log/%(job_name)s.log",
  ),
  "log-linger": option(
    number(0, 60),
    "1",
    "how long the end of the program waits for whatever takes the log to take the last lines",
    "5",
    "s",
  ),
  "log-format": option(
    choice("text", "json"),
    "text",
    "log lines for people, or one JSON object a line: time (UTC), pid, level, logger, msg",
    "json",
  ),
  "log-level": option(
    choice("error", "warning", "info", "debug", "trace"),
    "info",
    "log lines below this level are not written; taken over by a reload; -v or -q on the command line goes before it",
    "debug",
  ),
  ...SEAL_OPTIONS,
} satisfies { [K in keyof ServerOptions]: Option<ServerOptions[K]> };

/** Where the control channel is; null: there is none. */
export function controlSocketOf(
  { "control-socket": socket, pidfile }: Pick<ServerOptions, "control-socket" | "pidfile">,
): string | null {
  if (socket !== null) return socket === "" ? null : socket;
  if (pidfile === null) return null;
  const stem = pidfile.replace(/(?<=[^/])\.[^./]*$/, "");
  // A pidfile that has that name itself keeps it.
  return `${stem}.ctl` === pidfile ? `${pidfile}.ctl` : `${stem}.ctl`;
}
