/** Certificates and CRLs (RFC 5280) are made here, and the keys for them. */
import { createPublicKey, generateKeyPair, type KeyObject, randomBytes } from "node:crypto";
import { latin1Bytes, utf8 } from "../../text.ts";
import { type Certificate, USAGE } from "./certificate.ts";
import type { RevocationList } from "./crl.ts";
import { bits, context, der, integer, octets, oid, sequence, setOf, TAG, time } from "./der.ts";
import { CERT } from "./oids.ts";
import { type KeyType, PublicKey } from "./public_key.ts";
import { digestOf, signingMethod } from "./signatures.ts";

/** Keys that are made here: not X25519, with which nothing can be signed. */
export const NEW_KEY_TYPES = ["p256", "p384", "ed25519", "rsa"] as const satisfies readonly KeyType[];
export type NewKeyType = typeof NEW_KEY_TYPES[number];

/** As strong as AES-128, and as P-256 is. */
const RSA_BITS = 3072;
const SERIAL_BYTES = 16;
/** Of a SHA-256, as RFC 7093 makes them: as many as a SHA-1 has. */
const KEY_ID_BYTES = 20;

/** A new private key. */
export function makeKey(type: NewKeyType): Promise<KeyObject> {
  return new Promise((resolve, reject) => {
    const made = (error: Error | null, _publicKey: KeyObject, privateKey: KeyObject) =>
      error === null || error === undefined ? resolve(privateKey) : reject(error);
    switch (type) {
      case "p256":
        return generateKeyPair("ec", { namedCurve: "P-256" }, made);
      case "p384":
        return generateKeyPair("ec", { namedCurve: "P-384" }, made);
      case "ed25519":
        return generateKeyPair("ed25519", undefined, made);
      case "rsa":
        return generateKeyPair("rsa", { modulusLength: RSA_BITS }, made);
    }
  });
}

/** Its other half. @throws {SealError} `weak-algorithm` @throws {DerError} */
export function publicKeyOf(key: KeyObject): PublicKey {
  return new PublicKey(new Uint8Array(createPublicKey(key).export({ format: "der", type: "spki" })));
}

/** Whoever issues: a CA's certificate, and its private key. */
export interface Issuer {
  readonly certificate: Certificate;
  readonly key: KeyObject;
}

/** Between them a certificate is valid, milliseconds since 1970. */
export interface Validity {
  readonly from: number;
  readonly until: number;
}

/** The certificate of a CA that has issued itself. @throws {SealError} `wrong-usage`: its key cannot sign. */
export function makeCa({ name, key, validity }: {
  readonly name: string;
  readonly key: KeyObject;
  readonly validity: Validity;
}): Uint8Array {
  const publicKey = publicKeyOf(key);
  const subject = commonName(name);
  return certificate({ subject, publicKey, validity, issuer: subject, key }, [
    extension(CERT.basicConstraints, true, sequence(TRUE)),
    extension(CERT.keyUsage, true, namedBits(USAGE.keyCertSign | USAGE.cRLSign)),
    extension(CERT.subjectKeyIdentifier, false, octets(keyIdOf(publicKey))),
  ]);
}

/** A certificate of someone who signs messages, and for whom messages are encrypted where the key is good for that. */
export function makeCertificate({ name, publicKey, hosts, validity, issuer }: {
  readonly name: string;
  readonly publicKey: PublicKey;
  /** Its DNS names. */
  readonly hosts: readonly string[];
  readonly validity: Validity;
  readonly issuer: Issuer;
}): Uint8Array {
  const { certificate: ca, key } = issuer;
  return certificate({ subject: commonName(name), publicKey, validity, issuer: ca.subject, key }, [
    extension(CERT.basicConstraints, true, sequence()),
    extension(CERT.keyUsage, true, namedBits(USAGE.digitalSignature | encryptingUsage(publicKey.type))),
    // What `openssl cms` asks for, when it is told of no other purpose.
    extension(CERT.extendedKeyUsage, false, sequence(oid(CERT.emailProtection))),
    extension(CERT.subjectKeyIdentifier, false, octets(keyIdOf(publicKey))),
    ...authorityKeyId(ca),
    ...hosts.length === 0 ? [] : [
      extension(CERT.subjectAltName, false, sequence(...hosts.map((host) => ia5(context(2, false), host)))),
    ],
  ]);
}

