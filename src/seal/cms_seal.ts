/**
 * The seal of a server or client with `cms-` options: signs and encrypts what is made here, decrypts and verifies what comes,
 * and checks what the signature covers: the body's time, its host, the hash of the blob.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import type { Clock, Environment } from "../contracts/environment.ts";
import type { Signer } from "../contracts/message.ts";
import type { Claim, Expiry, OpenedParts, Seal, SealDraft, SealedParts } from "../contracts/seal.ts";
import { BODY_MAX_BYTES, ENVELOPE_MAX_BYTES, SIGNATURE_MAX_BYTES } from "../limits.ts";
import { parseBody } from "../message/body.ts";
import { bodyOf } from "../message/draft.ts";
import { MessageError } from "../message/errors.ts";
import { printable, utf8 } from "../text.ts";
import {
  decryptBlob,
  decryptEnvelope,
  encryptBlob,
  encryptEnvelope,
  undecryptable,
} from "./cms/enveloped_data.ts";
import { AllowTable } from "./allow.ts";
import { SealError } from "./cms/errors.ts";
import { type Keys, loadKeys } from "./cms/key_store.ts";
import { type Verified, verifySignedData, verifySignedDataLater } from "./cms/signed_data.ts";
import type { Verifiers } from "./cms/verifiers.ts";
import type { Logger } from "../log.ts";
import { loadReplays, Replays, saveReplays } from "./replays.ts";
import { ENC1, isEncrypted } from "./identity.ts";
import { checkForOriginal } from "./original.ts";
import type { SealSettings } from "./settings.ts";

const NO_SIGNATURE = new Uint8Array(0);
/** Bytes of the id that tells messages of one signer apart. */
const ID_BYTES = 16;

/** Hashes of blobs, by what stands in front of them. SHA-1 is the original's. */
const BLOB_HASHES: Readonly<Record<string, string>> = {
  "SHA-1": "sha1",
  "SHA-256": "sha256",
  "SHA-384": "sha384",
  "SHA-512": "sha512",
};

/** Verifies on the main thread, or beside it. */
type Verify = (...signed: Parameters<typeof verifySignedData>) => Verified | Promise<Verified>;

const after = <T, U>(value: T | Promise<T>, next: (value: T) => U): U | Promise<U> =>
  value instanceof Promise ? value.then(next) : next(value);

/** What a message is when it has been opened. */
class Opened implements OpenedParts {
  readonly json: Uint8Array;
  readonly blob: Uint8Array | null;
  readonly signer: Signer | null;
  readonly value: Record<string, unknown>;

  readonly claim: (() => Claim) | undefined;

  constructor(
    json: Uint8Array,
    blob: Uint8Array | null,
    signer: Signer,
    value: Record<string, unknown>,
    claim?: () => Claim,
  ) {
    this.claim = claim;
    this.json = json;
    this.blob = blob;
    this.signer = signer;
    this.value = value;
  }
}

export class CmsSeal implements Seal {
  readonly asynchronous = false;
  readonly settings: SealSettings;
  readonly #clock: Clock;
  readonly #environment: Pick<Environment, "files" | "clock">;
  readonly #allow: AllowTable | null;
  /** Null: copies are let in. */
  readonly #replays: Replays | null;
  #keys: Keys;

  private constructor(
    settings: SealSettings,
    environment: Pick<Environment, "files" | "clock">,
    keys: Keys,
    replays: Replays | null,
  ) {
    this.settings = settings;
    this.#replays = replays;
    this.#allow = settings.allow === null ? null : new AllowTable(settings.allow);
    this.#environment = environment;
    this.#clock = environment.clock;
    this.#keys = keys;
  }

  /**
   * Reads keys, certificates and CRLs.
   *
   * @param before What this one has seen stays known.
   * @throws {KeyStoreError}
   */
  static async open(
    settings: SealSettings,
    environment: Pick<Environment, "files" | "clock">,
    log: Pick<Logger, "warnRarely">,
    before: CmsSeal | null = null,
  ): Promise<CmsSeal> {
    const keys = await loadKeys(settings, environment);
    const { clock, files } = environment;
    const { timeWindowMs: windowMs, seenFile } = settings;
    let replays: Replays | null = null;
    if (windowMs > 0 && keys.trust !== null) {
      replays = before === null ? null : before.#replays;
      replays ??= settings.ofClient
        ? new Replays({ clock, log }, windowMs)
        : await loadReplays({ clock, log }, windowMs, seenFile, files);
    }
    return new CmsSeal(settings, environment, keys, replays);
  }

