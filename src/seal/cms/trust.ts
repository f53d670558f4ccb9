/**
 * Who is trusted: builds the way from a signer's certificate to a named CA (RFC 5280, section 6), once a certificate, and
 * remembers it as long as it holds.
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import type { Signer } from "../../contracts/message.ts";
import { SIGNERS_KNOWN } from "../../limits.ts";
import { dateText, latin1 } from "../../text.ts";
import { Certificate, USAGE } from "./certificate.ts";
import type { RevocationList } from "./crl.ts";
import { sameBytes } from "./der.ts";
import { SealError } from "./errors.ts";
import { CERT } from "./oids.ts";
import type { Policy } from "./signatures.ts";

/** CAs between a signer and a named one. */
const CHAIN_MAX = 6;
/** Signatures that are verified to find one way: a peer may send many CAs of the same name. */
const CHAIN_CHECKS_MAX = 32;
/** CAs that are looked at for it. */
const CHAIN_STEPS_MAX = 32;

/** Certificates that are kept although nobody has vouched for them, so that they are read once; longer ones are not. */
const READ_MAX = 64;
const READ_MAX_BYTES = 4096;

/** Purposes that a signer's certificate may have been issued for: mail, as `openssl cms` wants it, or those of the original's. */
const SIGNER_PURPOSES = [CERT.emailProtection, CERT.clientAuth, CERT.serverAuth, CERT.anyExtendedKeyUsage];

/** A signer whose certificate is under a named CA. */
export interface TrustedSigner extends Signer {
  readonly commonName: string;
  /** Short names of its subject's attributes, and their values. */
  readonly attributes: readonly (readonly [string, string])[];
  readonly certificate: Certificate;
  /** SHA-256 of its public key, in hexadecimal: a certificate can be written in several ways, and be renewed. */
  readonly keyHash: string;
  /** When that holds, milliseconds since 1970. */
  readonly from: number;
  readonly until: number;
}

export interface TrustParts {
  /** Those of cms-verify-ca. */
  readonly anchors: readonly Certificate[];
  /** Others of the key store: CAs between, and signers that do not send their own. */
  readonly others: readonly Certificate[];
  readonly lists: readonly RevocationList[];
  readonly policy: Policy;
}

export class Trust {
  readonly #parts: TrustParts;
  /** By the end of the certificate, which is its signature's: as good as a hash. */
  readonly #known = new Map<number, TrustedSigner>();
  /** CAs of the key store, by their names. */
  readonly #cas = new Map<string, Certificate[]>();

  readonly #read = new Map<number, Certificate>();

  constructor(parts: TrustParts) {
    this.#parts = parts;
    for (const ca of parts.others.filter(isCa)) {
      const name = latin1(ca.subject);
      const known = this.#cas.get(name);
      if (known === undefined) this.#cas.set(name, [ca]);
      else known.push(ca);
    }
  }

  get policy(): Policy {
    return this.#parts.policy;
  }

  /** A signer found before, by the certificate that came with a message; null: not yet, or the time has come to look again. */
  known(certificate: Uint8Array, now: number): TrustedSigner | null {
    const found = this.#known.get(keyOf(certificate));
    if (found === undefined || now < found.from || now > found.until) return null;
    return Buffer.compare(found.certificate.der, certificate) === 0 ? found : null;
  }

