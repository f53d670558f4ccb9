/** The files that a server writes: which of them it could not, as far as that can be told without writing. */
import { accessSync, constants, statSync } from "node:fs";
import { dirname } from "node:path";
import { codeOf, errnoText, errorText } from "../errors.ts";
import { wrongKind } from "./kinds.ts";
import { STANDARD } from "./log_file.ts";

/** Options that name a file to write. */
export type FileOption = "logfile" | "pidfile" | "infofile";
const FILE_OPTIONS: readonly FileOption[] = ["logfile", "pidfile", "infofile"];

/** What is wrong with a file, in a sentence. */
export interface Unwritable {
  readonly option: FileOption;
  readonly message: string;
}

export function unwritableFiles(options: Readonly<Record<FileOption, string | null>>): Unwritable[] {
  return FILE_OPTIONS.flatMap((option) => {
    const path = options[option];
    // One whose own text is wrong has no value.
    if (typeof path !== "string") return [];
    const why = cannotWrite(path, option === "logfile");
    return why === null ? [] : [{ option, message: `cannot write the ${option} ${path}: ${why}` }];
  });
}

/** Why a file cannot be written: itself, when lines are added to it, or another in its place. */
function cannotWrite(path: string, adds: boolean): string | null {
  try {
    if (adds && STANDARD.has(path)) return null;
    const wrong = wrongKind(path, adds ? "lines" : "whole");
    if (wrong !== null) return wrong;
    const file = statSync(path, { throwIfNoEntry: false });
    accessSync(file !== undefined && adds ? path : dirname(path), constants.W_OK);
    return null;
  } catch (error) {
    return errnoText(codeOf(error)) ?? errorText(error);
  }
}