/** How the key of a certificate is used where messages are encrypted for it; 0: it cannot be. */
export function encryptingUsage(type: KeyType): number {
  return type === "rsa" ? USAGE.keyEncipherment : type === "ed25519" ? 0 : USAGE.keyAgreement;
}

/** What a CA says that it has revoked: what the list before had, and one more; null: nothing new. */
export function makeRevocationList({ before, revoked, issuer, updated }: {
  readonly before: RevocationList | null;
  readonly revoked: Certificate | null;
  readonly issuer: Issuer;
  /** Milliseconds since 1970. */
  readonly updated: number;
}): Uint8Array {
  const { certificate: ca, key } = issuer;
  const method = signingMethod(ca.key.type, key, false);
  const entries = [
    ...before === null ? [] : [before.entries],
    ...revoked === null ? [] : [sequence(der(TAG.integer, revoked.serial), time(updated))],
  ].filter(({ length }) => length > 0);
  const list = sequence(
    integer(1),
    method.signatureAlgorithm,
    ca.subject,
    time(updated),
    // There is no need for another before something is revoked.
    time(ca.validUntil),
    ...entries.length === 0 ? [] : [sequence(...entries)],
    der(
      context(0),
      sequence(...authorityKeyId(ca), extension(CERT.crlNumber, false, integer(after(before?.number)))),
    ),
  );
  return sequence(list, method.signatureAlgorithm, bits(method.sign(list)));
}

/** The number behind this one; the first is 1. */
function after(number: Uint8Array | null | undefined): Uint8Array {
  const next = Uint8Array.of(0, ...number ?? []);
  for (let i = next.length - 1; i >= 0; i--) {
    next[i]++;
    if (next[i] !== 0) break;
  }
  return next;
}

function certificate(
  { subject, publicKey, validity, issuer, key }: {
    readonly subject: Uint8Array;
    readonly publicKey: PublicKey;
    readonly validity: Validity;
    readonly issuer: Uint8Array;
    /** The issuer's. */
    readonly key: KeyObject;
  },
  extensions: readonly Uint8Array[],
): Uint8Array {
  const method = signingMethod(publicKeyOf(key).type, key, false);
  const signed = sequence(
    der(context(0), integer(2)),
    integer(randomBytes(SERIAL_BYTES)),
    method.signatureAlgorithm,
    issuer,
    sequence(time(validity.from), time(validity.until)),
    subject,
    publicKey.spki,
    der(context(3), sequence(...extensions)),
  );
  return sequence(signed, method.signatureAlgorithm, bits(method.sign(signed)));
}

const TRUE = der(TAG.boolean, Uint8Array.of(0xff));

function extension(name: string, critical: boolean, value: Uint8Array): Uint8Array {
  return sequence(oid(name), ...critical ? [TRUE] : [], octets(value));
}

/** A CA without an identifier of its own is found by its name. */
function authorityKeyId({ subjectKeyId }: Certificate): Uint8Array[] {
  if (subjectKeyId === null) return [];
  return [extension(CERT.authorityKeyIdentifier, false, sequence(der(context(0, false), subjectKeyId)))];
}

function keyIdOf({ bytes }: PublicKey): Uint8Array {
  return digestOf("sha256", bytes).subarray(0, KEY_ID_BYTES);
}

function commonName(name: string): Uint8Array {
  return sequence(setOf(sequence(oid(CERT.commonName), der(TAG.utf8String, utf8(name)))));
}

function ia5(tag: number, text: string): Uint8Array {
  return der(tag, latin1Bytes(text));
}

/** Bits by number, without those behind the last that is set. */
function namedBits(set: number): Uint8Array {
  const last = 31 - Math.clz32(set);
  const bytes = new Uint8Array((last >> 3) + 1);
  for (let bit = 0; bit <= last; bit++) if (set & 1 << bit) bytes[bit >> 3] |= 0x80 >> (bit & 7);
  return der(TAG.bitString, Uint8Array.of(7 - (last & 7)), bytes);
}
