/**
 * EnvelopedData (RFC 5652, section 6: what the original writes) and AuthEnvelopedData (RFC 5083): a content, encrypted for one
 * or several recipients.
 *
 * ```
 *   ContentInfo { envelopedData, [0] { version, [0] originator, recipients, { data, algorithm, [0] ciphertext }, … } }
 *   ContentInfo { authEnvelopedData, [0] { version, [0] originator, recipients, { data, algorithm, [0] ciphertext },
 *                                          [1] authAttrs, mac, [2] unauthAttrs } }
 * ```
 */
import { Buffer } from "node:buffer";
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { CMS_RECIPIENTS_MAX, ENVELOPE_MAX_BYTES } from "../../limits.ts";
import { utf8 } from "../../text.ts";
import { type Certificate, USAGE } from "./certificate.ts";
import {
  context,
  der,
  DerError,
  DerReader,
  integer,
  octets,
  oid,
  oidText,
  sameBytes,
  sequence,
  TAG,
} from "./der.ts";
import { SealError } from "./errors.ts";
import {
  agreedKey,
  agreeKey,
  agrees,
  type DecryptionKey,
  transportedKey,
  transportKey,
} from "./keys_wrapped.ts";
import { CIPHER, CMS } from "./oids.ts";
import type { Policy } from "./signatures.ts";
import { isNamed } from "./trust.ts";

export const NONCE_BYTES = 12;
export const TAG_BYTES = 16;

/** How contents are encrypted. */
interface ContentCipher {
  readonly keyBytes: number;
  readonly name: "aes-128-cbc" | "aes-192-cbc" | "aes-256-cbc" | "aes-128-gcm" | "aes-256-gcm";
  readonly authenticated: boolean;
}

const CONTENT_CIPHERS = new Map<string, ContentCipher>([
  [CIPHER.aes128Cbc, { keyBytes: 16, name: "aes-128-cbc", authenticated: false }],
  [CIPHER.aes192Cbc, { keyBytes: 24, name: "aes-192-cbc", authenticated: false }],
  [CIPHER.aes256Cbc, { keyBytes: 32, name: "aes-256-cbc", authenticated: false }],
  [CIPHER.aes128Gcm, { keyBytes: 16, name: "aes-128-gcm", authenticated: true }],
  [CIPHER.aes256Gcm, { keyBytes: 32, name: "aes-256-gcm", authenticated: true }],
]);

/** Who decrypts: a certificate, and its key. */
export interface Recipient extends DecryptionKey {
  readonly certificate: Certificate;
}

/** What was in an envelope. */
export interface Decrypted {
  readonly content: Uint8Array;
  /** The content key and its nonce, for what is encrypted beside the envelope; null: it is not authenticated. */
  readonly sealed: { readonly key: Uint8Array; readonly nonce: Uint8Array } | null;
}

/** What everything says that is wrong once a key was used: anything more would tell about it. */
export function undecryptable(): SealError {
  return new SealError("undecryptable", "it cannot be decrypted: it is for another key, or was changed");
}

/**
 * Decrypts an envelope.
 *
 * @throws {SealError}
 */
export function decryptEnvelope(bytes: Uint8Array, recipient: Recipient, policy: Policy): Decrypted {
  try {
    return decrypt(bytes, recipient, policy);
  } catch (error) {
    throw error instanceof DerError ? new SealError("bad-cms", `the envelope: ${error.message}`) : error;
  }
}

