/**
 * Verifies signatures on threads beside the main one. To hand one over costs as much as half of its arithmetic, so they go
 * many at a time:
 *
 * ```
 *   verify ─▶ batch ─▶ thread  (the one with the fewest under way; a batch goes when it is full, or when nothing else runs)
 *   done   ◀─ result ◀─┘
 * ```
 */
import type { Environment, Processes, Thread } from "../../contracts/environment.ts";
import { errorText } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { counted } from "../../text.ts";
import type { PublicKey } from "./public_key.ts";
import { checkScheme, fits, type HashName, type SignatureAlgorithm } from "./signatures.ts";

/** More wait for each other longer than they gain. */
const BATCH_MAX = 32;
/** Where so many wait for a thread, the main one does every fifth: it has a fifth of its time to spare. */
const SHARED_FROM = 64;
const OWN_SHARE = 5;
/** Where so many wait, it does them all. */
const UNDER_WAY_MAX = 1024;
/** Keys that a thread remembers; then it forgets them all. */
const KEYS_MAX = 1024;

/** Bytes in front of a batch: whether keys are forgotten first, and how many signatures there are. */
const HEAD_BYTES = 8;
/** The same of each: hash, salt, the key's number, and the bytes of key, data and signature. */
const ITEM_BYTES = 24;
const NO_SALT = 0xffff_ffff;

const HASHES: readonly HashName[] = ["sha1", "sha256", "sha384", "sha512"];

/** One signature, and who wants to know whether it fits. */
interface Item {
  readonly algorithm: SignatureAlgorithm;
  readonly hash: HashName;
  readonly key: PublicKey;
  readonly data: Uint8Array;
  readonly signature: Uint8Array;
  readonly done: (fits: boolean) => void;
}

/** What runs on a thread. It is sent there as text, so it names nothing outside itself. */
function program(given: unknown): (bytes: Uint8Array) => Uint8Array {
  const node = given as typeof import("node:crypto");
  const keys = new Map<number, import("node:crypto").KeyObject>();
  const hashes = ["sha1", "sha256", "sha384", "sha512"];
  const padding = node.constants.RSA_PKCS1_PSS_PADDING;
  return (bytes) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (view.getUint32(0) === 1) keys.clear();
    const results = new Uint8Array(view.getUint32(4));
    let at = 8;
    for (let i = 0; i < results.length; i++) {
      const field = (n: number) => view.getUint32(at + 4 * n);
      const [hash, saltLength, number, keyBytes, dataBytes, signatureBytes] = [0, 1, 2, 3, 4, 5].map(field);
      at += 24;
      const take = (size: number) => bytes.subarray(at, at += size);
      const spki = take(keyBytes);
      const data = take(dataBytes);
      const signature = take(signatureBytes);
      try {
        let key = keys.get(number);
        if (key === undefined) {
          key = node.createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
          keys.set(number, key);
        }
        const options = saltLength === 0xffff_ffff ? key : { key, padding, saltLength };
        results[i] = node.verify(hashes[hash] ?? null, data, options, signature) ? 1 : 0;
      } catch {
        // Some runtimes throw at a signature that is none.
      }
    }
    return results;
  };
}

/** A thread, and what it has under way. */
class Verifier {
  readonly #thread: Thread;
  readonly #known = new Set<number>();
  /** Batches that were sent, the oldest first. */
  readonly #sent: Item[][] = [];
  #batch: Item[] = [];
  #ending = false;
  /** Signatures under way. */
  count = 0;

  constructor(processes: Processes, failed: (error: unknown, items: readonly Item[]) => void) {
    this.#thread = processes.startThread(program, {
      result: (results) => {
        const items = this.#sent.shift()!;
        this.count -= items.length;
        for (let i = 0; i < items.length; i++) items[i].done(results[i] === 1);
        if (this.#ending && this.count === 0) this.end();
      },
      failed: (error) => failed(error, [...this.#sent.flat(), ...this.#batch]),
    });
  }

  add(item: Item): void {
    this.count++;
    if (this.#batch.push(item) >= BATCH_MAX) this.flush();
  }

  /** Sends what there is. */
  flush(): void {
    const batch = this.#batch;
    if (batch.length === 0) return;
    this.#batch = [];
    this.#sent.push(batch);
    this.#thread.post(this.#encode(batch));
  }

  #encode(batch: readonly Item[]): Uint8Array {
    const forget = this.#known.size >= KEYS_MAX;
    if (forget) this.#known.clear();
    const keys = batch.map(({ key }) => {
      const number = numberOf(key);
      const known = this.#known.has(number);
      this.#known.add(number);
      return { number, spki: known ? NOTHING : key.spki };
    });
    let size = HEAD_BYTES;
    batch.forEach(({ data, signature }, i) => {
      size += ITEM_BYTES + keys[i].spki.length + data.length + signature.length;
    });
    const bytes = new Uint8Array(size);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, forget ? 1 : 0);
    view.setUint32(4, batch.length);
    let at = HEAD_BYTES;
    batch.forEach(({ algorithm: { scheme, saltBytes }, hash, data, signature }, i) => {
      const { number, spki } = keys[i];
      // Ed25519 has a hash of its own.
      view.setUint32(at, scheme === "ed25519" ? HASHES.length : HASHES.indexOf(hash));
      view.setUint32(at + 4, scheme === "pss" ? saltBytes : NO_SALT);
      view.setUint32(at + 8, number);
      view.setUint32(at + 12, spki.length);
      view.setUint32(at + 16, data.length);
      view.setUint32(at + 20, signature.length);
      at += ITEM_BYTES;
      for (const part of [spki, data, signature]) {
        bytes.set(part, at);
        at += part.length;
      }
    });
    return bytes;
  }

