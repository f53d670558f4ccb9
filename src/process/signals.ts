/** What signals mean to a server: SIGINT and SIGTERM stop it, SIGHUP reloads. */
import process from "node:process";
import type { Cancel, Processes } from "../contracts/environment.ts";

const NUMBERS = { SIGINT: 2, SIGTERM: 15 } as const;

/** Calls `stop` at the first signal; a second one ends the program at once. */
function onStopSignal(processes: Processes, stop: (signal: string) => void): Cancel {
  let stopping = false;
  const cancels = (Object.keys(NUMBERS) as (keyof typeof NUMBERS)[]).map((signal) =>
    processes.onSignal(signal, () => {
      if (stopping) process.exit(128 + NUMBERS[signal]);
      stopping = true;
      stop(signal);
    })
  );
  return () => {
    for (const cancel of cancels) cancel();
  };
}

/** Calls `reload` at each SIGHUP, one after the other; those that come meanwhile are one. */
function onReloadSignal(processes: Processes, reload: () => Promise<void>): Cancel {
  let running = false;
  let again = false;
  const run = async () => {
    again = running;
    if (running) return;
    running = true;
    try {
      do {
        again = false;
        await reload();
      } while (again);
    } finally {
      running = false;
    }
  };
  return processes.onSignal("SIGHUP", () => void run());
}

/** Hears signals from its making on; what came before somebody asked for it is told then. */
export class EarlySignals {
  #stop: ((signal: string) => void) | null = null;
  #reload: (() => Promise<void>) | null = null;
  #stopped: string | null = null;

  constructor(processes: Processes) {
    onStopSignal(processes, (signal) => {
      if (this.#stop === null) this.#stopped = signal;
      else this.#stop(signal);
    });
    // A config that is yet to be used is as new as can be.
    onReloadSignal(processes, () => this.#reload?.() ?? Promise.resolve());
  }

  onStop(stop: (signal: string) => void): void {
    this.#stop = stop;
    if (this.#stopped !== null) stop(this.#stopped);
  }

  onReload(reload: () => Promise<void>): void {
    this.#reload = reload;
  }
}
