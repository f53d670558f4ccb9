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
import { CMS_CERTIFICATES_MAX } from "../../limits.ts";
import type { Certificate } from "./certificate.ts";
import { RevocationList } from "./crl.ts";
import { context, der, DerError, DerReader, integer, octets, oid, sameBytes, sequence, TAG } from "./der.ts";
import { SealError } from "./errors.ts";
import { CMS } from "./oids.ts";
import {
  digestOf,
  fits,
  type HashName,
  hashOf,
  readDigestAlgorithm,
  readSignatureAlgorithm,
} from "./signatures.ts";
import type { SignatureAlgorithm, SigningMethod } from "./signatures.ts";
import { isNamed, type Trust, type TrustedSigner } from "./trust.ts";

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
    const { algorithm, hash, attributes, signature } = signed;
    if (!fits(algorithm, hash, signer.certificate.key, attributes, signature)) {
      throw new SealError("bad-signature", `the signature is not that of "${signer.certificate.name}"`);
    }
    return { content, signer };
  } catch (error) {
    throw error instanceof DerError ? new SealError("bad-cms", `the signature: ${error.message}`) : error;
  }
}

function readSignedData(bytes: Uint8Array, { policy }: Trust): Signed {
  const outer = new DerReader(bytes);
  const info = outer.enter(TAG.sequence);
  outer.finish();
  if (info.oid() !== CMS.signedData) throw new DerError("it is no SignedData");
  const explicit = info.enter(context(0));
  info.finish();
  const data = explicit.enter(TAG.sequence);
  explicit.finish();
  const version = data.smallInteger();
  if (version !== 1 && version !== 3) throw new DerError(`SignedData of version ${version}`);
  const digests = data.enter(TAG.set);
  const content = readContent(data);
  const certificates = readCertificates(data.enterOptional(context(0)));
  // They are not used: lists are those of the key store. But they must be some.
  const lists = data.enterOptional(context(1));
  while (lists?.more) void new RevocationList(lists.expect(TAG.sequence).element);
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
  while (unsigned?.more) readAttribute(unsigned);
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
  if (encapsulated.oid() !== CMS.data) throw new DerError("what is signed is no plain data");
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

/** @returns Its name and its values. */
function readAttribute(attributes: DerReader): [string, DerReader] {
  const attribute = attributes.enter(TAG.sequence);
  const name = attribute.oid();
  const values = attribute.enter(TAG.set);
  attribute.finish();
  return [name, values];
}

/** @returns The digest of the content. */
function readAttributes(attributes: DerReader): Uint8Array {
  let digest: Uint8Array | null = null;
  let typed = false;
  let timed = false;
  for (let count = 0; attributes.more; count++) {
    if (count >= ATTRIBUTES_MAX) throw new DerError("too many attributes are signed");
    const [name, values] = readAttribute(attributes);
    if (name === CMS.messageDigest) {
      if (digest !== null) throw new DerError("an attribute is there twice");
      digest = values.expect(TAG.octetString).content;
      values.finish();
    } else if (name === CMS.contentType) {
      if (typed) throw new DerError("an attribute is there twice");
      if (values.oid() !== CMS.data) throw new DerError("the signed content type is another");
      values.finish();
      typed = true;
    } else if (name === CMS.signingTime) {
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

const DATA = oid(CMS.data);
const CONTENT_TYPE = sequence(oid(CMS.contentType), der(TAG.set, DATA));
const MESSAGE_DIGEST = oid(CMS.messageDigest);
const SIGNED_DATA = oid(CMS.signedData);
const VERSION_1 = integer(1);

/** Signs with one key. */
export class SignedDataWriter {
  readonly #method: SigningMethod;
  readonly #digestAlgorithms: Uint8Array;
  readonly #certificates: Uint8Array;
  readonly #who: Uint8Array;

  /** @param chain Certificates that go with it: the signer's first, then the CAs above it, without the named one. */
  constructor(method: SigningMethod, chain: readonly Certificate[]) {
    const [own] = chain;
    this.#method = method;
    this.#digestAlgorithms = der(TAG.set, method.digestAlgorithm);
    // A SET: in the order of their bytes.
    const sorted = chain.map((certificate) => certificate.der).sort(Buffer.compare);
    this.#certificates = der(context(0), ...sorted);
    this.#who = sequence(own.issuer, integer(own.serial));
  }

  /** ContentInfo, DER. @param attached The content goes into it. */
  sign(content: Uint8Array, attached: boolean): Uint8Array {
    const method = this.#method;
    const digest = octets(digestOf(method.hash, content));
    // By their lengths they are in order.
    const attributes = der(TAG.set, CONTENT_TYPE, sequence(MESSAGE_DIGEST, der(TAG.set, digest)));
    const signature = method.sign(attributes);
    attributes[0] = context(0);
    const signer = sequence(
      VERSION_1,
      this.#who,
      method.digestAlgorithm,
      attributes,
      method.signatureAlgorithm,
      octets(signature),
    );
    const encapsulated = attached ? sequence(DATA, der(context(0), octets(content))) : sequence(DATA);
    const data = sequence(
      VERSION_1,
      this.#digestAlgorithms,
      encapsulated,
      this.#certificates,
      der(TAG.set, signer),
    );
    return sequence(SIGNED_DATA, der(context(0), data));
  }
}
