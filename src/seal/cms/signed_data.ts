/**
 * SignedData (RFC 5652, section 5): one signer, signed attributes, DER. Signs, and verifies what others have signed.
 *
 * ```
 *   ContentInfo { signedData, [0] SignedData {
 *     version, digestAlgorithms, { data, [0] content or nothing }, [0] certificates, [1] CRLs,
 *     { SignerInfo { version, who, digestAlgorithm, [0] signedAttrs, signatureAlgorithm, signature, [1] unsignedAttrs } } } }
 * ```
 */
import { Buffer } from "node:buffer";
import { CMS_CERTIFICATES_MAX, SIGNATURE_MAX_BYTES } from "../../limits.ts";
import type { Certificate } from "./certificate.ts";
import {
  context,
  der,
  DerError,
  DerReader,
  integer,
  octets,
  oid,
  oidBytes,
  sameBytes,
  sequence,
  sizeOf,
  TAG,
} from "./der.ts";
import { RevocationList } from "./crl.ts";
import { SealError } from "./errors.ts";
import { CMS } from "./oids.ts";
import {
  digestOf,
  fits,
  HASH_BYTES,
  type HashName,
  hashOf,
  readDigestAlgorithm,
  readSignatureAlgorithm,
} from "./signatures.ts";
import type { SignatureAlgorithm, SigningMethod } from "./signatures.ts";
import { isNamed, type Trust, type TrustedSigner } from "./trust.ts";
import type { Verifiers } from "./verifiers.ts";

/** Attributes that are signed, besides the two that must be there. */
const ATTRIBUTES_MAX = 16;

/** What a SignedData says, before anything of it is believed. */
interface Signed {
  /** Null: it lies elsewhere. */
  readonly content: Uint8Array | null;
  readonly certificates: readonly Uint8Array[];
  /** SignerIdentifier: a sequence of issuer and serial number, or `[0]` a key's identifier. */
  readonly who: Uint8Array;
  readonly hash: HashName;
  readonly algorithm: SignatureAlgorithm;
  readonly messageDigest: Uint8Array;
  /** The attributes as they were signed. */
  readonly attributes: Uint8Array;
  readonly signature: Uint8Array;
}

/** A content that was signed, and by whom. */
export interface Verified {
  readonly content: Uint8Array;
  readonly signer: TrustedSigner;
}

/** A SignedData of a trusted signer, and of just this content; what is left is the signature itself. */
interface Unverified extends Verified {
  readonly signed: Signed;
}

/**
 * Verifies a SignedData.
 *
 * @param detached What it is about; null: it has that itself.
 * @param now Milliseconds since 1970.
 * @throws {SealError}
 */
export function verifySignedData(
  bytes: Uint8Array,
  detached: Uint8Array | null,
  trust: Trust,
  now: number,
): Verified {
  const unverified = prepare(bytes, detached, trust, now);
  const { signer, signed: { algorithm, hash, attributes, signature } } = unverified;
  if (!fits(algorithm, hash, signer.certificate.key, attributes, signature)) throw notFitting(unverified);
  return unverified;
}

/** The same, with the arithmetic beside the main thread. @throws {SealError} What shows without it, at once. */
export function verifySignedDataLater(
  bytes: Uint8Array,
  detached: Uint8Array | null,
  trust: Trust,
  now: number,
  verifiers: Verifiers,
): Promise<Verified> {
  const unverified = prepare(bytes, detached, trust, now);
  const { signer, signed: { algorithm, hash, attributes, signature } } = unverified;
  return new Promise((resolve, reject) =>
    verifiers.verify(algorithm, hash, signer.certificate.key, attributes, signature, (fits) => {
      if (fits) resolve(unverified);
      else reject(notFitting(unverified));
    })
  );
}

function notFitting({ signer }: Unverified): SealError {
  return new SealError("bad-signature", `the signature is not that of "${signer.certificate.name}"`);
}

/** All but the arithmetic. */
function prepare(bytes: Uint8Array, detached: Uint8Array | null, trust: Trust, now: number): Unverified {
  try {
    const signed = readSignedData(bytes, trust);
    if ((signed.content === null) !== (detached !== null)) {
      throw new SealError(
        "bad-cms",
        detached === null
          ? "what was signed is missing"
          : "the signature has a content of its own beside the body",
      );
    }
    const content = detached ?? signed.content!;
    const signer = signerOf(signed, trust, now);
    if (!sameBytes(digestOf(signed.hash, content), signed.messageDigest)) {
      throw new SealError(
        "bad-signature",
        `what "${signer.certificate.name}" signed is something else: the digests differ`,
      );
    }
    return { content, signer, signed };
  } catch (error) {
    throw error instanceof DerError ? new SealError("bad-cms", `the signature: ${error.message}`) : error;
  }
}