  async close(): Promise<void> {
    const { seenFile, ofClient } = this.settings;
    if (this.#replays === null || seenFile === null || ofClient) return;
    await saveReplays(this.#replays, seenFile, this.#environment.files).catch(
      () => {/* the next start knows by that */},
    );
  }

  /** What is used now. */
  get keys(): Keys {
    return this.#keys;
  }

  get expiries(): readonly Expiry[] {
    return this.#keys.expiries;
  }

  /** Reads them again. @throws {KeyStoreError} Then the old ones stay. */
  async reload(): Promise<void> {
    this.#keys = await loadKeys(this.settings, this.#environment);
  }

  open(parts: SealedParts): OpenedParts {
    return this.#open(parts, verifySignedData) as OpenedParts;
  }

  /** The same, with the arithmetic of signatures beside the main thread. */
  openBeside(parts: SealedParts, verifiers: Verifiers): OpenedParts | Promise<OpenedParts> {
    return this.#open(parts, (...signed) => verifySignedDataLater(...signed, verifiers));
  }

  #open(parts: SealedParts, verify: Verify): OpenedParts | Promise<OpenedParts> {
    const { recipient, trust } = this.#keys;
    const { body, signature } = parts;
    if (isEncrypted(body)) {
      if (recipient === null || trust === null) {
        throw new MessageError("encrypted", "the body is encrypted, and nothing here decrypts");
      }
      return this.#openEncrypted(parts, verify);
    }
    if (recipient !== null) {
      throw new SealError("not-encrypted", "it is not encrypted, and cms-decrypt wants that");
    }
    if (trust === null) return { json: body, blob: parts.blob, signer: null };
    if (signature.length === 0) {
      throw new SealError("unsigned", "it is not signed, and cms-verify-ca wants that");
    }
    checkSize(signature, SIGNATURE_MAX_BYTES);
    const { type, blob } = parts;
    const verified = verify(signature, body, trust, this.#clock.time());
    return after(verified, (verified) => this.#check(type, verified, blob));
  }

  #openEncrypted(
    { type, signature, blob }: SealedParts,
    verify: Verify,
  ): OpenedParts | Promise<OpenedParts> {
    const { recipient, trust } = this.#keys;
    checkSize(signature, BODY_MAX_BYTES + SIGNATURE_MAX_BYTES + ENVELOPE_MAX_BYTES);
    const { content, sealed } = decryptEnvelope(signature, recipient!, trust!.policy);
    const checked = (verified: Verified) =>
      this.#check(type, verified, sealed === null || blob === null ? blob : decryptBlob(sealed, type, blob));
    const refused = (error: unknown): never => {
      // A wrong key of CBC shows as nonsense: what exactly is wrong with it would tell about the key.
      throw sealed === null && error instanceof SealError && error.code === "bad-cms"
        ? undecryptable()
        : error;
    };
    try {
      const verified = verify(content, null, trust!, this.#clock.time());
      return verified instanceof Promise ? verified.then(checked).catch(refused) : checked(verified);
    } catch (error) {
      return refused(error);
    }
  }

  /** What the signature covers. */
  #check(type: string, { content, signer }: Verified, blob: Uint8Array | null): OpenedParts {
    const { timeWindowMs, hostname } = this.settings;
    const value = parseBody(type, content);
    checkBlobHash(value.blob_hash, blob, this.#keys.trust!.policy.legacy);
    if (this.#allow !== null && !this.#allow.allows(signer, type)) {
      throw new SealError("not-allowed", `no line of [cms-allow] lets "${signer.certificate.name}" send it`);
    }
    if (timeWindowMs > 0) this.#checkTime(value.time, timeWindowMs);
    if (hostname !== "off") {
      const { certificate } = signer;
      const { commonName } = certificate;
      const names = hostname === "san" ? certificate.hosts : commonName === "" ? [] : [commonName];
      if (typeof value.hostname !== "string" || !names.includes(value.hostname)) {
        throw new SealError(
          "not-allowed",
          `"${certificate.name}" signed for ${hostText(value.hostname)}: ` +
            `cms-hostname = ${hostname} allows ${
              names.length === 0 ? "none" : printable(names.join(", "), 200)
            }`,
        );
      }
    }
    const replays = this.#replays;
    if (replays === null) return new Opened(content, blob, signer, value);
    const claim = () => {
      // A seal that a reload has made, and not taken, shares it.
      replays.windowMs = timeWindowMs;
      return replays.claim(signer.keyHash, idOf(value, content), 1000 * Number(value.time));
    };
    return new Opened(content, blob, signer, value, claim);
  }

  #checkTime(time: unknown, windowMs: number): void {
    const off = typeof time === "number" ? Math.abs(this.#clock.time() - 1000 * time) : NaN;
    if (off <= windowMs) return;
    throw new SealError(
      "out-of-time",
      Number.isNaN(off)
        ? "it does not say its time"
        : `its time is ${(off / 1000).toFixed(1)} s from now: cms-time-window is ${windowMs / 1000}`,
    );
  }

  seal(draft: SealDraft): SealedParts {
    const { signer, recipients } = this.#keys;
    const { type, blob = null } = draft;
    if (signer === null) return { type, body: bodyOf(draft), signature: NO_SIGNATURE, blob };
    if (Object.hasOwn(draft.fields, "id")) {
      throw new MessageError(
        "bad-draft",
        `the fields of "${type}" have an "id": a signature needs that name for its own`,
      );
    }
    const legacy = this.settings.profile === "legacy";
    if (legacy) checkForOriginal(draft);
    const body = bodyOf(draft, blob === null ? "" : blobHash(blob, legacy), randomId());
    if (recipients.length === 0) return { type, body, signature: signer.sign(body, false), blob };
    const { envelope, key, nonce } = encryptEnvelope(signer.sign(body, true), recipients, legacy);
    const sealed = legacy || blob === null ? blob : encryptBlob({ key, nonce }, type, blob);
    return { type, body: ENC1, signature: envelope, blob: sealed };
  }
}

/** A seal that verifies beside the main thread. */
export class BesideSeal implements Seal {
  readonly asynchronous = true;
  readonly inner: CmsSeal;
  readonly verifiers: Verifiers;

  constructor(inner: CmsSeal, verifiers: Verifiers) {
    this.inner = inner;
    this.verifiers = verifiers;
  }

  get expiries(): readonly Expiry[] {
    return this.inner.expiries;
  }

  open(parts: SealedParts): OpenedParts | Promise<OpenedParts> {
    return this.inner.openBeside(parts, this.verifiers);
  }

  seal(draft: SealDraft): SealedParts {
    return this.inner.seal(draft);
  }

  reload(): Promise<void> {
    return this.inner.reload();
  }

  /** @param by May have taken over the threads. */
  replaced(by: Seal): void {
    if (!(by instanceof BesideSeal && by.verifiers === this.verifiers)) this.verifiers.retire();
  }

  close(): Promise<void> {
    this.verifiers.close();
    return this.inner.close();
  }
}

/** What a body names as its host may be anything. */
function hostText(hostname: unknown): string {
  return typeof hostname === "string" ? `the host "${printable(hostname, 64)}"` : "a host that is no text";
}

function checkSize(signature: Uint8Array, maxBytes: number): void {
  if (signature.length <= maxBytes) return;
  throw new SealError("bad-cms", `the signature has ${signature.length} bytes, at most ${maxBytes} are read`);
}

function blobHash(blob: Uint8Array, legacy: boolean): string {
  const [name, hash] = legacy ? ["SHA-1", "sha1"] : ["SHA-256", "sha256"];
  return `${name}:${createHash(hash).update(blob).digest("hex")}`;
}

/** An empty blob frame is a blob, as the original has it. */
function checkBlobHash(claimed: unknown, blob: Uint8Array | null, legacy: boolean): void {
  const refuse = (message: string) => new SealError("blob-hash", message);
  if (claimed === undefined || claimed === null || claimed === "") {
    if (blob !== null) throw refuse("it has a blob that the signature does not cover: blob_hash is missing");
    return;
  }
  if (blob === null) throw refuse("it has a blob_hash, and no blob: somebody has taken that away");
  const [, name, digits] = /^(SHA-\d+):([0-9a-fA-F]+)$/.exec(typeof claimed === "string" ? claimed : "") ??
    [];
  const hash = name !== undefined && Object.hasOwn(BLOB_HASHES, name) ? BLOB_HASHES[name] : undefined;
  if (hash === undefined) throw refuse("its blob_hash is of no known form");
  if (hash === "sha1" && !legacy) {
    throw new SealError(
      "weak-algorithm",
      "a blob_hash with SHA-1 is not allowed: cms-profile = accept-legacy would take it",
    );
  }
  const actual = utf8(createHash(hash).update(blob).digest("hex"));
  const wanted = utf8(digits.toLowerCase());
  if (actual.length !== wanted.length || !timingSafeEqual(actual, wanted)) {
    throw refuse("the blob is another than was signed: its hash differs");
  }
}

/** Random digits that no id has been made of yet: the system is asked for many at once. */
let pool = "";
let used = 0;

function randomId(): string {
  if (used === pool.length) {
    pool = randomBytes(256 * ID_BYTES).toString("hex");
    used = 0;
  }
  return pool.slice(used, used += 2 * ID_BYTES);
}

/** What tells messages of one signer apart; the original's have no id. */
function idOf({ id }: Record<string, unknown>, content: Uint8Array): string {
  if (typeof id === "string" && /^[0-9a-f]{32}$/.test(id)) return id;
  return createHash("sha256").update(content).digest("hex").slice(0, 32);
}
