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

const OTHERS_WRITE = 0o002;

/** What is told of the folders of a key store in which others may put a CA of theirs. */
export async function openFolders(files: Files, keystore: string): Promise<string[]> {
  const told: string[] = [];
  for (const folder of [keystore, `${keystore}/private`]) {
    const mode = await files.modeOf(folder);
    if (mode === null || (mode & OTHERS_WRITE) === 0) continue;
    told.push(`${folder}: others may put files there; chmod o-w takes that away`);
  }
  return told;
}

/** The certificates of a file, at least one. @throws {CCError} With its path. */
export async function readCertificates(files: Files, path: string): Promise<Certificate[]> {
  const blocks = await readBlocks(files, path, "CERTIFICATE", KEY_FILE_MAX_BYTES);
  return blocks.map((bytes) => told(path, () => new Certificate(bytes)));
}

/**
 * The CRLs of a file, at least one.
 *
 * @param pause In the middle of a long one others have their turn.
 * @throws {CCError} With its path.
 */
export async function readLists(
  files: Files,
  path: string,
  pause: () => Promise<void>,
): Promise<RevocationList[]> {
  const lists: RevocationList[] = [];
  for (const bytes of await readBlocks(files, path, "X509 CRL", CRL_MAX_BYTES)) {
    try {
      lists.push(await RevocationList.inSlices(bytes, pause));
    } catch (error) {
      throw withPath(path, error);
    }
  }
  return lists;
}

/** A private key. @throws {CCError} With its path; `ENOENT`: there is none. */
export async function readPrivateKey(files: Files, path: string): Promise<KeyObject> {
  const text = new TextDecoder().decode(await readFile(files, path, KEY_FILE_MAX_BYTES));
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
    throw withPath(path, error);
  }
}

/** What is wrong in a file, with its path; other errors stay as they are. */
function withPath(path: string, error: unknown): unknown {
  if (!(error instanceof DerError || error instanceof SealError)) return error;
  return new CCError("bad-keys", `${path}: ${error.message}`);
}

/** @throws {CCError} With its path. */
async function readFile(files: Files, path: string, maxBytes: number): Promise<Uint8Array> {
  try {
    return await files.read(path, maxBytes);
  } catch (error) {
    if (!(error instanceof CCError && error.code === "too-large")) throw error;
    throw new CCError(error.code, `${path}: ${error.message}`);
  }
}

async function readBlocks(
  files: Files,
  path: string,
  label: string,
  maxBytes: number,
): Promise<Uint8Array[]> {
  const bytes = await readFile(files, path, maxBytes);
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
