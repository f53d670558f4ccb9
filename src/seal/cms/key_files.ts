/** Files of a key store, as the seal and `ccserver keys` read them: PEM, or DER. */
import { createPrivateKey, type KeyObject } from "node:crypto";
import type { Files } from "../../contracts/environment.ts";
import { CCError } from "../../errors.ts";
import { CRL_MAX_BYTES, KEY_FILE_MAX_BYTES } from "../../limits.ts";
import { Certificate } from "./certificate.ts";
import { RevocationList } from "./crl.ts";
import { DerError } from "./der.ts";
import { SealError } from "./errors.ts";
import { pemBlocks } from "./pem.ts";

/** A name in a key store: its files are made of it, and are nowhere else. */
export function isKeyName(name: string): boolean {
  return /^[\w@-][\w.@-]*$/.test(name);
}

/** The certificates of a file, at least one. @throws {CCError} With its path. */
export async function readCertificates(files: Files, path: string): Promise<Certificate[]> {
  const blocks = await readBlocks(files, path, "CERTIFICATE", KEY_FILE_MAX_BYTES);
  return blocks.map((bytes) => told(path, () => new Certificate(bytes)));
}

/** The CRLs of a file, at least one. @throws {CCError} With its path. */
export async function readLists(files: Files, path: string): Promise<RevocationList[]> {
  const blocks = await readBlocks(files, path, "X509 CRL", CRL_MAX_BYTES);
  return blocks.map((bytes) => told(path, () => new RevocationList(bytes)));
}

/** A private key. @throws {CCError} With its path; `ENOENT`: there is none. */
export async function readPrivateKey(files: Files, path: string): Promise<KeyObject> {
  const text = new TextDecoder().decode(await files.read(path, KEY_FILE_MAX_BYTES));
  if (text.includes("ENCRYPTED")) {
    throw new CCError(
      "bad-keys",
      `${path}: it is encrypted, and a server has nobody to ask for the password`,
    );
  }
  try {
    return createPrivateKey(text);
  } catch {
    // What a library says of a key may hold a part of it.
    throw new CCError("bad-keys", `${path}: it is no private key in PEM`);
  }
}

/** What is read of a file, or made of what was read. @throws {CCError} What is wrong in it, with its path. */
export function told<T>(path: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof DerError || error instanceof SealError)) throw error;
    throw new CCError("bad-keys", `${path}: ${error.message}`);
  }
}

async function readBlocks(
  files: Files,
  path: string,
  label: string,
  maxBytes: number,
): Promise<Uint8Array[]> {
  const bytes = await files.read(path, maxBytes);
  if (bytes[0] === 0x30) return [bytes];
  const text = new TextDecoder().decode(bytes);
  const blocks = pemBlocks(text).filter((block) => block.label === label);
  if (blocks.length < text.split(`-----BEGIN ${label}-----`).length - 1) {
    throw new CCError("bad-keys", `${path}: it is cut short, or not well written`);
  }
  if (blocks.length === 0) throw new CCError("bad-keys", `${path}: there is no ${WHAT[label]} in it`);
  return blocks.map((block) => block.bytes);
}

const WHAT: Readonly<Record<string, string>> = { CERTIFICATE: "certificate", "X509 CRL": "CRL" };
