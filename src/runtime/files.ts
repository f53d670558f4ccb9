/** Files of the machine, by `node:fs`: the same on all runtimes. */
import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import {
  close,
  closeSync,
  constants,
  fchmodSync,
  fstat,
  fstatSync,
  open as openDescriptor,
  openSync,
  readSync,
  type Stats,
  writeSync,
} from "node:fs";
import {
  access,
  chmod,
  chown,
  type FileHandle,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  rename,
  rm,
  stat,
  unlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import runtime from "#runtime";
import type { Files, Mailbox, Pipe } from "../contracts/environment.ts";
import { CCError, codeOf, systemError } from "../errors.ts";
import { UNIX_PATH_MAX_BYTES } from "../limits.ts";

const READ_BYTES = 64 * 1024;
/** A pipe that has nothing yet is asked again after so long, at most so often. */
const RETRY_MS = 20;
const RETRIES_MAX = 500;

const PIPE_MODE = 0o600;
/** Made by one run of `mkfifo`: more might be too long a command. */
const PIPES_AT_ONCE = 256;
const APPEND_MODE = 0o640;

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

  async create(path, bytes, mode) {
    let file: FileHandle | null = null;
    try {
      file = await open(path, "wx", mode);
      await file.writeFile(bytes);
      await file.close();
    } catch (error) {
      // Only what was made here is removed.
      if (file !== null) {
        await file.close().catch(() => {/* what matters has been thrown */});
        await rm(path, { force: true }).catch(() => {/* nothing more can be done */});
      }
      throw systemError(error, `cannot write ${path}`);
    }
  },

  async remove(path) {
    try {
      // Deno's unlink removes a folder that is empty.
      if ((await lstat(path)).isDirectory()) throw new CCError("EISDIR", "it is a folder");
      await unlink(path);
    } catch (error) {
      if (codeOf(error) !== "ENOENT") throw systemError(error, `cannot remove ${path}`);
    }
  },

  async list(folder) {
    return await readdir(folder).catch(() => []);
  },

  async modeOf(path) {
    return await stat(path).then(({ mode }) => mode & 0o7777, () => null);
  },

  async ownerOf(path) {
    const there = await lstat(path).catch(() => null);
    return there?.isFile() ? there.uid : null;
  },

  async makeFolder(path, mode) {
    try {
      await mkdir(path, mode === undefined ? {} : { mode });
    } catch (error) {
      if (codeOf(error) === "EEXIST" && await stat(path).then((s) => s.isDirectory(), () => false)) return;
      throw systemError(error, `cannot make the folder ${path}`);
    }
  },

  async openPipes(paths) {
    const missing: string[] = [];
    for (const path of new Set(paths)) {
      if (await lstat(path).then(() => false, (error) => codeOf(error) === "ENOENT")) missing.push(path);
    }
    const told = new Map<string, CCError>();
    for (let i = 0; i < missing.length; i += PIPES_AT_ONCE) {
      const some = missing.slice(i, i + PIPES_AT_ONCE);
      const error = await makePipes(some);
      if (error !== null) { for (const path of some) told.set(path, error); }
    }
    return await Promise.all(paths.map((path) => openPipe(path, told.get(path) ?? null)));
  },

  async openMailbox(path, owner) {
    let folder: string | null = null;
    let mailbox: Mailbox | null = null;
    try {
      const there = await lstat(path).catch(() => null);
      if (there !== null && !there.isSocket() && !there.isFIFO()) {
        throw new CCError("EINVAL", "what stands there is no mailbox");
      }
      if (Buffer.byteLength(path) > UNIX_PATH_MAX_BYTES) {
        throw new CCError(
          "ENAMETOOLONG",
          `it is no path of a socket: it has more than ${UNIX_PATH_MAX_BYTES} bytes`,
        );
      }
      folder = await mkdtemp(join(dirname(path), ".cc-"));
      await chmod(folder, 0o700);
      const inside = join(folder, "n");
      mailbox = await mailboxAt(inside);
      if (owner !== null) await chown(inside, owner, process.getegid?.() ?? 0);
      await rename(inside, path);
      return mailbox;
    } catch (error) {
      mailbox?.close();
      throw systemError(error, `cannot open the mailbox ${path}`);
    } finally {
      if (folder !== null) await rm(folder, { recursive: true, force: true }).catch(() => {/* it stays */});
    }
  },

  async postTo(path, text) {
    if (path.startsWith("@")) return await runtime.notify(path, text);
    try {
      const there = await lstat(path);
      if (there.isSocket()) return await runtime.notify(path, text);
      if (!there.isFIFO()) return false;
      const fd = await openRaw(path, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW, 0);
      try {
        return writeSync(fd, text) === Buffer.byteLength(text);
      } finally {
        closeSync(fd);
      }
    } catch {
      return false; // it is gone, or is not ours, or is full
    }
  },

  async openAppend(path) {
    // A pipe that nobody reads, and a device, would hold up the opening; a file does not mind.
    const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK, O_NOCTTY, O_NOFOLLOW } = constants;
    let fd = -1;
    try {
      fd = await openRaw(
        path,
        O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW,
        APPEND_MODE,
      );
      if (!(await fstatRaw(fd)).isFile()) throw new CCError("EINVAL", "what stands there is no file");
      return fd;
    } catch (error) {
      if (fd !== -1) close(fd, () => {/* nothing was written */});
      throw systemError(error, `cannot open ${path}`);
    }
  },

  closeFile(fd) {
    closeSync(fd);
  },
};

