/** SignedData by another implementation, PKI.js on Web Crypto. */
import { type AsnType, fromBER, ObjectIdentifier, OctetString } from "asn1js";
import {
  Attribute,
  Certificate,
  ContentInfo,
  CryptoEngine,
  EncapsulatedContentInfo,
  IssuerAndSerialNumber,
  setEngine,
  SignedAndUnsignedAttributes,
  SignedData,
  SignerInfo,
} from "pkijs";

setEngine("test", new CryptoEngine({ name: "test", crypto: globalThis.crypto }));

/** A copy of just these bytes. */
const buffer = (bytes: Uint8Array): ArrayBuffer => new Uint8Array(bytes).buffer as ArrayBuffer;

/** Has somebody under this CA signed these bytes? False too for what is no SignedData at all. */
export async function pkijsVerifies(
  signature: Uint8Array,
  content: Uint8Array,
  ca: Uint8Array,
): Promise<boolean> {
  try {
    const { result } = fromBER(buffer(signature));
    const signed = new SignedData({ schema: new ContentInfo({ schema: result }).content });
    return await signed.verify({
      signer: 0,
      data: buffer(content),
      trustedCerts: [Certificate.fromBER(buffer(ca))],
      checkChain: true,
    });
  } catch {
    return false;
  }
}

/** Signs these bytes, with SHA-256. @param pkcs8 The private key, DER. */
export async function pkijsSigns(
  content: Uint8Array,
  certificate: Uint8Array,
  pkcs8: Uint8Array,
  algorithm: RsaHashedImportParams | EcKeyImportParams,
): Promise<Uint8Array> {
  const key = await crypto.subtle.importKey("pkcs8", buffer(pkcs8), algorithm, false, ["sign"]);
  const signer = Certificate.fromBER(buffer(certificate));
  const digest = await crypto.subtle.digest("SHA-256", buffer(content));
  const attribute = (type: string, value: AsnType) => new Attribute({ type, values: [value] });
  const signed = new SignedData({
    version: 1,
    encapContentInfo: new EncapsulatedContentInfo({ eContentType: ContentInfo.DATA }),
    signerInfos: [
      new SignerInfo({
        version: 1,
        sid: new IssuerAndSerialNumber({ issuer: signer.issuer, serialNumber: signer.serialNumber }),
        signedAttrs: new SignedAndUnsignedAttributes({
          type: 0,
          attributes: [
            attribute("1.2.840.113549.1.9.3", new ObjectIdentifier({ value: ContentInfo.DATA })),
            attribute("1.2.840.113549.1.9.4", new OctetString({ valueHex: digest })),
          ],
        }),
      }),
    ],
    certificates: [signer],
  });
  await signed.sign(key, 0, "SHA-256", buffer(content));
  const info = new ContentInfo({ contentType: ContentInfo.SIGNED_DATA, content: signed.toSchema(true) });
  return new Uint8Array(info.toSchema().toBER(false));
}
