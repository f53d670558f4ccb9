/** Signature algorithms: which are known, which are allowed, and how `node:crypto` is told of them. */
import nodeCrypto, {
  constants,
  createHash,
  type KeyObject,
  sign,
  verify,
  type VerifyKeyObjectInput,
} from "node:crypto";
import { context, der, DerError, type DerReader, integer, NULL, oid, oidText, sequence, TAG } from "./der.ts";
import { SealError } from "./errors.ts";
import { CIPHER, DIGEST, KEY, SIGNATURE } from "./oids.ts";
import type { KeyType, PublicKey } from "./public_key.ts";

export type HashName = "sha1" | "sha256" | "sha384" | "sha512";
type Scheme = "rsa" | "pss" | "ecdsa" | "ed25519";

export interface SignatureAlgorithm {
  readonly scheme: Scheme;
  /** Null: RSA without a word about the hash, which the digest algorithm beside it says; or Ed25519, which has its own. */
  readonly hash: HashName | null;
  /** Of PSS. */
  readonly saltBytes: number;
}

/** What may be used besides what is strong. */
export interface Policy {
  /** SHA-1, AES-CBC without authentication: what the original writes. */
  readonly legacy: boolean;
}

const HASHES = new Map<string, HashName>([
  [DIGEST.sha1, "sha1"],
  [DIGEST.sha256, "sha256"],
  [DIGEST.sha384, "sha384"],
  [DIGEST.sha512, "sha512"],
]);

const HASH_OIDS: Readonly<Record<HashName, string>> = {
  sha1: DIGEST.sha1,
  sha256: DIGEST.sha256,
  sha384: DIGEST.sha384,
  sha512: DIGEST.sha512,
};

export const HASH_BYTES: Readonly<Record<HashName, number>> = {
  sha1: 20,
  sha256: 32,
  sha384: 48,
  sha512: 64,
};

const plain = (scheme: Scheme, hash: HashName | null): SignatureAlgorithm => ({ scheme, hash, saltBytes: 0 });

/** Those without parameters, or with NULL for RSA. */
const PLAIN = new Map<string, SignatureAlgorithm>([
  [KEY.rsa, plain("rsa", null)],
  [SIGNATURE.sha1WithRsa, plain("rsa", "sha1")],
  [SIGNATURE.sha256WithRsa, plain("rsa", "sha256")],
  [SIGNATURE.sha384WithRsa, plain("rsa", "sha384")],
  [SIGNATURE.sha512WithRsa, plain("rsa", "sha512")],
  [SIGNATURE.ecdsaWithSha1, plain("ecdsa", "sha1")],
  [SIGNATURE.ecdsaWithSha256, plain("ecdsa", "sha256")],
  [SIGNATURE.ecdsaWithSha384, plain("ecdsa", "sha384")],
  [SIGNATURE.ecdsaWithSha512, plain("ecdsa", "sha512")],
  [SIGNATURE.ed25519, plain("ed25519", null)],
]);

/** The algorithms read last: messages of one fleet have the same, and these bytes are what they are. */
const lastDigest = { element: new Uint8Array(0), found: "sha256" as HashName };
const lastSignature = { element: new Uint8Array(0), found: plain("rsa", null) };

/** The next AlgorithmIdentifier, of a digest. @throws {DerError} @throws {SealError} `weak-algorithm` */
export function readDigestAlgorithm(reader: DerReader, policy: Policy): HashName {
  if (reader.skips(lastDigest.element)) return allowed(lastDigest.found, policy);
  const found = readDigest(reader, policy);
  lastDigest.element = new Uint8Array(reader.element);
  lastDigest.found = found;
  return found;
}

function readDigest(reader: DerReader, policy: Policy): HashName {
  const algorithm = reader.enter(TAG.sequence);
  const key = algorithm.oid();
  nullOrNothing(algorithm);
  const hash = HASHES.get(key);
  if (hash !== undefined) return allowed(hash, policy);
  const name = key === DIGEST.md5 ? "MD5" : oidText(key);
  throw new SealError("weak-algorithm", `the digest algorithm ${name} is not used here`);
}

