/** `ccserver -r`, `-s`, `-k`: signals to the server that a config's pidfile names. */
import process from "node:process";
import { placeOf, type ServerConfig } from "../config/config.ts";
import { reason } from "../log.ts";
import { EXIT, Exit } from "./exit.ts";
import { holderOf, isAlive } from "./pidfile.ts";

const SIGNALS = { reload: "SIGHUP", stop: "SIGINT", kill: "SIGTERM" } as const;
export type Control = keyof typeof SIGNALS;

/** Sending what is queued may take `zmq_linger`; what comes on top of it is little. */
const STOP_EXTRA_MS = 30_000;
const POLL_MS = 20;

/**
 * Signals the server; to stop and to kill it wait until it has gone.
 *
 * @throws {Exit} There is none, it is not ours, or it does not end.
 */
export async function control(action: Control, config: ServerConfig): Promise<number> {
  const path = pidfileOf(config, `-${action[0]} finds the server by it`);
  const found = holderOf(path);
  if (found.pid === null) {
    throw new Exit(
      EXIT.unavailable,
      `ccserver: ${config.file}: no server runs: pidfile ${path}: ${found.why}`,
    );
  }
  const { pid } = found;
  try {
    process.kill(pid, SIGNALS[action]);
  } catch (error) {
    throw new Exit(EXIT.unavailable, `ccserver: cannot signal process ${pid}: ${reason(error)}`);
  }
  if (action === "reload") return EXIT.ok;
  const waitMs = config.options.zmq_linger + STOP_EXTRA_MS;
  const until = performance.now() + waitMs;
  while (isAlive(pid)) {
    if (performance.now() > until) {
      throw new Exit(
        EXIT.failed,
        `ccserver: process ${pid} got ${SIGNALS[action]} and still runs after ${waitMs / 1000} s`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return EXIT.ok;
}

/** @throws {Exit} The config has none. */
export function pidfileOf(config: ServerConfig, why: string): string {
  const { pidfile } = config.options;
  if (pidfile !== null) return pidfile;
  throw new Exit(EXIT.config, `${placeOf(config, "pidfile")}: [ccserver] needs the option "pidfile": ${why}`);
}
