/**
 * What a runtime (Bun, Deno, Node) must give: byte streams, and the few things that truly differ. One driver file
 * each; `#runtime` in package.json picks it by import condition, so nothing outside this folder asks where it runs.
 * All else comes from the `node:` modules that all three implement.
 */
import type { Mailbox } from "../contracts/environment.ts";
import type { Transport } from "../contracts/links.ts";

/** A runtime's driver. */
export interface Runtime extends Transport {
  /** `bun`, `deno` or `node`. */
  readonly name: string;
  readonly version: string;
  /** How to start this program again: the command and the arguments before the user's own. */
  readonly self: readonly string[];
  /** Can it load modules in TypeScript? */
  readonly loadsTypeScript: boolean;
  /** Does {@link notify} speak from this very process? If not, the service manager must listen to its children. */
  readonly notifiesItself: boolean;
  /**
   * Sends a datagram to a service manager's Unix socket, as sd_notify(3) does: none of the `node:` modules can.
   *
   * @param socket A path, or a name of the abstract namespace that begins with `@`.
   * @returns False when it could not be sent.
   */
  notify(socket: string, text: string): boolean | Promise<boolean>;
  /**
   * Listens on a Unix datagram socket, mode 0600, and gives what comes as lines; null: this runtime cannot.
   *
   * @throws {CCError} With the system's code.
   */
  readonly openDatagrams: ((path: string) => Mailbox) | null;
  /** Collects a child that has ended, by waitpid(2); null: this runtime cannot. */
  readonly collect: ((pid: number) => void) | null;
  /** Makes writes to a descriptor return at once; false where that cannot be done. */
  setNonBlocking(fd: number): boolean;
  /** Calls `f` in a later turn of the event loop, once the sockets that are ready have been read. */
  nextTurn(f: () => void): void;
  /** The system's monotonic clock (CLOCK_MONOTONIC) in microseconds; null where it cannot be read. */
  monotonicMicros(): bigint | null;
}