function readSignedData(bytes: Uint8Array, { policy }: Trust): Signed {
  const outer = new DerReader(bytes);
  const info = outer.enter(TAG.sequence);
  outer.finish();
  if (!info.isOid(NAMES.signedData)) throw new DerError("it is no SignedData");
  const explicit = info.enter(context(0));
  info.finish();
  const data = explicit.enter(TAG.sequence);
  explicit.finish();
  const version = data.smallInteger();
  if (version !== 1 && version !== 3) throw new DerError(`SignedData of version ${version}`);
  const digests = data.enter(TAG.set);
  const content = readContent(data);
  // In an envelope it may be as large as a body: names of megabytes would take seconds.
  if (bytes.length - (content?.length ?? 0) > SIGNATURE_MAX_BYTES) {
    throw new DerError(`more than ${SIGNATURE_MAX_BYTES} bytes stand beside what is signed`);
  }
  const certificates = readCertificates(data.enterOptional(context(0)));
  // They are not used: lists are those of the key store. But they must be some.
  const lists = data.enterOptional(context(1));
  while (lists?.more) void RevocationList.of(lists.expect(TAG.sequence).element);
  const signers = data.enter(TAG.set);
  data.finish();
  if (!signers.more) throw new DerError("nobody has signed");
  const signer = signers.enter(TAG.sequence);
  if (signers.more) throw new DerError("several have signed");

  const signerVersion = signer.smallInteger();
  const byKey = signer.nextTag === context(0, false);
  if (signerVersion !== (byKey ? 3 : 1)) {
    throw new DerError("the version of a SignerInfo does not fit how it names the signer");
  }
  const who = byKey ? signer.next().element : signer.expect(TAG.sequence).element;
  const hash = readDigestAlgorithm(signer, policy);
  let listed = false;
  while (digests.more) listed = readDigestAlgorithm(digests, policy) === hash || listed;
  if (!listed) throw new DerError("the signer's digest algorithm is not among those named in front");
  const attributes = signer.enter(context(0));
  const signedAttributes = asSet(signer.element);
  const algorithm = readSignatureAlgorithm(signer, policy);
  const signature = signer.expect(TAG.octetString).content;
  const unsigned = signer.enterOptional(context(1));
  while (unsigned?.more) skipAttribute(unsigned);
  signer.finish();
  return {
    content,
    certificates,
    who,
    hash: hashOf(algorithm, hash),
    algorithm,
    messageDigest: readAttributes(attributes),
    attributes: signedAttributes,
    signature,
  };
}

function readContent(data: DerReader): Uint8Array | null {
  const encapsulated = data.enter(TAG.sequence);
  if (!encapsulated.isOid(NAMES.data)) throw new DerError("what is signed is no plain data");
  const explicit = encapsulated.enterOptional(context(0));
  encapsulated.finish();
  const content = explicit?.expect(TAG.octetString).content ?? null;
  explicit?.finish();
  return content;
}

function readCertificates(list: DerReader | null): Uint8Array[] {
  const certificates: Uint8Array[] = [];
  while (list?.more) {
    certificates.push(list.expect(TAG.sequence).element);
    if (certificates.length > CMS_CERTIFICATES_MAX) {
      throw new DerError(`more than ${CMS_CERTIFICATES_MAX} certificates come with it`);
    }
  }
  return certificates;
}

/** Attributes are signed as a SET, and stand there as `[0]`. */
function asSet(element: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(element);
  bytes[0] = TAG.set;
  return bytes;
}

/** An attribute that nobody has signed must be one all the same. */
function skipAttribute(attributes: DerReader): void {
  const attribute = attributes.enter(TAG.sequence);
  attribute.oid();
  attribute.expect(TAG.set);
  attribute.finish();
}

/** @returns The digest of the content. */
function readAttributes(attributes: DerReader): Uint8Array {
  let digest: Uint8Array | null = null;
  let typed = false;
  let timed = false;
  for (let count = 0; attributes.more; count++) {
    if (count >= ATTRIBUTES_MAX) throw new DerError("too many attributes are signed");
    const attribute = attributes.enter(TAG.sequence);
    const { at } = attribute;
    const isDigest = attribute.isOid(NAMES.messageDigest);
    attribute.at = at;
    const isType = attribute.isOid(NAMES.contentType);
    attribute.at = at;
    const isTime = attribute.isOid(NAMES.signingTime);
    const values = attribute.enter(TAG.set);
    attribute.finish();
    if (isDigest) {
      if (digest !== null) throw new DerError("an attribute is there twice");
      digest = values.expect(TAG.octetString).content;
      values.finish();
    } else if (isType) {
      if (typed) throw new DerError("an attribute is there twice");
      if (!values.isOid(NAMES.data)) throw new DerError("the signed content type is another");
      values.finish();
      typed = true;
    } else if (isTime) {
      if (timed) throw new DerError("an attribute is there twice");
      values.next().finish();
      timed = true;
    }
  }
  if (!typed || digest === null) {
    throw new DerError("the content type or the digest is not among what is signed");
  }
  return digest;
}

