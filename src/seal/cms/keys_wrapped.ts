/**
 * How a content key reaches its recipient: RSA key transport, and key agreement on a curve with AES key wrap. What does not
 * fit yields a random key, so that it fails later, where a wrong key would.
 */
import { Buffer } from "node:buffer";
import {
  constants,
  createCipheriv,
  createDecipheriv,
  createHash,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  privateDecrypt,
  publicEncrypt,
  randomBytes,
} from "node:crypto";
import { context, der, DerError, DerReader, NULL, octets, oid, oidText, sequence, TAG } from "./der.ts";
import { SealError } from "./errors.ts";
import { CIPHER, KEY } from "./oids.ts";
import type { PublicKey } from "./public_key.ts";
import { digestAlgorithm, type HashName, readDigestAlgorithm, readHashParameter } from "./signatures.ts";

/** SHA-1 as a part of a mask or of a key derivation does no harm: `openssl cms` uses it where it is not told otherwise. */
const ANY_HASH = { legacy: true };

/** A key that decrypts, and its public half. */
export interface DecryptionKey {
  readonly key: KeyObject;
  readonly publicKey: PublicKey;
}

// RSA (RFC 3560, RFC 8017)

/** The content key of a KeyTransRecipientInfo. @throws {DerError} @throws {SealError} `weak-algorithm` */
export function transportedKey(
  algorithm: DerReader,
  encrypted: Uint8Array,
  { key, publicKey }: DecryptionKey,
  keyBytes: number,
): Uint8Array {
  const name = algorithm.oid();
  const random = randomBytes(keyBytes);
  if (publicKey.type !== "rsa" || encrypted.length !== publicKey.modulusBytes) return random;
  if (name === KEY.rsa) {
    algorithm.expect(TAG.null);
    algorithm.finish();
    let block: Uint8Array;
    try {
      block = privateDecrypt({ key, padding: constants.RSA_NO_PADDING }, encrypted);
    } catch {
      // Above the modulus: whoever sent it knows that.
      return random;
    }
    return unpadded(block, random);
  }
  if (name !== CIPHER.rsaOaep) throw unknown(name);
  const oaepHash = readOaep(algorithm);
  try {
    const found = privateDecrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, encrypted);
    return found.length === keyBytes ? found : random;
  } catch {
    return random;
  }
}

/**
 * The end of a block `00 02 (bytes that are not 0) 00 key`, or the random key where it is none. Which of both it was shows in
 * nothing: no branch and no index depends on the block.
 */
export function unpadded(block: Uint8Array, random: Uint8Array): Uint8Array {
  const from = block.length - random.length;
  let wrong = block[0] | block[1] ^ 2 | block[from - 1];
  for (let i = 2; i < from - 1; i++) wrong |= block[i] - 1 >> 8;
  // All bits where it is wrong, none where it is right.
  const mask = (wrong | -wrong) >> 31;
  const key = new Uint8Array(random.length);
  for (let i = 0; i < key.length; i++) key[i] = block[from + i] & ~mask | random[i] & mask;
  return key;
}

/** RSAES-OAEP-params (RFC 4055). */
function readOaep(algorithm: DerReader): HashName {
  const parameters = algorithm.enter(TAG.sequence);
  algorithm.finish();
  const hash = readHashParameter(parameters, ANY_HASH);
  const mask = parameters.enterOptional(context(1));
  let maskHash: HashName = "sha1";
  if (mask !== null) {
    const generator = mask.enter(TAG.sequence);
    if (generator.oid() !== CIPHER.mgf1) {
      throw new SealError("weak-algorithm", "OAEP with another mask than MGF1");
    }
    maskHash = readDigestAlgorithm(generator, ANY_HASH);
  }
  if (maskHash !== hash) throw new SealError("weak-algorithm", "OAEP with two different hashes");
  const source = parameters.enterOptional(context(2));
  parameters.finish();
  if (source !== null) {
    const label = source.enter(TAG.sequence);
    if (label.oid() !== CIPHER.pSpecified || label.expect(TAG.octetString).content.length > 0) {
      throw new SealError("weak-algorithm", "OAEP with a label");
    }
  }
  return hash;
}

