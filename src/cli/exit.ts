/** Exit codes, as sysexits.h names them, and the error that carries one to main. */

export const EXIT = {
  ok: 0,
  /** Something was asked and did not come about: no reply, say. */
  failed: 1,
  usage: 64,
  unavailable: 69,
  config: 78,
} as const;

/** Ends the program with a message for the person at the terminal. */
export class Exit extends Error {
  override name = "Exit";
  readonly code: number;
  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}
