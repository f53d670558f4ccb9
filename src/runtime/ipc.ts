/** The files of `ipc://` sockets: a stale one is taken over, a live or foreign one never. */
import { existsSync, lstatSync, unlinkSync } from "node:fs";
import { dirname } from "node:path";
import type { Transport } from "../contracts/links.ts";
import { CCError } from "../errors.ts";

/** How a driver connects; what answers there is told by it. */
type Connect = Transport["connect"];

/**
 * Makes room for a socket at `path`: the file of a server that is gone is removed.
 *
 * @throws {CCError} `EADDRINUSE`: a server answers there, or the file is no socket; `ENOENT`: there is no such folder.
 */
export async function prepareSocketFile(path: string, connect: Connect): Promise<void> {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) {
    if (existsSync(dirname(path))) return;
    // libuv would say that permission is denied.
    throw new CCError("ENOENT", `cannot listen on ipc://${path}: no such file or folder`);
  }
  const inUse = (why: string) => new CCError("EADDRINUSE", `cannot listen on ipc://${path}: ${why}`);
  if (!stat.isSocket()) throw inUse("a file that is not a socket stands there");
  if (await answers(path, connect)) throw inUse("the address is in use");
  unlinkSync(path);
}

/** Removes the file of a socket of ours; it may be gone already. */
export function removeSocketFile(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // The runtime removed it when it stopped listening.
  }
}

function answers(path: string, connect: Connect): Promise<boolean> {
  return new Promise((resolve) => {
    connect(
      { transport: "ipc", path },
      { keepAlive: null, receiveBufferBytes: 0, sendBufferBytes: 0 },
      (link) => {
        resolve(true);
        queueMicrotask(() => link.destroy());
        return { data() {}, readTarget: () => null, commitRead() {}, written() {}, ended() {}, closed() {} };
      },
      () => resolve(false),
    );
  });
}