function decrypt(bytes: Uint8Array, recipient: Recipient, policy: Policy): Decrypted {
  const outer = new DerReader(bytes);
  const info = outer.enter(TAG.sequence);
  outer.finish();
  const type = info.oid();
  if (type !== CMS.envelopedData && type !== CMS.authEnvelopedData) {
    throw new DerError("it is no EnvelopedData");
  }
  const authenticated = type === CMS.authEnvelopedData;
  const explicit = info.enter(context(0));
  info.finish();
  const data = explicit.enter(TAG.sequence);
  explicit.finish();
  const version = data.smallInteger();
  if (authenticated ? version !== 0 : version > 4) throw new DerError(`an envelope of version ${version}`);
  data.optional(context(0));
  const recipients = data.enter(TAG.set);
  const encrypted = data.enter(TAG.sequence);
  if (encrypted.oid() !== CMS.data) throw new DerError("what is encrypted is no plain data");
  const algorithm = encrypted.enter(TAG.sequence);
  const cipherName = algorithm.oid();
  const cipher = CONTENT_CIPHERS.get(cipherName);
  if (cipher === undefined || cipher.authenticated !== authenticated) {
    throw new SealError(
      "weak-algorithm",
      `it is encrypted with what is not used here: ${oidText(cipherName)}`,
    );
  }
  if (!authenticated && !policy.legacy) {
    const name = cipher.name.toUpperCase();
    throw new SealError(
      "weak-algorithm",
      `${name} alone is not allowed: cms-profile = accept-legacy would take it`,
    );
  }
  const nonce = authenticated ? readGcm(algorithm) : algorithm.expect(TAG.octetString).content;
  if (!authenticated && nonce.length !== 16) {
    throw new DerError("an initialization vector is not of 16 bytes");
  }
  algorithm.finish();
  const ciphertext = encrypted.expect(context(0, false)).content;
  encrypted.finish();
  if (bytes.length - ciphertext.length > ENVELOPE_MAX_BYTES) {
    throw new DerError(`more than ${ENVELOPE_MAX_BYTES} bytes stand beside what is encrypted`);
  }
  const attributes = data.optional(context(1)) ? new Uint8Array(data.element) : null;
  if (attributes !== null) attributes[0] = TAG.set;
  const mac = authenticated ? data.expect(TAG.octetString).content : null;
  if (mac !== null && mac.length !== TAG_BYTES) throw new DerError(`a tag is not of ${TAG_BYTES} bytes`);
  data.optional(context(2));
  data.finish();

  const key = contentKey(recipients, recipient, cipher.keyBytes);
  const content = mac === null
    ? decryptCbc(cipher.name, key, nonce, ciphertext)
    : decryptGcm(cipher.name as GcmName, key, nonce, ciphertext, mac, attributes);
  return { content, sealed: mac === null ? null : { key, nonce } };
}

/** GCMParameters (RFC 5084): a nonce of 12 bytes, a tag of 16. */
function readGcm(algorithm: DerReader): Uint8Array {
  const parameters = algorithm.enter(TAG.sequence);
  const nonce = parameters.expect(TAG.octetString).content;
  const tagBytes = parameters.more ? parameters.smallInteger() : 12;
  parameters.finish();
  if (nonce.length !== NONCE_BYTES) throw new DerError(`a nonce is not of ${NONCE_BYTES} bytes`);
  if (tagBytes !== TAG_BYTES) throw new DerError(`a tag is not of ${TAG_BYTES} bytes`);
  return nonce;
}

/** The content key, or a random one where none of the recipients' fits. */
function contentKey(recipients: DerReader, own: Recipient, keyBytes: number): Uint8Array {
  for (let count = 0; recipients.more; count++) {
    if (count >= CMS_RECIPIENTS_MAX) throw new DerError(`it has more than ${CMS_RECIPIENTS_MAX} recipients`);
    recipients.next();
    const one = new DerReader(recipients.buf, recipients.from, recipients.to);
    if (recipients.tag === TAG.sequence) {
      one.smallInteger();
      const ours = isOurs(one, own.certificate, false);
      const algorithm = one.enter(TAG.sequence);
      const encrypted = one.expect(TAG.octetString).content;
      one.finish();
      if (ours) return transportedKey(algorithm, encrypted, own, keyBytes);
    } else if (recipients.tag === context(1)) {
      const found = agreed(one, own, keyBytes);
      if (found !== null) return found;
    }
    // Other kinds, by a password say, are for others.
  }
  const { name } = own.certificate;
  throw new SealError("undecryptable", `it is encrypted for others, not for "${name}"`);
}

