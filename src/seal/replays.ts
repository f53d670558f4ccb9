/**
 * Messages that have been handled, as long as cms-time-window would let them in again: a copy of one is not handled twice.
 *
 * What is forgotten leaves a mark: nothing that was sent in that time is let in any more. So neither a clock that is set back
 * nor a signer who sends more than is kept opens the door for a copy. A clock that was wrong for a while leaves a mark there,
 * and shuts out nothing else.
 */
import type { Clock, Files } from "../contracts/environment.ts";
import type { Claim } from "../contracts/seal.ts";
import type { Logger } from "../log.ts";
import { REPLAYS_A_SIGNER, REPLAYS_IN_ALL } from "../limits.ts";
import { codeOf } from "../errors.ts";
import { latin1, latin1Bytes } from "../text.ts";
import { SealError } from "./cms/errors.ts";

/** What is kept of one message. */
interface Handled {
  /** When it was sent, by its own word, milliseconds since 1970. */
  readonly sentMs: number;
  /** When it may be forgotten, by the clock that does not jump. */
  readonly until: number;
}

/** A message that is being handled. */
interface Pending {
  readonly over: Promise<void>;
  /** A copy of it waits for what becomes of it: one is enough. */
  copied: boolean;
}

const SEEN: Claim = { state: "seen", over: null, settle: () => {} };

export interface ReplaysParts {
  readonly clock: Clock;
  readonly log: Pick<Logger, "warnRarely">;
}

export class Replays {
  readonly #parts: ReplaysParts;
  /** By signer, then by id, the oldest first. */
  readonly #signers = new Map<string, Map<string, Handled>>();
  readonly #pending = new Map<string, Pending>();
  /** When messages were sent that are forgotten, by signer. */
  readonly #forgotten = new Map<string, Times>();
  /** The same of all: of what came before the start. */
  readonly #before = new Times();
  #count = 0;
  #kept = 0;

  /** cms-time-window. */
  windowMs: number;

  constructor(parts: ReplaysParts, windowMs: number) {
    this.#parts = parts;
    this.windowMs = windowMs;
  }

  /** It is not known what was handled before: all that may have been sent then is not let in. */
  shutOutPast(): void {
    const now = this.#parts.clock.time();
    this.#before.add(now - this.#gapMs, this.#gapMs);
    this.#before.add(now, this.#gapMs);
  }

