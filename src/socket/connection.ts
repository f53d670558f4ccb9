/**
 * One link that speaks ZMTP: handshake, then messages both ways. ROUTER and DEALER each make their own kind of it.
 */
import {
  ANNOUNCED_MAX_BYTES,
  COMMAND_MAX_BYTES,
  HANDSHAKE_MAX_MS,
  IDENTITY_MAX_BYTES,
  MESSAGE_MAX_FRAMES,
  METADATA_MAX_BYTES,
} from "../limits.ts";
import { printable, reason } from "../log.ts";
import type { Arena } from "../runtime/arena.ts";
import type { Link, LinkEvents } from "../runtime/types.ts";
import { type CommandSink, Decoder } from "../zmtp/decoder.ts";
import { countMessages, ProtocolError } from "../zmtp/frame.ts";
import {
  commandName,
  encodePong,
  encodeReady,
  errorReason,
  GREETING,
  Handshake,
  type PeerProperties,
} from "../zmtp/handshake.ts";
import { POOL } from "../zmtp/pool.ts";
import type { Context } from "./context.ts";
import { BORROW_MIN_BYTES, type Egress } from "./egress.ts";
import type { MessageSink, Source } from "./types.ts";

/** A ROUTER sends READY so long after connecting at the latest. */
const READY_LATEST_MS = 50;

/** From here on bytes that are not in the arena are brought there. */
const STAGE_MIN_BYTES = 1024;
/** So much at a time: it is still in the cache when it is worked on, and little is lost when somebody holds us. */
const STAGE_BYTES = 128 * 1024;

const NO_PREFIX = new Uint8Array(0);

export abstract class Connection implements LinkEvents, CommandSink, Source {
  /** Until the handshake is done, nobody sends here. */
  prefix: Uint8Array = NO_PREFIX;
  readonly link: Link;
  readonly egress: Egress;
  protected readonly context: Context;
  readonly #sink: MessageSink;
  readonly #messageMaxBytes: number;
  #handshake: Handshake | null;
  #decoder: Decoder<Source & CommandSink> | null = null;
  #ready = false;
  #gone = false;
  #holds = 0;
  /** What came of a chunk behind the message that made someone hold us. */
  #pending: Uint8Array | null = null;
  #pendingAt = 0;
  #pendingEnd = 0;
  #finished: (() => void) | null = null;
  #leaving = false;
  #cancelTimer: () => void;
  #cancelReady: () => void = () => {};
  #readyCommand: Uint8Array | null;

