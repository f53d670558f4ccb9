/**
 * One link that speaks ZMTP: handshake, then messages both ways. ROUTER and DEALER each make their own kind of it.
 *
 * ```
 *              READY came        pause, resume
 *   handshake ────────────▶ ready ◀──────────▶ paused
 *       │                   ▲   │                │
 *       ▼ another has it    │   ▼                ▼     finish             the peer's FIN
 *    waiting ───────────────┘   held, as it stops ──────────────▶ finishing ──────────▶ closed
 *                admit
 *
 *   from everywhere: a protocol error, the link's end, close ──────────────────────▶ closed
 * ```
 *
 * While paused, what the link still brings waits in `unread`. While held, as the socket stops, nothing more is read, and
 * what has come is taken. When the peer has ended while it was paused, what had come is still taken, unless the socket has
 * stopped receiving. While finishing, nothing is sent any more, but all that
 * comes is taken: what a peer had sent before it saw our FIN is not lost.
 */
import type { Cancel } from "../contracts/environment.ts";
import type { Batch, Link, LinkEvents } from "../contracts/links.ts";
import { errorStack, errorText } from "../errors.ts";
import {
  ANNOUNCED_MAX_BYTES,
  COMMAND_MAX_BYTES,
  HANDSHAKE_MAX_MS,
  IDENTITY_MAX_BYTES,
  MESSAGE_BOUND_MAX_BYTES,
  MESSAGE_MAX_FRAMES,
  METADATA_MAX_BYTES,
} from "../limits.ts";
import type { Arena } from "../memory/arena.ts";
import { POOL } from "../memory/pool.ts";
import { printable } from "../text.ts";
import { Decoder, type DecoderLimits, type DecoderOwner } from "../zmtp/decoder.ts";
import { ProtocolError } from "../zmtp/frame.ts";
import { From10 } from "../zmtp/frames_1_0.ts";
import {
  commandName,
  encodeError,
  encodePong,
  encodeReady,
  errorReason,
  Handshake,
  type PeerProperties,
  pingTtlMs,
} from "../zmtp/handshake.ts";
import type { SocketContext } from "./context.ts";
import { describeMessage } from "./describe.ts";
import { Link10 } from "./link_1_0.ts";
import type { DropCounter } from "./drops.ts";
import { BORROW_MIN_BYTES, type Egress } from "./egress.ts";
import type { MessageSink, SocketOptions, Source } from "./types.ts";
import { type Promising, TimeToLive } from "./time_to_live.ts";
import { Unread } from "./unread.ts";

/** One that is told why it is not taken has so long to read it. */
const REFUSED_MAX_MS = 1000;
/** A ROUTER sends READY so long after connecting at the latest. */
const READY_LATEST_MS = 50;

/** From here on bytes that are not in the arena are brought there. */
const SCRATCH_MIN_BYTES = 1024;
/** So much at a time: it is still in the cache when it is worked on, and little is lost when somebody pauses us. */
const SCRATCH_BYTES = 128 * 1024;

/**
 * A chunk of messages that are looked at one by one is taken for so long at a time: a little longer than the drivers let one
 * take once they know what its messages cost, as to stop and go on costs a tenth of a flood.
 */
const TAKE_MAX_MS = 5;

const NO_IDENTITY = new Uint8Array(0);
const NOTHING: Cancel = () => {};

export abstract class Connection implements LinkEvents, DecoderOwner, Source, Promising {
  /** Until the handshake is done, nobody sends here. */
  identityFrame: Uint8Array = NO_IDENTITY;
  readonly link: Link;
  readonly egress: Egress;
  protected readonly context: SocketContext;
  readonly #sink: MessageSink;
  readonly #own: "DEALER" | "ROUTER";
  readonly #messageMaxBytes: number;
  #handshake: Handshake | null = null;
  /** Of a peer of ZMTP 1.0. */
  #from10: From10 | null = null;
  #link10: Link10 | null = null;
  /** May it send commands? Not below 3.0. */
  #commands = true;
  #decoder: Decoder<Source & DecoderOwner> | null = null;
  #ready = false;
  #closed = false;
  #pauses = 0;
  /** Reads that brought something. */
  #chunks = 0;
  #pongs = 0;
  /** Of its PINGs; null: none has named one. */
  #timeToLive: TimeToLive | null = null;
  /** Since when the chunk is being taken; Infinity: it has been interrupted. */
  #takenSince = 0;
  /** The handshake is done, but not yet whether it is taken. */
  #waiting = false;
  readonly #unread = new Unread();
  /** Called when the peer has closed its side too; set while finishing. */
  #finished: (() => void) | null = null;
  /** It closed its side behind ours, and no error came. */
  #finishedClean = false;
  /** What to do once all that had come is taken; set when the peer has gone. */
  #drained: (() => void) | null = null;
  #stopped = false;
  /** Nothing more is read from the link; what has come is taken. */
  #held = false;
  #cancelTimer: Cancel = NOTHING;
  #cancelReady: Cancel = NOTHING;
  #readyCommand: Uint8Array | null;
  /** READY is sent as soon as the peer's greeting has come. */
  #readyDue: boolean;

