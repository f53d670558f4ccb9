/**
 * Gives each message to the handlers its type is routed to. The hottest code of the server: on the way of a message
 * that is only forwarded, nothing is allocated, decoded or looked up by string.
 *
 * The type is compared as bytes with that of the last message, which mostly is the same; else it is looked up in a table
 * of the types seen lately:
 *
 * ```
 *   slot = hash(type bytes) % SLOTS ──▶ entry { bytes, handlers, counters }   other bytes there: made anew, replaced
 * ```
 */
import { TYPE_MAX_BYTES } from "../limits.ts";
import type { Handler } from "../handler.ts";
import { type Logger, printableBytes } from "../log.ts";
import { CCMessage } from "../message/message.ts";
import { isType } from "../message/type.ts";
import type { DealerSocket, MessageSink, Source } from "../socket/types.ts";
import { bodyStart, copyOf, frameEnd, MORE } from "../zmtp/frame.ts";
import type { Statistics, TypeCounters } from "./stats.ts";

/** A handler with the name it has in the config. */
export interface NamedHandler {
  readonly name: string;
  readonly handler: Handler;
}

/** What is remembered of a message type. */
interface TypeEntry {
  readonly type: string;
  readonly bytes: Uint8Array;
  readonly handlers: readonly NamedHandler[];
  /** For each handler: where it forwards everything unchanged, or null. */
  readonly forwards: readonly (DealerSocket | null)[];
  readonly counters: TypeCounters | null;
}

/** A power of two, so that a hash is cut by a mask. */
const SLOTS = 1024;
/** Frames of a CC message from its type on, at most: type, body, signature, blob. */
const TAIL_MAX = 4;

export class Dispatcher implements MessageSink {
  readonly #resolve: (type: string) => readonly NamedHandler[];
  readonly #statistics: Statistics;
  readonly #now: () => number;
  readonly #log: Logger;
  readonly #slots: (TypeEntry | null)[] = new Array(SLOTS).fill(null);
  readonly #view = new CCMessage();
  #entry: TypeEntry | null = null;
  /** The run of equal types under way. */
  #count = 0;
  #bytes = 0;
  #crashed = 0;
  #crashedBytes = 0;
  #since = 0;

  /**
   * @param resolve Which handlers a type reaches.
   * @param now Milliseconds; read once a run.
   */
  constructor(
    resolve: (type: string) => readonly NamedHandler[],
    statistics: Statistics,
    now: () => number,
    log: Logger,
  ) {
    this.#resolve = resolve;
    this.#statistics = statistics;
    this.#now = now;
    this.#log = log;
  }

