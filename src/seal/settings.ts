/** What a seal is to do: the `cms-` options, read. */

import type { AllowRule } from "./allow.ts";

/** What is written and read: see `docs/security.md`. */
export type Profile = "modern" | "legacy" | "accept-legacy";

/** What the certificate must say of the host that a body names. */
export type HostnameCheck = "off" | "cn" | "san";

export interface SealSettings {
  /** The folder of keys and certificates. */
  readonly keystore: string;
  /** Names in it; null: not set. */
  readonly sign: string | null;
  readonly verifyCa: readonly string[] | null;
  readonly encrypt: readonly string[] | null;
  readonly decrypt: string | null;
  readonly profile: Profile;
  /** 0: any time will do. */
  readonly timeWindowMs: number;
  readonly hostname: HostnameCheck;
  /** 2: signatures are verified beside the main thread. */
  readonly threads: number;
  /** Null: every signer may send everything. */
  readonly allow: readonly AllowRule[] | null;
  /** Where it is kept over a restart which messages have been handled; null: nowhere. */
  readonly seenFile: string | null;
  /** A client's: it handled nothing before it was started, and what its server keeps is the server's own. */
  readonly ofClient?: boolean;
}

/** Which option a finding is about. */
export type SealOption =
  | "cms-keystore"
  | "cms-sign"
  | "cms-verify-ca"
  | "cms-encrypt"
  | "cms-decrypt"
  | "cms-profile";

/** What is wrong with keys or certificates. */
export interface KeyFinding {
  readonly option: SealOption;
  readonly message: string;
}
