/**
 * The files of `ipc://` sockets: a stale one is taken over, a live or foreign one never. All runtimes remove the path that
 * they bound, whoever's file lies there by then: so a socket is bound beside its place and linked to it, and at the end only
 * the file that is ours is removed.
 */
import { Buffer } from "node:buffer";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  renameSync,
  rmdirSync,
  type Stats,
  unlinkSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { Address, Link, LinkEvents, LinkOptions, Listener, Transport } from "../contracts/links.ts";
import { CCError, codeOf, errnoText, errorText } from "../errors.ts";
import { UNIX_PATH_MAX_BYTES } from "../limits.ts";

/** Does a server listen at this path, however busy it is? */
export type Answers = (path: string) => Promise<boolean>;

/** One that has not answered by then is busy, and so there. */
const ANSWER_MS = 2000;
/** So often a path is looked at that others want too. */
const LOOKS_MAX = 20;

/**
 * Makes room for a socket at `path`: the file of a server that is gone is removed.
 *
 * @throws {CCError} `EADDRINUSE`: a server answers there, or the file is no socket; `ENOENT`: there is no such folder.
 */
export async function prepareSocketFile(path: string, answers: Answers): Promise<void> {
  for (let looks = 0;; looks++) {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat === undefined) {
      if (existsSync(dirname(path))) return;
      // libuv would say that permission is denied.
      throw new CCError("ENOENT", `cannot listen on ipc://${path}: no such file or folder`);
    }
    if (!stat.isSocket()) throw inUse(path, "a file that is not a socket stands there");
    if (looks === LOOKS_MAX || await answers(path)) throw inUse(path, "the address is in use");
    takeAway(path, stat);
  }
}

/**
 * Listens at `path`, where there is room for it.
 *
 * @param listenAt Binds a socket to the path it is given.
 * @param mode Permission bits of the file; those that the umask leaves when missing.
 * @throws {CCError} As {@link prepareSocketFile}.
 */
export async function listenOnFile(
  path: string,
  answers: Answers,
  listenAt: (path: string) => Promise<Listener>,
  mode?: number,
): Promise<Listener> {
  await prepareSocketFile(path, answers);
  if (mode === undefined) return await listenBeside(path, besideOf(path), listenAt);
  // Between being bound and its own mode it may be anybody's: so that is in a folder that is ours alone.
  const folder = privateFolder(path);
  try {
    return await listenBeside(path, join(folder, "s"), listenAt, mode);
  } finally {
    removeFolder(folder);
  }
}

/** Binds beside, and gives it its place. */
async function listenBeside(
  path: string,
  beside: string,
  listenAt: (path: string) => Promise<Listener>,
  mode?: number,
): Promise<Listener> {
  const listener = await listenAt(beside);
  try {
    if (mode !== undefined) chmodSync(beside, mode);
    const own = lstatSync(beside);
    link(beside, path);
    return {
      address: { transport: "ipc", path },
      close() {
        removeOwn(path, own);
        return listener.close();
      },
    };
  } catch (error) {
    await listener.close();
    throw error;
  } finally {
    removeSocketFile(beside);
  }
}

/** A new folder beside, for us alone, with room for a name of one letter in it. */
function privateFolder(path: string): string {
  try {
    const folder = besideOf(path, 2);
    mkdirSync(folder, { mode: 0o700 });
    // The umask may have taken away what its owner needs.
    chmodSync(folder, 0o700);
    return folder;
  } catch (error) {
    if (error instanceof CCError) throw error;
    throw cannotListen(path, error);
  }
}

function removeFolder(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // What else could be done? It is empty, and nobody's.
  }
}

/** `named` is the address as it is called. */
type ListenAt = (
  address: Address,
  named: Address,
  options: LinkOptions,
  accept: (link: Link) => LinkEvents,
) => Promise<Listener>;

/** Listens as {@link Transport.listen} says, by a function that binds any address. */
export function listenBy(answers: Answers, listenAt: ListenAt): Transport["listen"] {
  return (address, options, accept) =>
    address.transport === "tcp" ? listenAt(address, address, options, accept) : listenOnFile(
      address.path,
      answers,
      (path) => listenAt({ ...address, path }, address, options, accept),
      options.mode,
    );
}

const LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789";
/** Long enough for no two programs to meet. */
const NAME_LETTERS = 10;

/**
 * A name for this moment, beside, which nobody has; where the path is long, a short one.
 *
 * @param more Bytes that are to be added to it.
 * @throws {CCError} `ENAMETOOLONG`
 */
function besideOf(path: string, more = 0): string {
  const folder = dirname(path);
  const room = Math.min(NAME_LETTERS, UNIX_PATH_MAX_BYTES - more - Buffer.byteLength(join(folder, "/")));
  if (room < 1) throw new CCError("ENAMETOOLONG", `cannot listen on ipc://${path}: the path is too long`);
  for (;;) {
    let name = room > 1 ? "." : "";
    while (name.length < room) name += LETTERS[Math.floor(Math.random() * LETTERS.length)];
    const beside = join(folder, name);
    if (beside !== path && lstatSync(beside, { throwIfNoEntry: false }) === undefined) return beside;
  }
}

function link(beside: string, path: string): void {
  try {
    linkSync(beside, path);
  } catch (error) {
    if (codeOf(error) === "EEXIST") throw inUse(path, "the address is in use");
    throw cannotListen(path, error);
  }
}

/** Removes a file that was found stale, unless another server has put its own there since. */
function takeAway(path: string, stale: Stats): void {
  const aside = besideOf(path);
  try {
    renameSync(path, aside);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw cannotListen(path, error);
  }
  try {
    if (!isSame(lstatSync(aside), stale)) linkSync(aside, path);
  } catch {
    // Another has come already.
  }
  removeSocketFile(aside);
}

function removeOwn(path: string, own: Stats): void {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat !== undefined && isSame(stat, own)) removeSocketFile(path);
}

function isSame(a: Stats, b: Stats): boolean {
  return a.ino === b.ino && a.dev === b.dev;
}

/** Removes the file of a socket of ours; it may be gone already. */
export function removeSocketFile(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // The runtime removed it when it stopped listening.
  }
}

function cannotListen(path: string, error: unknown): CCError {
  return new CCError(
    codeOf(error) ?? "cannot-listen",
    `cannot listen on ipc://${path}: ${errnoText(codeOf(error)) ?? errorText(error)}`,
  );
}

function inUse(path: string, why: string): CCError {
  return new CCError("EADDRINUSE", `cannot listen on ipc://${path}: ${why}`);
}

/** Asks by connecting. Only who is refused, or finds nothing, knows that nobody is there. */
export function askBy(connect: Transport["connect"]): Answers {
  return (path) =>
    new Promise((resolve) => {
      const timer = setTimeout(() => {
        cancel();
        resolve(true);
      }, ANSWER_MS);
      const settle = (there: boolean) => {
        clearTimeout(timer);
        resolve(there);
      };
      const cancel = connect(
        { transport: "ipc", path },
        { keepAlive: null, receiveBufferBytes: 0, sendBufferBytes: 0 },
        (link) => {
          settle(true);
          queueMicrotask(() => link.destroy());
          return {
            data() {},
            readTarget: () => null,
            commitRead() {},
            written() {},
            ended() {},
            closed() {},
          };
        },
        (error) => settle(!["ECONNREFUSED", "ENOENT"].includes(codeOf(error) ?? "")),
      );
    });
}
