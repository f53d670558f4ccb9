/** The `zmq_…` options that every ZeroMQ socket has. */
import type { Options } from "../contracts/schema.ts";
import { boolean, integer, option, size } from "./options.ts";

/** Options of every ZeroMQ socket; the defaults for the high water mark differ. */
export const SOCKET_OPTIONS = {
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

/** The values of options that every ZeroMQ socket has. */
export interface ZmqValues {
  /** Milliseconds that closing waits for what is queued. */
  readonly zmq_linger: number;
  /** Bytes; 0: the system's size. */
  readonly zmq_rcvbuf: number;
  /** Bytes; 0: the system's size. */
  readonly zmq_sndbuf: number;
  /** Are idle connections probed? */
  readonly zmq_tcp_keepalive: boolean;
  /** Seconds between two probes. */
  readonly zmq_tcp_keepalive_intvl: number;
  /** Seconds of rest before the first one. */
  readonly zmq_tcp_keepalive_idle: number;
  /** Probes without answer before the connection ends. */
  readonly zmq_tcp_keepalive_cnt: number;
}

/** The same as links take them. */
export interface LinkValues {
  readonly receiveBufferBytes: number;
  readonly sendBufferBytes: number;
  readonly keepAlive: { idleSeconds: number; intervalSeconds: number; count: number } | null;
}

/** From options as the ini file names them to options as links take them. */
export function linkValues(options: ZmqValues): LinkValues {
  return {
    receiveBufferBytes: options.zmq_rcvbuf,
    sendBufferBytes: options.zmq_sndbuf,
    keepAlive: options.zmq_tcp_keepalive
      ? {
        idleSeconds: options.zmq_tcp_keepalive_idle,
        intervalSeconds: options.zmq_tcp_keepalive_intvl,
        count: options.zmq_tcp_keepalive_cnt,
      }
      : null,
  };
}
