/** A key store as its operator sees it: a folder of NAME.crt, NAME.crl and private/NAME.key. */
import type { KeyObject } from "node:crypto";
import { join } from "node:path";
import type { Files } from "../contracts/environment.ts";
import { CCError, codeOf } from "../errors.ts";
import { type Certificate, USAGE } from "../seal/cms/certificate.ts";
import type { RevocationList } from "../seal/cms/crl.ts";
import { DerError, sameBytes } from "../seal/cms/der.ts";
import { SealError } from "../seal/cms/errors.ts";
import { type Issuer, publicKeyOf } from "../seal/cms/issue.ts";
import { openFolders, readCertificates, readLists, readPrivateKey, told } from "../seal/cms/key_files.ts";
import { pem } from "../seal/cms/pem.ts";
import { dateText, printable, utf8 } from "../text.ts";
import { EXIT, Exit } from "./exit.ts";

/** SHA-1 is what many an old CA has signed with. */
const LENIENT = { legacy: true };

const FOLDER_MODE = 0o755;
const PRIVATE_MODE = 0o700;
export const PUBLIC_FILE_MODE = 0o644;
export const KEY_FILE_MODE = 0o600;

/** A command has nothing else to do meanwhile. */
const NO_PAUSE = (): Promise<void> => Promise.resolve();

/** Something is wrong in a key store; ends the program where nobody collects it. */
export class Fault extends Exit {
  override name = "Fault";
  /** With the name of the file, in a line. */
  readonly text: string;
  constructor(text: string) {
    super(EXIT.failed, `ccserver: ${printable(text)}`);
    this.text = printable(text);
  }
}

/** A certificate that lies in the folder. */
export interface Stored {
  /** Of its file, without `.crt`. */
  readonly name: string;
  readonly certificate: Certificate;
  /** The first of its file, for which there may be a key. The others are CAs above it, mostly. */
  readonly own: boolean;
}

/** A CRL that lies in the folder, and whose it is. */
export interface StoredList {
  readonly file: string;
  readonly list: RevocationList;
  readonly ca: Certificate;
}

/** All that is in the folder, at one moment. */
export interface Contents {
  readonly certificates: readonly Stored[];
  readonly lists: readonly StoredList[];
  /** What could not be read, or not believed, and of which certificate that is; null: of a CRL. */
  readonly faults: readonly { readonly name: string | null; readonly text: string }[];
}

/** A file that is to be made. */
export interface NewFile {
  readonly file: string;
  readonly text: string;
  readonly mode: number;
}

export const certificateFile = (name: string): string => `${name}.crt`;
export const listFile = (name: string): string => `${name}.crl`;
export const keyFile = (name: string): string => `private/${name}.key`;

export class KeyFolder {
  readonly #folder: string;
  readonly #files: Files;

  constructor(folder: string, files: Files) {
    this.#folder = folder;
    this.#files = files;
  }

