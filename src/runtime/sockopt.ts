/** Socket options as the C library's `setsockopt` takes them, for drivers that can call it. */
import process from "node:process";
import type { LinkOptions } from "../contracts/links.ts";

/** Numbers that differ by system: SOL_SOCKET, SO_KEEPALIVE, SO_SNDBUF, SO_RCVBUF, TCP_KEEP*; null where unknown. */
const NUMBERS = process.platform === "linux"
  ? { socket: 1, keepAlive: 9, sndbuf: 7, rcvbuf: 8, idle: 4, interval: 5, count: 6 }
  : process.platform === "darwin"
  ? {
    socket: 0xffff,
    keepAlive: 8,
    sndbuf: 0x1001,
    rcvbuf: 0x1002,
    idle: 0x10,
    interval: 0x101,
    count: 0x102,
  }
  : null;
const IPPROTO_TCP = 6;

/** `setsockopt` on one descriptor, with an `int` as value. */
export type SetOption = (level: number, name: number, value: number) => void;

/** Sets all that the options ask for. A listening socket hands them to those it accepts. */
export function applyOptions(options: LinkOptions, set: SetOption): void {
  if (NUMBERS === null) return;
  const alive = options.keepAlive;
  set(NUMBERS.socket, NUMBERS.keepAlive, alive ? 1 : 0);
  if (alive) {
    set(IPPROTO_TCP, NUMBERS.idle, alive.idleSeconds);
    set(IPPROTO_TCP, NUMBERS.interval, alive.intervalSeconds);
    set(IPPROTO_TCP, NUMBERS.count, alive.count);
  }
  if (options.sendBufferBytes > 0) set(NUMBERS.socket, NUMBERS.sndbuf, options.sendBufferBytes);
  if (options.receiveBufferBytes > 0) setReceiveBuffer(options.receiveBufferBytes, set);
}

export function setReceiveBuffer(bytes: number, set: SetOption): void {
  if (NUMBERS !== null) set(NUMBERS.socket, NUMBERS.rcvbuf, bytes);
}
