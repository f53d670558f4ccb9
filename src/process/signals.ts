/** What signals mean to a server: SIGINT and SIGTERM stop it, a second one ends it at once, SIGHUP reloads. */
import process from "node:process";
import type { Processes } from "../contracts/environment.ts";

const NUMBERS = { SIGINT: 2, SIGTERM: 15 } as const;

/** Hears signals from its making on; what came before somebody asked for it is told then. */
export class EarlySignals {
  /** Called when the program ends at once. */
  onEnd: () => void = () => {};
  #stop: ((signal: string) => void) | null = null;
  #reload: (() => Promise<void>) | null = null;
  #stopped: string | null = null;
  #reloading = false;
  #again = false;
  /** A SIGHUP came before anybody asked for it. */
  #early = false;

  constructor(processes: Processes) {
    for (const signal of Object.keys(NUMBERS) as (keyof typeof NUMBERS)[]) {
      processes.onSignal(signal, () => this.#heard(signal));
    }
    processes.onSignal("SIGHUP", () => void this.#hangUp());
  }

  onStop(stop: (signal: string) => void): void {
    this.#stop = stop;
    if (this.#stopped !== null) stop(this.#stopped);
  }

  /** Called at each SIGHUP, one after the other; those that come meanwhile are one. */
  onReload(reload: () => Promise<void>): void {
    this.#reload = reload;
    if (this.#early) void this.#hangUp();
  }

  #heard(signal: keyof typeof NUMBERS): void {
    if (this.#stopped !== null) {
      this.onEnd();
      process.exit(128 + NUMBERS[signal]);
    }
    this.#stopped = signal;
    this.#stop?.(signal);
  }

  async #hangUp(): Promise<void> {
    this.#early = this.#reload === null;
    if (this.#reload === null) return;
    this.#again = this.#reloading;
    if (this.#reloading) return;
    this.#reloading = true;
    try {
      do {
        this.#again = false;
        await this.#reload();
      } while (this.#again);
    } finally {
      this.#reloading = false;
    }
  }
}