function signerOf({ certificates, who }: Signed, trust: Trust, now: number): TrustedSigner {
  let signer: TrustedSigner | null = null;
  for (const bytes of certificates) {
    const known = trust.known(bytes, now);
    // What is none is refused, whether the signer is known already or not.
    if (known === null) trust.read(bytes);
    else if (signer === null && isWho(known.certificate, who)) signer = known;
  }
  if (signer !== null) return signer;
  const sent = certificates.map((bytes) => trust.read(bytes));
  const own = [...sent, ...trust.stored].find((certificate) => isWho(certificate, who));
  if (own === undefined) {
    throw new SealError(
      "untrusted",
      "the signer's certificate is neither in the message nor in the key store",
    );
  }
  return trust.known(own.der, now) ?? trust.find(own, sent, now);
}

function isWho(certificate: Certificate, who: Uint8Array): boolean {
  const reader = new DerReader(who);
  if (reader.next().tag !== TAG.sequence) {
    return certificate.subjectKeyId !== null && sameBytes(certificate.subjectKeyId, reader.content);
  }
  const parts = new DerReader(who, reader.from, reader.to);
  const issuer = parts.expect(TAG.sequence).element;
  const serial = parts.integer();
  parts.finish();
  return isNamed(certificate, issuer, serial);
}

/** Contents of object identifiers. */
const NAMES = {
  signedData: oidBytes(CMS.signedData),
  data: oidBytes(CMS.data),
  messageDigest: oidBytes(CMS.messageDigest),
  contentType: oidBytes(CMS.contentType),
  signingTime: oidBytes(CMS.signingTime),
};

const DATA = oid(CMS.data);
const CONTENT_TYPE = sequence(oid(CMS.contentType), der(TAG.set, DATA));
const MESSAGE_DIGEST = oid(CMS.messageDigest);
const SIGNED_DATA = oid(CMS.signedData);
const VERSION_1 = integer(1);
const DETACHED = sequence(DATA);

/** Signs with one key. */
export class SignedDataWriter {
  readonly #method: SigningMethod;
  /** What stands before the content, and behind it, and before the attributes: the same of all messages. */
  readonly #front: Uint8Array;
  readonly #certificates: Uint8Array;
  readonly #signerFront: Uint8Array;
  /** The attributes as they are signed: with the digest of the message that was signed last. */
  readonly #attributes: Uint8Array;
  /** What was made last without a content, by the length of its signature. */
  readonly #detached = new Map<number, Uint8Array>();

  /** @param chain Certificates that go with it: the signer's first, then the CAs above it, without the named one. */
  constructor(method: SigningMethod, chain: readonly Certificate[]) {
    const [own] = chain;
    this.#method = method;
    this.#front = Buffer.concat([VERSION_1, der(TAG.set, method.digestAlgorithm)]);
    // A SET: in the order of their bytes.
    const sorted = chain.map((certificate) => certificate.der).sort(Buffer.compare);
    this.#certificates = der(context(0), ...sorted);
    this.#signerFront = Buffer.concat([
      VERSION_1,
      sequence(own.issuer, integer(own.serial)),
      method.digestAlgorithm,
    ]);
    const digest = octets(new Uint8Array(HASH_BYTES[method.hash]));
    // By their lengths they are in order.
    this.#attributes = der(TAG.set, CONTENT_TYPE, sequence(MESSAGE_DIGEST, der(TAG.set, digest)));
  }

  /** ContentInfo, DER. @param attached The content goes into it. */
  sign(content: Uint8Array, attached: boolean): Uint8Array {
    const { hash, signatureAlgorithm } = this.#method;
    const digest = digestOf(hash, content);
    this.#attributes.set(digest, this.#attributes.length - digest.length);
    const signature = this.#method.sign(this.#attributes);
    if (attached) return this.#assemble(sequence(DATA, der(context(0), octets(content))), signature);
    // All else is the same in each message.
    let before = this.#detached.get(signature.length);
    if (before === undefined) {
      this.#detached.set(signature.length, before = this.#assemble(DETACHED, signature));
    }
    const bytes = before.slice();
    const signatureAt = bytes.length - signature.length;
    const attributesEnd = bytes.length - sizeOf(signature.length) - signatureAlgorithm.length;
    bytes.set(digest, attributesEnd - digest.length);
    bytes.set(signature, signatureAt);
    return bytes;
  }

  #assemble(encapsulated: Uint8Array, signature: Uint8Array): Uint8Array {
    const { signatureAlgorithm } = this.#method;
    const attributes = new Uint8Array(this.#attributes);
    attributes[0] = context(0);
    const signer = sequence(this.#signerFront, attributes, signatureAlgorithm, octets(signature));
    const data = sequence(this.#front, encapsulated, this.#certificates, der(TAG.set, signer));
    return sequence(SIGNED_DATA, der(context(0), data));
  }
}
