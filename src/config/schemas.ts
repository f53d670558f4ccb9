/** Every option of the server and of the built-in handlers, with defaults and units. The reference is made from it. */
import { MESSAGE_MAX_BYTES } from "../limits.ts";
import {
  boolean,
  choice,
  endpoint,
  handlerName,
  hostPort,
  integer,
  list,
  number,
  option,
  optional,
  type Options,
  path,
  required,
  size,
  text,
  type Values,
} from "./options.ts";

/** Where a server stands; decides which handlers may run. */
export type Role = "insecure" | "local" | "remote";

/** Options of every ZeroMQ socket; the defaults for the high water mark differ. */
const socket = {
  zmq_linger: option(integer(0, 3_600_000), "500", "how long closing waits for what is queued", "2000", "ms"),
  zmq_rcvbuf: option(
    size(0, 2 ** 30),
    "0",
    "kernel's receive buffer; 0 is the system's size",
    "1 MB",
    "bytes",
  ),
  zmq_sndbuf: option(
    size(0, 2 ** 30),
    "0",
    "kernel's send buffer; 0 is the system's size",
    "256 KB",
    "bytes",
  ),
  zmq_tcp_keepalive: option(boolean, "on", "TCP keep-alive", "off"),
  zmq_tcp_keepalive_intvl: option(integer(1, 32_767), "15", "between two keep-alive probes", "10", "s"),
  zmq_tcp_keepalive_idle: option(
    integer(1, 32_767),
    "240",
    "rest before the first keep-alive probe",
    "60",
    "s",
  ),
  zmq_tcp_keepalive_cnt: option(
    integer(1, 127),
    "4",
    "probes without answer before the connection ends",
    "3",
  ),
} satisfies Options;

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
  zmq_hwm: option(
    integer(1, 1_000_000),
    "50",
    "high water mark: messages that may wait for one client",
    "200",
  ),
  ...socket,
  zmq_nthreads: option(
    integer(1, 64),
    "1",
    "I/O threads; one serves everything, and more are not used: a warning at start says so",
    "1",
  ),
  zmq_maxmsgsize: option(
    size(1024, MESSAGE_MAX_BYTES * 16),
    "64 MB",
    "largest message taken from a peer, all frames; a larger one ends its connection",
    "16 MB",
    "bytes",
  ),
  "zmq-engine": option(
    choice("native", "libzmq"),
    "native",
    "ZeroMQ implementation; libzmq needs Node or Deno",
    "libzmq",
  ),
  pidfile: optional(path, "file with the server's process id", "~/pid/%(job_name)s.pid"),
  logfile: optional(
    path,
    "log lines are appended here instead of going to the terminal",
    "~/log/%(job_name)s.log",
  ),
  "log-format": option(
    choice("text", "json"),
    "text",
    "log lines for people, or one JSON object a line: time (UTC), pid, level, logger, msg",
    "json",
  ),
  "cms-keystore": optional(path, "folder of certificates NAME.crt and keys private/NAME.key", "/etc/cc/keys"),
  "cms-sign": optional(text, "key to sign with", "server"),
  "cms-verify-ca": optional(list(text), "CAs that may have issued a signer's certificate", "ca, old_ca"),
  "cms-encrypt": optional(text, "certificate to encrypt for", "confdb"),
  "cms-decrypt": optional(text, "key to decrypt with", "server"),
  "cms-time-window": option(
    number(0),
    "0",
    "largest difference between a message's time and now; 0 is off",
    "300",
    "s",
  ),
} satisfies Options;

export type ServerOptions = Values<typeof SERVER_OPTIONS>;

export const ECHO_OPTIONS = {
  "ping-remotes": option(
    list(endpoint("connect")),
    "",
    "servers to ping every second",
    "tcp://collector.example.net:22632",
  ),
} satisfies Options;

export const PROXY_OPTIONS = {
  "remote-cc": required(
    endpoint("connect"),
    "the CC server that messages go to",
    "tcp://collector.example.net:22632",
  ),
  ping: option(boolean, "no", "send an echo.request every second and warn when no answer comes", "yes"),
  zmq_hwm: option(
    integer(1, 1_000_000),
    "100",
    "high water mark: messages that may wait for the remote server",
    "1000",
  ),
  ...socket,
  "stall-timeout": option(
    number(0.1, 86_400),
    "30",
    "a connected remote server that takes nothing for so long, its queue full, counts as down",
    "10",
    "s",
  ),
} satisfies Options;

export const NO_OPTIONS = {} satisfies Options;

export const FILTER_OPTIONS = {
  "forward-to": required(handlerName, "the handler that gets what passes", "h:next"),
  include: option(
    list(text),
    "*",
    "message types that pass; * and ? stand for any text and any character",
    "log.*, pub.infofile",
  ),
  exclude: option(list(text), "", "message types that do not, even when included", "log.debug"),
} satisfies Options;

export const DELAY_OPTIONS = {
  "forward-to": required(handlerName, "the handler that gets the messages", "h:next"),
  delay: option(number(0, 86_400), "0", "how much later", "0.5", "s"),
} satisfies Options;

export type EchoOptions = Values<typeof ECHO_OPTIONS>;
export type ProxyOptions = Values<typeof PROXY_OPTIONS>;
export type FilterOptions = Values<typeof FILTER_OPTIONS>;
export type DelayOptions = Values<typeof DELAY_OPTIONS>;

/** A handler of this program, as the config knows it. */
export interface HandlerSpec {
  options: Options;
  roles: readonly Role[];
  /** Named by the original, but not part of this version. */
  missing?: boolean;
}

const everywhere: readonly Role[] = ["insecure", "local", "remote"];
const later = (role: Role): HandlerSpec => ({
  options: NO_OPTIONS,
  roles: ["insecure", role],
  missing: true,
});

/** Handlers by their short names. */
export const HANDLERS: Readonly<Record<string, HandlerSpec>> = {
  echo: { options: ECHO_OPTIONS, roles: everywhere },
  proxy: { options: PROXY_OPTIONS, roles: everywhere },
  locallogger: { options: NO_OPTIONS, roles: everywhere },
  disposer: { options: NO_OPTIONS, roles: everywhere },
  filter: { options: FILTER_OPTIONS, roles: everywhere },
  delay: { options: DELAY_OPTIONS, roles: everywhere },
  jobmgr: later("local"),
  infowriter: later("remote"),
  tailwriter: later("remote"),
  taskrouter: later("remote"),
  database: later("remote"),
  dbhandler: later("remote"),
};
