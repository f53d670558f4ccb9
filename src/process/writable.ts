/** The files that a server writes: which of them it could not, as far as that can be told without writing. */
import { accessSync, constants, mkdirSync, statSync } from "node:fs";
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
    const folder = dirname(path);
    // One that is missing is made at the start.
    const made = file === undefined && statSync(folder, { throwIfNoEntry: false }) === undefined;
    accessSync(file !== undefined && adds ? path : made ? dirname(folder) : folder, constants.W_OK);
    return null;
  } catch (error) {
    return errnoText(codeOf(error)) ?? errorText(error);
  }
}

/** Makes the folders of these files, where what they stand in is there. What cannot be made is told by who opens the file. */
export function makeFolders(options: Readonly<Record<FileOption, string | null>>): void {
  for (const option of FILE_OPTIONS) {
    const path = options[option];
    if (path === null || option === "logfile" && STANDARD.has(path)) continue;
    try {
      mkdirSync(dirname(path));
    } catch {
      // It is there, or the file's own error says why it is not.
    }
  }
}
