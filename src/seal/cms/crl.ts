/** A certificate revocation list (RFC 5280): whole ones of one CA; neither deltas nor lists about other CAs. */
import { latin1 } from "../../text.ts";
import { type Certificate, isSigned } from "./certificate.ts";
import { context, DerError, DerReader, oidText, sameBytes, TAG } from "./der.ts";
import { CERT } from "./oids.ts";
import type { Policy } from "./signatures.ts";

/** Extensions of the list that may be critical: they say nothing that matters here. */
const HARMLESS: readonly string[] = [CERT.authorityKeyIdentifier];
/** With these it has only a part of what is revoked, whether they are critical or not. */
const PARTIAL: readonly string[] = [CERT.deltaCRLIndicator, CERT.issuingDistributionPoint];
/** Keys of which it is remembered whether they have signed it. */
const KEYS_REMEMBERED = 64;

/** So many entries take about 3 ms. */
const SLICE_ENTRIES = 2048;
/** Bytes of the shortest entry: a serial number, and a time. */
const ENTRY_MIN_BYTES = 18;

/** A table of serial numbers: to make texts of half a million would hold up a server that runs for seconds. */
class RevokedSerials {
  /** By hash: places in {@link #serials}, from 1 on; 0: nothing. */
  readonly #slots: Int32Array;
  readonly #serials: Uint8Array[] = [];
  readonly #since: number[] = [];

  /** @param entries All that there will be. */
  constructor(entries: Uint8Array) {
    this.#slots = new Int32Array(2 ** Math.ceil(Math.log2(2 + 2 * entries.length / ENTRY_MIN_BYTES)));
  }

  get size(): number {
    return this.#serials.length;
  }

  add(serial: Uint8Array, since: number): void {
    const slot = this.#slotOf(serial);
    if (this.#slots[slot] !== 0) return;
    this.#serials.push(serial);
    this.#since.push(since);
    this.#slots[slot] = this.#serials.length;
  }

  /** Since when it is revoked, milliseconds since 1970; null: it is not. */
  get(serial: Uint8Array): number | null {
    const place = this.#slots[this.#slotOf(serial)];
    return place === 0 ? null : this.#since[place - 1];
  }

  /** Where it is, or would be. */
  #slotOf(serial: Uint8Array): number {
    const slots = this.#slots;
    let hash = 0x811c9dc5;
    for (let i = 0; i < serial.length; i++) hash = Math.imul(hash ^ serial[i], 0x01000193);
    let slot = (hash ^ hash >>> 15) & slots.length - 1;
    while (slots[slot] !== 0 && !sameBytes(this.#serials[slots[slot] - 1], serial)) {
      slot = slot + 1 & slots.length - 1;
    }
    return slot;
  }
}

export class RevocationList {
  readonly issuer: Uint8Array;
  /** Milliseconds since 1970. */
  readonly updated: number;
  /** From then on there should be another; null: it does not say. */
  readonly nextUpdate: number | null;
  /** Serial numbers, and since when. */
  readonly revoked: RevokedSerials;
  /** The entries as they stand there, one after the other, DER. */
  readonly entries: Uint8Array;
  /** Another one for each list of its CA; null: it does not say. */
  readonly number: Uint8Array | null;
  readonly #signed: Uint8Array;
  readonly #algorithm: Uint8Array;
  readonly #signature: Uint8Array;
  /** By keys. To verify a long list takes as long as a thousand messages. */
  readonly #signedBy = new Map<string, boolean>();

  readonly #unread: DerReader | null;

  /** @throws {DerError} It is none, or says what is not understood. */
  static of(bytes: Uint8Array): RevocationList {
    const list = new RevocationList(bytes);
    list.#read(Infinity);
    return list;
  }

  /**
   * The same of a list that may be long, with pauses in which others have their turn.
   *
   * @throws {DerError}
   */
  static async inSlices(bytes: Uint8Array, pause: () => Promise<void>): Promise<RevocationList> {
    const list = new RevocationList(bytes);
    while (list.#read(SLICE_ENTRIES)) await pause();
    return list;
  }

  /** Reads what stands around the entries. */
  private constructor(bytes: Uint8Array) {
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
    const entries = list.enterOptional(TAG.sequence);
    this.entries = entries === null ? new Uint8Array() : list.content;
    this.revoked = new RevokedSerials(this.entries);
    this.#unread = entries;
    const extensions = list.enterOptional(context(0));
    list.finish();
    const all = extensions?.enter(TAG.sequence);
    extensions?.finish();
    const found = all === undefined ? null : checkExtensions(all, HARMLESS).get(CERT.crlNumber);
    this.number = found?.integer() ?? null;
  }

  /** Reads so many entries. @returns False: there are no more. @throws {DerError} */
  #read(count: number): boolean {
    const entries = this.#unread;
    for (; entries?.more && count > 0; count--) {
      const entry = entries.enter(TAG.sequence);
      this.revoked.add(entry.integer(), entry.time());
      const extensions = entry.enterOptional(TAG.sequence);
      entry.finish();
      if (extensions !== null) checkExtensions(extensions, [CERT.reasonCode]);
    }
    return entries?.more ?? false;
  }

  /** Is it this CA's? @throws {DerError} @throws {SealError} `weak-algorithm` */
  isOf(issuer: Certificate, policy: Policy): boolean {
    if (!sameBytes(this.issuer, issuer.subject)) return false;
    const { key } = issuer;
    const name = latin1(key.spki);
    let found = this.#signedBy.get(name);
    if (found === undefined) {
      found = isSigned(this.#signed, this.#algorithm, this.#signature, key, policy);
      if (this.#signedBy.size >= KEYS_REMEMBERED) this.#signedBy.clear();
      this.#signedBy.set(name, found);
    }
    return found;
  }

  /** Since when a certificate of its issuer is revoked, milliseconds since 1970; null: it is not. */
  since({ serial }: Certificate): number | null {
    return this.revoked.get(serial);
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
    if ((critical || PARTIAL.includes(name)) && !harmless.includes(name)) {
      throw new DerError(`a CRL has an extension that must be understood and is not: ${oidText(name)}`);
    }
  }
  return values;
}