  constructor(
    context: SocketContext,
    link: Link,
    egress: Egress,
    sink: MessageSink,
    own: "DEALER" | "ROUTER",
    identity: Uint8Array,
    { messageMaxBytes, minVersion = "1.0" }: Pick<SocketOptions, "messageMaxBytes" | "minVersion">,
  ) {
    this.context = context;
    this.link = link;
    this.egress = egress;
    this.#sink = sink;
    this.#own = own;
    this.#messageMaxBytes = messageMaxBytes;
    this.#cancelTimer = context.clock.after(HANDSHAKE_MAX_MS, () => {
      this.fail(new ProtocolError("bad-handshake", `no handshake within ${HANDSHAKE_MAX_MS / 1000} s`));
    });
    egress.attach(link);
    this.#handshake = new Handshake({
      own,
      identity,
      minVersion,
      metadataMaxBytes: METADATA_MAX_BYTES,
      identityMaxBytes: IDENTITY_MAX_BYTES,
      send: (bytes) => egress.control(bytes),
    });
    this.#readyCommand = encodeReady(own, identity);
    // A ROUTER lets the peer speak first: a socket that does not fit would close at our READY without showing its own,
    // and nobody would learn why. One that waits for ours gets it a little later.
    this.#readyDue = own === "DEALER";
    if (!this.#readyDue) {
      this.#cancelReady = context.clock.after(READY_LATEST_MS, () => this.#sendReady());
    }
  }

  /** Nothing is kept of timers that are over: there may be thousands of links. */
  #cancelTimers(): void {
    this.#cancelTimer();
    this.#cancelReady();
    this.#cancelTimer = this.#cancelReady = NOTHING;
  }

  get name(): string {
    return this.link.remote;
  }

  get batch(): Batch {
    return this.context.flusher;
  }

  /** Is the handshake done and the link there? */
  get ready(): boolean {
    return this.#ready && !this.#closed;
  }

  /** Bytes that its end would give back: of a message that has not come whole, of what waits to be taken, and to be sent. */
  get heldBytes(): number {
    return (this.#decoder?.pooled ?? 0) + this.#unread.bytes + this.egress.heldBytes +
      (this.#link10?.heldBytes ?? 0);
  }

  /** Is it in the middle of a message, and not held back by us? */
  get expectsMore(): boolean {
    return this.#pauses === 0 && !this.#held && !this.#stopped && this.#inMessage;
  }

  get #inMessage(): boolean {
    return this.#decoder?.idle === false || this.#from10?.idle === false;
  }

  /** Reads so far that brought something: whoever sends lives. */
  get chunks(): number {
    return this.#chunks;
  }

  /** How often it has answered a PING. */
  protected get pongs(): number {
    return this.#pongs;
  }

  /** Does somebody hold it back? */
  get paused(): boolean {
    return this.#pauses > 0;
  }

  /** Is the connection over? */
  get over(): boolean {
    return this.#closed;
  }

  /**
   * The peer is known; returns the frame to put in front of its messages, or null: it waits for {@link admit} or
   * {@link refuse}. May throw {@link ProtocolError}.
   */
  protected abstract handshaken(peer: PeerProperties): Uint8Array | null;
  /** Where messages are counted that came and were not taken. */
  protected abstract readonly drops: DropCounter;
  /** The connection is over; called once, unless by {@link close}. */
  protected abstract disconnected(why: string, error: Error | undefined): void;

  data(chunk: Uint8Array, start: number, end: number): void {
    this.#chunks++;
    if (this.#from10 === null) this.#give(chunk, start, end);
    else this.#translate(this.#from10, chunk, start, end, (buf, at, to) => this.#give(buf, at, to));
    const error = this.#from10?.error;
    if (error) this.#breakOff(error);
  }

  #give(chunk: Uint8Array, start: number, end: number): void {
    if (!this.#unread.empty) {
      this.#unread.add(chunk, start, end);
      return;
    }
    const at = this.#take(chunk, start, end);
    if (at < end && !this.#closed) this.#unread.add(chunk, at, end);
  }

  /** Gives `taken` what bytes of ZMTP 1.0 are in frames of 3.x, borrowed until it returns. */
  #translate(
    from10: From10,
    chunk: Uint8Array,
    start: number,
    end: number,
    taken: (buf: Uint8Array, start: number, end: number) => void,
  ): void {
    const block = POOL.take(from10.room(end - start));
    try {
      taken(block.buf, block.start, from10.push(chunk, start, end, block.buf, block.start));
    } finally {
      block.release();
    }
  }

  /** What came in front of an error is taken, as with frames that are not translated. */
  #breakOff(error: ProtocolError): void {
    if (this.#closed) return;
    this.link.pause();
    this.#drain(() => this.fail(error));
  }

  /** Returns how far the chunk was taken: to its end, unless someone pauses us or the connection is over. */
  #take(chunk: Uint8Array, start: number, end: number): number {
    if (this.#waiting) return start;
    let at = end;
    this.#takenSince = this.context.clock.now();
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
  }

  #endChunk(): void {
    try {
      if (this.#ready) this.#sink.chunkEnd();
    } finally {
      this.context.flusher.endChunk();
    }
  }

  readTarget(minBytes: number): Uint8Array | null {
    return this.#decoder === null || this.#from10 !== null ? null : this.#decoder.readTarget(minBytes);
  }

  commitRead(bytes: number): void {
    if (this.#closed) return;
    this.#chunks++;
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
    if (this.#link10 === null || this.#link10.written()) this.egress.written();
  }

  ended(): void {
    // An upstream that has ended reads no more; a client may have asked, and wait for answers.
    if (this.#own === "DEALER") this.egress.shut();
    this.#drain(() => {
      // What the system has taken of ours still goes out: a link that is broken off would forget it.
      this.link.end();
      this.#endedByPeer();
    });
  }

  #endedByPeer(): void {
    const cut = this.#handshake !== null
      ? " before the handshake was done"
      : this.#inMessage
      ? " in the middle of a message"
      : "";
    this.#end(`closed by the peer${cut}`);
  }

  closed(error?: Error): void {
    // What is still taken may be answered: that must not count as written.
    this.egress.shut();
    this.#drain(() => {
      if (error) this.#end(error.message, error);
      else this.#endedByPeer();
    });
  }

  command(buf: Uint8Array, start: number, end: number): void {
    const name = commandName(buf, start, end);
    if (!this.#commands) {
      throw new ProtocolError("bad-command", `${name} from a peer of ZMTP 2.0, which has no commands`);
    }
    if (name === "PING") {
      this.egress.control(encodePong(buf, start, end));
      const ttlMs = pingTtlMs(buf, start, end);
      if (ttlMs > 0) this.#timeToLive ??= new TimeToLive(this.context.clock, this);
      this.#timeToLive?.pinged(ttlMs);
    } else if (name === "ERROR") {
      throw new ProtocolError("peer-error", `peer says: ${printable(errorReason(buf, start, end))}`);
    } else if (name === "PONG") {
      this.#pongs++;
    } else if (name === "READY") {
      throw new ProtocolError("bad-command", "a second READY");
    }
    // Other commands belong to other sockets and later versions.
  }

  get heldBack(): boolean {
    return this.#pauses > 0 || this.#held;
  }

  silent(ms: number): void {
    this.#end(`it was silent for ${ms / 1000} s, the time to live of its PING`);
  }

  oversized(buf: Uint8Array, start: number, end: number, bytes: number): void {
    this.drops.add("oversized", this.name, 1, () => describeMessage(buf, start, end, bytes));
  }

  /** What takes long goes on in the next turn: thousands of small messages, each looked at, hold others up. */
  look(): void {
    const { clock, slices } = this.context;
    if (clock.now() - this.#takenSince < TAKE_MAX_MS) return;
    this.#takenSince = Infinity;
    if (this.#drained !== null) {
      this.#decoder!.pause();
      slices.add(() => this.#drainOn());
    } else {
      this.pause();
      slices.add(() => this.#goOn());
    }
  }

  /** At once, unlike {@link resume}: what it takes counts for its turn. */
  #goOn(): void {
    if (--this.#pauses === 0) this.#resume();
  }

  pause(): void {
    if (this.#pauses++ > 0 || this.#closed || this.#drained !== null || this.#stopped) return;
    this.#decoder?.pause();
    this.link.pause();
  }

  resume(): void {
    // Not at once: whoever resumes us is in the middle of a flush.
    if (--this.#pauses === 0 && !this.#closed) this.context.clock.soon(() => this.#resume());
  }

  #resume(): void {
    if (this.#closed || this.#pauses > 0 || this.#stopped || this.#drained !== null) return;
    this.#decoder?.resume();
    this.#workUnread();
    if (this.#pauses > 0 || this.#held || this.#closed) return;
    this.#timeToLive?.resumed();
    this.link.resume();
  }

  /** Nothing more is read until {@link finish}; what has come is still taken. */
  hold(): void {
    this.#held = true;
    this.link.pause();
  }

  /** Has all that came been taken? */
  get idle(): boolean {
    return this.#unread.empty;
  }

  /** Was FIN sent, so that nothing else can be? */
  get finishing(): boolean {
    return this.#finished !== null;
  }

  /** Was FIN sent, and did the peer's come behind it? By then it has read all. */
  get finishedClean(): boolean {
    return this.#finishedClean;
  }

  /** Nothing is taken from it any more, not even what had come before: that is counted. */
  stopReceiving(): void {
    if (this.#closed || this.#stopped) return;
    this.#stopped = true;
    this.#decoder?.pause();
    this.link.pause();
    this.#discardUnread();
  }

  /** The peer has gone, perhaps while we were paused: what had come from it is still taken, then it is over. */
  #drain(drained: () => void): void {
    if (this.#closed) return;
    const before = this.#drained;
    this.#drained = drained;
    if (before === null) this.#drainOn();
  }

  #drainOn(): void {
    if (this.#closed) return;
    if (!this.#unread.empty && !this.#stopped && !this.#waiting) {
      this.#decoder?.resume();
      this.#workUnread();
      // The next turn goes on with the rest.
      if (this.#closed || !this.#unread.empty) return;
    }
    this.#drained!();
  }

  #workUnread(): void {
    if (this.#unread.empty) return;
    this.#unread.work((chunk, start, end) => this.#take(chunk, start, end), () => this.#closed);
  }

  /** Sends FIN and takes what still comes, until the peer closes its side; behind {@link stopReceiving} it is only counted. */
  finish(done: () => void): void {
    if (this.#closed) return done();
    const began = this.#finished !== null;
    this.#finished = done;
    if (!began) this.egress.end();
    this.#held = false;
    if (this.#stopped) {
      this.#decoder?.divert(this.#counting);
      this.#decoder?.resume();
    }
    if (this.#stopped || this.#pauses === 0) this.link.resume();
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
    this.#timeToLive?.close();
    this.#cancelTimers();
    this.#discardUnread();
    this.#decoder?.pause();
    this.#decoder?.clear();
    this.link.destroy();
    this.#link10?.release();
    this.#finished?.();
  }

  /** The same, but what the system has taken to send, it sends, then FIN; {@link close} may reset the link. */
  abandon(): void {
    if (this.#closed) return;
    this.link.end();
    this.close();
  }

  /** What waits is only counted. A message that has not come whole stays begun: what still comes goes on with it. */
  #discardUnread(): void {
    const decoder = this.#decoder;
    if (decoder === null) {
      this.drops.add("unread", this.name, this.#unread.discard());
      return;
    }
    if (this.#unread.empty) return;
    decoder.divert(this.#counting);
    decoder.resume();
    this.#unread.work((chunk, start, end) => {
      try {
        return decoder.push(chunk, start, end);
      } catch {
        return end; // the stream cannot go on, and the connection is about to end
      }
    }, () => true);
    decoder.pause();
  }

  /** A sink that counts. */
  get #counting(): { message(): void } {
    return { message: () => this.drops.add("unread", this.name) };
  }

  #continueHandshake(handshake: Handshake, chunk: Uint8Array, start: number, end: number): number {
    const done = handshake.push(chunk, start, end);
    if (this.#readyDue && handshake.greeted) this.#sendReady();
    if (!done) return end;
    this.#handshake = null;
    this.#cancelTimers();
    const peer = handshake.peer!;
    if (peer.version < "3") this.#speakOld(peer.version);
    const { rest } = handshake;
    const identityFrame = this.handshaken(peer);
    if (identityFrame === null) {
      this.#waiting = true;
      this.pause();
    } else {
      this.#begin(identityFrame);
    }
    // What came behind the handshake lies at the end of this chunk.
    if (this.#from10 === null) return this.#goBehind(chunk, end - rest.length, end);
    this.#translate(this.#from10, rest, 0, rest.length, (buf, at, to) => {
      const taken = this.#goBehind(buf, at, to);
      if (taken < to && !this.#closed) this.#unread.add(buf, taken, to);
    });
    return end;
  }

  #goBehind(chunk: Uint8Array, at: number, end: number): number {
    return this.#waiting ? at : this.#push(this.#decoder!, chunk, at, end);
  }

  /** From now on a peer below 3.0 is spoken to as it understands. */
  #speakOld(version: string): void {
    this.#readyCommand = null;
    this.#commands = false;
    if (version !== "1.0") return;
    this.#from10 = new From10(this.context.copy);
    this.#link10 = new Link10(this.link, this.context.copy);
    this.egress.attach(this.link, this.#link10);
  }

  /** One that waited is taken. */
  admit(identityFrame: Uint8Array): void {
    if (this.#closed) return;
    this.#waiting = false;
    this.#begin(identityFrame);
    this.resume();
  }

  /** The connection of one that waited ends; `tells` it why, which it may take for final. */
  refuse(reason: string, tells: boolean): void {
    const { egress } = this;
    const end = () => {
      this.link.end();
      this.fail(new ProtocolError("identity-in-use", reason));
    };
    this.#cancelTimer = this.context.clock.after(REFUSED_MAX_MS, end);
    if (tells && this.#commands) egress.control(encodeError(reason));
    egress.onempty = end;
    egress.flush();
  }

  #begin(identityFrame: Uint8Array): void {
    this.identityFrame = identityFrame;
    this.#sendReady();
    const decoder = new Decoder<Source & DecoderOwner>(
      this,
      this.#sink,
      decoderLimits(this.#messageMaxBytes),
      identityFrame,
    );
    this.#decoder = decoder;
    if (this.#pauses > 0) decoder.pause();
    this.#ready = true;
    this.egress.open();
  }

  #sendReady(): void {
    this.#readyDue = true;
    if (this.#handshake?.greeted === false || this.#readyCommand === null || this.#closed) return;
    this.egress.control(this.#readyCommand);
    this.#readyCommand = null;
  }

  #push(decoder: Decoder<Source & DecoderOwner>, chunk: Uint8Array, start: number, end: number): number {
    const { arena, vectors } = this.context;
    // Large ones may be written from where they lie.
    const borrows = vectors !== null && decoder.lastBytes >= BORROW_MIN_BYTES;
    return arena !== null && chunk !== arena.buf && end - start >= SCRATCH_MIN_BYTES && !borrows
      ? this.#pushByScratch(decoder, arena, chunk, start, end)
      : decoder.push(chunk, start, end);
  }

  /** By way of the arena, where runs of messages are taken at once. */
  #pushByScratch(
    decoder: Decoder<Source & DecoderOwner>,
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
    this.#finishedClean = this.finishing && error === undefined;
    this.close();
    if (!this.finishing) this.disconnected(why, error);
  }
}

let limits: DecoderLimits | null = null;

/** One object for all links with the same bound. */
function decoderLimits(messageMaxBytes: number): DecoderLimits {
  if (limits?.messageMaxBytes === messageMaxBytes) return limits;
  return limits = {
    messageMaxBytes,
    skipMaxBytes: MESSAGE_BOUND_MAX_BYTES,
    messageMaxFrames: MESSAGE_MAX_FRAMES,
    commandMaxBytes: COMMAND_MAX_BYTES,
    announcedMaxBytes: ANNOUNCED_MAX_BYTES,
  };
}