/** The key of a KeyAgreeRecipientInfo; null: it is for others. */
function agreed(info: DerReader, own: Recipient, keyBytes: number): Uint8Array | null {
  if (info.smallInteger() !== 3) throw new DerError("a key agreement of another version");
  const originator = info.enter(context(0));
  const key = originator.enterOptional(context(1));
  key?.expect(TAG.sequence);
  const point = key?.bitString() ?? null;
  const given = info.enterOptional(context(1));
  const ukm = given?.expect(TAG.octetString).content ?? null;
  const algorithm = info.enter(TAG.sequence);
  const keys = info.enter(TAG.sequence);
  info.finish();
  while (keys.more) {
    const one = keys.enter(TAG.sequence);
    const ours = isOurs(one, own.certificate, true);
    const wrapped = one.expect(TAG.octetString).content;
    one.finish();
    if (!ours) continue;
    if (point === null) {
      throw new SealError("weak-algorithm", "a key agreement with a key that is not of the moment");
    }
    return agreedKey(algorithm, point, ukm, wrapped, own, keyBytes);
  }
  return null;
}

/** Does the next value name this recipient? In a key agreement, a key's identifier stands in a sequence. */
function isOurs(reader: DerReader, certificate: Certificate, agreement: boolean): boolean {
  reader.next();
  const { tag, from, to } = reader;
  const content = new DerReader(reader.buf, from, to);
  if (tag === TAG.sequence) {
    return isNamed(certificate, content.expect(TAG.sequence).element, content.integer());
  }
  if (tag !== context(0, agreement)) throw new DerError("a recipient is named in an unknown way");
  const id = agreement ? content.expect(TAG.octetString).content : reader.content;
  return certificate.subjectKeyId !== null && sameBytes(certificate.subjectKeyId, id);
}

type GcmName = "aes-128-gcm" | "aes-256-gcm";

/** @throws {SealError} `undecryptable` */
export function decryptGcm(
  name: GcmName,
  key: Uint8Array,
  nonce: Uint8Array,
  ciphertext: Uint8Array,
  tag: Uint8Array,
  additional: Uint8Array | null,
): Uint8Array {
  try {
    const cipher = createDecipheriv(name, key, nonce, { authTagLength: TAG_BYTES });
    if (additional !== null) cipher.setAAD(additional);
    cipher.setAuthTag(tag);
    const plain = cipher.update(ciphertext);
    // Nobody sees it before the tag has been checked.
    cipher.final();
    return plain;
  } catch {
    throw undecryptable();
  }
}

function decryptCbc(
  name: ContentCipher["name"],
  key: Uint8Array,
  iv: Uint8Array,
  ciphertext: Uint8Array,
): Uint8Array {
  try {
    const cipher = createDecipheriv(name, key, iv);
    return Buffer.concat([cipher.update(ciphertext), cipher.final()]);
  } catch {
    throw undecryptable();
  }
}

/** Encrypts with AES-256-GCM. @returns The ciphertext, and the tag. */
export function encryptGcm(
  key: Uint8Array,
  nonce: Uint8Array,
  plain: Uint8Array,
  additional: Uint8Array | null,
): { ciphertext: Uint8Array; tag: Uint8Array } {
  const cipher = createCipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG_BYTES });
  if (additional !== null) cipher.setAAD(additional);
  const ciphertext = cipher.update(plain);
  cipher.final();
  return { ciphertext, tag: cipher.getAuthTag() };
}

/**
 * Decrypts a blob: nonce, ciphertext and tag, under the content key of its envelope, bound to the message's type.
 *
 * @throws {SealError} `undecryptable`
 */
export function decryptBlob(
  { key, nonce }: NonNullable<Decrypted["sealed"]>,
  type: string,
  blob: Uint8Array,
): Uint8Array {
  const own = blob.subarray(0, NONCE_BYTES);
  // One nonce for two texts would give both away.
  if (blob.length < NONCE_BYTES + TAG_BYTES || sameBytes(own, nonce)) throw undecryptable();
  const tag = blob.subarray(blob.length - TAG_BYTES);
  const name = key.length === 16 ? "aes-128-gcm" : "aes-256-gcm";
  return decryptGcm(name, key, own, blob.subarray(NONCE_BYTES, blob.length - TAG_BYTES), tag, utf8(type));
}

