/**
 * All that is outside the program: the machine's, made by `runtime/`, or a simulation's, from a seed. Nothing else reads
 * around it, so that a network of servers can run in one process, and the same run comes again.
 */
import type { CCError } from "../errors.ts";
import type { Transport } from "./links.ts";

/** Ends what it was returned for; harmless when that is over. */
export type Cancel = () => void;

/** The world around a server. */
export interface Environment {
  /** Time, and what waits for it. */
  readonly clock: Clock;
  /** In [0, 1), not to be guessed: identities and query ids are made from it. */
  random(): number;
  /** The machine and this process. */
  readonly host: Host;
  /** All IP addresses of a host name, asked anew at each call. */
  resolve(host: string): Promise<string[]>;
  /** Byte streams. */
  readonly links: Transport;
  /** Files of the machine. */
  readonly files: Files;
  /** This program as a process. */
  readonly processes: Processes;
}

/** Time. */
export interface Clock {
  /** Milliseconds, monotonic: only differences count. */
  now(): number;
  /** Milliseconds since 1970; may jump. */
  time(): number;
  /** Calls `f` once, after `ms`. */
  after(ms: number, f: () => void): Cancel;
  /** Calls `f` every `ms`, the first time after `ms`. */
  every(ms: number, f: () => void): Cancel;
  /** Calls `f` behind what runs now, before anything else comes in. */
  soon(f: () => void): void;
  /** Calls `f` after one turn of the event loop: what was ready is read before. */
  nextTurn(f: () => void): void;
}

/** The machine and this process on it. */
export interface Host {
  /** The machine's name, as it stands in messages. */
  readonly name: string;
  /** Of this process. */
  readonly pid: number;
  /** The home folder, for `~`. */
  readonly home: string;
  /** The folder the program was started in, for relative paths. */
  readonly folder: string;
  /** The system, for people: `Linux 6.1.0 x64`. */
  readonly platform: string;
  /** What runs this program, for people: `bun 1.4.5`. */
  readonly runtime: string;
  /** Descriptors that this process may have open; null: unknown. */
  readonly descriptorsMax: number | null;
  /** Can a {@link Mailbox} be a socket here, as sd_notify(3) writes to? Otherwise it is a FIFO. */
  readonly receivesDatagrams: boolean;
  /** Could so many more be opened now? */
  descriptorsFree(count: number): boolean;
  /** Memory that this process can have: the machine's, or its control group's where that is less. */
  readonly memoryBytes: number;
  /** What this process has used so far. */
  usage(): Usage;
}

/** What a process has used so far. */
export interface Usage {
  /** Processor time in this program. */
  readonly userSeconds: number;
  /** Processor time in the system, for it. */
  readonly systemSeconds: number;
  /** The same of children that have ended; 0 where the system does not say. */
  readonly childUserSeconds: number;
  /** The same in the system. */
  readonly childSystemSeconds: number;
  /** Memory that is resident. */
  readonly residentBytes: number;
  /** When the process was started, milliseconds since 1970. */
  readonly startedMs: number;
}

