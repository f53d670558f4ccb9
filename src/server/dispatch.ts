/**
 * Gives each message to the handlers its type is routed to. The hottest code of the server: on the way of a message
 * that is only forwarded, nothing is allocated, decoded or looked up by string.
 *
 * The type is compared as bytes with that of the last message, which mostly is the same; else it is looked up in a table
 * of the types seen lately:
 *
 * ```
 *   slot = RelayTable.slotOf(type bytes) ──▶ entry { bytes, delivery, group, counters }   other bytes there: replaced
 * ```
 */
import type { Clock } from "../contracts/environment.ts";
import { PUBLISH_MAX_DEPTH, TYPE_MAX_BYTES } from "../limits.ts";
import type { OpenedParts } from "../contracts/seal.ts";
import type { Logger } from "../log.ts";
import type { Block } from "../memory/block.ts";
import { CCMessage, inside } from "../message/message.ts";
import { PARTS_MAX, PARTS_MIN } from "../message/parts.ts";
import { isType } from "../message/type.ts";
import { type Group, Groups, type RunQueue } from "../relay/group.ts";
import { forwardRun } from "../relay/run.ts";
import { RelayTable, SLOTS } from "../relay/table.ts";
import type { MessageSink, Source } from "../socket/types.ts";
import { hostOf, latin1, printableBytes, utf8 } from "../text.ts";
import { bodyStart, copyOf, frameEnd, MORE } from "../zmtp/frame.ts";
import type { Result, Statistics, TypeCounters } from "./counts.ts";
import type { Deliverer } from "./deliver.ts";
import { isPromise } from "./guard.ts";
import type { Host } from "./host.ts";
import { type Delivery, deliveryOf } from "./plans.ts";
import type { Post } from "./post.ts";
import { RunTally } from "./run_tally.ts";
import { resultOf, type Verdict } from "./verdict.ts";

/** What is remembered of a message type. */
interface TypeEntry {
  readonly type: string;
  readonly bytes: Uint8Array;
  readonly delivery: Delivery;
  /** For a type that is only forwarded, to queues that take runs, or only dropped; else null. */
  readonly group: Group | null;
  readonly counters: TypeCounters | null;
}

/** What a dispatcher is made of. */
export interface DispatcherParts {
  /** Which handlers a type reaches. */
  readonly resolve: (type: string) => readonly Host[];
  readonly statistics: Statistics;
  readonly deliverer: Deliverer;
  readonly post: Post;
  readonly clock: Clock;
  readonly log: Logger;
}

export class Dispatcher implements MessageSink {
  /** For runs of messages that are only forwarded; null where there is none. Set before the first message. */
  table: RelayTable | null = null;
  readonly #parts: DispatcherParts;
  readonly #statistics: Statistics;
  readonly #deliverer: Deliverer;
  readonly #post: Post;
  readonly #log: Logger;
  readonly #slots: (TypeEntry | null)[] = new Array(SLOTS).fill(null);
  readonly #groups = new Groups();
  readonly #tally: RunTally;
  #entry: TypeEntry | null = null;
  /** Of the last message: those that follow are often alike. */
  #lastBytes = 0;
  /** Plans have changed while a message was being taken. */
  #stale = false;
  #publishing = 0;

  constructor(parts: DispatcherParts) {
    this.#parts = parts;
    this.#statistics = parts.statistics;
    this.#deliverer = parts.deliverer;
    this.#post = parts.post;
    this.#log = parts.log;
    this.#tally = new RunTally(parts.statistics, parts.clock);
  }

