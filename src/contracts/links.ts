/** Byte streams: the machine's, by a driver of `runtime/`, or a simulation's. */
import type { Arena } from "../memory/arena.ts";
import type { Vectors } from "../memory/vectors.ts";

/** Where to listen or connect. */
export type Address =
  /** `host` is a name or a bare IP address (IPv6 without brackets); port 0 lets the system choose. */
  | { transport: "tcp"; host: string; port: number }
  /** A Unix domain socket. */
  | { transport: "ipc"; path: string };

/** Options of a stream; those a runtime cannot set are left at the system's value. */
export interface LinkOptions {
  /** TCP keep-alive probes; null switches them off. Times in seconds. */
  keepAlive: { idleSeconds: number; intervalSeconds: number; count: number } | null;
  /** Kernel buffers in bytes; 0 leaves the system's size. */
  receiveBufferBytes: number;
  /** See {@link receiveBufferBytes}. */
  sendBufferBytes: number;
  /** Permission bits of the file of an `ipc` socket that listens, from its first moment; those that the umask leaves when missing. */
  mode?: number;
}

/** Puts together what several reads cause to be written. */
export interface Batch {
  /** Until {@link end} little is written; what may be written from where it lies is written at once. */
  begin(): void;
  /** See {@link begin}. */
  end(): void;
}

/** Takes what happens on a link. Nothing is called any more once {@link Link.destroy} was called. */
export interface LinkEvents {
  /** Bytes came: `chunk[start, end)`, borrowed until the call returns. */
  data(chunk: Uint8Array, start: number, end: number): void;
  /**
   * For drivers that read into a buffer of ours: where the next bytes belong, when at least `minBytes` of a large
   * message are wanted; null otherwise. {@link commitRead} tells how many came.
   */
  readTarget(minBytes: number): Uint8Array | null;
  /** So many bytes came where {@link readTarget} said. */
  commitRead(bytes: number): void;
  /** For drivers that read several links in a row. */
  readonly batch?: Batch;
  /** The write that returned false is done: its buffer may be used again, the next may follow. */
  written(): void;
  /** The peer sends nothing more (FIN). Writing may go on. */
  ended(): void;
  /** The link is gone, and not by our {@link Link.destroy}; called once. Without error: an orderly end. */
  closed(error?: Error): void;
}

/** A connected byte stream. At most one write is in flight. */
export interface Link {
  /** The other end, for people: `tcp://127.0.0.1:4242`, `ipc:///run/cc.sock`. */
  readonly remote: string;
  /**
   * Writes `chunk[start, end)`. True: all is taken and the buffer is free again. False: it is in flight,
   * {@link LinkEvents.written} will follow, and neither may the buffer be touched nor another write begun.
   */
  write(chunk: Uint8Array, start: number, end: number): boolean;
  /**
   * Writes `count` entries of {@link Transport.vectors} from the `first` on, at once and in order; not while a write is in
   * flight. Missing where the runtime cannot.
   *
   * @returns How many bytes the kernel took. Nothing is in flight then.
   */
  writev?(first: number, count: number): number;
  /** Tries the write in flight again, where that can be done before the system tells that there is room. */
  retry?(): void;
  /** Of the write in flight, the bytes that the kernel took so far; -1 where the runtime cannot tell any more. */
  writtenBytes(): number;
  /**
   * Bytes that were written and that the other end's system has not said to have; -1: unknown. Told by links that were
   * connected, also while {@link LinkEvents.closed} is called and after {@link destroy}; where the runtime cannot ask at any
   * time, as they were when it was asked last.
   */
  unacknowledgedBytes?(): number;
  /** No more `data` after the one that is being delivered, until {@link resume}. */
  pause(): void;
  /** See {@link pause}. */
  resume(): void;
  /** Sends FIN once the write in flight is done. Reading goes on. */
  end(): void;
  /** Ends the link at once: no event follows, and the buffer of a write in flight is not read any more. */
  destroy(): void;
}

/** A listening socket. */
export interface Listener {
  /** With the port the system chose. */
  readonly address: Address;
  /** How many descriptors it takes; 1 when missing. */
  readonly descriptors?: number;
  /** Stops listening; links that were accepted live on. Resolves when the address is free. */
  close(): Promise<void>;
}

/** How a runtime makes links. */
export interface Transport {
  /** Where chunks lie, as far as it reaches, and where egress takes its memory from. */
  readonly arena?: Arena;
  /** What {@link Link.writev} writes; missing where no link has that. */
  readonly vectors?: Vectors;
  /** Gives the memory of free blocks back to the system, where that can be done. Not while `data` is being called. */
  trim?(): void;
  /** Copies `from[start, end)` to `to` at `at`, in the way that is fastest here. */
  copy(from: Uint8Array, start: number, end: number, to: Uint8Array, at: number): void;
  /**
   * Listens; `accept` is called for each new link and says who takes its events. The Unix socket of a server that is gone is
   * taken over, that of one that lives never; at the end, only the file that is ours is removed.
   *
   * @throws An error with the system's `code`, such as `EADDRINUSE` or `EACCES`.
   */
  listen(address: Address, options: LinkOptions, accept: (link: Link) => LinkEvents): Promise<Listener>;
  /**
   * Connects; exactly one of `open` and `failed` is called, unless the returned function cancels it before.
   * The host of a TCP address is an IP address here: names are resolved by the caller, anew each time.
   */
  connect(
    address: Address,
    options: LinkOptions,
    open: (link: Link) => LinkEvents,
    failed: (error: Error) => void,
  ): () => void;
  /**
   * Makes room at a path for a Unix socket that libzmq binds: the file of a server that is gone is removed.
   *
   * @throws {CCError} `EADDRINUSE`: a server answers there, or another file stands there; `ENOENT`: there is no such folder.
   */
  prepareSocketFile(path: string): Promise<void>;
  /** Removes the file of a socket that libzmq bound; it may be gone already. */
  removeSocketFile(path: string): void;
  /**
   * The npm package `zeromq` (libzmq), where its addon runs.
   *
   * @throws {CCError} `no-libzmq`: it does not; the message is a sentence for the operator.
   */
  loadLibzmq(): Promise<LoadedLibzmq>;
}

/** The package, and what its user must know. */
export interface LoadedLibzmq {
  /** What `import("zeromq")` gives. */
  readonly zmq: unknown;
  /** Where the runtime does not tell the addon that a socket is ready: how often to look. Null: it tells. */
  readonly pollMs: number | null;
}
