/** Public keys as certificates carry them, and which of them are strong enough. */
import { createPublicKey, type KeyObject } from "node:crypto";
import { Buffer } from "node:buffer";
import { DerError, DerReader, oidText, TAG } from "./der.ts";
import { SealError } from "./errors.ts";
import { KEY } from "./oids.ts";

export type KeyType = "rsa" | "p256" | "p384" | "ed25519" | "x25519";

/** Shorter ones are broken, or soon will be. */
const RSA_MIN_BITS = 2048;
/** Longer ones take milliseconds to verify. */
const RSA_MAX_BITS = 8192;

export class PublicKey {
  readonly type: KeyType;
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Uint8Array;
  /** The bits of the key itself: a point, say. */
  readonly bytes: Uint8Array;
  /** Bytes of an RSA modulus; 0 for others. */
  readonly modulusBytes: number;
  #object: KeyObject | null = null;

  /**
   * @param spki SubjectPublicKeyInfo, DER.
   * @throws {DerError}
   * @throws {SealError} `weak-algorithm`: of a kind, or length, that is not used here.
   */
  constructor(spki: Uint8Array) {
    const info = new DerReader(spki).enter(TAG.sequence);
    const algorithm = info.enter(TAG.sequence);
    const type = algorithm.oid();
    this.bytes = info.bitString();
    info.finish();
    this.spki = spki;
    this.type = typeOf(type, algorithm);
    this.modulusBytes = this.type === "rsa" ? checkRsa(this.bytes) : 0;
  }

  /** For `node:crypto`. @throws {SealError} `bad-cms`: it is no point of its curve, say. */
  get object(): KeyObject {
    try {
      return this.#object ??= createPublicKey({ key: Buffer.from(this.spki), format: "der", type: "spki" });
    } catch {
      throw new SealError("bad-cms", "a certificate's key is none");
    }
  }
}

function typeOf(type: string, parameters: DerReader): KeyType {
  switch (type) {
    case KEY.rsa:
      if (parameters.expect(TAG.null).content.length > 0) throw new DerError("a NULL is none");
      parameters.finish();
      return "rsa";
    case KEY.ed25519:
      parameters.finish();
      return "ed25519";
    case KEY.x25519:
      parameters.finish();
      return "x25519";
    case KEY.ec: {
      const curve = parameters.nextTag === TAG.oid ? parameters.oid() : "";
      if (curve !== "") parameters.finish();
      if (curve === KEY.p256) return "p256";
      if (curve === KEY.p384) return "p384";
      throw new SealError("weak-algorithm", "the curve of a key is not P-256 or P-384");
    }
    case KEY.rsaPss:
      throw new SealError(
        "weak-algorithm",
        "a key is of the type rsa-pss, which not every runtime can use: make one of the type rsa, it signs with PSS too",
      );
    default:
      throw new SealError("weak-algorithm", `a key is of a type that is not used here: ${oidText(type)}`);
  }
}

/** @returns Bytes of the modulus. */
function checkRsa(key: Uint8Array): number {
  const numbers = new DerReader(key).enter(TAG.sequence);
  const modulus = numbers.integer();
  const exponent = numbers.integer();
  numbers.finish();
  const bytes = modulus[0] === 0 ? modulus.length - 1 : modulus.length;
  const bits = 8 * bytes - Math.clz32(modulus[modulus.length - bytes]) + 24;
  if (modulus[0] >= 0x80 || bits < RSA_MIN_BITS || bits > RSA_MAX_BITS) {
    throw new SealError(
      "weak-algorithm",
      `an RSA key has ${bits} bits: from ${RSA_MIN_BITS} to ${RSA_MAX_BITS} are used`,
    );
  }
  // With long ones a peer can make a verification take as long as a signature.
  if (exponent.length > 4 || exponent[0] >= 0x80 || (exponent[exponent.length - 1] & 1) === 0) {
    throw new SealError("weak-algorithm", "an RSA key has an exponent that is even, or of more than 31 bits");
  }
  if (exponent.length === 1 && exponent[0] < 3) throw new DerError("an RSA key has no exponent");
  return bytes;
}