/** Files of the machine. All of it may wait for a disk, so nothing of it blocks. */
export interface Files {
  /**
   * The whole of a file; a pipe is read to its end.
   *
   * @throws {CCError} `too-large`: it has more than `maxBytes`, as an endless file has; the system's code for all else.
   */
  read(path: string, maxBytes: number): Promise<Uint8Array>;
  /**
   * Puts a file in the place of another: written beside and renamed, so that a reader sees the old one or the new one,
   * whole.
   *
   * @throws {CCError} With the system's code.
   */
  replace(path: string, bytes: Uint8Array, options?: ReplaceOptions): Promise<void>;
  /**
   * Makes a file where there is none, not even a link; what cannot be written whole is removed.
   *
   * @param mode Its permission bits, as far as the umask leaves them.
   * @throws {CCError} `EEXIST`: something stands there; else the system's code.
   */
  create(path: string, bytes: Uint8Array, mode: number): Promise<void>;
  /**
   * Removes a file; it may be gone already.
   *
   * @throws {CCError} With the system's code.
   */
  remove(path: string): Promise<void>;
  /** Names of what is in a folder; none where there is no such folder. */
  list(folder: string): Promise<readonly string[]>;
  /** The user that a file belongs to; null: there is none, or it is no plain file. A link is none. */
  ownerOf(path: string): Promise<number | null>;
  /** The permission bits of a file, of what a link leads to; null: there is none. */
  modeOf(path: string): Promise<number | null>;
  /**
   * Makes a folder where there is none; its parent must be there.
   *
   * @param mode Permission bits of a new one; those that the umask leaves when missing.
   * @throws {CCError} With the system's code.
   */
  makeFolder(path: string, mode?: number): Promise<void>;
  /**
   * Opens FIFOs, mode 0600, which are made where they are missing; at once, as that may need a process.
   *
   * @returns One for each path; an error in place of one that cannot be opened: something else stands there, say.
   */
  openPipes(paths: readonly string[]): Promise<(Pipe | CCError)[]>;
  /**
   * Opens a mailbox, for its owner alone; what an earlier one has left there goes. It is made out of others' reach, and only
   * then put in its place.
   *
   * @param owner The user that it is given to; null: it stays ours.
   * @throws {CCError} With the system's code: something else stands there, say.
   */
  openMailbox(path: string, owner: number | null): Promise<Mailbox>;
  /**
   * Puts lines into the mailbox of another process, or into a datagram socket whose name begins with `@`.
   *
   * @returns False: nobody reads there, or it is full.
   */
  postTo(path: string, text: string): Promise<boolean>;
  /**
   * Opens a file for appending, mode 0640 where it is new, for a process to write to; {@link closeFile} ends it here.
   *
   * @throws {CCError} With the system's code; a pipe or device is refused.
   */
  openAppend(path: string): Promise<number>;
  /** Closes a descriptor of {@link openAppend}. */
  closeFile(fd: number): void;
}

/** A FIFO that is read, and that others write to: two descriptors. */
export interface Pipe {
  /** For a process that writes to it; open for reading too, so that a writer never meets a pipe without a reader. */
  readonly fd: number;
  /** Reads what is there, at most so much; 0: nothing now. Never waits. */
  read(into: Uint8Array): number;
  /** Harmless when it is closed. */
  close(): void;
}

/** Where other processes put short texts: a Unix datagram socket, or a FIFO. */
export interface Mailbox {
  /** Takes what is there, at most so much, as lines with a newline behind each; 0: nothing now. Never waits. */
  read(into: Uint8Array): number;
  /** Removes nothing: others may still look for it. Harmless when it is closed. */
  close(): void;
}

/** How {@link Files.replace} leaves a file. */
export interface ReplaceOptions {
  /** Permission bits of a new file; those that the umask leaves when missing. */
  readonly mode?: number;
}

/** This program as a process, and the modules it loads. */
export interface Processes {
  /** How to start this program again: the command and the arguments before the user's own. */
  readonly self: readonly string[];
  /**
   * Loads a module from a file; one that was loaded before is not loaded again.
   *
   * @throws {Error} With a sentence for the operator.
   */
  load(path: string): Promise<Readonly<Record<string, unknown>>>;
  /** Calls `f` at each such signal, instead of what the system would do. */
  onSignal(name: "SIGHUP" | "SIGINT" | "SIGTERM", f: () => void): Cancel;
  /** Calls `f` with each error that nobody caught, instead of ending the process. */
  onUncaught(f: (error: unknown) => void): Cancel;
  /** Makes writes to a descriptor return at once, for all who share it; false where that cannot be done. */
  setNonBlocking(fd: number): boolean;
  /** Who started it, where that is systemd. */
  readonly serviceManager: ServiceManager;
  /** The user that this process runs as, 0 is root; null: unknown. */
  readonly user: number | null;
  /** The environment of this process. */
  readonly env: Readonly<Record<string, string>>;
  /** Another one at each start of the machine; empty where it cannot be read. */
  readonly bootId: string;
  /**
   * Starts a process, in a session of its own. Takes a millisecond; on Deno and Node more where this process is large:
   * 24 ms at 500 MB.
   */
  spawn(command: readonly string[], options: SpawnOptions): Child;
  /**
   * Sends a signal to a process, or, with a negative number, to a process group; signal 0 only asks.
   *
   * @returns False: there is none.
   * @throws {CCError} `EPERM`: it is another user's.
   */
  signal(pid: number, signal: SignalName | 0): boolean;
  /** One process; null: there is none. A zombie is there. */
  look(pid: number): ProcessInfo | null;
  /** The user that a process runs as; null: there is none. */
  userOf(pid: number): number | null;
  /** The number of a user by its name; null: there is none. */
  findUser(name: string): Promise<number | null>;
  /** All processes of the machine, read one at each step. */
  list(): Iterable<ProcessInfo>;
  /** Can {@link collect} do anything? */
  readonly collectsOrphans: boolean;
  /** Collects a zombie that was not started here. */
  collect(pid: number): void;
  /** Starts a thread of this process. It keeps the program from ending only while it has something to do. */
  startThread(program: ThreadProgram, events: ThreadEvents): Thread;
  /** What this process was given as {@link SpawnOptions.secret}, once; null: nothing. */
  takeSecret(): Uint8Array | null;
  /** What its environment has under this name as it was started; null: nothing, or it is not ours to read. */
  environmentOf(pid: number, name: string): string | null;
}

