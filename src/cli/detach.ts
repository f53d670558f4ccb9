/** `ccserver -d`: starts the server in the background, and waits until it listens or has said why it does not. */
import { spawn } from "node:child_process";
import { closeSync, writeSync } from "node:fs";
import type { Readable } from "node:stream";
import runtime from "#runtime";
import { placeOf, type ServerConfig } from "../config/config.ts";
import { reason } from "../log.ts";
import { pidfileOf } from "./control.ts";
import { EXIT, Exit } from "./exit.ts";

/** The server's end of the pipe; its option `--detached` says that it is there. */
const PIPE_FD = 3;

/** What the server says, once, as a line of JSON. */
interface Outcome {
  code: number;
  /** For the person at the terminal; nothing when it listens. */
  message: string;
}

/**
 * Starts the program again as a server of its own session, away from the terminal.
 *
 * @param args Its arguments.
 * @throws {Exit} With the server's own exit code and message.
 */
export async function detach(config: ServerConfig, args: readonly string[]): Promise<number> {
  pidfileOf(config, "-r, -s and -k find a server in the background by it");
  if (config.options.logfile === null) {
    console.error(`${placeOf(config, "logfile")}: [ccserver] has no option "logfile": nothing is logged`);
  }
  const [command, ...first] = runtime.self;
  const child = spawn(command, [...first, "--detached", ...args], {
    detached: true,
    stdio: ["ignore", "ignore", "ignore", "pipe"],
  });
  const pipe = child.stdio[PIPE_FD] as Readable;
  const { code, message } = await new Promise<Outcome>((resolve, reject) => {
    let text = "";
    pipe.setEncoding("utf8");
    pipe.on("data", (chunk: string) => {
      text += chunk;
      if (text.endsWith("\n")) resolve(JSON.parse(text));
    });
    child.on(
      "error",
      (error) => reject(new Exit(EXIT.unavailable, `ccserver: cannot start ${command}: ${error.message}`)),
    );
    // It could not even say why; what it had said would have come before the pipe's end.
    const ended = new Promise<string>((tell) =>
      child.on("exit", (code, signal) => tell(signal ?? `exit code ${code}`))
    );
    pipe.on("close", async () =>
      resolve({
        code: EXIT.unavailable,
        message:
          `ccserver: the server ended before it listened, ${await ended}: start it without -d to see why`,
      }));
  });
  if (code !== EXIT.ok) throw new Exit(code, message);
  return EXIT.ok;
}

/**
 * Runs the server that {@link detach} has started, and tells how its start went.
 *
 * @param run Is given what to call when the server listens.
 */
export async function detached(run: (listens: () => void) => Promise<number>): Promise<number> {
  let told = false;
  const tell = (outcome: Outcome) => {
    if (told) return;
    told = true;
    try {
      writeSync(PIPE_FD, `${JSON.stringify(outcome)}\n`);
      closeSync(PIPE_FD);
    } catch {
      // Nobody waits for it any more: the server runs all the same.
    }
  };
  try {
    return await run(() => tell({ code: EXIT.ok, message: "" }));
  } catch (error) {
    if (error instanceof Exit) tell({ code: error.code, message: error.message });
    else tell({ code: EXIT.unavailable, message: `ccserver: ${reason(error)}` });
    throw error;
  }
}
