/** PEM (RFC 7468): certificates, CRLs and keys in text. */
import { Buffer } from "node:buffer";

/** Characters of one block: a CRL of 100,000 certificates has some five million. */
const BLOCK = /-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n([A-Za-z0-9+/=\s]*)-----END \1-----/g;

/** What stands in a text between `BEGIN` and `END`, as bytes. */
export function pemBlocks(text: string): { label: string; bytes: Uint8Array }[] {
  return [...text.matchAll(BLOCK)].map(([, label, base64]) => ({
    label,
    bytes: new Uint8Array(Buffer.from(base64, "base64")),
  }));
}

export function pem(label: string, bytes: Uint8Array): string {
  const base64 = Buffer.from(bytes).toString("base64");
  return `-----BEGIN ${label}-----\n${base64.replace(/.{64}(?=.)/g, "$&\n")}\n-----END ${label}-----\n`;
}