/**
 * What a thread does: called there once, with the module `node:crypto`, it returns what makes a result of each piece of work.
 * It is sent as text, so it must name nothing outside itself.
 */
export type ThreadProgram = (crypto: unknown) => (work: Uint8Array) => Uint8Array;

/** Told of a thread. */
export interface ThreadEvents {
  /** A piece of work is done, the oldest first. */
  result(bytes: Uint8Array): void;
  /** The thread is gone, and nothing more comes of it; called once, and not by {@link Thread.end}. */
  failed(error: unknown): void;
}

/** A thread of this process. */
export interface Thread {
  /** Hands it a piece of work, whose memory is the thread's from then on: bytes that fill their buffer. */
  post(work: Uint8Array): void;
  /** Ends it, with what it has under way. */
  end(): void;
}

/** How a process is started. */
export interface SpawnOptions {
  /** Its folder; missing: ours. */
  readonly cwd?: string;
  /** Its environment, all of it. */
  readonly env: Readonly<Record<string, string>>;
  /**
   * Where its stdout and stderr go: a descriptor of ours; null: nowhere; a function takes chunks of its stdout, which are
   * borrowed, and its stderr goes nowhere. Its stdin is `/dev/null`.
   */
  readonly output: number | null | ((chunk: Uint8Array) => void);
  /** What it can read from descriptor 3, and then the end of that: a few bytes. Missing: it has none. */
  readonly secret?: Uint8Array;
}

/** How a process ended. */
export interface Exit {
  /** Null: a signal ended it, or it could not be started. */
  readonly code: number | null;
  /** `SIGKILL`; null: it ended by itself. */
  readonly signal: string | null;
  /** Why it could not be started: the system's code, such as `ENOENT`; null: it was. */
  readonly error: string | null;
}

/** A process that was started here: leader of a session and of a process group of its own. */
export interface Child {
  /** Null: it could not be started, and `exited` tells why. */
  readonly pid: number | null;
  /** Never rejected. */
  readonly exited: Promise<Exit>;
  /** All of its output has been taken, and nobody can write more; settled where no function takes it. Never rejected. */
  readonly outputEnded: Promise<void>;
  /** Takes no more of its output, whoever holds that open; `outputEnded` settles. */
  closeOutput(): void;
}

/** A process of the machine, as the system tells of it. */
export interface ProcessInfo {
  /** Its number. */
  readonly pid: number;
  /** One letter, as ps(1) has it: `R`, `S`, `Z`. */
  readonly state: string;
  /** The pid of its parent. */
  readonly parent: number;
  /** The pid of its process group's leader. */
  readonly group: number;
  /** The pid of its session's leader. */
  readonly session: number;
  /** When it started, in ticks since the machine did: with the pid and {@link Processes.bootId}, it is told from all others. */
  readonly started: number;
  /** Processor time, of itself. */
  readonly cpuSeconds: number;
  /** Memory that is resident. */
  readonly residentBytes: number;
}

/** Signals that jobs are sent. */
export type SignalName =
  | "SIGHUP"
  | "SIGINT"
  | "SIGQUIT"
  | "SIGUSR1"
  | "SIGUSR2"
  | "SIGTERM"
  | "SIGKILL"
  | "SIGCONT"
  | "SIGABRT";

/** Who started this program, where that is systemd: sd_notify(3). */
export interface ServiceManager {
  /** Does {@link notify} speak from this very process? If not, the service manager must listen to its children. */
  readonly hearsUs: boolean;
  /**
   * Sends a datagram to its Unix socket.
   *
   * @param socket A path, or a name of the abstract namespace that begins with `@`.
   * @returns False when it could not be sent.
   */
  notify(socket: string, text: string): boolean | Promise<boolean>;
  /** The system's monotonic clock (CLOCK_MONOTONIC) in microseconds; null where it cannot be read. */
  monotonicMicros(): bigint | null;
}
