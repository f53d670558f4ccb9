/**
 * One link that speaks ZMTP: handshake, then messages both ways. ROUTER and DEALER each make their own kind of it.
 *
 * ```
 *   handshake ──────────▶ ready ◀──────────▶ paused          finishing ──────────▶ closed
 *             READY came        pause, resume         finish            the peer's FIN
 *       │                     │                │                               ▲
 *       └─────────────────────┴────────────────┴───────────────────────────────┘
 *         a protocol error, the link's end, close
 * ```
 *
 * While paused, what the link still brings waits in `unread`. A peer that ends its side while paused is `draining`: what had
 * come is still taken, unless the socket has stopped receiving.
 */
import type { Link, LinkEvents } from "../contracts/links.ts";
import { errorStack, errorText } from "../errors.ts";
import {
  ANNOUNCED_MAX_BYTES,
  COMMAND_MAX_BYTES,
  HANDSHAKE_MAX_MS,
  IDENTITY_MAX_BYTES,
  MESSAGE_MAX_FRAMES,
  METADATA_MAX_BYTES,
} from "../limits.ts";
import type { Arena } from "../memory/arena.ts";
import { printable } from "../text.ts";
import { type CommandSink, Decoder } from "../zmtp/decoder.ts";
import { ProtocolError } from "../zmtp/frame.ts";
import {
  commandName,
  encodePong,
  encodeReady,
  errorReason,
  GREETING,
  Handshake,
  type PeerProperties,
} from "../zmtp/handshake.ts";
import type { SocketContext } from "./context.ts";
import { BORROW_MIN_BYTES, type Egress } from "./egress.ts";
import type { MessageSink, Source } from "./types.ts";
import { Unread } from "./unread.ts";

/** A ROUTER sends READY so long after connecting at the latest. */
const READY_LATEST_MS = 50;

/** From here on bytes that are not in the arena are brought there. */
const SCRATCH_MIN_BYTES = 1024;
/** So much at a time: it is still in the cache when it is worked on, and little is lost when somebody pauses us. */
const SCRATCH_BYTES = 128 * 1024;

const NO_IDENTITY = new Uint8Array(0);

export abstract class Connection implements LinkEvents, CommandSink, Source {
  /** Until the handshake is done, nobody sends here. */
  identityFrame: Uint8Array = NO_IDENTITY;
  readonly link: Link;
  readonly egress: Egress;
  protected readonly context: SocketContext;
  readonly #sink: MessageSink;
  readonly #messageMaxBytes: number;
  #handshake: Handshake | null;
  #decoder: Decoder<Source & CommandSink> | null = null;
  #ready = false;
  #closed = false;
  #pauses = 0;
  readonly #unread = new Unread();
  /** Called when the peer has closed its side too; set while finishing. */
  #finished: (() => void) | null = null;
  #draining = false;
  #stopped = false;
  #cancelTimer: () => void;
  #cancelReady: () => void = () => {};
  #readyCommand: Uint8Array | null;

  constructor(
    context: SocketContext,
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
    return this.#ready && !this.#closed;
  }

  /** Is the connection over? */
  get over(): boolean {
    return this.#closed;
  }

  /** The peer is known; returns the frame to put in front of its messages. May throw {@link ProtocolError}. */
  protected abstract handshaken(peer: PeerProperties): Uint8Array;
  /** So many messages came and were not looked at. */
  protected abstract discarded(messages: number): void;
  /** The connection is over; called once, unless by {@link close}. */
  protected abstract disconnected(why: string, error: Error | undefined): void;

