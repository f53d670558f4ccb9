/** A certificate (RFC 5280), as far as it matters here: whose key, for what, how long, and by whom. */
import { createHash } from "node:crypto";
import { hex, printable } from "../../text.ts";
import { context, DerError, DerReader, oidText, sameBytes, TAG } from "./der.ts";
import { SealError } from "./errors.ts";
import { CERT } from "./oids.ts";
import { PublicKey } from "./public_key.ts";
import { fits, type Policy, readSignatureAlgorithm } from "./signatures.ts";

/** Bits of keyUsage. */
export const USAGE = {
  digitalSignature: 1 << 0,
  nonRepudiation: 1 << 1,
  keyEncipherment: 1 << 2,
  keyAgreement: 1 << 4,
  keyCertSign: 1 << 5,
  cRLSign: 1 << 6,
} as const;

/** Extensions of one certificate, and names or purposes in one of them. */
const EXTENSIONS_MAX = 32;
const ITEMS_MAX = 100;

/** Extensions that are understood, and may be critical. Policies are: none is asked for. Identifiers of keys must not be. */
const UNDERSTOOD: readonly string[] = [
  CERT.basicConstraints,
  CERT.keyUsage,
  CERT.extendedKeyUsage,
  CERT.subjectAltName,
  CERT.certificatePolicies,
];

/** Those that limit what a certificate is good for, and are not understood: they count as critical, even if a CA forgot that. */
const LIMITING: readonly string[] = [CERT.nameConstraints, CERT.proxyCertInfo];

export class Certificate {
  readonly der: Uint8Array;
  readonly version: number;
  readonly serial: Uint8Array;
  /** Names, DER. */
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
  /** Milliseconds since 1970; both ends belong to it. */
  readonly validFrom: number;
  readonly validUntil: number;
  /** May it be a CA? Null: basicConstraints are missing. */
  ca: boolean | null = null;
  /** CAs that may stand below it. */
  pathLength = Infinity;
  /** Bits of {@link USAGE}; null: for all. */
  keyUsage: number | null = null;
  /** Purposes, as {@link oidKey} makes them; null: for all. */
  purposes: readonly string[] | null = null;
  subjectKeyId: Uint8Array | null = null;
  authorityKeyId: Uint8Array | null = null;
  /** The issuer's own issuer, its names as they stand there, and its serial number, where it says them. */
  authorityIssuer: Uint8Array | null = null;
  authoritySerial: Uint8Array | null = null;
  /** DNS names of subjectAltName. */
  hosts: readonly string[] = [];
  /** An extension that must be understood, and is not; null: none. */
  unknownCritical: string | null = null;
  readonly #signed: Uint8Array;
  readonly #algorithm: Uint8Array;
  readonly #signature: Uint8Array;
  readonly #spki: Uint8Array;
  #key: PublicKey | null = null;