  message(
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    tail: number,
    owned: boolean,
  ): void {
    if (delimiter < 0 || tail < 2 || tail > TAIL_MAX) {
      this.#invalid(
        source,
        end - start,
        delimiter < 0 ? "it has no delimiter" : `${tail} frames follow its delimiter`,
      );
      return;
    }
    // The delimiter is mostly two bytes, and so is the header of the type behind it.
    let at = delimiter + 2;
    let size = buf[at + 1];
    if (buf[delimiter] === MORE && buf[at] === MORE) {
      at += 2;
    } else {
      const header = frameEnd(buf, delimiter);
      at = bodyStart(buf, header);
      size = frameEnd(buf, header) - at;
    }
    let entry = this.#entry;
    if (entry === null || !same(entry.bytes, buf, at, size)) {
      this.#endRun();
      entry = this.#find(buf, at, size);
      if (entry === null) {
        this.#invalid(
          source,
          end - start,
          `"${printableBytes(buf.subarray(at, at + size))}" is not a message type`,
        );
        return;
      }
      this.#entry = entry;
    }
    if (this.#count === 0) this.#since = this.#now();
    this.#count++;
    this.#bytes += end - start;
    const { handlers } = entry;
    if (handlers.length === 0) {
      this.#log.limited("route", `no route ${entry.type}`, `dropping msg, no route: ${entry.type}`);
      return;
    }
    const { forwards } = entry;
    const view = this.#view;
    let crashed = false;
    for (let i = 0; i < handlers.length; i++) {
      const to = forwards[i];
      if (to !== null) {
        if (!to.send(source.prefix, buf, start, end, owned)) to.hold(source);
        continue;
      }
      // Set anew for each: what one handler does to the view, the next does not see.
      view.set(source, buf, start, end, delimiter, owned, entry.type);
      if (!this.call(handlers[i], view)) crashed = true;
    }
    if (crashed) {
      this.#crashed++;
      this.#crashedBytes += end - start;
    }
  }

  chunkEnd(): void {
    this.#endRun();
  }

  /** Gives a message to one handler, whatever that throws; false when it crashed. */
  call(named: NamedHandler, message: CCMessage): boolean {
    try {
      const result: unknown = named.handler.handle(message);
      if (result !== undefined) this.#watch(named, message.type, result);
      return true;
    } catch (error) {
      this.#log.limited("crashed", `${named.name} ${message.type}`, crash(named, message.type, error));
      return false;
    }
  }

  /** A handler of one's own may be an async function, against the contract: its failure must not end the server. */
  #watch(named: NamedHandler, type: string, result: unknown): void {
    Promise.resolve(result).catch((error) =>
      this.#log.limited("crashed", `${named.name} ${type}`, crash(named, type, error))
    );
  }

  #endRun(): void {
    const entry = this.#entry;
    if (entry === null || this.#count === 0) return;
    const seconds = (this.#now() - this.#since) / 1000;
    const good = this.#count - this.#crashed;
    const share = seconds / this.#count;
    this.#statistics.add(
      entry.handlers.length === 0 ? "dropped" : "ok",
      good,
      this.#bytes - this.#crashedBytes,
      share * good,
      entry.counters,
    );
    this.#statistics.add("crashed", this.#crashed, this.#crashedBytes, share * this.#crashed, entry.counters);
    this.#count =
      this.#bytes =
      this.#crashed =
      this.#crashedBytes =
        0;
  }

  #invalid(source: Source, bytes: number, why: string): void {
    this.#statistics.add("invalid", 1, bytes, 0, null);
    this.#log.limited("invalid", source.name, `not a CC message from ${source.name}: ${why}`);
  }

  #find(buf: Uint8Array, at: number, size: number): TypeEntry | null {
    if (size === 0 || size > TYPE_MAX_BYTES) return null;
    const slot = hash(buf, at, size) & (SLOTS - 1);
    const known = this.#slots[slot];
    if (known !== null && same(known.bytes, buf, at, size)) return known;
    let type = "";
    for (let i = at; i < at + size; i++) type += String.fromCharCode(buf[i]);
    if (!isType(type)) return null;
    const handlers = this.#resolve(type);
    const entry = {
      type,
      bytes: copyOf(buf, at, at + size),
      handlers,
      forwards: handlers.map(({ handler }) => handler.forwardsTo ?? null),
      counters: this.#statistics.type(type),
    };
    this.#slots[slot] = entry;
    return entry;
  }
}

/** What a handler threw, with its stack: it is a bug. */
function crash({ name }: NamedHandler, type: string, error: unknown): string {
  const text = error instanceof Error ? error.stack ?? error.message : String(error);
  return `${name} crashed on a message "${type}": ${text}`;
}

function same(bytes: Uint8Array, buf: Uint8Array, at: number, size: number): boolean {
  if (bytes.length !== size) return false;
  for (let i = 0; i < size; i++) if (bytes[i] !== buf[at + i]) return false;
  return true;
}

/** FNV-1a. */
function hash(buf: Uint8Array, at: number, size: number): number {
  let h = 0x811c9dc5;
  for (let i = at; i < at + size; i++) h = Math.imul(h ^ buf[i], 0x01000193);
  return (h ^ (h >>> 15)) >>> 0;
}