  /** A certificate that came with a message. @throws {DerError} It is none. */
  read(bytes: Uint8Array): Certificate {
    const key = keyOf(bytes);
    const found = this.#read.get(key);
    if (found !== undefined && Buffer.compare(found.der, bytes) === 0) return found;
    const certificate = new Certificate(new Uint8Array(bytes));
    if (bytes.length > READ_MAX_BYTES) return certificate;
    if (this.#read.size >= READ_MAX) this.#read.delete(this.#read.keys().next().value!);
    this.#read.set(key, certificate);
    return certificate;
  }

  /** Certificates of the key store that may be a signer's. */
  get stored(): readonly Certificate[] {
    return this.#parts.others;
  }

  /**
   * Finds out whether a certificate is under a named CA.
   *
   * @param sent Certificates that came with it, which may be CAs between.
   * @throws {SealError} Why it is not, by what is nearest to being right.
   */
  find(certificate: Certificate, sent: readonly Certificate[], now: number): TrustedSigner {
    const search = new Search(this.#parts, this.#cas, sent, now);
    const way = search.from(certificate);
    if (!certificate.mayUse(USAGE.digitalSignature | USAGE.nonRepudiation)) {
      throw new SealError("wrong-usage", `the keyUsage of "${certificate.name}" does not let it sign`);
    }
    const signer: TrustedSigner = {
      name: certificate.commonName || certificate.name,
      fingerprint: certificate.fingerprint,
      commonName: certificate.commonName,
      attributes: certificate.attributes,
      certificate,
      keyHash: createHash("sha256").update(certificate.key.spki).digest("hex"),
      from: Math.max(...way.map(({ from }) => from)),
      until: Math.min(...way.map(({ until }) => until)),
    };
    if (this.#known.size >= SIGNERS_KNOWN) this.#known.delete(this.#known.keys().next().value!);
    this.#known.set(keyOf(certificate.der), signer);
    return signer;
  }
}

function keyOf(bytes: Uint8Array): number {
  let key = 0;
  for (let i = Math.max(0, bytes.length - 6); i < bytes.length; i++) key = key * 256 + bytes[i];
  return key;
}

/** Does it say that it is a CA? */
const isCa = (ca: Certificate): boolean => ca.ca === true && ca.mayUse(USAGE.keyCertSign);

/** A certificate on the way, and when it may be relied on. */
interface Hop {
  readonly from: number;
  readonly until: number;
}

/** One search for a way to a named CA. */
class Search {
  readonly #parts: TrustParts;
  /** CAs of the key store, by their names. */
  readonly #cas: ReadonlyMap<string, readonly Certificate[]>;
  readonly #sent: readonly Certificate[];
  readonly #now: number;
  readonly #tried = new Map<Certificate, Map<Certificate, boolean>>();
  #checks = 0;
  #steps = 0;
  /** Why the way that came farthest ends. */
  #why: SealError | null = null;

  constructor(
    parts: TrustParts,
    cas: ReadonlyMap<string, readonly Certificate[]>,
    sent: readonly Certificate[],
    now: number,
  ) {
    this.#parts = parts;
    this.#cas = cas;
    this.#sent = sent;
    this.#now = now;
  }

  /** @throws {SealError} */
  from(certificate: Certificate): readonly Hop[] {
    const way = this.#up(certificate, [certificate]);
    if (way !== null) return way;
    throw this.#why ??
      new SealError(
        "untrusted",
        `no CA of cms-verify-ca has issued the certificate of "${certificate.name}"`,
      );
  }

  /**
   * Goes up by names, and verifies on the way down: no key verifies anything before it is known whose it is. A peer's own
   * keys, as long as they may be, cost nothing.
   *
   * @param below What stands below the issuer that is looked for, `certificate` last.
   */
  #up(certificate: Certificate, below: readonly Certificate[]): readonly Hop[] | null {
    for (const anchor of this.#parts.anchors) {
      const hops = this.#under(certificate, anchor, below, true);
      if (hops !== null) return [...hops, hopOf(anchor)];
    }
    if (below.length > CHAIN_MAX || ++this.#steps > CHAIN_STEPS_MAX) return null;
    for (const ca of this.#issuers(certificate)) {
      if (below.some(({ der }) => sameBytes(der, ca.der))) continue;
      const rest = this.#up(ca, [...below, ca]);
      const hops = rest === null ? null : this.#under(certificate, ca, below, false);
      if (hops !== null) return [...hops, ...rest!];
    }
    return null;
  }

  /** What has the name of its issuer. What merely comes along, or lies there, is no CA unless it says so. */
  #issuers({ issuer }: Certificate): readonly Certificate[] {
    const stored = this.#cas.get(latin1(issuer)) ?? [];
    const sent = this.#sent.filter((ca) => isCa(ca) && sameBytes(ca.subject, issuer));
    return [...stored, ...sent];
  }

  /** Has this CA issued it, and may it be relied on now? */
  #under(
    certificate: Certificate,
    ca: Certificate,
    below: readonly Certificate[],
    named: boolean,
  ): Hop[] | null {
    if (!certificate.mayBeUnder(ca)) return null;
    try {
      if (!this.#isSignedBy(certificate, ca)) return null;
      this.#check(certificate);
      this.#checkCa(ca, below, named);
      const hops = [hopOf(certificate)];
      for (const list of this.#listsOf(ca)) {
        const since = list.since(certificate);
        if (since !== null) {
          throw new SealError(
            "revoked",
            `the certificate of "${certificate.name}" is revoked since ${dateText(since)}`,
          );
        }
        hops.push({ from: list.updated, until: list.nextUpdate ?? Infinity });
      }
      return hops;
    } catch (error) {
      if (!(error instanceof SealError)) throw error;
      this.#why = error;
      return null;
    }
  }

  /** Tried once, whatever number of ways lead there. */
  #isSignedBy(certificate: Certificate, ca: Certificate): boolean {
    let tried = this.#tried.get(certificate);
    if (tried === undefined) this.#tried.set(certificate, tried = new Map());
    let found = tried.get(ca);
    if (found === undefined) {
      found = ++this.#checks <= CHAIN_CHECKS_MAX && certificate.isSignedBy(ca.key, this.#parts.policy);
      tried.set(ca, found);
    }
    return found;
  }

  #check(certificate: Certificate): void {
    const { name, validFrom, validUntil, unknownCritical } = certificate;
    if (this.#now < validFrom) {
      throw new SealError("expired", `the certificate of "${name}" is valid from ${dateText(validFrom)} on`);
    }
    if (this.#now > validUntil) {
      throw new SealError("expired", `the certificate of "${name}" has expired on ${dateText(validUntil)}`);
    }
    if (unknownCritical !== null) {
      throw new SealError(
        "wrong-usage",
        `the certificate of "${name}" has an extension that must be understood, and is not: ${unknownCritical}`,
      );
    }
    if (!certificate.mayServe(...SIGNER_PURPOSES)) {
      throw new SealError(
        "wrong-usage",
        `the extendedKeyUsage of "${name}" is for something else than messages`,
      );
    }
    // Its own key must be a good one too.
    void certificate.key;
  }