  /** A file of it, as a person finds it. */
  path(file: string): string {
    return join(this.#folder, file);
  }

  /** @throws {Exit} There is no such folder. */
  async mustExist(): Promise<void> {
    if (await this.#files.modeOf(this.#folder) !== null) return;
    throw new Fault(`${this.#folder}: there is no such folder; "keys init" makes a key store`);
  }

  /** What is told of its folders in which others may write. */
  openFolders(): Promise<string[]> {
    return openFolders(this.#files, this.#folder);
  }

  /** Names of its files with this ending, without it. */
  async names(ending: string): Promise<string[]> {
    return (await this.#files.list(this.#folder)).filter((file) => file.endsWith(ending))
      .map((file) => file.slice(0, -ending.length)).sort();
  }

  /** Names of the private keys. */
  async keyNames(): Promise<string[]> {
    return (await this.#files.list(this.path("private"))).filter((file) => file.endsWith(".key"))
      .map((file) => file.slice(0, -".key".length)).sort();
  }

  /** The permission bits of a file; null: there is none. */
  modeOf(file: string): Promise<number | null> {
    return this.#files.modeOf(this.path(file));
  }

  /** The certificates of a name, its own first. @throws {Fault} */
  certificates(name: string): Promise<Certificate[]> {
    return orFault(readCertificates(this.#files, this.path(certificateFile(name))));
  }

  /** @throws {Fault} */
  lists(name: string): Promise<RevocationList[]> {
    return orFault(readLists(this.#files, this.path(listFile(name)), NO_PAUSE));
  }

  /** A private key; null: there is none. @throws {Fault} It is none, or cannot be read. */
  key(name: string): Promise<KeyObject | null> {
    const read = readPrivateKey(this.#files, this.path(keyFile(name))).catch((error) => {
      if (codeOf(error) === "ENOENT") return null;
      throw error;
    });
    return orFault(read);
  }

  /** Is this its private key? @throws {Fault} Its type is not used here. */
  belongs(key: KeyObject, { name, certificate }: Stored): boolean {
    return sameBytes(
      this.#told(keyFile(name), () => publicKeyOf(key)).bytes,
      this.#told(certificateFile(name), () => certificate.key).bytes,
    );
  }

  /** A CA of which there are certificate and key, to issue with at this moment. @throws {Fault} */
  async issuer(name: string, now: number): Promise<Issuer> {
    const file = this.path(certificateFile(name));
    if (await this.modeOf(certificateFile(name)) === null) {
      throw new Fault(`${file}: there is no such CA; "keys init" makes one`);
    }
    const [certificate] = await this.certificates(name);
    if (certificate.ca !== true || !certificate.mayUse(USAGE.keyCertSign)) {
      throw new Fault(`${file}: it is not the certificate of a CA`);
    }
    if (now > certificate.validUntil) {
      throw new Fault(`${file}: it has expired, on ${dateText(certificate.validUntil)}`);
    }
    // Made while the clock was ahead: what it issues would not be valid either.
    if (now < certificate.validFrom) {
      throw new Fault(`${file}: it is not valid before ${new Date(certificate.validFrom).toISOString()}`);
    }
    const key = await this.key(name);
    if (key === null) {
      throw new Fault(`${this.path(keyFile(name))}: there is no such file, and it is what the CA signs with`);
    }
    if (!this.belongs(key, { name, certificate, own: true })) {
      throw new Fault(`${this.path(keyFile(name))}: it does not belong to ${file}`);
    }
    return { certificate, key };
  }

  /** All of it; what cannot be read is told among the faults. */
  async contents(): Promise<Contents> {
    const faults: { name: string | null; text: string }[] = [];
    const attempt = async <T>(name: string | null, what: () => T[] | Promise<T[]>): Promise<T[]> => {
      try {
        return await what();
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        faults.push({ name, text: error.text });
        return [];
      }
    };
    const certificates: Stored[] = [];
    for (const name of await this.names(".crt")) {
      const found = await attempt(name, () => this.certificates(name));
      for (const [i, certificate] of found.entries()) {
        // A key of a kind that is not used here is told now.
        await attempt(name, () => [this.#told(certificateFile(name), () => certificate.key)]);
        certificates.push({ name, certificate, own: i === 0 });
      }
    }
    const lists: StoredList[] = [];
    for (const name of await this.names(".crl")) {
      const file = listFile(name);
      for (const list of await attempt(null, () => this.lists(name))) {
        const [ca] = await attempt(
          null,
          () => [this.#told(file, () => this.#caOf(file, list, certificates))],
        );
        if (ca !== undefined) lists.push({ file, list, ca });
      }
    }
    return { certificates, lists, faults };
  }

  /** @throws {Fault} It is none's here. @throws {SealError} `weak-algorithm` @throws {DerError} */
  #caOf(file: string, list: RevocationList, certificates: readonly Stored[]): Certificate {
    const named = certificates.map(({ certificate }) => certificate)
      .filter(({ ca, subject }) => ca === true && sameBytes(subject, list.issuer));
    if (named.length === 0) throw new Fault(`${this.path(file)}: its CA is not in the key store`);
    const found = named.find((ca) => list.isOf(ca, { legacy: false }));
    if (found === undefined) throw new Fault(`${this.path(file)}: it is not signed by its CA`);
    return found;
  }

  /**
   * Writes files where there are none, in this order. Where one cannot be written, those before it are removed.
   *
   * @throws {Exit} Something stands there already, and nothing has been written; or it cannot be written.
   */
  async create(newFiles: readonly NewFile[]): Promise<void> {
    const done: string[] = [];
    try {
      await this.#files.makeFolder(this.#folder, FOLDER_MODE);
      await this.#files.makeFolder(this.path("private"), PRIVATE_MODE);
      for (const { file, text, mode } of newFiles) {
        await this.#files.create(this.path(file), utf8(text), mode);
        done.unshift(file);
      }
    } catch (error) {
      if (!(error instanceof CCError)) throw error;
      // The last first: no certificate is ever there without its key.
      for (const file of done) {
        await this.#files.remove(this.path(file)).catch(() => {/* it is told below */});
      }
      throw new Exit(EXIT.io, `ccserver: ${printable(error.message)}`);
    }
  }

  /** @throws {Fault} One of these files is there. */
  async mustBeFree(newFiles: readonly string[]): Promise<void> {
    const there = [
      ...await this.#files.list(this.#folder),
      ...(await this.#files.list(this.path("private"))).map((file) => `private/${file}`),
    ];
    const taken = newFiles.filter((file) => there.includes(file)).map((file) => this.path(file));
    if (taken.length === 0) return;
    const what = taken.length === 1 ? `${taken[0]} is` : `${taken.join(", ")} are`;
    throw new Fault(`${what} there already: nothing is overwritten`);
  }

  /** Puts a CRL in the place of another. @throws {Exit} */
  async replaceList(name: string, bytes: Uint8Array): Promise<void> {
    const file = listFile(name);
    try {
      const mode = await this.modeOf(file) ?? PUBLIC_FILE_MODE;
      await this.#files.replace(this.path(file), utf8(pem("X509 CRL", bytes)), { mode });
    } catch (error) {
      if (!(error instanceof CCError)) throw error;
      throw new Exit(EXIT.io, `ccserver: ${printable(error.message)}`);
    }
  }

  /**
   * Does something while no other command changes a CRL: what that had revoked would be lost.
   *
   * @throws {Exit}
   */
  async lockingList<T>(name: string, what: () => Promise<T>): Promise<T> {
    const lock = this.path(`${listFile(name)}.lock`);
    try {
      await this.#files.create(lock, new Uint8Array(), PUBLIC_FILE_MODE);
    } catch (error) {
      if (!(error instanceof CCError)) throw error;
      if (error.code === "EEXIST") {
        throw new Fault(`${lock}: another "keys revoke" is at work; if there is none, remove this file`);
      }
      throw new Exit(EXIT.io, `ccserver: ${printable(error.message)}`);
    }
    try {
      return await what();
    } finally {
      await this.#files.remove(lock).catch(() => {/* the next one tells of it */});
    }
  }

  /** @throws {Fault} What is wrong in a file, with its name. */
  #told<T>(file: string, what: () => T): T {
    try {
      return told(this.path(file), what);
    } catch (error) {
      throw faultOf(error);
    }
  }
}

function orFault<T>(reading: Promise<T>): Promise<T> {
  return reading.catch((error) => {
    throw faultOf(error);
  });
}

/** What is wrong in a file, for the operator; other errors stay as they are. */
function faultOf(error: unknown): unknown {
  return error instanceof CCError && !(error instanceof Fault) ? new Fault(error.message) : error;
}

/** Has this CA issued it? One with a weak key has issued nothing that counts. */
export function isIssuedBy(certificate: Certificate, ca: Certificate): boolean {
  try {
    return ca.ca === true && sameBytes(certificate.issuer, ca.subject) &&
      certificate.isSignedBy(ca.key, LENIENT);
  } catch (error) {
    if (error instanceof DerError || error instanceof SealError) return false;
    throw error;
  }
}

/** Since when a certificate is revoked, milliseconds since 1970; null: it is not. */
export function revokedSince(certificate: Certificate, lists: readonly StoredList[]): number | null {
  const own = lists.filter(({ list, ca }) => list.since(certificate) !== null && isIssuedBy(certificate, ca));
  return own.length === 0 ? null : Math.min(...own.map(({ list }) => list.since(certificate)!));
}
