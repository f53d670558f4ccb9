/** What stands at a path, before it is opened: a pipe that nobody reads holds whoever opens it. */
import { type Stats, statSync } from "node:fs";

/** Files that are written whole, or that lines are added to. */
type FileUse = "whole" | "lines";

/** Why what stands there is not written to; null where it can be, or nothing is there. */
export function wrongKind(path: string, use: FileUse): string | null {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat === undefined ? null : wrongKindOf(stat, use);
}

function wrongKindOf(stat: Stats, use: FileUse): string | null {
  if (stat.isFile()) return null;
  if (stat.isDirectory()) return "it is a folder";
  if (stat.isBlockDevice()) return "it is a block device";
  if (stat.isSocket()) return "it is a socket";
  // Lines may go to a terminal, or to a pipe that is read.
  if (use === "lines") return null;
  return stat.isFIFO() ? "it is a pipe" : "it is a device";
}
