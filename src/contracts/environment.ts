/**
 * All that is outside the program: the machine's, made by `runtime/`, or a simulation's, from a seed. Nothing else reads
 * around it, so that a network of servers can run in one process, and the same run comes again.
 */
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
}

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
