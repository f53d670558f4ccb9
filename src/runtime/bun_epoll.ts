/// <reference types="bun-types" />
/** Which of many sockets have something to read, by an epoll of our own: Bun's reads all that is ready before anybody is asked. */
import { loadLinux } from "./bun_libc.ts";
import type { Readiness } from "./crowd.ts";

interface Calls {
  epoll_create1(flags: number): number;
  epoll_ctl(epoll: number, operation: number, fd: number, event: Uint32Array): number;
  epoll_wait(epoll: number, events: Uint32Array, most: number, timeoutMs: number): number;
}

const CLOEXEC = 0x80000;
const ADD = 1;
const DELETE = 2;
const IN = 0x001;
const ERROR = 0x008;
const HANG_UP = 0x010;
const READ_HANG_UP = 0x2000;
const EDGE = 1 << 31;

const EVENTS = 256;
/** A `struct epoll_event`, in words: the kernel's is packed on x86-64 alone. */
const WORDS = process.arch === "x64" ? 3 : 4;
const DATA = WORDS - 2;

/** Null where there is no epoll. */
export function openEpoll(): Readiness | null {
  const calls = process.platform !== "linux" ? null : loadLinux<Calls>({
    epoll_create1: { args: ["i32"], returns: "i32" },
    epoll_ctl: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
    epoll_wait: { args: ["i32", "ptr", "i32", "i32"], returns: "i32" },
  });
  const epoll = calls?.epoll_create1(CLOEXEC) ?? -1;
  if (calls === null || epoll < 0) return null;
  const events = new Uint32Array(EVENTS * WORDS);
  return {
    add(fd, id) {
      // Edges: who is read until there is no more need not be asked for again, nor who is not read for now.
      events[0] = IN | READ_HANG_UP | EDGE;
      events[DATA] = id;
      events[DATA + 1] = 0;
      return calls.epoll_ctl(epoll, ADD, fd, events) === 0;
    },
    remove: (fd) => void calls.epoll_ctl(epoll, DELETE, fd, events),
    poll(ready) {
      for (;;) {
        const n = calls.epoll_wait(epoll, events, EVENTS, 0);
        for (let at = 0; at < n * WORDS; at += WORDS) {
          ready(events[at + DATA], (events[at] & (ERROR | HANG_UP | READ_HANG_UP)) !== 0);
        }
        if (n < EVENTS) return;
      }
    },
  };
}
