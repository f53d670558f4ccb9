/** Exit codes, as sysexits.h names them, and the error that carries one to the end of the program. */
import { CCError } from "../errors.ts";

export const EXIT = {
  ok: 0,
  /** Something was asked and did not come about: no reply, say. */
  failed: 1,
  usage: 64,
  unavailable: 69,
  /** Results cannot be written. */
  io: 74,
  config: 78,
} as const;

/** Ends the program with a message for the person at the terminal. */
export class Exit extends CCError {
  override name = "Exit";
  readonly exitCode: number;
  constructor(exitCode: number, message: string) {
    super("exit", message);
    this.exitCode = exitCode;
  }
}

/** A command line that is wrong; whoever catches it adds how the command is used. */
export class UsageError extends Exit {
  override name = "UsageError";
  constructor(message: string) {
    super(EXIT.usage, message);
  }
}
