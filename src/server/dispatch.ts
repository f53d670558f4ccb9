/**
 * Gives each message to the handlers its type is routed to. The hottest code of the server: on the way of a message
 * that is only forwarded, nothing is allocated, decoded or looked up by string.
 *
 * The type is compared as bytes with that of the last message, which mostly is the same; else it is looked up in a table
 * of the types seen lately:
 *
 * ```
 *   slot = Relay.slotOf(type bytes) ──▶ entry { bytes, handlers, counters }   other bytes there: made anew, replaced
 * ```
 */
import { TYPE_MAX_BYTES } from "../limits.ts";
import type { Handler } from "../handler.ts";
import { type Logger, printableBytes } from "../log.ts";
import { CCMessage } from "../message/message.ts";
import { isType } from "../message/type.ts";
import type { DealerSocket, MessageSink, RunQueue, Source } from "../socket/types.ts";
import { Relay, SLOTS } from "../zmtp/relay.ts";
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
  /** For a type whose handlers all forward to queues that take runs; else null. */
  readonly way: Way | null;
  readonly counters: TypeCounters | null;
}

/** The upstreams that a type is forwarded to. Types of one way go together in a run. */
interface Way {
  /** Its number in the relay's table. */
  readonly kind: number;
  readonly queues: readonly RunQueue[];
}

/**
 * From messages of this size on, a run for one upstream is written from where it lies. Below, and for several that can
 * share a copy, copying costs less than a list of so many pieces.
 */
const LIST_MIN_BYTES = 1024;

/** Frames of a CC message from its type on, at most: type, body, signature, blob. */
const TAIL_MAX = 4;

export class Dispatcher implements MessageSink {
  /** For runs of messages that are only forwarded; null where there is none. Set before the first message. */
  relay: Relay | null = null;
  readonly #resolve: (type: string) => readonly NamedHandler[];
  readonly #statistics: Statistics;
  readonly #now: () => number;
  readonly #log: Logger;
  readonly #slots: (TypeEntry | null)[] = new Array(SLOTS).fill(null);
  readonly #ways: Way[] = [];
  readonly #view = new CCMessage();
  #entry: TypeEntry | null = null;
  /** The run of equal types under way. */
  #count = 0;
  #bytes = 0;
  /** Of the last message: those that follow are often alike. */
  #lastBytes = 0;
  #crashed = 0;
  #crashedBytes = 0;
  /** When the messages that are not yet added to the statistics began to come; -1: there are none. */
  #since = -1;

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
    if (this.#since < 0) this.#since = this.#now();
    this.#lastBytes = end - start;
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

  /** Forwards what follows at once, as long as it goes the way of the last message. */
  run(source: Source, buf: Uint8Array, at: number, end: number): number {
    const relay = this.relay;
    const entry = this.#entry;
    if (relay === null || entry === null || entry.way === null || buf !== relay.buf) return at;
    const { kind, queues } = entry.way;
    const first = queues[0];
    if (relay.lists && queues.length === 1 && this.#lastBytes >= LIST_MIN_BYTES && first.writesNow) {
      return this.#listRun(relay, source.prefix, at, end, kind, first);
    }
    let room = first.runRoom();
    for (let i = 1; i < queues.length; i++) room = Math.min(room, queues[i].runLimit());
    const block = first.runBlock;
    if (room <= 0 || block === null || block.buf !== buf) return at;
    if (this.#since < 0) this.#since = this.#now();
    const to = first.runAt;
    const { prefix } = source;
    const next = relay.run(prefix, at, end, to, to + room, kind);
    const { taken } = relay;
    if (taken === 0) return at;
    const bytes = next - at + taken * prefix.length;
    first.ran(taken, bytes);
    for (let i = 1; i < queues.length; i++) {
      queues[i].ranAs(block, to, taken, bytes);
    }
    return next;
  }

  /** The same without a copy: the run is written from where it lies. Its prefixes are not counted, they are a few bytes each. */
  #listRun(
    relay: Relay,
    prefix: Uint8Array,
    at: number,
    end: number,
    kind: number,
    queue: RunQueue,
  ): number {
    if (this.#since < 0) this.#since = this.#now();
    const next = relay.list(prefix, at, Math.min(end, at + queue.runLimit()), kind);
    const { taken } = relay;
    if (taken > 0) queue.ranListed(prefix, taken, next - at + taken * prefix.length);
    return next;
  }

  chunkEnd(): void {
    this.#endRun();
  }

  /** Forgets which handlers a type reaches: routes have changed. Not while a message is being taken. */
  forget(): void {
    this.#endRun();
    this.#entry = null;
    this.#slots.fill(null);
    this.#ways.length = 0;
    this.relay?.clear();
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
    if (entry === null || this.#since < 0) return;
    const seconds = (this.#now() - this.#since) / 1000;
    this.#since = -1;
    const relayed = this.#relayed();
    const share = seconds / (this.#count + relayed);
    if (relayed > 0) this.#collect(share);
    const good = this.#count - this.#crashed;
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

  /** Messages that the relay took and that are not yet in the statistics. */
  #relayed(): number {
    const relay = this.relay;
    let sum = 0;
    if (relay !== null) { for (let i = relay.touched - 1; i >= 0; i--) sum += relay.count(relay.slot(i)); }
    return sum;
  }

  #collect(share: number): void {
    const relay = this.relay!;
    for (let i = relay.touched - 1; i >= 0; i--) {
      const slot = relay.slot(i);
      const count = relay.count(slot);
      this.#statistics.add("ok", count, relay.bytes(slot), share * count, this.#slots[slot]!.counters);
    }
    relay.collected();
  }

  #invalid(source: Source, bytes: number, why: string): void {
    this.#statistics.add("invalid", 1, bytes, 0, null);
    this.#log.limited("invalid", source.name, `not a CC message from ${source.name}: ${why}`);
  }

  #find(buf: Uint8Array, at: number, size: number): TypeEntry | null {
    if (size === 0 || size > TYPE_MAX_BYTES) return null;
    const slot = Relay.slotOf(buf, at, size);
    const known = this.#slots[slot];
    if (known !== null && same(known.bytes, buf, at, size)) return known;
    let type = "";
    for (let i = at; i < at + size; i++) type += String.fromCharCode(buf[i]);
    if (!isType(type)) return null;
    const handlers = this.#resolve(type);
    const forwards = handlers.map(({ handler }) => handler.forwardsTo ?? null);
    const entry = {
      type,
      bytes: copyOf(buf, at, at + size),
      handlers,
      forwards,
      way: this.#way(forwards),
      counters: this.#statistics.type(type),
    };
    this.#slots[slot] = entry;
    this.relay?.set(slot, entry.bytes, entry.way?.kind ?? 0);
    return entry;
  }

  /** The way to these sockets; null when one of them, or the lack of them, keeps messages from being relayed. */
  #way(forwards: readonly (DealerSocket | null)[]): Way | null {
    const queues: RunQueue[] = [];
    for (const to of forwards) {
      if (to === null || to.runs === null || queues.includes(to.runs)) return null;
      queues.push(to.runs);
    }
    if (queues.length === 0) return null;
    const known = this.#ways.find((way) =>
      way.queues.length === queues.length && way.queues.every((queue, i) => queue === queues[i])
    );
    if (known !== undefined) return known;
    const way = { kind: this.#ways.length + 1, queues };
    this.#ways.push(way);
    return way;
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
