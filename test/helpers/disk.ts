/** A disk that a test can fill up. */
import { spawnSync } from "node:child_process";
import process from "node:process";

/** Mounts a disk of 64 KiB on a folder, or says why there is none. */
export function smallDisk(path: string): { refused: string | null; [Symbol.dispose](): void } {
  const asRoot = process.getuid?.() === 0;
  const { status, stderr } = asRoot
    ? spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "none", path], { encoding: "utf8" })
    : { status: 1, stderr: "mounting a small disk needs root" };
  return {
    refused: status === 0 ? null : `no small disk: ${stderr.trim()}`,
    [Symbol.dispose]: () => void (status === 0 && spawnSync("umount", ["-l", path])),
  };
}
