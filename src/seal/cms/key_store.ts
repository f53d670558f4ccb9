/** The key store: a folder of `NAME.crt`, `private/NAME.key` and `NAME.crl`, read whole, so that all of a seal is of one moment. */
import type { KeyObject } from "node:crypto";
import type { Clock, Environment, Files } from "../../contracts/environment.ts";
import type { Expiry } from "../../contracts/seal.ts";
import { CCError, errorText } from "../../errors.ts";
import { CMS_CERTIFICATES_MAX, KEY_STORE_MAX_FILES } from "../../limits.ts";
import { counted, printable } from "../../text.ts";
import type { KeyFinding, SealOption, SealSettings } from "../settings.ts";
import { type Certificate, USAGE } from "./certificate.ts";
import type { RevocationList } from "./crl.ts";
import { DerError, sameBytes } from "./der.ts";
import { checkRecipient, type Recipient } from "./enveloped_data.ts";
import { SealError } from "./errors.ts";
import { publicKeyOf } from "./issue.ts";
import { isKeyName, openFolders, readCertificates, readLists, readPrivateKey, told } from "./key_files.ts";
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
  return await new Loader(settings, files, clock).load();
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
  readonly #pause: () => Promise<void>;
  readonly #findings: KeyFinding[] = [];
  readonly #warnings: string[] = [];
  readonly #expiries = new Map<string, number>();

  constructor(settings: SealSettings, files: Files, clock: Clock) {
    this.#settings = settings;
    this.#files = files;
    this.#now = clock.time();
    this.#pause = () => new Promise((resolve) => clock.nextTurn(resolve));
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
    const { keystore } = this.#settings;
    const open = await openFolders(this.#files, keystore);
    if (open.length > 0) {
      throw new KeyStoreError(open.map((message) => ({ option: "cms-keystore", message })));
    }
    const names = (await this.#files.list(keystore)).toSorted();
    if (names.length > KEY_STORE_MAX_FILES) {
      const message = `${keystore} has more than ${counted(KEY_STORE_MAX_FILES, "file")}`;
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
        for (const list of await readLists(this.#files, this.#path(name), this.#pause)) {
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
      certificates.some((ca) =>
        isFrom({ name, list }, ca) && told(this.#path(name), () => list.isOf(ca, policy))
      );
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
      told(this.#path(file), () => certificate.key);
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
    const key = await readPrivateKey(this.#files, this.#path(file));
    if (!sameBytes(told(this.#path(file), () => publicKeyOf(key)).bytes, chain[0].key.bytes)) {
      throw new CCError("bad-keys", `${this.#path(file)} is not the key of ${name}.crt`);
    }
    return { chain, key };
  }

  #read(file: string): Promise<Certificate[]> {
    return readCertificates(this.#files, this.#path(file));
  }

  #path(file: string): string {
    return `${this.#settings.keystore}/${file}`;
  }

  #expiry(name: string, until: number): void {
    this.#expiries.set(name, Math.min(until, this.#expiries.get(name) ?? Infinity));
  }
}

/** Names are files of the key store, nothing else. */
function checkName(name: string): void {
  if (isKeyName(name)) return;
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
