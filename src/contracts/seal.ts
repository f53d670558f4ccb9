/** What stands between bytes and bodies: signatures and encryption. */
import type { Draft, Signer } from "./message.ts";

/** A message as it travels. */
export interface SealedParts {
  /** Dotted, such as `pub.infofile`. */
  readonly type: string;
  /** JSON, or what encryption made of it. */
  readonly body: Uint8Array;
  /** Empty where there is none. */
  readonly signature: Uint8Array;
  /** Null where there is no such frame. */
  readonly blob: Uint8Array | null;
}

/** A message that may be read. */
export interface OpenedParts {
  /** The body: JSON in UTF-8. */
  readonly json: Uint8Array;
  /** Null where there is none. */
  readonly blob: Uint8Array | null;
  /** Whose signature was verified; null where none was asked for. */
  readonly signer: Signer | null;
  /** The body parsed, where the seal had to look into it; for one reader. */
  readonly value?: Record<string, unknown>;
  /**
   * Claims it for who handles it; called once at most, where it does not only pass. Missing: it is not looked at whether it
   * has come before.
   *
   * @throws {MessageError} It may have come before: that is not remembered.
   */
  readonly claim?: () => Claim;
}

/** Whether a message has come before. */
export interface Claim {
  /** `seen`: it has been handled; `pending`: a copy of it is being handled. */
  readonly state: "new" | "pending" | "seen";
  /** Of a pending one: settles when that is over, and it can be opened again. Null: another copy waits for that already. */
  readonly over: Promise<void> | null;
  /** Of a new one, to be called once: has it been handled for good? */
  settle(handled: boolean): void;
}

/** What is sealed: a draft, when and where it was made. */
export interface SealDraft extends Draft {
  /** Seconds since 1970. */
  readonly time: number;
  /** Of the sender. */
  readonly hostname: string;
}

/** Until when a certificate or CRL holds. */
export interface Expiry {
  /** Of its file. */
  readonly name: string;
  /** Milliseconds since 1970. */
  readonly until: number;
}

/** One a server or client; identity where no `cms-` option is set. */
export interface Seal {
  /** May {@link open} return a promise? The parts it is given are then copies; else they are borrowed until it returns. */
  readonly asynchronous: boolean;
  /**
   * Called once a message, before any of its handlers.
   *
   * @throws {MessageError} Refused; its code is counted.
   */
  open(parts: SealedParts): OpenedParts | Promise<OpenedParts>;
  /**
   * Signs and encrypts.
   *
   * @throws {MessageError} `bad-draft`: the fields are no JSON.
   */
  seal(draft: SealDraft): SealedParts | Promise<SealedParts>;
  /**
   * Reads keys, certificates and CRLs again.
   *
   * @throws {ConfigError} Then the old ones stay.
   */
  reload(): Promise<void>;
  /** Another one has taken its place; what is under way here still comes to its end. */
  replaced?(by: Seal): void;
  /** Certificates and CRLs that are used. */
  readonly expiries?: readonly Expiry[];
  /** Whoever uses it has ended: what is to be known at the next start is kept. Never rejects. */
  close?(): Promise<void>;
}
