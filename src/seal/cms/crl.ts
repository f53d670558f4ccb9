/** A certificate revocation list (RFC 5280): whole ones of one CA; neither deltas nor lists about other CAs. */
import { hex } from "../../text.ts";
import { type Certificate, isSigned, USAGE } from "./certificate.ts";
import { context, DerError, DerReader, oidText, sameBytes, TAG } from "./der.ts";
import { CERT } from "./oids.ts";
import type { Policy } from "./signatures.ts";

/** Extensions of the list that may be critical: they say nothing that matters here. */
const HARMLESS: readonly string[] = [CERT.authorityKeyIdentifier];

/** Those that make it a list of something else: they count as critical, even if a CA forgot that. */
const LIMITING: readonly string[] = [CERT.deltaCrlIndicator, CERT.issuingDistributionPoint];

export class RevocationList {
  readonly issuer: Uint8Array;
  /** Milliseconds since 1970. */
  readonly updated: number;
  /** From then on there should be another; null: it does not say. */
  readonly nextUpdate: number | null;
  /** Serial numbers in hexadecimal, and since when. */
  readonly revoked: ReadonlyMap<string, number>;
  /** The entries as they stand there, one after the other, DER. */
  readonly entries: Uint8Array;
  /** Another one for each list of its CA; null: it does not say. */
  readonly number: Uint8Array | null;
  readonly #signed: Uint8Array;
  readonly #algorithm: Uint8Array;
  readonly #signature: Uint8Array;

  /** @throws {DerError} It is none, or says what is not understood. */
  constructor(bytes: Uint8Array) {
    const outer = new DerReader(bytes);
    const whole = outer.enter(TAG.sequence);
    outer.finish();
    const list = whole.enter(TAG.sequence);
    this.#signed = whole.element;
    this.#algorithm = whole.expect(TAG.sequence).element;
    this.#signature = whole.bitString();
    whole.finish();
    if (list.nextTag === TAG.integer && list.smallInteger() !== 1) {
      throw new DerError("a CRL of an unknown version");
    }
    if (!sameBytes(list.expect(TAG.sequence).element, this.#algorithm)) {
      throw new DerError("a CRL names two signature algorithms");
    }
    this.issuer = list.expect(TAG.sequence).element;
    this.updated = list.time();
    this.nextUpdate = list.nextTag === TAG.utcTime || list.nextTag === TAG.generalizedTime
      ? list.time()
      : null;
    const revoked = new Map<string, number>();
    const entries = list.enterOptional(TAG.sequence);
    this.entries = entries === null ? new Uint8Array() : list.content;
    while (entries?.more) {
      const entry = entries.enter(TAG.sequence);
      const serial = hex(entry.integer());
      revoked.set(serial, entry.time());
      const extensions = entry.enterOptional(TAG.sequence);
      entry.finish();
      if (extensions !== null) checkExtensions(extensions, [CERT.reasonCode]);
    }
    this.revoked = revoked;
    const extensions = list.enterOptional(context(0));
    list.finish();
    const all = extensions?.enter(TAG.sequence);
    extensions?.finish();
    const found = all === undefined ? null : checkExtensions(all, HARMLESS).get(CERT.crlNumber);
    this.number = found?.integer() ?? null;
  }

  /** Is it this CA's? @throws {DerError} @throws {SealError} `weak-algorithm` */
  isOf(issuer: Certificate, policy: Policy): boolean {
    return sameBytes(this.issuer, issuer.subject) && issuer.mayUse(USAGE.cRLSign) &&
      isSigned(this.#signed, this.#algorithm, this.#signature, issuer.key, policy);
  }

  /** Since when a certificate of its issuer is revoked, milliseconds since 1970; null: it is not. */
  since({ serial }: Certificate): number | null {
    return this.revoked.get(hex(serial)) ?? null;
  }
}

/** @returns Their values. @throws {DerError} One must be understood, and is none of these. */
function checkExtensions(list: DerReader, harmless: readonly string[]): Map<string, DerReader> {
  const values = new Map<string, DerReader>();
  while (list.more) {
    const extension = list.enter(TAG.sequence);
    const name = extension.oid();
    const critical = extension.nextTag === TAG.boolean && extension.boolean();
    const value = extension.enter(TAG.octetString);
    extension.finish();
    values.set(name, value);
    if ((critical || LIMITING.includes(name)) && !harmless.includes(name)) {
      throw new DerError(`a CRL has an extension that must be understood and is not: ${oidText(name)}`);
    }
  }
  return values;
}
