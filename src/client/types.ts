/** What a program, a command or a daemon has of a server. */
import type { Environment } from "../contracts/environment.ts";
import type { Draft, Signer } from "../contracts/message.ts";
import type { Seal } from "../contracts/seal.ts";
import type { Logger } from "../log.ts";
import type { InboxOptions } from "./inbox.ts";
import type { Wait } from "./turns.ts";

/** A message that came from the server. */
export interface Received {
  /** Dotted, such as `echo.response`. */
  readonly type: string;
  /** The JSON object of the body. */
  readonly body: Readonly<Record<string, unknown>>;
  /** Null where there is none. */
  readonly blob: Uint8Array | null;
  /** Whose signature was verified; null where none was asked for. */
  readonly signer: Signer | null;
}

/** Options of a client. */
export interface ClientOptions {
  /** An identity: others can send to a client that has one. At most 255 bytes; the first is not zero. */
  readonly name?: string;
  /** Messages that may wait to be sent, and as many that came and were not taken. Default 1000. */
  readonly highWaterMark?: number;
  /** Signs, encrypts, and checks; default: nothing of that. */
  readonly seal?: Seal;
  /** Default: this machine. */
  readonly environment?: Environment;
  /** Default: nowhere. */
  readonly log?: Logger;
  /** The server is there, or is not any more; why. */
  onChange?(up: boolean, why: string): void;
}

/** What a client of one CC server does, for those who make one of their own. */
export interface ClientLike extends AsyncDisposable {
  /** Where the server is. */
  readonly endpoint: string;
  /** Is the server there? */
  readonly up: boolean;
  /** Messages lost on this side, by reason; replies that came too late (`late`) and messages nobody asked for (`unasked`) too. */
  readonly drops: ReadonlyMap<string, number>;
  /**
   * Waits until the server is there.
   *
   * @throws {ClientError} `unreachable`: not in time; `aborted`, `closed`.
   */
  ready(options?: Wait): Promise<void>;
  /**
   * Sends a message that expects no reply. Resolves when it is queued and there is room for another: while the server is
   * slow, or away and the queue full, not before that is over.
   *
   * @throws {ClientError} `timeout`: it was not queued in time; `aborted`, `closed`.
   * @throws {MessageError} `bad-draft`
   */
  publish(draft: Draft, options?: Wait): Promise<void>;
  /**
   * Sends a message and waits for its reply, by default for 5 s. It waits for room as {@link publish} does. The reply is
   * recognised by a route frame of our own, so that any number of queries may be under way.
   *
   * @throws {ClientError} `timeout`, `refused` (an error came, with its text), `unreachable` (the link broke meanwhile),
   *   `bad-reply`, `too-many-queries`, `aborted`, `closed`.
   * @throws {MessageError} `bad-draft`
   */
  query(draft: Draft, options?: Wait): Promise<Received>;
  /** What answers no query; at most `highWaterMark` wait, then the server does. Messages come from this call on. */
  messages(options?: InboxOptions): AsyncIterableIterator<Received>;
  /** Waits up to `lingerMs` for what is queued, then ends the connection. Queries under way fail. Default 500 ms. */
  close(lingerMs?: number): Promise<void>;
}
