/** Gives messages to the handlers that handle them, one after the other, and says what became of each. */
import type { Clock } from "../contracts/environment.ts";
import type { OpenedParts, Seal } from "../contracts/seal.ts";
import { errorStack } from "../errors.ts";
import {
  OPENING_ALL_MAX,
  OPENING_ALL_MAX_BYTES,
  OPENING_CROWD_MAX,
  OPENING_CROWD_MAX_BYTES,
  OPENING_MAX,
  OPENING_MAX_BYTES,
} from "../limits.ts";
import type { Logger } from "../log.ts";
import { MessageError } from "../message/errors.ts";
import { type CCMessage, inside } from "../message/message.ts";
import type { Source } from "../socket/types.ts";
import { hostOf } from "../text.ts";
import { Complaints } from "./complaints.ts";
import type { Statistics } from "./counts.ts";
import { isPromise } from "./guard.ts";
import {
  type Body,
  DuplicateError,
  GivenUpError,
  openedBody,
  openMessage,
  PendingCopyError,
  unsealedBody,
} from "./opener.ts";
import type { Delivery, Step } from "./plans.ts";
import { sendFrom, sendOn } from "./post.ts";
import { type Verdict, worse } from "./verdict.ts";

/** Messages of one source that are being opened. Who pauses it holds back those that are open, and the source. */
class Line implements Source {
  /** Settles when the last of them has been given to its handlers. */
  last: Promise<void> = Promise.resolve();
  count = 0;
  bytes = 0;
  /** Are there so many that the source is paused? */
  full = false;
  readonly #source: Source;
  #pauses = 0;
  #resumed: () => void = () => {};

  constructor(source: Source) {
    this.#source = source;
  }

  get identityFrame(): Uint8Array {
    return this.#source.identityFrame;
  }

  get name(): string {
    return this.#source.name;
  }

  get paused(): boolean {
    return this.#pauses > 0;
  }

  pause(): void {
    this.#pauses++;
    this.#source.pause();
  }

