/** The files that a server writes: which of them it could not, as far as that can be told without writing. */
import { accessSync, constants, statSync } from "node:fs";
import { dirname } from "node:path";
import { reason } from "../log.ts";
import type { ServerOptions } from "./schemas.ts";

/** Options that name a file to write. */
export type FileOption = "logfile" | "pidfile" | "infofile";
const FILE_OPTIONS: readonly FileOption[] = ["logfile", "pidfile", "infofile"];

/** What is wrong with a file, in a sentence. */
export interface Unwritable {
  option: FileOption;
  message: string;
}

export function unwritableFiles(options: Pick<ServerOptions, FileOption>): Unwritable[] {
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
    const file = statSync(path, { throwIfNoEntry: false });
    if (file?.isDirectory()) return "it is a folder";
    accessSync(file !== undefined && adds ? path : dirname(path), constants.W_OK);
    return null;
  } catch (error) {
    const code = (error as { code?: string }).code ?? "";
    return TEXTS[code] ?? reason(error);
  }
}

const TEXTS: Record<string, string> = {
  ENOENT: "no such file or folder",
  ENOTDIR: "its folder is a file",
  EACCES: "permission denied",
  EROFS: "the disk is read-only",
};
