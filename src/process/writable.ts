/** The files that a server writes: which of them it could not, as far as that can be told without writing. */
import { accessSync, constants, lstatSync, mkdirSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { codeOf, errnoText, errorText } from "../errors.ts";
import { UNIX_PATH_MAX_BYTES } from "../limits.ts";
import { utf8 } from "../text.ts";
import { wrongKind } from "./kinds.ts";
import { STANDARD } from "./log_file.ts";

/** Options that name a file to write. */
export type FileOption = "logfile" | "pidfile" | "infofile" | "control-socket";
const FILE_OPTIONS: readonly FileOption[] = ["logfile", "pidfile", "infofile", "control-socket"];

/** What is wrong with a file, in a sentence. */
export interface Unwritable {
  readonly option: FileOption;
  readonly message: string;
}

/** Values of options that name files, and of the one that may name a socket beside them. */
export type FileValues = Readonly<Record<FileOption, string | null>> & { readonly "cc-socket": string };

/** What is wrong with the files of these options. */
export function unwritableFiles(options: FileValues): Unwritable[] {
  return FILE_OPTIONS.flatMap((option): Unwritable[] => {
    const path = options[option];
    // One whose own text is wrong has no value; a control socket may be none.
    if (typeof path !== "string" || path === "") return [];
    if (option === "control-socket") {
      const why = cannotListen(path, options);
      return why === null ? [] : [{ option, message: `cannot listen on the control-socket ${path}: ${why}` }];
    }
    const why = cannotWrite(path, option === "logfile");
    return why === null ? [] : [{ option, message: `cannot write the ${option} ${path}: ${why}` }];
  });
}

/** Why there can be no Unix socket. */
function cannotListen(path: string, options: FileValues): string | null {
  const same = FILE_OPTIONS.find((option) => option !== "control-socket" && options[option] === path);
  if (same !== undefined) return `that is the ${same}`;
  const [, main] = /^ipc:\/\/(.*)$/s.exec(options["cc-socket"] ?? "") ?? [];
  if (main !== undefined && resolve(main) === path) return "that is the cc-socket";
  if (utf8(path).length > UNIX_PATH_MAX_BYTES) return `it has more than ${UNIX_PATH_MAX_BYTES} bytes`;
  try {
    const there = lstatSync(path, { throwIfNoEntry: false });
    if (there !== undefined && !there.isSocket()) return "what stands there is no socket";
    const folder = dirname(path);
    accessSync(
      statSync(folder, { throwIfNoEntry: false }) === undefined ? dirname(folder) : folder,
      constants.W_OK,
    );
    return null;
  } catch (error) {
    return errnoText(codeOf(error)) ?? errorText(error);
  }
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
    if (path === null || path === "" || option === "logfile" && STANDARD.has(path)) continue;
    try {
      mkdirSync(dirname(path));
    } catch {
      // It is there, or the file's own error says why it is not.
    }
  }
}