  resume(): void {
    this.#source.resume();
    if (--this.#pauses === 0) this.#resumed();
  }

  /** Settles when nobody pauses it any more; for the first in line. */
  async room(): Promise<void> {
    while (this.paused) await new Promise<void>((resolve) => this.#resumed = resolve);
  }
}

export class Deliverer {
  readonly #seal: Seal;
  readonly #statistics: Statistics;
  readonly #complaints: Complaints;
  readonly #lines = new Map<Source, Line>();
  /** Messages of all lines, and their bytes. */
  #lined = 0;
  #linedBytes = 0;
  #opening = 0;
  /** Of those that are not open yet, what gives each up. */
  readonly #unopened = new Set<() => void>();
  readonly #log: Logger;

  constructor(seal: Seal, statistics: Statistics, log: Logger, clock: Clock) {
    this.#complaints = new Complaints(clock);
    this.#seal = seal;
    this.#statistics = statistics;
    this.#log = log;
  }

  /**
   * Gives a message that is not on the forwarding path to all: upstreams first, then handlers. Settles when they are done,
   * or there is room for another.
   *
   * @param from Who gives it, for people.
   * @param plain Opens it, instead of the seal: it was made here.
   */
  deliver(
    message: CCMessage,
    delivery: Delivery,
    from: string,
    plain: (() => OpenedParts) | null = null,
  ): Verdict | Promise<Verdict> {
    const { forwards, steps, counts, sizes, result } = delivery;
    const { size } = message;
    for (const counter of counts) counter.add();
    for (const counter of sizes) counter.add(size);
    let verdict: Verdict = result === "dropped" ? "retry" : result;
    if (result === "ok" && forwards.length + steps.length === 0) verdict = "dropped";
    const waits: Promise<Verdict>[] = [];
    for (const dealer of forwards) {
      const sent = sendOn(dealer, message);
      if (isPromise(sent)) waits.push(sent);
      else verdict = worse(verdict, sent);
    }
    const handled = steps.length === 0 ? "ok" : this.handle(message, steps, null, from, plain);
    if (isPromise(handled)) waits.push(handled);
    else verdict = worse(verdict, handled);
    return waits.length === 0 ? verdict : Promise.all(waits).then((all) => all.reduce(worse, verdict));
  }

  /**
   * Opens a message, as far as a step asks for it, and gives it to each.
   *
   * @param source Is paused while a handler has too many under way; null: who gives it waits.
   * @param plain Opens it, instead of the seal.
   */
  handle(
    message: CCMessage,
    steps: readonly Step[],
    source: Source | null,
    from: string,
    plain: (() => OpenedParts) | null = null,
  ): Verdict | Promise<Verdict> {
    inside.enter(message);
    if (steps.length > 1) inside.share(message);
    const first = inside.begin(message);
    const verdict = this.#open(message, steps, source, from, plain);
    return isPromise(verdict)
      ? verdict.then((settled) => handled(message, first, settled))
      : handled(message, first, verdict);
  }

  /** Counts a refused message, and tells who asked; false: that has been done. */
  refuse(message: CCMessage, error: MessageError): boolean {
    if (!inside.refuse(message)) return false;
    this.#statistics.refuse(error.code);
    this.#complaints.tell(message, error);
    return true;
  }

  #open(
    message: CCMessage,
    steps: readonly Step[],
    source: Source | null,
    from: string,
    plain: (() => OpenedParts) | null,
  ): Verdict | Promise<Verdict> {
    let body: Body | null = null;
    const waits = this.#waits(source);
    // What is read later must lie in memory that stays.
    if (waits) inside.keep(message);
    try {
      if (steps.some(isSealed)) {
        const shared = steps.length > 1;
        const opened = plain === null
          ? openMessage(message, this.#seal, shared, steps.some(isRead))
          : openedBody(message, plain(), shared);
        if (isPromise(opened)) return this.#openLater(opened, message, steps, source, from);
        body = opened;
      }
    } catch (error) {
      if (waits) return this.#openLater(Promise.reject(error), message, steps, source, from);
      return this.#notOpened(message, error, steps, source, from);
    }
    if (waits) {
      return this.#openLater(body === null ? null : Promise.resolve(body), message, steps, source, from);
    }
    return this.#handleAll(message, body, steps, source, from);
  }

  /** Messages of one source are opened side by side, so many at most, and handled in their order. */
  async #openLater(
    opened: Promise<Body> | null,
    message: CCMessage,
    steps: readonly Step[],
    source: Source | null,
    from: string,
  ): Promise<Verdict> {
    const bytes = message.size;
    this.#opening++;
    const line = source === null ? null : this.#enter(source, bytes);
    const turn = line?.last;
    let next = () => {};
    if (line !== null) line.last = new Promise<void>((resolve) => next = resolve);
    let handle: () => Verdict | Promise<Verdict>;
    try {
      const body = opened === null ? null : await this.#unlessGivenUp(opened);
      handle = () => this.#handleAll(message, body, steps, line, from);
    } catch (error) {
      handle = () => this.#notOpened(message, error, steps, line, from);
    }
    await turn;
    if (line?.paused) await line.room();
    try {
      return handle();
    } finally {
      this.#opening--;
      // Who goes on at once comes behind it.
      if (line !== null) this.#leave(source!, line, bytes);
      next();
    }
  }

  #unlessGivenUp(opened: Promise<Body>): Promise<Body> {
    return new Promise((resolve, reject) => {
      const giveUp = () => reject(new GivenUpError());
      this.#unopened.add(giveUp);
      opened.then((body) => {
        this.#unopened.delete(giveUp);
        resolve(body);
      }, (error) => {
        this.#unopened.delete(giveUp);
        reject(error);
      });
    });
  }

  /** No message is waited for any more that is not open yet. @returns Was there one? They are counted behind what runs now. */
  giveUp(): boolean {
    const unopened = [...this.#unopened];
    this.#unopened.clear();
    for (const giveUp of unopened) giveUp();
    return unopened.length > 0;
  }

  /** Is no message being opened? */
  get idle(): boolean {
    return this.#opening === 0;
  }

  /** Are messages of this source being opened? Those behind them wait. */
  #waits(source: Source | null): boolean {
    return source !== null && this.#lines.has(source);
  }

