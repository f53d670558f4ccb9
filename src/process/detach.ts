/** A server in the background: it is started, and tells the one that started it how that went. */
import { spawn } from "node:child_process";
import { closeSync, writeSync } from "node:fs";
import type { Readable } from "node:stream";

/** The server's end of the pipe; its option `--detached` says that it is there. */
const PIPE_FD = 3;

/** How a start went; the server says it once, as a line of JSON. */
export interface StartOutcome {
  /** Exit code; 0 when the server listens. */
  readonly code: number;
  /** For the person at the terminal; nothing when it listens. */
  readonly message: string;
}

/**
 * Starts a program in a session of its own, away from the terminal, and waits until it has said how its start went.
 *
 * @returns Null when it ended without a word; then `ended` says how.
 * @throws {Error} It cannot be started.
 */
export async function startDetached(
  command: readonly string[],
): Promise<{ outcome: StartOutcome } | { outcome: null; ended: string }> {
  const [program, ...args] = command;
  const child = spawn(program, args, { detached: true, stdio: ["ignore", "ignore", "ignore", "pipe"] });
  const pipe = child.stdio[PIPE_FD] as Readable;
  return await new Promise((resolve, reject) => {
    let text = "";
    pipe.setEncoding("utf8");
    pipe.on("data", (chunk: string) => {
      text += chunk;
      if (text.endsWith("\n")) resolve({ outcome: JSON.parse(text) });
    });
    child.on("error", (error) => reject(error));
    // What it had said would have come before the pipe's end.
    const ended = new Promise<string>((tell) =>
      child.on("exit", (code, signal) => tell(signal ?? `exit code ${code}`))
    );
    pipe.on("close", async () => resolve({ outcome: null, ended: await ended }));
  });
}

/** Tells {@link startDetached} how the start went; only the first time. */
export function startTeller(): (outcome: StartOutcome) => void {
  let told = false;
  return (outcome) => {
    if (told) return;
    told = true;
    try {
      writeSync(PIPE_FD, `${JSON.stringify(outcome)}\n`);
      closeSync(PIPE_FD);
    } catch {
      // Nobody waits for it any more: the server runs all the same.
    }
  };
}
