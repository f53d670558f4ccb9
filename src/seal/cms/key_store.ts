/** The key store: a folder of `NAME.crt`, `private/NAME.key` and `NAME.crl`, read whole, so that all of a seal is of one moment. */
import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import type { Environment, Files } from "../../contracts/environment.ts";
import type { Expiry } from "../../contracts/seal.ts";
import { CCError, codeOf, errorText } from "../../errors.ts";
import {
  CMS_CERTIFICATES_MAX,
  CRL_MAX_BYTES,
  KEY_FILE_MAX_BYTES,
  KEY_STORE_MAX_FILES,
} from "../../limits.ts";
import { counted, printable } from "../../text.ts";
import type { KeyFinding, SealOption, SealSettings } from "../settings.ts";
import { Certificate, USAGE } from "./certificate.ts";
import { RevocationList } from "./crl.ts";
import { DerError, sameBytes } from "./der.ts";
import { checkRecipient, type Recipient } from "./enveloped_data.ts";
import { SealError } from "./errors.ts";
import { pemBlocks } from "./pem.ts";
import { PublicKey } from "./public_key.ts";
import { type Policy, signingMethod } from "./signatures.ts";
import { SignedDataWriter } from "./signed_data.ts";
import { Trust } from "./trust.ts";

/** All that a seal needs of a key store. */
export interface Keys {
  readonly signer: SignedDataWriter | null;
  readonly trust: Trust | null;
  /** Those that messages are encrypted for; empty: they are not. */
  readonly recipients: readonly Certificate[];
  readonly recipient: Recipient | null;
  /** Certificates and CRLs that are used, by the names of their files, and until when they hold. */
  readonly expiries: readonly Expiry[];
  /** What is not wrong, but perhaps not meant. */
  readonly warnings: readonly string[];
}

/** Keys or certificates cannot be used. */
export class KeyStoreError extends CCError {
  /** Which kind of error it is, in stacks. */
  override name = "KeyStoreError";
  readonly findings: readonly KeyFinding[];
  /** All that was found. */
  constructor(findings: readonly KeyFinding[]) {
    super("bad-keys", findings.map(({ message }) => message).join("; "));
    this.findings = findings;
  }
}

/** @throws {KeyStoreError} */
export async function loadKeys(
  settings: SealSettings,
  { files, clock }: Pick<Environment, "files" | "clock">,
): Promise<Keys> {
  return await new Loader(settings, files, clock.time()).load();
}

/** The first certificate of a file. @throws {CCError} @throws {DerError} */
export async function readCertificate(path: string, files: Files): Promise<Certificate> {
  const bytes = await files.read(path, KEY_FILE_MAX_BYTES);
  const block = bytes[0] === 0x30 ? bytes : pemBlocks(new TextDecoder().decode(bytes))[0]?.bytes;
  if (block === undefined) throw new CCError("bad-keys", `${path} has no certificate in PEM`);
  return new Certificate(block);
}

/** A list, and the name of its file. */
interface NamedList {
  readonly name: string;
  readonly list: RevocationList;
}

class Loader {
  readonly #settings: SealSettings;
  readonly #files: Files;
  readonly #now: number;
  readonly #findings: KeyFinding[] = [];
  readonly #warnings: string[] = [];
  readonly #expiries = new Map<string, number>();

  constructor(settings: SealSettings, files: Files, now: number) {
    this.#settings = settings;
    this.#files = files;
    this.#now = now;
  }