  #checkCa(ca: Certificate, below: readonly Certificate[], named: boolean): void {
    // Before version 3 nothing says what is a CA: there, only one that the operator has named is.
    const isCa = ca.ca ?? (named && ca.version < 3);
    if (!isCa || !ca.mayUse(USAGE.keyCertSign)) {
      throw new SealError("wrong-usage", `"${ca.name}" may not issue certificates`);
    }
    const between = below.slice(1).filter(({ subject, issuer }) => !sameBytes(subject, issuer));
    if (between.length > ca.pathLength) {
      throw new SealError("wrong-usage", `"${ca.name}" may not have so many CAs below it`);
    }
    if (named) this.#check(ca);
  }

  /** The CA's newest list, or several of the same second; none: it has none. */
  #listsOf(ca: Certificate): readonly RevocationList[] {
    const { lists, policy } = this.#parts;
    const all = lists.filter((list) => list.isOf(ca, policy));
    if (all.length === 0) return all;
    // To pass it over would trust what is revoked there.
    if (!ca.mayUse(USAGE.cRLSign)) {
      throw new SealError("wrong-usage", `"${ca.name}" has a CRL, and its keyUsage does not let it sign one`);
    }
    const own = all.filter((list) => list.updated <= this.#now);
    if (own.length === 0) {
      const since = Math.min(...all.map((list) => list.updated));
      throw new SealError("expired", `the CRL of "${ca.name}" is valid from ${dateText(since)} on`);
    }
    const updated = Math.max(...own.map((list) => list.updated));
    const newest = own.filter((list) => list.updated === updated);
    for (const { nextUpdate } of newest) {
      if (nextUpdate !== null && this.#now > nextUpdate) {
        throw new SealError(
          "expired",
          `the CRL of "${ca.name}" was to be replaced by ${dateText(nextUpdate)}`,
        );
      }
    }
    return newest;
  }
}

const hopOf = ({ validFrom, validUntil }: Certificate): Hop => ({ from: validFrom, until: validUntil });

/** Does a SignerIdentifier or RecipientIdentifier of this form name it? */
export function isNamed(certificate: Certificate, issuer: Uint8Array, serial: Uint8Array): boolean {
  return sameBytes(certificate.serial, serial) && sameBytes(certificate.issuer, issuer);
}