async function mailboxAt(path: string): Promise<Mailbox> {
  if (runtime.openDatagrams !== null) return runtime.openDatagrams(path);
  const [pipe] = await FILES.openPipes([path]);
  if (pipe instanceof CCError) throw pipe;
  return pipe;
}

// Raw descriptors, which a process can be given; a FileHandle's is closed with it.
const openRaw: (path: string, flags: number, mode: number) => Promise<number> = promisify(openDescriptor);
const fstatRaw: (fd: number) => Promise<Stats> = promisify(fstat);

/**
 * No runtime can make a FIFO.
 *
 * @returns What went wrong, for any of them; null: nothing.
 */
function makePipes(paths: readonly string[]): Promise<CCError | null> {
  return new Promise((resolve) => {
    const failed = (error: unknown) => resolve(systemError(error, "cannot run mkfifo"));
    try {
      const child = spawn("mkfifo", ["-m", PIPE_MODE.toString(8), "--", ...paths], {
        stdio: ["ignore", "ignore", "pipe"],
      });
      let told = "";
      child.stderr.setEncoding("utf8").on("data", (text: string) => told += text);
      child.on("error", failed);
      child.on("close", (code) => {
        resolve(code === 0 ? null : new CCError("system", told.trim().split("\n")[0]));
      });
    } catch (error) {
      failed(error);
    }
  });
}

/** @param unmade Why it may be missing. */
async function openPipe(path: string, unmade: CCError | null): Promise<Pipe | CCError> {
  const what = `cannot open the pipe ${path}`;
  try {
    try {
      // Before it is opened: that may do something to a device.
      checkPipe(await lstat(path));
    } catch (error) {
      if (unmade === null || codeOf(error) !== "ENOENT") throw error;
      await access(dirname(path), constants.W_OK | constants.X_OK);
      return new CCError(unmade.code, `${what}: ${unmade.message}`);
    }
    return new Fifo(path);
  } catch (error) {
    return systemError(error, what);
  }
}

function checkPipe(stats: Stats): void {
  if (!stats.isFIFO()) throw new CCError("EINVAL", "what stands there is no pipe");
  if (stats.uid !== process.geteuid?.()) throw new CCError("EPERM", "it is another user's");
}

/**
 * Two descriptors, as those who share one share what it is set to: all runtimes make a descriptor that waits of one that a
 * process is given, and so it must be for the process, whose writes would fail else when the pipe is full.
 */
class Fifo implements Pipe {
  #reader = -1;
  #writer = -1;

  constructor(path: string) {
    const { O_RDWR, O_NONBLOCK, O_NOFOLLOW } = constants;
    try {
      this.#reader = openSync(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW);
      const stats = fstatSync(this.#reader);
      checkPipe(stats);
      if ((stats.mode & 0o7777) !== PIPE_MODE) fchmodSync(this.#reader, PIPE_MODE);
      // Open for reading and writing, none waits for the other end.
      this.#writer = openSync(path, O_RDWR | O_NOFOLLOW);
      const { dev, ino } = fstatSync(this.#writer);
      if (dev !== stats.dev || ino !== stats.ino) throw new CCError("EINVAL", "others change it");
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get fd(): number {
    return this.#writer;
  }

  read(into: Uint8Array): number {
    if (this.#reader === -1) return 0;
    try {
      return readSync(this.#reader, into, 0, into.length, null);
    } catch (error) {
      if (codeOf(error) === "EAGAIN") return 0;
      throw systemError(error, "cannot read a pipe");
    }
  }

  close(): void {
    const opened = [this.#reader, this.#writer];
    // The next to open something is given these numbers.
    this.#reader = this.#writer = -1;
    for (const fd of opened) if (fd !== -1) closeSync(fd);
  }
}

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