/** The next AlgorithmIdentifier, of a signature. @throws {DerError} @throws {SealError} `weak-algorithm` */
export function readSignatureAlgorithm(reader: DerReader, policy: Policy): SignatureAlgorithm {
  if (reader.skips(lastSignature.element)) {
    const { found } = lastSignature;
    if (found.hash !== null) allowed(found.hash, policy);
    return found;
  }
  const found = readSignature(reader, policy);
  lastSignature.element = new Uint8Array(reader.element);
  lastSignature.found = found;
  return found;
}

function readSignature(reader: DerReader, policy: Policy): SignatureAlgorithm {
  const algorithm = reader.enter(TAG.sequence);
  const key = algorithm.oid();
  if (key === SIGNATURE.rsaPss) return readPss(algorithm, policy);
  const known = PLAIN.get(key);
  if (known === undefined) {
    const name = key === SIGNATURE.md5WithRsa ? "MD5 with RSA" : oidText(key);
    throw new SealError("weak-algorithm", `the signature algorithm ${name} is not used here`);
  }
  if (known.scheme === "rsa") nullOrNothing(algorithm);
  else algorithm.finish();
  if (known.hash !== null) allowed(known.hash, policy);
  return known;
}

/** RSASSA-PSS-params (RFC 4055): the same hash in both places. */
function readPss(algorithm: DerReader, policy: Policy): SignatureAlgorithm {
  const parameters = algorithm.enter(TAG.sequence);
  algorithm.finish();
  const hash = readHashParameter(parameters, policy);
  const mask = parameters.enterOptional(context(1));
  let maskHash: HashName = "sha1";
  if (mask !== null) {
    const generator = mask.enter(TAG.sequence);
    mask.finish();
    if (generator.oid() !== CIPHER.mgf1) {
      throw new SealError("weak-algorithm", "PSS with another mask than MGF1");
    }
    maskHash = readDigestAlgorithm(generator, policy);
    generator.finish();
  }
  if (maskHash !== hash) throw new SealError("weak-algorithm", "PSS with two different hashes");
  const salt = parameters.enterOptional(context(2));
  const saltBytes = salt === null ? 20 : salt.smallInteger();
  salt?.finish();
  const trailer = parameters.enterOptional(context(3));
  if (trailer !== null && trailer.smallInteger() !== 1) throw new DerError("PSS with another trailer");
  parameters.finish();
  if (saltBytes > HASH_BYTES.sha512) throw new SealError("weak-algorithm", "PSS with too long a salt");
  return { scheme: "pss", hash, saltBytes };
}

/** `[0] HashAlgorithm DEFAULT sha1`, as PSS and OAEP have it. */
export function readHashParameter(parameters: DerReader, policy: Policy): HashName {
  const given = parameters.enterOptional(context(0));
  if (given === null) return allowed("sha1", policy);
  const hash = readDigestAlgorithm(given, policy);
  given.finish();
  return hash;
}

function nullOrNothing(parameters: DerReader): void {
  if (parameters.more && parameters.expect(TAG.null).to !== parameters.from) {
    throw new DerError("a NULL is none");
  }
  parameters.finish();
}

function allowed(hash: HashName, { legacy }: Policy): HashName {
  if (hash === "sha1" && !legacy) {
    throw new SealError("weak-algorithm", "SHA-1 is not allowed: cms-profile = accept-legacy would take it");
  }
  return hash;
}

/**
 * The hash that a signature is made with, from what stands beside it.
 *
 * @throws {SealError} `bad-cms`: the two contradict each other.
 */
export function hashOf(algorithm: SignatureAlgorithm, digest: HashName): HashName {
  if (algorithm.hash !== null && algorithm.hash !== digest) {
    throw new SealError("bad-cms", "its digest algorithm and its signature algorithm contradict each other");
  }
  return digest;
}

/** Does a signature fit? @throws {SealError} `bad-cms`: the key is of another kind than the algorithm. */
export function fits(
  algorithm: SignatureAlgorithm,
  hash: HashName,
  key: PublicKey,
  data: Uint8Array,
  signature: Uint8Array,
): boolean {
  const [name, options] = verifyingOf(algorithm, hash, key);
  try {
    return verify(name, data, options, signature);
  } catch {
    // Some runtimes throw at a signature that is none.
    return false;
  }
}

