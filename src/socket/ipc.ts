/** The files of `ipc://` sockets: a stale one is taken over, a live or foreign one never. */
import { existsSync, lstatSync, unlinkSync } from "node:fs";
import { dirname } from "node:path";
import type { Transport } from "../runtime/types.ts";

/**
 * Makes room for a socket at `path`: the file of a server that is gone is removed.
 *
 * @throws An error with code `EADDRINUSE` when a server answers there, or the file is no socket.
 */
export async function prepareSocketFile(path: string, transport: Transport): Promise<void> {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) {
    if (existsSync(dirname(path))) return;
    // libuv would say that permission is denied.
    throw Object.assign(new Error(`cannot listen on ipc://${path}: no such file or folder`), {
      code: "ENOENT",
    });
  }
  const inUse = (why: string) =>
    Object.assign(new Error(`cannot listen on ipc://${path}: ${why}`), { code: "EADDRINUSE" });
  if (!stat.isSocket()) throw inUse("a file that is not a socket stands there");
  if (await answers(path, transport)) throw inUse("the address is in use");
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

function answers(path: string, transport: Transport): Promise<boolean> {
  return new Promise((resolve) => {
    transport.connect(
      { transport: "ipc", path },
      { keepAlive: null, receiveBufferBytes: 0, sendBufferBytes: 0 },
      (link) => {
        resolve(true);
        queueMicrotask(() => link.destroy());
        return { data() {}, space: () => null, filled() {}, written() {}, ended() {}, closed() {} };
      },
      () => resolve(false),
    );
  });
}