  constructor(
    context: Context,
    link: Link,
    egress: Egress,
    sink: MessageSink,
    own: "DEALER" | "ROUTER",
    identity: Uint8Array,
    messageMaxBytes: number,
  ) {
    this.context = context;
    this.link = link;
    this.egress = egress;
    this.#sink = sink;
    this.#messageMaxBytes = messageMaxBytes;
    this.#handshake = new Handshake(own, {
      metadataMaxBytes: METADATA_MAX_BYTES,
      identityMaxBytes: IDENTITY_MAX_BYTES,
    });
    this.#cancelTimer = context.clock.after(HANDSHAKE_MAX_MS, () => {
      this.fail(new ProtocolError("bad-handshake", `no handshake within ${HANDSHAKE_MAX_MS / 1000} s`));
    });
    egress.attach(link);
    egress.control(GREETING);
    this.#readyCommand = encodeReady(own, identity);
    // A ROUTER lets the peer speak first: a socket that does not fit would close at our READY without showing its own,
    // and nobody would learn why. One that waits for ours gets it a little later.
    if (own === "DEALER") this.#sendReady();
    else this.#cancelReady = context.clock.after(READY_LATEST_MS, () => this.#sendReady());
  }

  get name(): string {
    return this.link.remote;
  }

  /** Is the handshake done and the link there? */
  get ready(): boolean {
    return this.#ready && !this.#gone;
  }

  get gone(): boolean {
    return this.#gone;
  }

  /** The peer is known; returns the frame to put in front of its messages. May throw {@link ProtocolError}. */
  protected abstract admitted(peer: PeerProperties): Uint8Array;
  /** So many messages came and were not looked at. */
  protected abstract discarded(messages: number): void;
  /** The connection is over; called once, unless by {@link close}. */
  protected abstract lost(why: string, error: Error | undefined): void;

  data(chunk: Uint8Array, start: number, end: number): void {
    if (this.#finished !== null) return;
    if (this.#pending !== null) {
      this.#keepPending(chunk, start, end);
      return;
    }
    const at = this.#take(chunk, start, end);
    if (at < end && !this.#gone) this.#keepPending(chunk, at, end);
  }

  /** Puts bytes behind those that wait already. */
  #keepPending(chunk: Uint8Array, start: number, end: number): void {
    const before = this.#pending;
    const waiting = before === null ? 0 : this.#pendingEnd - this.#pendingAt;
    const pending = POOL.take(waiting + end - start);
    if (before !== null) pending.set(before.subarray(this.#pendingAt, this.#pendingEnd), 0);
    pending.set(chunk.subarray(start, end), waiting);
    this.#dropPending();
    this.#pending = pending;
    this.#pendingAt = 0;
    this.#pendingEnd = waiting + end - start;
  }

  #dropPending(): void {
    if (this.#pending !== null) POOL.release(this.#pending);
    this.#pending = null;
  }

  /** Returns how far the chunk was taken: to its end, unless someone holds us or the connection is over. */
  #take(chunk: Uint8Array, start: number, end: number): number {
    let at = end;
    this.context.enter(chunk, start, end);
    try {
      at = this.#handshake !== null
        ? this.#shake(this.#handshake, chunk, start, end)
        : this.#push(this.#decoder!, chunk, start, end);
    } catch (error) {
      this.fail(error);
    } finally {
      this.#chunkEnd();
    }
    return at;
  }

  #chunkEnd(): void {
    try {
      if (this.#ready) this.#sink.chunkEnd();
    } finally {
      this.context.leave();
    }
  }

  space(minBytes: number): Uint8Array | null {
    return this.#decoder === null || this.#finished !== null ? null : this.#decoder.space(minBytes);
  }

  filled(bytes: number): void {
    if (this.#finished !== null || this.#gone) return;
    this.context.enter();
    try {
      this.#decoder!.filled(bytes);
    } catch (error) {
      this.fail(error);
    } finally {
      this.#chunkEnd();
    }
  }

  written(): void {
    this.egress.written();
  }

  ended(): void {
    this.#takePending();
    const cut = this.#handshake !== null
      ? " before the handshake was done"
      : this.#decoder?.idle === false
      ? " in the middle of a message"
      : "";
    this.#over(`closed by the peer${cut}`);
  }

  closed(error?: Error): void {
    this.#takePending();
    if (error) this.#over(error.message, error);
    else this.ended();
  }

  command(buf: Uint8Array, start: number, end: number): void {
    const name = commandName(buf, start, end);
    if (name === "PING") this.egress.control(encodePong(buf, start, end));
    else if (name === "ERROR") {
      throw new ProtocolError("peer-error", `peer says: ${printable(errorReason(buf, start, end))}`);
    } else if (name === "READY") {
      throw new ProtocolError("bad-command", "a second READY");
    }
    // PONG answers a PING we do not send; other commands belong to other sockets and later versions.
  }

  hold(): void {
    if (this.#holds++ > 0 || this.#gone || this.#leaving) return;
    this.#decoder?.pause();
    this.link.pause();
  }

  release(): void {
    // Not at once: whoever releases is in the middle of a flush.
    if (--this.#holds === 0 && !this.#gone) queueMicrotask(this.#resume);
  }

  readonly #resume = (): void => {
    if (this.#gone || this.#holds > 0) return;
    this.#decoder?.resume();
    this.#workPending();
    if (this.#holds === 0 && !this.#gone) this.link.resume();
  };

  /** The peer has gone while it was held: what had come from it is still taken. */
  #takePending(): void {
    if (this.#pending === null || this.#gone || this.#finished !== null) return;
    this.#leaving = true;
    this.#decoder?.resume();
    this.#workPending();
  }

  #workPending(): void {
    const pending = this.#pending;
    if (pending === null) return;
    this.#pending = null;
    this.#pendingAt = this.#take(pending, this.#pendingAt, this.#pendingEnd);
    if (this.#gone || this.#pendingAt >= this.#pendingEnd) POOL.release(pending);
    else this.#pending = pending;
  }

  /** Sends FIN and throws away what still comes, until the peer closes its side. */
  finish(done: () => void): void {
    if (this.#gone) return done();
    this.#finished = done;
    this.#discardPending();
    this.#decoder?.clear();
    this.link.end();
    this.link.resume();
  }

  /** Ends the connection because of what the peer sent, or an error of our own. */
  fail(error: unknown): void {
    if (this.#gone) return;
    if (error instanceof ProtocolError) {
      this.#over(`${error.message} (${error.code})`, error);
    } else {
      this.context.log.error("connection", `closing ${this.name} after an internal error: ${stack(error)}`);
      this.#over(`internal error: ${reason(error)}`, error as Error);
    }
  }

  /** Ends the connection without a word to its owner. */
  close(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#cancelTimer();
    this.#cancelReady();
    this.#discardPending();
    this.#decoder?.pause();
    this.#decoder?.clear();
    this.link.destroy();
  }

  #discardPending(): void {
    if (this.#pending !== null) {
      this.discarded(countMessages(this.#pending, this.#pendingAt, this.#pendingEnd));
    }
    this.#dropPending();
  }

  #shake(handshake: Handshake, chunk: Uint8Array, start: number, end: number): number {
    if (!handshake.push(chunk, start, end)) return end;
    this.#handshake = null;
    this.#cancelTimer();
    this.prefix = this.admitted(handshake.peer!);
    this.#cancelReady();
    this.#sendReady();
    this.#decoder = new Decoder<Source & CommandSink>(this, this.#sink, {
      messageMaxBytes: this.#messageMaxBytes,
      messageMaxFrames: MESSAGE_MAX_FRAMES,
      commandMaxBytes: COMMAND_MAX_BYTES,
      announcedMaxBytes: ANNOUNCED_MAX_BYTES,
    }, this.prefix);
    if (this.#holds > 0) this.#decoder.pause();
    this.#ready = true;
    this.egress.open();
    // What came behind the handshake lies at the end of this chunk.
    return this.#push(this.#decoder, chunk, end - handshake.rest.length, end);
  }

  #sendReady(): void {
    if (this.#readyCommand !== null && !this.#gone) this.egress.control(this.#readyCommand);
    this.#readyCommand = null;
  }

  #push(decoder: Decoder<Source & CommandSink>, chunk: Uint8Array, start: number, end: number): number {
    const { arena, vectors } = this.context;
    // Large ones may be written from where they lie.
    const borrows = vectors !== null && decoder.lastBytes >= BORROW_MIN_BYTES;
    return arena !== null && chunk !== arena.buf && end - start >= STAGE_MIN_BYTES && !borrows
      ? this.#pushStaged(decoder, arena, chunk, start, end)
      : decoder.push(chunk, start, end);
  }

  /** By way of the arena, where runs of messages are taken at once. */
  #pushStaged(
    decoder: Decoder<Source & CommandSink>,
    arena: Arena,
    chunk: Uint8Array,
    at: number,
    end: number,
  ): number {
    const { stage } = arena;
    if (stage === null) return decoder.push(chunk, at, end);
    arena.stage = null;
    try {
      while (at < end) {
        const size = Math.min(STAGE_BYTES, end - at);
        this.context.copy(chunk, at, at + size, stage.buf, stage.start);
        const taken = decoder.push(stage.buf, stage.start, stage.start + size) - stage.start;
        at += taken;
        if (taken < size) break;
      }
    } finally {
      arena.stage = stage;
    }
    return at;
  }

  #over(why: string, error?: Error): void {
    if (this.#gone) return;
    this.close();
    if (this.#finished !== null) this.#finished();
    else this.lost(why, error);
  }
}

function stack(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}