  /** @throws {DerError} */
  constructor(bytes: Uint8Array) {
    this.der = bytes;
    const outer = new DerReader(bytes);
    const whole = outer.enter(TAG.sequence);
    outer.finish();
    const tbs = whole.enter(TAG.sequence);
    this.#signed = whole.element;
    whole.expect(TAG.sequence);
    this.#algorithm = whole.element;
    this.#signature = whole.bitString();
    whole.finish();

    const version = tbs.enterOptional(context(0));
    this.version = version === null ? 1 : version.smallInteger() + 1;
    version?.finish();
    this.serial = tbs.integer();
    const inner = tbs.expect(TAG.sequence).element;
    if (hex(inner) !== hex(this.#algorithm)) {
      throw new DerError("a certificate names two signature algorithms");
    }
    this.issuer = tbs.expect(TAG.sequence).element;
    const validity = tbs.enter(TAG.sequence);
    this.validFrom = validity.time();
    this.validUntil = validity.time();
    validity.finish();
    this.subject = tbs.expect(TAG.sequence).element;
    this.#spki = tbs.expect(TAG.sequence).element;
    tbs.optional(context(1, false));
    tbs.optional(context(2, false));
    const extensions = tbs.enterOptional(context(3));
    tbs.finish();
    if (extensions === null) return;
    if (this.version !== 3) throw new DerError("a certificate before version 3 has extensions");
    const list = extensions.enter(TAG.sequence);
    extensions.finish();
    const seen = new Set<string>();
    while (list.more) {
      const extension = list.enter(TAG.sequence);
      const name = extension.oid();
      if (seen.has(name)) throw new DerError("a certificate has an extension twice");
      if (seen.add(name).size > EXTENSIONS_MAX) throw new DerError("a certificate has too many extensions");
      const critical = extension.nextTag === TAG.boolean && extension.boolean();
      const value = extension.enter(TAG.octetString);
      extension.finish();
      if (this.#take(name, value)) value.finish();
      const mustBe = critical || LIMITING.includes(name);
      if (mustBe && !UNDERSTOOD.includes(name)) this.unknownCritical ??= oidText(name);
    }
  }

  /** Takes an extension. @returns False: it is of no interest. */
  #take(name: string, value: DerReader): boolean {
    switch (name) {
      case CERT.basicConstraints: {
        const constraints = value.enter(TAG.sequence);
        this.ca = constraints.nextTag === TAG.boolean && constraints.boolean();
        if (constraints.more) this.pathLength = constraints.smallInteger();
        constraints.finish();
        return true;
      }
      case CERT.keyUsage:
        this.keyUsage = value.namedBits();
        return true;
      case CERT.extendedKeyUsage:
        this.purposes = listOf(value.enter(TAG.sequence), (list) => list.oid());
        return true;
      case CERT.subjectKeyIdentifier:
        this.subjectKeyId = value.expect(TAG.octetString).content;
        return true;
      case CERT.authorityKeyIdentifier: {
        const identifier = value.enter(TAG.sequence);
        if (identifier.optional(context(0, false))) this.authorityKeyId = identifier.content;
        if (identifier.optional(context(1))) this.authorityIssuer = identifier.content;
        if (identifier.optional(context(2, false))) this.authoritySerial = identifier.content;
        identifier.finish();
        return true;
      }
      case CERT.subjectAltName:
        this.hosts = listOf(
          value.enter(TAG.sequence),
          (list) => list.next().tag === context(2, false) ? textOf(TAG.ia5String, list.content) : [],
        ).flat();
        return true;
      default:
        return false;
    }
  }

  /** @throws {DerError} @throws {SealError} `weak-algorithm` */
  get key(): PublicKey {
    return this.#key ??= new PublicKey(this.#spki);
  }

  /** SHA-256 of all of it, in hexadecimal. */
  get fingerprint(): string {
    return createHash("sha256").update(this.der).digest("hex");
  }

  /** The common name; empty where there is none. */
  get commonName(): string {
    return attributesOf(this.subject).findLast(([name]) => name === CERT.commonName)?.[1] ?? "";
  }

  /** What its subject says, by short names: `CN`, `OU`. */
  get attributes(): readonly (readonly [string, string])[] {
    return namedAttributes(this.subject);
  }

  /** For people and logs: the common name, or the whole subject where it has none. */
  get name(): string {
    return printable(this.commonName || subjectText(this.subject), 100);
  }

  /** Is it good for this purpose, as far as it says? */
  mayServe(...purposes: readonly string[]): boolean {
    return this.purposes === null || this.purposes.some((purpose) => purposes.includes(purpose));
  }

  /** May its key be used for one of these? */
  mayUse(usage: number): boolean {
    return this.keyUsage === null || (this.keyUsage & usage) !== 0;
  }

  /** Is this one its issuer, by all that it says of that? */
  mayBeUnder(ca: Certificate): boolean {
    const { authorityKeyId, authorityIssuer, authoritySerial } = this;
    if (!sameBytes(this.issuer, ca.subject)) return false;
    if (authorityKeyId !== null && ca.subjectKeyId !== null && !sameBytes(authorityKeyId, ca.subjectKeyId)) {
      return false;
    }
    if (authoritySerial !== null && !sameBytes(authoritySerial, ca.serial)) return false;
    if (authorityIssuer === null) return true;
    const names = new DerReader(authorityIssuer);
    while (names.more) {
      // Only the name of a directory can be compared.
      if (names.next().tag === context(4)) return sameBytes(names.content, ca.issuer);
    }
    return true;
  }

  /** Has this CA's key signed it? @throws {SealError} `weak-algorithm` @throws {DerError} */
  isSignedBy(issuer: PublicKey, policy: Policy): boolean {
    return isSigned(this.#signed, this.#algorithm, this.#signature, issuer, policy);
  }
}

/**
 * Is a certificate, or a CRL, signed with this key?
 *
 * @param algorithm AlgorithmIdentifier, DER.
 * @throws {SealError} `weak-algorithm`
 * @throws {DerError}
 */
export function isSigned(
  signed: Uint8Array,
  algorithm: Uint8Array,
  signature: Uint8Array,
  key: PublicKey,
  policy: Policy,
): boolean {
  const method = readSignatureAlgorithm(new DerReader(algorithm), policy);
  if (method.hash === null && method.scheme !== "ed25519") {
    throw new SealError("weak-algorithm", "a certificate's signature does not say its hash");
  }
  const fitting = method.scheme === "ed25519"
    ? key.type === "ed25519"
    : method.scheme === "ecdsa"
    ? key.type === "p256" || key.type === "p384"
    : key.type === "rsa";
  return fitting && fits(method, method.hash ?? "sha512", key, signed, signature);
}

function listOf<T>(list: DerReader, item: (list: DerReader) => T): T[] {
  const items: T[] = [];
  while (list.more) {
    if (items.length === ITEMS_MAX) throw new DerError("a list in a certificate is too long");
    items.push(item(list));
  }
  return items;
}

/** Attributes of a name, in its order: OID and text. */
function attributesOf(name: Uint8Array): (readonly [string, string])[] {
  const found: (readonly [string, string])[] = [];
  const sets = new DerReader(name).enter(TAG.sequence);
  while (sets.more) {
    const set = sets.enter(TAG.set);
    while (set.more) {
      if (found.length === ITEMS_MAX) throw new DerError("a name has too many parts");
      const attribute = set.enter(TAG.sequence);
      const type = attribute.oid();
      attribute.next();
      found.push([type, textOf(attribute.tag, attribute.content)]);
    }
  }
  return found;
}

/** Short names of what stands in subjects. */
const SHORT: Readonly<Record<string, string>> = {
  "2.5.4.3": "CN",
  "2.5.4.5": "serialNumber",
  "2.5.4.6": "C",
  "2.5.4.7": "L",
  "2.5.4.8": "ST",
  "2.5.4.10": "O",
  "2.5.4.11": "OU",
  "0.9.2342.19200300.100.1.1": "UID",
  "0.9.2342.19200300.100.1.25": "DC",
  "1.2.840.113549.1.9.1": "emailAddress",
};

/** `CN=host1,OU=Hosts,O=Example`: in the order of the certificate, commas and the like escaped by a backslash. */
export function subjectText(name: Uint8Array): string {
  return namedAttributes(name).map(([type, text]) => `${type}=${text.replace(/[,\\=+]/g, "\\$&")}`).join(",");
}

function namedAttributes(name: Uint8Array): (readonly [string, string])[] {
  return attributesOf(name).map(([type, text]) => {
    const dotted = oidText(type);
    return [SHORT[dotted] ?? dotted, text];
  });
}

function textOf(tag: number, bytes: Uint8Array): string {
  switch (tag) {
    case TAG.utf8String:
      return new TextDecoder().decode(bytes);
    case TAG.bmpString: {
      if (bytes.length % 2 !== 0) throw new DerError("a text is cut short");
      let text = "";
      for (let i = 0; i + 1 < bytes.length; i += 2) text += String.fromCharCode(bytes[i] << 8 | bytes[i + 1]);
      return text;
    }
    default:
      return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  }
}