  get #gapMs(): number {
    return 2 * this.windowMs;
  }

  get size(): number {
    return this.#count;
  }

  /**
   * Claims a message.
   *
   * @param signer SHA-256 of the public key, in hexadecimal. Which certificate is meant is not signed, and those have twins.
   * @param id What tells messages of one signer apart, as latin-1.
   * @throws {SealError} `out-of-time`: it is older than what is remembered.
   */
  claim(signer: string, id: string, sentMs: number): Claim {
    const known = this.#signers.get(signer);
    if (known?.has(id)) return SEEN;
    const key = `${signer} ${id}`;
    const pending = this.#pending.get(key);
    if (pending !== undefined) {
      const over = pending.copied ? null : pending.over;
      pending.copied = true;
      return { state: "pending", over, settle: () => {} };
    }
    if (this.#before.has(sentMs) || this.#forgotten.get(signer)?.has(sentMs)) {
      throw new SealError(
        "out-of-time",
        "it was sent before what is remembered of its signer, and may be a copy",
      );
    }
    let over = () => {};
    this.#pending.set(key, { over: new Promise((resolve) => over = resolve), copied: false });
    return {
      state: "new",
      over: null,
      settle: (handled) => {
        this.#pending.delete(key);
        if (handled) this.#keep(signer, id, sentMs);
        over();
      },
    };
  }

  #keep(signer: string, id: string, sentMs: number): void {
    const now = this.#parts.clock.now();
    let of = this.#signers.get(signer);
    if (of === undefined) this.#signers.set(signer, of = new Map());
    of.set(id, { sentMs, until: now + this.#gapMs });
    this.#count++;
    this.#expire(signer, of, now);
    if (of.size > REPLAYS_A_SIGNER) this.#overflow(signer, of);
    if (this.#count > REPLAYS_IN_ALL) this.#overflow(...this.#largest());
    if (++this.#kept % TRIM_EVERY === 0) this.#trim();
  }

  /** What cannot come again within the window is forgotten. */
  #expire(signer: string, of: Map<string, Handled>, now: number): void {
    for (const [id, { until }] of of) {
      if (until > now) break;
      this.#forget(signer, of, id);
    }
  }

  #overflow(signer: string, of: Map<string, Handled>): void {
    const [id] = of.keys();
    const { sentMs } = of.get(id)!;
    this.#forget(signer, of, id);
    const seconds = Math.max(0, (this.#parts.clock.time() - sentMs) / 1000);
    this.#parts.log.warnRarely(
      "seal",
      `replays ${signer}`,
      `more messages of one signer (${signer.slice(0, 16)}...) than are remembered: its cms-time-window is ` +
        `${seconds.toFixed(0)} s for now`,
    );
  }

  #largest(): [string, Map<string, Handled>] {
    let found: [string, Map<string, Handled>] | null = null;
    for (const entry of this.#signers) if (found === null || entry[1].size > found[1].size) found = entry;
    return found!;
  }

  #forget(signer: string, of: Map<string, Handled>, id: string): void {
    const { sentMs } = of.get(id)!;
    of.delete(id);
    this.#count--;
    let times = this.#forgotten.get(signer);
    if (times === undefined) this.#forgotten.set(signer, times = new Times());
    times.add(sentMs, this.#gapMs);
  }

  /** Gives back what nobody needs. */
  #trim(): void {
    const { clock } = this.#parts;
    const now = clock.now();
    for (const [signer, of] of this.#signers) {
      this.#expire(signer, of, now);
      if (of.size === 0) this.#signers.delete(signer);
    }
    // Of those who have long been silent nothing is left but this.
    for (const [signer, times] of this.#forgotten) {
      if (this.#forgotten.size <= REPLAYS_A_SIGNER) break;
      if (this.#signers.has(signer)) continue;
      this.#forgotten.delete(signer);
      for (const [from, to] of times.ranges) for (const ms of [from, to]) this.#before.add(ms, this.#gapMs);
    }
  }

  /** All of it as bytes, for the next server. */
  save(): Uint8Array {
    const now = this.#parts.clock.now();
    const lines: string[] = [MAGIC];
    for (const [from, to] of this.#before.ranges) lines.push(`* ${from} ${to}`);
    for (const [signer, { ranges }] of this.#forgotten) {
      for (const [from, to] of ranges) lines.push(`- ${from} ${to} ${signer}`);
    }
    for (const [signer, of] of this.#signers) {
      lines.push(`= ${signer}`);
      for (const [id, { sentMs, until }] of of) lines.push(`${Math.ceil(until - now)} ${sentMs} ${id}`);
    }
    return latin1Bytes(lines.join("\n"));
  }

  /** Takes over what an earlier server saved. @returns False: it is nothing of the kind. */
  load(bytes: Uint8Array): boolean {
    const [magic, ...lines] = latin1(bytes).split("\n");
    if (magic !== MAGIC) return false;
    const now = this.#parts.clock.now();
    let of: Map<string, Handled> | null = null;
    for (const line of lines) {
      const [head, second, third, fourth] = line.split(" ");
      if (head === "=") this.#signers.set(second, of = new Map());
      else if (head === "*" || head === "-") {
        let times = this.#before;
        if (head === "-") {
          times = this.#forgotten.get(fourth) ?? new Times();
          this.#forgotten.set(fourth, times);
        }
        times.add(Number(second), 0);
        times.add(Number(third), Infinity);
      } else if (of !== null && third !== undefined) {
        of.set(third, { sentMs: Number(second), until: now + Number(head) });
        this.#count++;
      }
    }
    return true;
  }
}

/** A few ranges of time. */
class Times {
  readonly ranges: [from: number, to: number][] = [];

  has(ms: number): boolean {
    return this.ranges.some(([from, to]) => ms >= from && ms <= to);
  }

  /** Adds a moment: to the range that it is no farther from than `gapMs`, or as one of its own. */
  add(ms: number, gapMs: number): void {
    const near = this.ranges.findLast(([from, to]) => ms >= from - gapMs && ms <= to + gapMs);
    if (near !== undefined) {
      near[0] = Math.min(near[0], ms);
      near[1] = Math.max(near[1], ms);
      return;
    }
    this.ranges.push([ms, ms]);
    if (this.ranges.length <= RANGES_MAX) return;
    const [[from, to]] = this.ranges.splice(0, 1);
    const [next] = this.ranges;
    next[0] = Math.min(next[0], from);
    next[1] = Math.max(next[1], to);
  }
}

/** How often what nobody needs is looked for: once so many messages. */
const TRIM_EVERY = 1024;

/** A clock is seldom wrong more often. */
const RANGES_MAX = 16;

const MAGIC = "cc-seen-2";

/** Stands in the file while a server runs: one that finds it there knows that the last was killed. */
const RUNNING: Uint8Array = latin1Bytes("cc-seen-2 running");
const REPLAYS_FILE_MAX_BYTES = 128 * 1024 * 1024;

/**
 * What an earlier server has handled. Where there was none, nothing is shut out; where it was killed, or nothing can be kept,
 * all is that may have been sent before.
 *
 * @param file Null: nothing is kept.
 */
export async function loadReplays(
  parts: ReplaysParts,
  windowMs: number,
  file: string | null,
  files: Files,
): Promise<Replays> {
  const replays = new Replays(parts, windowMs);
  if (file === null) {
    replays.shutOutPast();
    return replays;
  }
  let known = false;
  try {
    known = replays.load(await files.read(file, REPLAYS_FILE_MAX_BYTES));
  } catch (error) {
    known = codeOf(error) === "ENOENT";
  }
  // What cannot be written here cannot be written at the end either.
  await files.replace(file, RUNNING, { mode: 0o600 }).catch(() => known = false);
  if (!known) replays.shutOutPast();
  return replays;
}

/** Keeps it for the next server. @throws {CCError} With the system's code. */
export async function saveReplays(replays: Replays, file: string, files: Files): Promise<void> {
  await files.replace(file, replays.save(), { mode: 0o600 });
}
