/** Tells systemd how the server is: sd_notify(3) for `Type=notify`, and the watchdog. */
import process from "node:process";
import type { Cancel, Clock, ServiceManager } from "../contracts/environment.ts";
import type { Logger } from "../log.ts";

/** Speaks to the socket that the service manager names; says nothing where there is none. */
export class Notifier {
  readonly #manager: ServiceManager;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #socket: string | undefined;
  /** Microseconds within which a sign of life is expected; 0: none is. */
  readonly #watchdogMicros: number;
  #cancelWatchdog: Cancel | null = null;
  #last: Promise<void> = Promise.resolve();
  #warned = false;
  #stopping = false;

  /** Takes what concerns it out of the environment: programs that this one starts have no part in it. */
  constructor(manager: ServiceManager, clock: Clock, log: Logger) {
    this.#manager = manager;
    this.#clock = clock;
    this.#log = log;
    this.#socket = takeVariable("NOTIFY_SOCKET");
    const pid = takeVariable("WATCHDOG_PID");
    const micros = Number(takeVariable("WATCHDOG_USEC"));
    const ours = pid === undefined || Number(pid) === process.pid;
    this.#watchdogMicros = ours && micros > 0 ? micros : 0;
  }

  ready(status: string): void {
    if (this.#stopping) return;
    this.#send("READY=1", `STATUS=${status}`);
    if (this.#watchdogMicros === 0 || this.#cancelWatchdog !== null) return;
    this.#cancelWatchdog = this.#clock.every(this.#watchdogMicros / 2000, () => this.#send("WATCHDOG=1"));
  }

  /** To be followed by {@link ready}. */
  reloading(): void {
    if (this.#stopping) return;
    const micros = this.#manager.monotonicMicros();
    this.#send("RELOADING=1", "STATUS=reloading", ...(micros === null ? [] : [`MONOTONIC_USEC=${micros}`]));
  }

  stopping(): void {
    this.#stopping = true;
    this.#send("STOPPING=1", "STATUS=stopping");
  }

  /** Resolves when all that was said is sent. */
  async end(): Promise<void> {
    this.#cancelWatchdog?.();
    await this.#last;
  }

  /** One after the other: where a helper sends, two at once could change places. */
  #send(...lines: string[]): void {
    const socket = this.#socket;
    if (socket === undefined) return;
    const { notify, hearsUs } = this.#manager;
    this.#last = this.#last.then(async () => {
      if (await notify(socket, lines.join("\n")) || this.#warned) return;
      this.#warned = true;
      this.#log.warn(
        "notify",
        `the service manager cannot be told: NOTIFY_SOCKET is ${socket}, and nothing could be sent there` +
          (hearsUs ? "" : ". Here that needs systemd-notify or python3"),
      );
    });
  }
}

/** A variable of the environment, which programs that this one starts then do not have. */
export function takeVariable(name: string): string | undefined {
  const value = process.env[name];
  delete process.env[name];
  return value === "" ? undefined : value;
}
