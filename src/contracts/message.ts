/** A CC message as handlers and programs see it. */

/** A message made here, not yet sealed. */
export interface Draft {
  /** Dotted, such as `pub.infofile`. */
  readonly type: string;
  /** Fields of the body; `req`, `time`, `hostname` and `blob_hash` are added. */
  readonly fields: Readonly<Record<string, unknown>>;
  /** Bytes beside the body. */
  readonly blob?: Uint8Array;
  /** It is neither signed nor encrypted: for a process of this host, which has no keys of its own. */
  readonly unsealed?: boolean;
}

/** The way back to a sender: its identity and route frames, copied. Opaque, a few hundred bytes, may be kept. */
export interface ReturnPath {
  /** Equal for equal ways. */
  readonly key: string;
}

/** Who signed. */
export interface Signer {
  /** The common name in the certificate. */
  readonly name: string;
  /** SHA-256 of the certificate. */
  readonly fingerprint: string;
}

/**
 * One message. The object is made for it and never used for another: whatever a handler does with it, however late, cannot
 * reach another client.
 *
 * It is over when `handle` has returned, or its promise has settled, for every handler; from then on each member throws a
 * {@link MessageError} `message-over`. Bytes it returns are the caller's: copies, or views of memory that is this message's
 * alone and never used again. A handler that returns a promise has the message kept on the spot.
 */
export interface Message {
  /** Dotted, such as `pub.infofile`. */
  readonly type: string;
  /** Bytes of all frames as they came. */
  readonly size: number;
  /** Decrypted where it was encrypted; null where there is none. */
  readonly blob: Uint8Array | null;
  /** Whose signature was verified; null where none was asked for. */
  readonly signer: Signer | null;
  /** The way that it came, to keep. */
  readonly from: ReturnPath;
  /** Seals a message and sends it back along the way this one came. What cannot be sent is dropped and counted. */
  reply(draft: Draft): void;
}

/**
 * What became of a message. `ok`: done, durably where the handler writes. `dropped`: on purpose, the config says so.
 * `retry`: not now (a full disk, an upstream that is down), the sender may send it again.
 *
 * A thrown {@link MessageError} refuses the message, counted by its code; anything else thrown, or returned, is a crash.
 */
export type Outcome = "ok" | "dropped" | "retry";