/** The other way round. */
export function encryptBlob(
  { key, nonce }: NonNullable<Decrypted["sealed"]>,
  type: string,
  blob: Uint8Array,
): Uint8Array {
  let own = randomBytes(NONCE_BYTES);
  while (sameBytes(own, nonce)) own = randomBytes(NONCE_BYTES);
  const { ciphertext, tag } = encryptGcm(key, own, blob, utf8(type));
  return Buffer.concat([own, ciphertext, tag]);
}

const DATA = oid(CMS.data);
const VERSION_0 = integer(0);
const VERSION_3 = integer(3);

/** An envelope, and what else may be encrypted with its key. */
export interface Encrypted {
  /** ContentInfo, DER. */
  readonly envelope: Uint8Array;
  readonly key: Uint8Array;
  readonly nonce: Uint8Array;
}

/**
 * Encrypts a content for all of these: AES-256-GCM, or AES-128-CBC where an original is to read it.
 *
 * @param recipients As {@link checkRecipient} lets pass.
 */
export function encryptEnvelope(
  content: Uint8Array,
  recipients: readonly Certificate[],
  legacy: boolean,
): Encrypted {
  const key = randomBytes(legacy ? 16 : 32);
  const nonce = randomBytes(legacy ? 16 : NONCE_BYTES);
  const infos = recipients.map((certificate) => recipientInfo(certificate, key, legacy));
  const set = der(TAG.set, ...infos.sort(Buffer.compare));
  if (legacy) {
    const cipher = createCipheriv("aes-128-cbc", key, nonce);
    const ciphertext = Buffer.concat([cipher.update(content), cipher.final()]);
    const algorithm = sequence(oid(CIPHER.aes128Cbc), octets(nonce));
    const encrypted = sequence(DATA, algorithm, der(context(0, false), ciphertext));
    return { envelope: contentInfo(CMS.envelopedData, VERSION_0, set, encrypted), key, nonce };
  }
  const { ciphertext, tag } = encryptGcm(key, nonce, content, null);
  const algorithm = sequence(oid(CIPHER.aes256Gcm), sequence(octets(nonce), integer(TAG_BYTES)));
  const encrypted = sequence(DATA, algorithm, der(context(0, false), ciphertext));
  return { envelope: contentInfo(CMS.authEnvelopedData, VERSION_0, set, encrypted, octets(tag)), key, nonce };
}

function contentInfo(type: string, ...parts: readonly Uint8Array[]): Uint8Array {
  return sequence(oid(type), der(context(0), sequence(...parts)));
}

function recipientInfo(certificate: Certificate, key: Uint8Array, legacy: boolean): Uint8Array {
  const who = sequence(certificate.issuer, integer(certificate.serial));
  if (!agrees(certificate.key)) {
    const [algorithm, encrypted] = transportKey(key, certificate.key, legacy);
    return sequence(VERSION_0, who, algorithm, encrypted);
  }
  const [originator, algorithm, wrapped] = agreeKey(key, certificate.key);
  return der(context(1), VERSION_3, der(context(0), originator), algorithm, sequence(sequence(who, wrapped)));
}

/** @throws {SealError} `wrong-usage`: nothing can be encrypted for this certificate, or an original could not read it. */
export function checkRecipient(certificate: Certificate, legacy: boolean): void {
  const { name, key } = certificate;
  if (key.type === "ed25519") {
    throw new SealError(
      "wrong-usage",
      `the key of "${name}" is of the type Ed25519: it signs, and nothing can be encrypted for it`,
    );
  }
  if (legacy && key.type !== "rsa") {
    throw new SealError(
      "wrong-usage",
      `the key of "${name}" is no RSA key: no other is known to an original (cms-profile = legacy)`,
    );
  }
  if (!certificate.mayUse(agrees(key) ? USAGE.keyAgreement : USAGE.keyEncipherment)) {
    throw new SealError("wrong-usage", `the keyUsage of "${name}" does not let anything be encrypted for it`);
  }
}
