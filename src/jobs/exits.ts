/** How a process ended, in words. */
import type { Exit } from "../contracts/environment.ts";
import type { JobConfig } from "./config.ts";
import { NO_FOLDER, NO_USER, NOT_EXECUTABLE, NOT_FOUND } from "./wrapper.ts";

/** It ended as it should. */
export const WELL = "exit code 0";

/** @param exit Null: it was no child of this server. */
export function exitText(exit: Exit | null): string {
  if (exit === null) return "unknown";
  if (exit.error !== null) return exit.error;
  return exit.signal ?? `exit code ${exit.code}`;
}

/** The same of one that ended before it counted as running: what the shell that starts it says by its exit code. */
export function startText(exit: Exit | null, { values: { user, cwd } }: JobConfig): string {
  if (exit?.code === NOT_FOUND) return "the program is missing (exit code 127)";
  if (exit?.code === NOT_EXECUTABLE) return "the program cannot be executed (exit code 126)";
  if (exit?.code === NO_USER && user !== null) return "the user is not known (exit code 124)";
  if (exit?.code === NO_FOLDER && cwd !== null) return "the folder of cwd cannot be entered (exit code 125)";
  return exitText(exit);
}
