/**
 * Lets so many connections in at a time. Bun accepts all that wait before it does anything else: of 10,000 clients that came
 * back at once 6,250 came in one turn, and everybody else waited for 350 ms.
 *
 * No runtime can pause a listener. So for the rest of a turn another socket stands at its descriptor, one where nobody waits,
 * and Bun's `accept` finds nothing. The listener itself is kept by a second descriptor, is watched as before, and what
 * connects waits in its backlog.
 */

import { AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM } from "./common.ts";

/** So many come in at once: about 4 ms. */
const AT_ONCE = 64;

/** Descriptors that it takes. */
export const TURNSTILE_DESCRIPTORS = 2;

/** `fcntl` on Linux. */
const F_DUPFD_CLOEXEC = 1030;

/** What is needed of the C library. */
export interface TurnstileCalls {
  socket(domain: number, type: number, protocol: number): number;
  fcntl(fd: number, command: number, value: number): number;
  dup3(from: number, to: number, flags: number): number;
  close(fd: number): number;
}

export class Turnstile {
  readonly #calls: TurnstileCalls;
  readonly #nextTurn: (f: () => void) => void;
  readonly #fd: number;
  readonly #listener: number;
  readonly #nobody: number;
  #passed = 0;
  #shut = false;
  #scheduled = false;
  #over = false;

  /**
   * @param fd The listener's descriptor; it stays the same number.
   * @param nextTurn Calls back in the next turn of the event loop.
   */
  constructor(calls: TurnstileCalls, fd: number, nextTurn: (f: () => void) => void) {
    this.#calls = calls;
    this.#nextTurn = nextTurn;
    this.#fd = fd;
    this.#listener = fd < 0 ? -1 : calls.fcntl(fd, F_DUPFD_CLOEXEC, 0);
    this.#nobody = this.#listener < 0 ? -1 : calls.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  }

  /** Somebody has come in. */
  passed(): void {
    if (this.#nobody < 0 || this.#over) return;
    if (!this.#scheduled) {
      this.#scheduled = true;
      this.#nextTurn(this.#open);
    }
    if (++this.#passed < AT_ONCE || this.#shut) return;
    this.#shut = this.#calls.dup3(this.#nobody, this.#fd, SOCK_CLOEXEC) >= 0;
  }

  readonly #open = (): void => {
    this.#scheduled = false;
    this.#passed = 0;
    if (!this.#shut || this.#over) return;
    this.#shut = this.#calls.dup3(this.#listener, this.#fd, SOCK_CLOEXEC) < 0;
    if (this.#shut) this.#nextTurn(this.#open);
  };

  /** Before the listener is closed: then it is at its descriptor again, and nothing else keeps it. */
  close(): void {
    if (this.#over) return;
    this.#open();
    this.#over = true;
    for (const fd of [this.#listener, this.#nobody]) if (fd >= 0) this.#calls.close(fd);
  }
}