/** Encrypts a content key with RSA: OAEP, or PKCS #1 v1.5 where an original is to read it. @returns Algorithm and key, DER. */
export function transportKey(
  contentKey: Uint8Array,
  to: PublicKey,
  legacy: boolean,
): [Uint8Array, Uint8Array] {
  const key = to.object;
  if (legacy) {
    return [
      sequence(oid(KEY.rsa), NULL),
      octets(publicEncrypt({ key, padding: constants.RSA_PKCS1_PADDING }, contentKey)),
    ];
  }
  const padding = constants.RSA_PKCS1_OAEP_PADDING;
  return [OAEP_SHA256, octets(publicEncrypt({ key, padding, oaepHash: "sha256" }, contentKey))];
}

const OAEP_SHA256 = sequence(
  oid(CIPHER.rsaOaep),
  sequence(
    der(context(0), digestAlgorithm("sha256")),
    der(context(1), sequence(oid(CIPHER.mgf1), digestAlgorithm("sha256"))),
  ),
);

// Curves (RFC 5753, RFC 8418)

type Derivation = "sha1" | "sha256" | "sha384" | "hkdf";

const DERIVATIONS = new Map<string, Derivation>([
  [CIPHER.ecdhSha1Kdf, "sha1"],
  [CIPHER.ecdhSha256Kdf, "sha256"],
  [CIPHER.ecdhSha384Kdf, "sha384"],
  [CIPHER.ecdhHkdfSha256, "hkdf"],
]);

/** Bytes of a sender's addition and of the wrap's name, for a derivation: some runtimes take no more than 1,024 in all. */
const DERIVED_FROM_MAX_BYTES = 512;

/** Bytes of the keys that key wraps take. */
const WRAPS = new Map<string, number>([[CIPHER.aes128Wrap, 16], [CIPHER.aes256Wrap, 32]]);

/**
 * The content key of a KeyAgreeRecipientInfo.
 *
 * @param originator The sender's key of the moment, as it stands there.
 * @param ukm What the sender has added to the derivation; null: nothing.
 * @throws {DerError}
 * @throws {SealError} `weak-algorithm`
 */
export function agreedKey(
  algorithm: DerReader,
  originator: Uint8Array,
  ukm: Uint8Array | null,
  wrapped: Uint8Array,
  { key, publicKey }: DecryptionKey,
  keyBytes: number,
): Uint8Array {
  const name = algorithm.oid();
  const derivation = DERIVATIONS.get(name);
  if (derivation === undefined) throw unknown(name);
  const wrap = algorithm.enter(TAG.sequence);
  const wrapAlgorithm = wrap.buf.subarray(algorithm.start, algorithm.to);
  algorithm.finish();
  const wrapName = wrap.oid();
  const wrapBytes = WRAPS.get(wrapName);
  if (wrapBytes === undefined) throw unknown(wrapName);
  if (wrapAlgorithm.length + (ukm?.length ?? 0) > DERIVED_FROM_MAX_BYTES) {
    throw new DerError("what a key is to be derived from is too long");
  }
  const random = randomBytes(keyBytes);
  if (!(publicKey.type in CURVES)) return random;
  let shared: Uint8Array;
  try {
    shared = sharedSecret(key, publicKey, originator);
  } catch {
    // No point of the curve.
    return random;
  }
  const found = unwrap(wrapped, derived(derivation, shared, ukm, wrapAlgorithm, wrapBytes));
  return found !== null && found.length === keyBytes ? found : random;
}

/** @throws {Error} The sender's key is none. */
function sharedSecret(key: KeyObject, own: PublicKey, originator: Uint8Array): Uint8Array {
  const algorithm = new DerReader(own.spki).enter(TAG.sequence).expect(TAG.sequence).element;
  const spki = sequence(algorithm, der(TAG.bitString, new Uint8Array(1), originator));
  const publicKey = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  const shared = diffieHellman({ privateKey: key, publicKey });
  if (shared.every((byte) => byte === 0)) throw new Error("the shared secret is zero");
  return shared;
}

/** The key that the content key is wrapped with. */
function derived(
  derivation: Derivation,
  shared: Uint8Array,
  ukm: Uint8Array | null,
  wrapAlgorithm: Uint8Array,
  bytes: number,
): Uint8Array {
  const bitLength = new Uint8Array(4);
  new DataView(bitLength.buffer).setUint32(0, 8 * bytes);
  const info = sequence(
    wrapAlgorithm,
    ...(ukm === null ? [] : [der(context(0), octets(ukm))]),
    der(context(2), octets(bitLength)),
  );
  if (derivation === "hkdf") {
    return new Uint8Array(hkdfSync("sha256", shared, ukm ?? new Uint8Array(0), info, bytes));
  }
  // X9.63: the hash of secret, counter and info, as often as it takes.
  const out: Uint8Array[] = [];
  for (let counter = 1, length = 0; length < bytes; counter++) {
    const round = createHash(derivation).update(shared).update(Uint8Array.of(0, 0, 0, counter)).update(info)
      .digest();
    out.push(round);
    length += round.length;
  }
  return Buffer.concat(out).subarray(0, bytes);
}