  message(
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    framesAfterDelimiter: number,
    block: Block | null,
  ): void {
    if (delimiter < 0 || framesAfterDelimiter < PARTS_MIN || framesAfterDelimiter > PARTS_MAX) {
      this.#notOurs(source, end - start, delimiter, framesAfterDelimiter);
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
        this.#badType(source, end - start, buf, at, size);
        return;
      }
      this.#entry = entry;
    }
    const bytes = end - start;
    this.#lastBytes = bytes;
    const { forwards, steps, result } = entry.delivery;
    for (let i = 0; i < forwards.length; i++) {
      const to = forwards[i];
      if (to.send(source.identityFrame, buf, start, end, block) !== "queued") to.pause(source);
    }
    this.#tally.begin();
    if (steps.length === 0) this.#tally.add(result, bytes);
    else this.#handle(entry, source, buf, start, end, delimiter, block);
  }

  /** Forwards or drops what follows at once, as long as it belongs to the group of the last message. */
  run(source: Source, buf: Uint8Array, at: number, end: number): number {
    const { table } = this;
    const entry = this.#entry;
    if (table === null || entry === null || entry.group === null) return at;
    this.#tally.begin();
    return forwardRun(table, entry.group, source.identityFrame, buf, at, end, this.#lastBytes);
  }

  chunkEnd(): void {
    this.#endRun();
    if (this.#stale) this.invalidate();
  }

  /** Forgets which handlers a type reaches, and their plans; in the middle of a chunk, at its end. */
  invalidate(): void {
    // Whoever asks may be a handler, in the middle of a message.
    this.#stale = this.#entry !== null && this.#tally.began;
    if (this.#stale) return;
    this.#entry = null;
    this.#slots.fill(null);
    this.#groups.clear();
    this.table?.clear();
  }

  /**
   * Gives a message of ours to the routes; settles when its handlers are done, or there is room for another.
   *
   * @param bytes Of its frames, without a route.
   * @param plain The same, open.
   */
  publish(type: string, bytes: Uint8Array, plain: () => OpenedParts): Verdict | Promise<Verdict> {
    const counters = this.#statistics.type(type);
    const count = (result: Result) => this.#statistics.add(result, 1, bytes.length, 0, counters);
    if (this.#publishing >= PUBLISH_MAX_DEPTH) {
      const text =
        `dropping "${type}", which a handler has published: ${PUBLISH_MAX_DEPTH} messages have each caused ` +
        "the next. A loop?";
      this.#log.warnRarely("publish", `loop ${type}`, text);
      count("dropped");
      return "retry";
    }
    const found = utf8(type);
    const entry = this.#find(found, 0, found.length)!;
    const message = new CCMessage(this.#post, type, NO_IDENTITY, bytes, 0, bytes.length, 0, null);
    inside.enter(message);
    this.#publishing++;
    let verdict: Verdict | Promise<Verdict>;
    try {
      this.#warn(entry, 1);
      // Its bytes are nobody else's.
      inside.keep(message);
      verdict = this.#deliverer.deliver(message, entry.delivery, "this server", plain);
    } finally {
      this.#publishing--;
    }
    const done = (settled: Verdict) => {
      inside.leave(message);
      count(resultFor(message, entry.delivery, settled));
      return settled;
    };
    return isPromise(verdict) ? verdict.then(done) : done(verdict);
  }

  /** A message that handlers handle, besides being forwarded. */
  #handle(
    entry: TypeEntry,
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    block: Block | null,
  ): void {
    const { type, delivery, counters } = entry;
    const bytes = end - start;
    const message = new CCMessage(this.#post, type, source.identityFrame, buf, start, end, delimiter, block);
    const verdict = this.#deliverer.handle(message, delivery.steps, source, source.name);
    if (isPromise(verdict)) {
      this.#tally.addLater(bytes);
      verdict.then((settled) => {
        this.#statistics.add(resultFor(message, delivery, settled), 1, bytes, 0, counters);
      });
    } else {
      this.#tally.add(resultFor(message, delivery, verdict), bytes);
    }
  }

  #endRun(): void {
    const entry = this.#entry;
    const { table } = this;
    const tally = this.#tally;
    if (entry === null || !tally.began) return;
    const share = tally.end(entry.counters, table === null ? 0 : relayed(table));
    const { messages, bytes } = tally;
    if (messages > 0) this.#count(entry, messages, bytes);
    if (table !== null && table.touched > 0) this.#collect(table, share);
    tally.clear();
  }

  /** Adds what the relay has counted. */
  #collect(table: RelayTable, share: number): void {
    for (let i = table.touched - 1; i >= 0; i--) {
      const slot = table.slot(i);
      const entry = this.#slots[slot]!;
      const count = table.count(slot);
      const bytes = table.bytes(slot);
      this.#statistics.add(entry.delivery.result, count, bytes, share * count, entry.counters);
      this.#count(entry, count, bytes);
    }
    table.collected();
  }

  /** What plans count, and what they warn about. */
  #count(entry: TypeEntry, messages: number, bytes: number): void {
    const { counts, sizes, warnings, result } = entry.delivery;
    for (let i = 0; i < counts.length; i++) counts[i].add(messages);
    for (let i = 0; i < sizes.length; i++) sizes[i].add(bytes);
    if (result === "dropped" || warnings.length > 0) this.#warn(entry, messages);
  }

  #warn({ type, delivery }: TypeEntry, messages: number): void {
    const { warnings, result } = delivery;
    if (result === "dropped") {
      this.#log.warnRarely("route", `no route ${type}`, `dropping msg, no route: ${type}`, messages);
    }
    for (let i = 0; i < warnings.length; i++) {
      const { host, why } = warnings[i];
      host.log.warnRarely("plan", why, why, messages);
    }
  }

  #notOurs(source: Source, bytes: number, delimiter: number, framesAfterDelimiter: number): void {
    const why = delimiter < 0 ? "it has no delimiter" : `${framesAfterDelimiter} frames follow its delimiter`;
    this.#invalid(source, bytes, why);
  }

  #badType(source: Source, bytes: number, buf: Uint8Array, at: number, size: number): void {
    this.#invalid(source, bytes, `"${printableBytes(buf.subarray(at, at + size))}" is not a message type`);
  }

  #invalid(source: Source, bytes: number, why: string): void {
    this.#statistics.add("invalid", 1, bytes, 0, null);
    this.#log.warnRarely("invalid", hostOf(source.name), `not a CC message from ${source.name}: ${why}`);
  }

  #find(buf: Uint8Array, at: number, size: number): TypeEntry | null {
    if (size === 0 || size > TYPE_MAX_BYTES) return null;
    const slot = RelayTable.slotOf(buf, at, size);
    const known = this.#slots[slot];
    if (known !== null && same(known.bytes, buf, at, size)) return known;
    const type = latin1(buf, at, at + size);
    if (!isType(type)) return null;
    const delivery = deliveryOf(type, this.#parts.resolve(type));
    const entry = {
      type,
      bytes: copyOf(buf, at, at + size),
      delivery,
      group: this.#groupOf(delivery),
      counters: this.#statistics.type(type),
    };
    // What the relay has counted for the type that was there belongs to that.
    this.#endRun();
    this.#slots[slot] = entry;
    this.table?.set(slot, entry.bytes, entry.group?.number ?? 0);
    return entry;
  }

  /** The group of a type; null when something, or the lack of it, keeps its messages from being relayed. */
  #groupOf({ forwards, steps, result }: Delivery): Group | null {
    if (steps.length > 0 || result === "crashed") return null;
    const queues: RunQueue[] = [];
    for (const { runs } of forwards) {
      if (runs === null) return null;
      queues.push(runs);
    }
    return this.#groups.to(queues);
  }
}

const NO_IDENTITY = new Uint8Array(0);

/**
 * How the statistics count a message that handlers have handled. One that an upstream got is counted there when it is lost, also
 * when its handler ended while it still waited for room; and once.
 */
function resultFor(message: CCMessage, { forwards, steps, result }: Delivery, verdict: Verdict): Result {
  if (result === "crashed") return "crashed";
  const alone = forwards.length + steps.length === 1;
  return verdict === "retry" && alone && inside.given(message) ? "ok" : resultOf(verdict);
}

/** Messages that the relay took and that are not yet in the statistics. */
function relayed(table: RelayTable): number {
  let sum = 0;
  for (let i = table.touched - 1; i >= 0; i--) sum += table.count(table.slot(i));
  return sum;
}

function same(bytes: Uint8Array, buf: Uint8Array, at: number, size: number): boolean {
  if (bytes.length !== size) return false;
  for (let i = 0; i < size; i++) if (bytes[i] !== buf[at + i]) return false;
  return true;
}