/** What `node:crypto` wants to be told. */
function verifyingOf(
  algorithm: SignatureAlgorithm,
  hash: HashName,
  key: PublicKey,
): [hash: HashName | null, options: KeyObject | VerifyKeyObjectInput] {
  checkScheme(algorithm, key);
  const { scheme, saltBytes } = algorithm;
  switch (scheme) {
    case "pss":
      return [hash, { key: key.object, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: saltBytes }];
    case "ed25519":
      return [null, key.object];
    default:
      return [hash, key.object];
  }
}

/** @throws {SealError} `bad-cms`: the key is of another kind than the algorithm, or none. */
export function checkScheme({ scheme }: SignatureAlgorithm, key: PublicKey): void {
  if (!SCHEMES[key.type].includes(scheme)) {
    throw new SealError("bad-cms", "the signature algorithm is for another kind of key than the signer's");
  }
  void key.object;
}

const SCHEMES: Readonly<Record<KeyType, readonly Scheme[]>> = {
  rsa: ["rsa", "pss"],
  p256: ["ecdsa"],
  p384: ["ecdsa"],
  ed25519: ["ed25519"],
  x25519: [],
};

/** `crypto.hash` makes no object; the first Node 20 have none. */
export const digestOf: (hash: HashName, bytes: Uint8Array) => Uint8Array =
  typeof nodeCrypto.hash === "function"
    ? (hash, bytes) => nodeCrypto.hash(hash, bytes, "buffer")
    : (hash, bytes) => createHash(hash).update(bytes).digest();

/** How a key signs. */
export interface SigningMethod {
  readonly hash: HashName;
  /** AlgorithmIdentifier, DER. */
  readonly digestAlgorithm: Uint8Array;
  /** AlgorithmIdentifier, DER. */
  readonly signatureAlgorithm: Uint8Array;
  sign(data: Uint8Array): Uint8Array;
}

/** How a key of this type signs messages; `legacy` as the original can read it. */
export function signingMethod(type: KeyType, key: KeyObject, legacy: boolean): SigningMethod {
  switch (type) {
    case "rsa": {
      if (legacy) return method("sha1", rsaAlgorithm, (data) => sign("sha1", data, key));
      const saltLength = HASH_BYTES.sha256;
      const padding = constants.RSA_PKCS1_PSS_PADDING;
      return method("sha256", pssAlgorithm, (data) => sign("sha256", data, { key, padding, saltLength }));
    }
    case "p256":
      return method(
        "sha256",
        () => sequence(oid(SIGNATURE.ecdsaWithSha256)),
        (data) => sign("sha256", data, key),
      );
    case "p384":
      return method(
        "sha384",
        () => sequence(oid(SIGNATURE.ecdsaWithSha384)),
        (data) => sign("sha384", data, key),
      );
    case "ed25519":
      // RFC 8419: with signed attributes the digest is SHA-512.
      return method("sha512", () => sequence(oid(SIGNATURE.ed25519)), (data) => sign(null, data, key));
    case "x25519":
      throw new SealError("wrong-usage", "a key of the type X25519 cannot sign");
  }
}

function method(
  hash: HashName,
  algorithm: (hash: HashName) => Uint8Array,
  signing: (data: Uint8Array) => Uint8Array,
): SigningMethod {
  return {
    hash,
    digestAlgorithm: digestAlgorithm(hash),
    signatureAlgorithm: algorithm(hash),
    sign: signing,
  };
}

/** AlgorithmIdentifier of a digest. */
export function digestAlgorithm(hash: HashName): Uint8Array {
  return hash === "sha1" ? sequence(oid(HASH_OIDS[hash]), NULL) : sequence(oid(HASH_OIDS[hash]));
}

/** The original's libraries want to be told of RSA alone. */
const rsaAlgorithm = (): Uint8Array => sequence(oid(KEY.rsa), NULL);

function pssAlgorithm(hash: HashName): Uint8Array {
  const parameters = sequence(
    der(context(0), digestAlgorithm(hash)),
    der(context(1), sequence(oid(CIPHER.mgf1), digestAlgorithm(hash))),
    der(context(2), integer(HASH_BYTES[hash])),
  );
  return sequence(oid(SIGNATURE.rsaPss), parameters);
}