  #enter(source: Source, bytes: number): Line {
    let line = this.#lines.get(source);
    if (line === undefined) this.#lines.set(source, line = new Line(source));
    line.count++;
    line.bytes += bytes;
    this.#lined++;
    this.#linedBytes += bytes;
    if (!line.full && this.#holds(line, 1)) {
      line.full = true;
      source.pause();
    }
    return line;
  }

  /** Does a line have this part of what it may have, or more? */
  #holds({ count, bytes }: Line, part: number): boolean {
    const crowded = this.#lined >= OPENING_ALL_MAX || this.#linedBytes >= OPENING_ALL_MAX_BYTES;
    return count >= part * (crowded ? OPENING_CROWD_MAX : OPENING_MAX) ||
      bytes >= part * (crowded ? OPENING_CROWD_MAX_BYTES : OPENING_MAX_BYTES);
  }

  #leave(source: Source, line: Line, bytes: number): void {
    line.bytes -= bytes;
    this.#lined--;
    this.#linedBytes -= bytes;
    if (--line.count === 0) this.#lines.delete(source);
    if (!line.full || line.count > 0 && this.#holds(line, 0.5)) return;
    line.full = false;
    source.resume();
  }

  #handleAll(
    message: CCMessage,
    body: Body | null,
    steps: readonly Step[],
    source: Source | null,
    from: string,
  ): Verdict | Promise<Verdict> {
    let verdict: Verdict = "ok";
    let waits: Promise<Verdict>[] | null = null;
    for (const step of steps) {
      const found = this.#handleOne(message, body, step, source, from);
      if (isPromise(found)) (waits ??= []).push(found);
      else verdict = worse(verdict, found);
    }
    return waits === null ? verdict : Promise.all(waits).then((all) => all.reduce(worse, verdict));
  }

  #handleOne(
    message: CCMessage,
    body: Body | null,
    { host, reader, verified }: Step,
    source: Source | null,
    from: string,
  ): Verdict | Promise<Verdict> {
    if (verified !== null) return sendFrom(verified, message, source);
    let value: unknown;
    try {
      value = reader?.read(reader.unsealed ? unsealedBody(message, true) : body!);
    } catch (error) {
      return error instanceof MessageError
        ? this.#refused(message, error, from)
        : host.failedOn(message, message.type, error);
    }
    return host.handle(message, value, source);
  }

  /** Only those get it that want it as it came. */
  #notOpened(
    message: CCMessage,
    error: unknown,
    steps: readonly Step[],
    source: Source | null,
    from: string,
  ): Verdict | Promise<Verdict> {
    if (error instanceof PendingCopyError) return this.#copied(message, error, steps, source, from);
    const verifies = steps.some(({ verified }) => verified !== null);
    const verdict = this.#whyNotOpened(message, verifies ? notVerified(error) : error, from);
    const copy = error instanceof DuplicateError;
    const others = steps.filter((step) => !isSealed(step) || copy && step.verified !== null);
    if (others.length === 0) return verdict;
    const handled = this.#handleAll(message, null, others, source, from);
    return isPromise(handled) ? handled.then((found) => worse(verdict, found)) : worse(verdict, handled);
  }

  /** Waits for what becomes of the message that it is a copy of; what comes behind it does not wait with it. */
  #copied(
    message: CCMessage,
    { over }: PendingCopyError,
    steps: readonly Step[],
    source: Source | null,
    from: string,
  ): Verdict | Promise<Verdict> {
    // Whoever sent it may send it again.
    const sealed: Verdict | Promise<Verdict> = over === null
      ? "retry"
      : over.then(() => this.#open(message, steps.filter(isSealed), null, from, null));
    const others = steps.filter((step) => !isSealed(step));
    if (others.length === 0) return sealed;
    return Promise.all([sealed, this.#handleAll(message, null, others, source, from)]).then(([a, b]) =>
      worse(a, b)
    );
  }

  #whyNotOpened(message: CCMessage, error: unknown, from: string): Verdict {
    if (error instanceof DuplicateError) return "duplicate";
    if (error instanceof MessageError) return this.#refused(message, error, from);
    if (error instanceof GivenUpError) {
      this.#log.warnRarely("open", "given up", `stopped before it had opened a message "${message.type}"`);
      return "retry";
    }
    this.#log.warnRarely(
      "open",
      `failed ${message.type}`,
      `opening "${message.type}" failed: ${errorStack(error)}`,
    );
    return "crashed";
  }

  #refused(message: CCMessage, error: MessageError, from: string): Verdict {
    if (!this.refuse(message, error)) return "refused";
    this.#log.warnRarely(
      "open",
      `${error.code} ${hostOf(from)}`,
      `refusing "${message.type}" from ${from}: ${error.message} (${error.code})`,
    );
    return "refused";
  }
}

/** Does it want the message opened by the seal? */
function isSealed(step: Step): boolean {
  return step.verified !== null || isRead(step);
}

/** Does it handle what the seal has opened? */
function isRead({ reader }: Step): boolean {
  return reader !== null && !reader.unsealed;
}

/** What nobody here has the key of cannot be verified. */
function notVerified(error: unknown): unknown {
  if (!(error instanceof MessageError && error.code === "encrypted")) return error;
  return new MessageError("cannot-verify", "it is encrypted, and is to be verified: that needs cms-decrypt");
}

/** All are done with it. @param first They got it first, not from a handler that passes it on and is under way. */
function handled(message: CCMessage, first: boolean, verdict: Verdict): Verdict {
  if (first) inside.settle(message, verdict === "ok" || verdict === "dropped");
  inside.leave(message);
  return verdict;
}