  end(): void {
    this.#thread.end();
  }

  endWhenDone(): void {
    this.flush();
    this.#ending = true;
    if (this.count === 0) this.end();
  }
}

/** A few threads, started when they are needed. */
export class Verifiers {
  /** Threads, when all run. */
  readonly count: number;
  readonly #environment: Pick<Environment, "processes" | "clock">;
  readonly #log: Pick<Logger, "warnRarely">;
  readonly #verifiers: Verifier[] = [];
  /** One has failed, or they are not needed any more: none is started. */
  #retired = false;
  /** Will {@link #flush} be called? */
  #flushing = false;
  /** Signatures that were there while others waited. */
  #shared = 0;

  constructor(
    count: number,
    environment: Pick<Environment, "processes" | "clock">,
    log: Pick<Logger, "warnRarely">,
  ) {
    this.count = count;
    this.#environment = environment;
    this.#log = log;
  }

  /** Threads that run now. */
  get running(): number {
    return this.#verifiers.length;
  }

  /**
   * Does a signature fit? `done` is called later.
   *
   * @throws {SealError} `bad-cms`: the key is of another kind than the algorithm.
   */
  verify(
    algorithm: SignatureAlgorithm,
    hash: HashName,
    key: PublicKey,
    data: Uint8Array,
    signature: Uint8Array,
    done: (fits: boolean) => void,
  ): void {
    checkScheme(algorithm, key);
    if (this.#verifiers.length === 0 && !this.#retired) this.#start();
    const [first, ...others] = this.#verifiers;
    if (first === undefined) return done(fits(algorithm, hash, key, data, signature));
    const freest = others.reduce((least, other) => other.count < least.count ? other : least, first);
    const waiting = freest.count;
    const own = waiting >= UNDER_WAY_MAX || waiting >= SHARED_FROM && ++this.#shared % OWN_SHARE === 0;
    if (own) return done(fits(algorithm, hash, key, data, signature));
    freest.add({ algorithm, hash, key, data, signature, done });
    if (this.#flushing) return;
    this.#flushing = true;
    this.#environment.clock.soon(this.#flush);
  }

  #start(): void {
    try {
      for (let i = 0; i < this.count; i++) {
        const verifier = new Verifier(
          this.#environment.processes,
          (error, items) => this.#failed(verifier, error, items),
        );
        this.#verifiers.push(verifier);
      }
    } catch (error) {
      this.#tell(error);
    }
  }

  readonly #flush = (): void => {
    this.#flushing = false;
    for (const verifier of this.#verifiers) verifier.flush();
  };

  /** A thread is gone: what it had is done here. */
  #failed(verifier: Verifier, error: unknown, items: readonly Item[]): void {
    const at = this.#verifiers.indexOf(verifier);
    if (at >= 0) this.#verifiers.splice(at, 1);
    this.#tell(error);
    for (const { algorithm, hash, key, data, signature, done } of items) {
      done(fits(algorithm, hash, key, data, signature));
    }
  }

  #tell(error: unknown): void {
    this.#retired = true;
    const left = this.running === 0
      ? "the main thread does it now"
      : `${counted(this.running, "thread")} left`;
    const text = `a thread that verifies signatures has failed: ${errorText(error)}; ${left}`;
    this.#log.warnRarely("seal", "thread", text);
  }

  /** Ends each thread when it has done what it has under way; all that comes is done on the main one. */
  retire(): void {
    this.#retired = true;
    for (const verifier of this.#verifiers.splice(0)) verifier.endWhenDone();
  }

  /** Ends the threads, with what they have under way. */
  close(): void {
    this.#retired = true;
    for (const verifier of this.#verifiers.splice(0)) verifier.end();
  }
}

const NOTHING = new Uint8Array(0);

/** Keys by numbers, of which none is given twice. */
const numbers = new WeakMap<PublicKey, number>();
let lastNumber = 0;

function numberOf(key: PublicKey): number {
  let number = numbers.get(key);
  if (number === undefined) numbers.set(key, number = ++lastNumber);
  return number;
}