  async load(): Promise<Keys> {
    const { sign, verifyCa, encrypt, decrypt, profile } = this.#settings;
    const legacy = profile === "legacy";
    const policy = { legacy: profile !== "modern" };
    const names = await this.#names();
    const others = await this.#others(names);
    const lists = verifyCa === null ? [] : await this.#lists(names);
    const signer = sign === null ? null : await this.#attempt("cms-sign", async () => {
      const { chain, key } = await this.#pair(sign);
      const [own] = chain;
      if (!own.mayUse(USAGE.digitalSignature | USAGE.nonRepudiation)) {
        throw new SealError("wrong-usage", `the keyUsage of "${own.name}" does not let it sign`);
      }
      if (legacy && own.key.type !== "rsa") {
        throw new SealError(
          "wrong-usage",
          "it is no RSA key: no other is known to an original (cms-profile = legacy)",
        );
      }
      return new SignedDataWriter(signingMethod(own.key.type, key, legacy), withCas(chain, others));
    });
    const anchors: Certificate[] = [];
    for (const name of verifyCa ?? []) {
      await this.#attempt("cms-verify-ca", async () => void anchors.push(...await this.#certificates(name)));
    }
    const recipients: Certificate[] = [];
    for (const name of encrypt ?? []) {
      await this.#attempt("cms-encrypt", async () => {
        const [own] = await this.#certificates(name);
        checkRecipient(own, legacy);
        recipients.push(own);
      });
    }
    const recipient = decrypt === null ? null : await this.#attempt("cms-decrypt", async () => {
      const { chain, key } = await this.#pair(decrypt);
      checkRecipient(chain[0], false);
      return { certificate: chain[0], key, publicKey: chain[0].key };
    });
    await this.#checkLists(lists, [...anchors, ...others], policy);
    if (this.#findings.length > 0) throw new KeyStoreError(this.#findings);
    const expiries = [...this.#expiries].map(([name, until]) => ({ name, until }));
    return {
      signer,
      trust: verifyCa === null
        ? null
        : new Trust({ anchors, others, lists: lists.map(({ list }) => list), policy }),
      recipients,
      recipient,
      expiries,
      warnings: this.#warnings,
    };
  }

  async #attempt<T>(option: SealOption, what: () => T | Promise<T>): Promise<T | null> {
    try {
      return await what();
    } catch (error) {
      if (!(error instanceof CCError || error instanceof DerError)) throw error;
      this.#findings.push({ option, message: `"${option}": ${error.message}` });
      return null;
    }
  }

  async #names(): Promise<readonly string[]> {
    const names = (await this.#files.list(this.#settings.keystore)).toSorted();
    if (names.length > KEY_STORE_MAX_FILES) {
      const message = `${this.#settings.keystore} has more than ${counted(KEY_STORE_MAX_FILES, "file")}`;
      throw new KeyStoreError([{ option: "cms-keystore", message }]);
    }
    return names;
  }

  /** All certificates there: CAs between, and signers that do not send their own. One that cannot be read is told, and passed over. */
  async #others(names: readonly string[]): Promise<Certificate[]> {
    const found: Certificate[] = [];
    for (const name of names.filter((name) => name.endsWith(".crt"))) {
      try {
        found.push(...await this.#read(name));
      } catch (error) {
        this.#warnings.push(`${name} is passed over: ${errorText(error)}`);
      }
    }
    return found;
  }

  /** What is revoked must not be passed over: a list that cannot be read is an error. */
  async #lists(names: readonly string[]): Promise<NamedList[]> {
    const lists: NamedList[] = [];
    for (const name of names.filter((name) => name.endsWith(".crl"))) {
      await this.#attempt("cms-keystore", async () => {
        const blocks = await this.#blocks(name, "X509 CRL", CRL_MAX_BYTES);
        if (blocks.length === 0) throw new CCError("bad-keys", `${this.#path(name)} has no CRL`);
        for (const bytes of blocks) {
          const list = told(name, () => new RevocationList(bytes));
          lists.push({ name, list });
          if (list.nextUpdate !== null) this.#expiry(name, list.nextUpdate);
        }
      });
    }
    return lists;
  }

  /** A list that is not signed by the CA that it names counts for nobody: an error where that CA has no other. */
  async #checkLists(
    lists: readonly NamedList[],
    certificates: readonly Certificate[],
    policy: Policy,
  ): Promise<void> {
    const isFrom = ({ list }: NamedList, { subject }: Certificate) => sameBytes(subject, list.issuer);
    const isOf = ({ name, list }: NamedList) =>
      certificates.some((ca) => isFrom({ name, list }, ca) && told(name, () => list.isOf(ca, policy)));
    for (const one of lists) {
      await this.#attempt("cms-keystore", () => {
        if (isOf(one)) return;
        if (!certificates.some((ca) => isFrom(one, ca))) {
          this.#warnings.push(`${one.name} is of a CA whose certificate is not in the key store`);
          return;
        }
        const wrong = `${this.#path(one.name)} is not signed by the CA that it names`;
        const others = lists.filter((other) =>
          other !== one && sameBytes(other.list.issuer, one.list.issuer)
        );
        if (!others.some(isOf)) throw new CCError("bad-keys", wrong);
        this.#warnings.push(`${wrong}: it is passed over`);
      });
    }
  }

  /** The certificates of a name that is used: its own first. */
  async #certificates(name: string): Promise<Certificate[]> {
    checkName(name);
    const file = `${name}.crt`;
    const found = await this.#read(file);
    for (const certificate of found) {
      told(file, () => certificate.key);
      this.#expiry(file, certificate.validUntil);
      if (this.#now < certificate.validFrom) {
        this.#warnings.push(`${file} is valid from ${new Date(certificate.validFrom).toISOString()} on`);
      }
    }
    return found;
  }

  async #pair(name: string): Promise<{ chain: Certificate[]; key: KeyObject }> {
    const chain = await this.#certificates(name);
    const file = `private/${name}.key`;
    const mode = await this.#files.modeOf(this.#path(file));
    if (mode !== null && (mode & 0o007) !== 0) {
      throw new CCError("bad-keys", `${this.#path(file)} may be read by others: chmod o= takes that away`);
    }
    const bytes = await this.#bytes(file, KEY_FILE_MAX_BYTES);
    let key: KeyObject;
    let spki: Uint8Array;
    try {
      key = createPrivateKey(new TextDecoder().decode(bytes));
      spki = new Uint8Array(createPublicKey(key).export({ format: "der", type: "spki" }));
    } catch {
      // What a library says of a key may hold a part of it.
      const encrypted = /ENCRYPTED/.test(new TextDecoder().decode(bytes.subarray(0, 200)));
      const why = encrypted
        ? "is encrypted: a server has nobody to ask for the password"
        : "is no private key in PEM";
      throw new CCError("bad-keys", `${this.#path(file)} ${why}`);
    }
    if (!sameBytes(told(file, () => new PublicKey(spki)).bytes, chain[0].key.bytes)) {
      throw new CCError("bad-keys", `${this.#path(file)} is not the key of ${name}.crt`);
    }
    return { chain, key };
  }

  async #read(file: string): Promise<Certificate[]> {
    const blocks = await this.#blocks(file, "CERTIFICATE", KEY_FILE_MAX_BYTES);
    if (blocks.length === 0) throw new CCError("bad-keys", `${this.#path(file)} has no certificate in PEM`);
    return blocks.map((bytes) => told(file, () => new Certificate(bytes)));
  }

  /** What is in a file in PEM, or all of it where it is DER. */
  async #blocks(file: string, label: string, maxBytes: number): Promise<Uint8Array[]> {
    const bytes = await this.#bytes(file, maxBytes);
    if (bytes[0] === 0x30) return [bytes];
    const text = new TextDecoder().decode(bytes);
    const blocks = pemBlocks(text).filter((block) => block.label === label);
    if (blocks.length < text.split(`-----BEGIN ${label}-----`).length - 1) {
      throw new CCError("bad-keys", `${this.#path(file)} is cut short, or not well written`);
    }
    return blocks.map((block) => block.bytes);
  }

  async #bytes(file: string, maxBytes: number): Promise<Uint8Array> {
    try {
      return await this.#files.read(this.#path(file), maxBytes);
    } catch (error) {
      throw new CCError(codeOf(error) ?? "bad-keys", errorText(error));
    }
  }

  #path(file: string): string {
    return `${this.#settings.keystore}/${file}`;
  }

  #expiry(name: string, until: number): void {
    this.#expiries.set(name, Math.min(until, this.#expiries.get(name) ?? Infinity));
  }
}

/** @throws {CCError} What is wrong in a file, with its name. */
function told<T>(file: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof DerError || error instanceof SealError) {
      throw new CCError("bad-keys", `${file}: ${error.message}`);
    }
    throw error;
  }
}

/** Names are files of the key store, nothing else. */
function checkName(name: string): void {
  if (/^[\w@-][\w.@-]*$/.test(name)) return;
  throw new CCError(
    "bad-keys",
    `"${printable(name, 64)}" is no name in a key store: letters, digits, ".", "-", "_" and "@" are`,
  );
}

/** A signer's chain, with the CAs of the key store that stand above it, without one that has issued itself. */
function withCas(chain: readonly Certificate[], others: readonly Certificate[]): Certificate[] {
  const found = [...chain];
  const has = (ca: Certificate) => found.some(({ der }) => sameBytes(der, ca.der));
  for (let at = chain[0]; found.length < CMS_CERTIFICATES_MAX;) {
    const above = others.find((ca) =>
      ca.ca === true && sameBytes(ca.subject, at.issuer) && !sameBytes(ca.subject, ca.issuer) && !has(ca)
    );
    if (above === undefined) break;
    found.push(at = above);
  }
  return found;
}