  data(chunk: Uint8Array, start: number, end: number): void {
    if (this.#finished !== null) return;
    if (!this.#unread.empty) {
      this.#unread.add(chunk, start, end);
      return;
    }
    const at = this.#take(chunk, start, end);
    if (at < end && !this.#closed) this.#unread.add(chunk, at, end);
  }

  /** Returns how far the chunk was taken: to its end, unless someone pauses us or the connection is over. */
  readonly #take = (chunk: Uint8Array, start: number, end: number): number => {
    let at = end;
    this.context.flusher.beginChunk(chunk, start, end);
    try {
      at = this.#handshake !== null
        ? this.#continueHandshake(this.#handshake, chunk, start, end)
        : this.#push(this.#decoder!, chunk, start, end);
    } catch (error) {
      this.fail(error);
    } finally {
      this.#endChunk();
    }
    return at;
  };

  #endChunk(): void {
    try {
      if (this.#ready) this.#sink.chunkEnd();
    } finally {
      this.context.flusher.endChunk();
    }
  }

  readTarget(minBytes: number): Uint8Array | null {
    return this.#decoder === null || this.#finished !== null ? null : this.#decoder.readTarget(minBytes);
  }

  commitRead(bytes: number): void {
    if (this.#finished !== null || this.#closed) return;
    this.context.flusher.beginChunk();
    try {
      this.#decoder!.commitRead(bytes);
    } catch (error) {
      this.fail(error);
    } finally {
      this.#endChunk();
    }
  }

  written(): void {
    this.egress.written();
  }

  ended(): void {
    this.#drainUnread();
    const cut = this.#handshake !== null
      ? " before the handshake was done"
      : this.#decoder?.idle === false
      ? " in the middle of a message"
      : "";
    this.#end(`closed by the peer${cut}`);
  }

  closed(error?: Error): void {
    // What is still taken may be answered: that must not count as written.
    this.egress.shut();
    this.#drainUnread();
    if (error) this.#end(error.message, error);
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

  pause(): void {
    if (this.#pauses++ > 0 || this.#closed || this.#draining) return;
    this.#decoder?.pause();
    this.link.pause();
  }

  resume(): void {
    // Not at once: whoever resumes us is in the middle of a flush.
    if (--this.#pauses === 0 && !this.#closed) this.context.clock.soon(this.#resume);
  }

  readonly #resume = (): void => {
    if (this.#closed || this.#pauses > 0) return;
    this.#decoder?.resume();
    this.#workUnread();
    if (this.#pauses === 0 && !this.#closed) this.link.resume();
  };

  /** Nothing is taken from it any more, not even what had come before. */
  stopReceiving(): void {
    this.#stopped = true;
    this.pause();
  }

  /** The peer has gone while we were paused: what had come from it is still taken. */
  #drainUnread(): void {
    if (this.#unread.empty || this.#closed || this.#stopped || this.#finished !== null) return;
    this.#draining = true;
    this.#decoder?.resume();
    this.#workUnread();
  }

  #workUnread(): void {
    this.#unread.work(this.#take, this.#isClosed);
  }

  readonly #isClosed = (): boolean => this.#closed;

  /** Sends FIN and throws away what still comes, until the peer closes its side. */
  finish(done: () => void): void {
    if (this.#closed) return done();
    this.#finished = done;
    this.#discardUnread();
    this.#decoder?.clear();
    this.link.end();
    this.link.resume();
  }

  /** Ends the connection because of what the peer sent, or an error of our own. */
  fail(error: unknown): void {
    if (this.#closed) return;
    if (error instanceof ProtocolError) {
      this.#end(`${error.message} (${error.code})`, error);
    } else {
      this.context.log.error(
        "connection",
        `closing ${this.name} after an internal error: ${errorStack(error)}`,
      );
      this.#end(`internal error: ${errorText(error)}`, error as Error);
    }
  }

  /** Ends the connection without a word to its owner. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancelTimer();
    this.#cancelReady();
    this.#discardUnread();
    this.#decoder?.pause();
    this.#decoder?.clear();
    this.link.destroy();
  }

  #discardUnread(): void {
    const messages = this.#unread.discard();
    if (messages > 0) this.discarded(messages);
  }

  #continueHandshake(handshake: Handshake, chunk: Uint8Array, start: number, end: number): number {
    if (!handshake.push(chunk, start, end)) return end;
    this.#handshake = null;
    this.#cancelTimer();
    this.identityFrame = this.handshaken(handshake.peer!);
    this.#cancelReady();
    this.#sendReady();
    this.#decoder = new Decoder<Source & CommandSink>(this, this.#sink, {
      messageMaxBytes: this.#messageMaxBytes,
      messageMaxFrames: MESSAGE_MAX_FRAMES,
      commandMaxBytes: COMMAND_MAX_BYTES,
      announcedMaxBytes: ANNOUNCED_MAX_BYTES,
    }, this.identityFrame);
    if (this.#pauses > 0) this.#decoder.pause();
    this.#ready = true;
    this.egress.open();
    // What came behind the handshake lies at the end of this chunk.
    return this.#push(this.#decoder, chunk, end - handshake.rest.length, end);
  }

  #sendReady(): void {
    if (this.#readyCommand !== null && !this.#closed) this.egress.control(this.#readyCommand);
    this.#readyCommand = null;
  }

  #push(decoder: Decoder<Source & CommandSink>, chunk: Uint8Array, start: number, end: number): number {
    const { arena, vectors } = this.context;
    // Large ones may be written from where they lie.
    const borrows = vectors !== null && decoder.lastBytes >= BORROW_MIN_BYTES;
    return arena !== null && chunk !== arena.buf && end - start >= SCRATCH_MIN_BYTES && !borrows
      ? this.#pushByScratch(decoder, arena, chunk, start, end)
      : decoder.push(chunk, start, end);
  }

  /** By way of the arena, where runs of messages are taken at once. */
  #pushByScratch(
    decoder: Decoder<Source & CommandSink>,
    arena: Arena,
    chunk: Uint8Array,
    at: number,
    end: number,
  ): number {
    const { scratch } = arena;
    if (scratch === null) return decoder.push(chunk, at, end);
    arena.scratch = null;
    try {
      while (at < end) {
        const size = Math.min(SCRATCH_BYTES, end - at);
        this.context.copy(chunk, at, at + size, scratch.buf, scratch.start);
        const taken = decoder.push(scratch.buf, scratch.start, scratch.start + size) - scratch.start;
        at += taken;
        if (taken < size) break;
      }
    } finally {
      arena.scratch = scratch;
    }
    return at;
  }

  #end(why: string, error?: Error): void {
    if (this.#closed) return;
    this.close();
    if (this.#finished !== null) this.#finished();
    else this.disconnected(why, error);
  }
}
