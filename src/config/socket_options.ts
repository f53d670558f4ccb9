/** From options as the ini file names them to options as sockets take them. */
import { MESSAGE_MAX_BYTES } from "../limits.ts";
import type { SocketOptions } from "../socket/types.ts";

/** The `zmq_…` options of a section. */
export interface ZmqOptions {
  zmq_hwm: number;
  zmq_rcvbuf: number;
  zmq_sndbuf: number;
  zmq_tcp_keepalive: boolean;
  zmq_tcp_keepalive_intvl: number;
  zmq_tcp_keepalive_idle: number;
  zmq_tcp_keepalive_cnt: number;
  zmq_maxmsgsize?: number;
}

export function socketOptions(options: ZmqOptions): SocketOptions {
  return {
    hwm: options.zmq_hwm,
    receiveBufferBytes: options.zmq_rcvbuf,
    sendBufferBytes: options.zmq_sndbuf,
    messageMaxBytes: options.zmq_maxmsgsize ?? MESSAGE_MAX_BYTES,
    keepAlive: options.zmq_tcp_keepalive
      ? {
        idleSeconds: options.zmq_tcp_keepalive_idle,
        intervalSeconds: options.zmq_tcp_keepalive_intvl,
        count: options.zmq_tcp_keepalive_cnt,
      }
      : null,
  };
}
