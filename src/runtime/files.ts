/** Files of the machine, by `node:fs`: the same on all runtimes. */
import { constants } from "node:fs";
import { type FileHandle, open, rename, rm, stat, writeFile } from "node:fs/promises";
import type { Files } from "../contracts/environment.ts";
import { CCError, codeOf, systemError } from "../errors.ts";

const READ_BYTES = 64 * 1024;
/** A pipe that has nothing yet is asked again after so long, at most so often. */
const RETRY_MS = 20;
const RETRIES_MAX = 500;

export const FILES: Files = {
  async read(path, maxBytes) {
    let file: FileHandle | null = null;
    try {
      // A pipe that nobody writes to would hold up the opening, and with it the end of the program.
      file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
      return await readAll(file, maxBytes);
    } catch (error) {
      throw error instanceof CCError ? error : systemError(error, `cannot read ${path}`);
    } finally {
      await file?.close().catch(() => {/* it was only read */});
    }
  },

  async replace(path, bytes, options = {}) {
    const beside = `${path}.new`;
    try {
      const there = await stat(path).catch(() => null);
      if (there !== null && !there.isFile()) throw new CCError("EINVAL", "what stands there is no file");
      // What a crash left is removed, and what then is there, put there by others, is not written through.
      await rm(beside, { force: true });
      await writeFile(beside, bytes, { flag: "wx", mode: options.mode });
      await rename(beside, path);
    } catch (error) {
      await rm(beside, { force: true }).catch(() => {/* nothing more can be done */});
      throw systemError(error, `cannot write ${path}`);
    }
  },
};

async function readAll(file: FileHandle, maxBytes: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  let retries = 0;
  for (;;) {
    const part = new Uint8Array(READ_BYTES);
    let bytesRead: number;
    try {
      ({ bytesRead } = await file.read(part, 0, READ_BYTES));
    } catch (error) {
      if (codeOf(error) !== "EAGAIN" || ++retries > RETRIES_MAX) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      continue;
    }
    if (bytesRead === 0) break;
    size += bytesRead;
    if (size > maxBytes) throw new CCError("too-large", `it has more than ${maxBytes} bytes`);
    parts.push(part.subarray(0, bytesRead));
  }
  const all = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