/** What is needed of each curve to make a key of the moment. */
const CURVES = {
  p256: {
    generate: () => generateKeyPairSync("ec", { namedCurve: "P-256" }),
    name: KEY.ec,
    derivation: CIPHER.ecdhSha256Kdf,
  },
  p384: {
    generate: () => generateKeyPairSync("ec", { namedCurve: "P-384" }),
    name: KEY.ec,
    derivation: CIPHER.ecdhSha384Kdf,
  },
  x25519: {
    generate: () => generateKeyPairSync("x25519"),
    name: KEY.x25519,
    derivation: CIPHER.ecdhHkdfSha256,
  },
} as const;

/** Can a content key be agreed on with the owner of this key? */
export const agrees = ({ type }: PublicKey): boolean => type in CURVES;

/**
 * Wraps a content key for the owner of a key on a curve.
 *
 * @returns The key of the moment, AlgorithmIdentifier of the key encryption, and the wrapped key, all DER.
 */
export function agreeKey(contentKey: Uint8Array, to: PublicKey): [Uint8Array, Uint8Array, Uint8Array] {
  const { generate, name, derivation } = CURVES[to.type as keyof typeof CURVES];
  const moment = generate();
  const shared = diffieHellman({ privateKey: moment.privateKey, publicKey: to.object });
  const key = derived(DERIVATIONS.get(derivation)!, shared, null, AES256_WRAP, 32);
  const spki = new DerReader(moment.publicKey.export({ format: "der", type: "spki" })).enter(TAG.sequence);
  spki.expect(TAG.sequence);
  const point = spki.bitString();
  const originator = der(context(1), sequence(oid(name)), der(TAG.bitString, new Uint8Array(1), point));
  return [originator, sequence(oid(derivation), AES256_WRAP), octets(wrap(contentKey, key))];
}

const AES256_WRAP = sequence(oid(CIPHER.aes256Wrap));

// AES key wrap (RFC 3394), over AES-ECB: not every runtime has more

const WRAP_IV = new Uint8Array(8).fill(0xa6);

/** Wraps a key of 16 bytes or more, a multiple of 8. */
export function wrap(key: Uint8Array, kek: Uint8Array): Uint8Array {
  const cipher = createCipheriv(`aes-${8 * kek.length}-ecb`, kek, null).setAutoPadding(false);
  const blocks = key.length / 8;
  const out = new Uint8Array(8 + key.length);
  out.set(WRAP_IV, 0);
  out.set(key, 8);
  const block = new Uint8Array(16);
  for (let round = 0; round < 6; round++) {
    for (let i = 1; i <= blocks; i++) {
      block.set(out.subarray(0, 8), 0);
      block.set(out.subarray(8 * i, 8 * i + 8), 8);
      const done = cipher.update(block);
      done[7] ^= blocks * round + i;
      out.set(done.subarray(0, 8), 0);
      out.set(done.subarray(8, 16), 8 * i);
    }
  }
  return out;
}

/** The other way round; null: it was wrapped with another key. */
export function unwrap(wrapped: Uint8Array, kek: Uint8Array): Uint8Array | null {
  if (wrapped.length < 24 || wrapped.length > 72 || wrapped.length % 8 !== 0) return null;
  const cipher = createDecipheriv(`aes-${8 * kek.length}-ecb`, kek, null).setAutoPadding(false);
  const blocks = wrapped.length / 8 - 1;
  const out = new Uint8Array(wrapped);
  const block = new Uint8Array(16);
  for (let round = 5; round >= 0; round--) {
    for (let i = blocks; i >= 1; i--) {
      block.set(out.subarray(0, 8), 0);
      block[7] ^= blocks * round + i;
      block.set(out.subarray(8 * i, 8 * i + 8), 8);
      const done = cipher.update(block);
      out.set(done.subarray(0, 8), 0);
      out.set(done.subarray(8, 16), 8 * i);
    }
  }
  let wrong = 0;
  for (let i = 0; i < 8; i++) wrong |= out[i] ^ WRAP_IV[i];
  return wrong === 0 ? out.subarray(8) : null;
}

function unknown(name: string): SealError {
  return new SealError(
    "weak-algorithm",
    `a content key is encrypted in a way that is not used here: ${oidText(name)}`,
  );
}
