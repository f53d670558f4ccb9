/**
 * What a ZeroMQ socket is to the rest of the program. Two engines implement it: ours ({@link ./router.ts},
 * {@link ./dealer.ts}), and libzmq by way of the npm package `zeromq` ({@link ./libzmq.ts}).
 *
 * A message is the bytes of its frames, headers included: `buf[start, end)`.
 */
import type { Block } from "../memory/block.ts";
import type { RunQueue } from "../relay/group.ts";
import type { MinVersion } from "../zmtp/handshake.ts";
import type { Takeover } from "./claims.ts";

/** Where a message came from. */
export interface Source {
  /** The frame that a ROUTER puts in front of this peer's messages: its identity, header included. */
  readonly identityFrame: Uint8Array;
  /** For people and logs. */
  readonly name: string;
  /** Nothing more is read from it until {@link resume}; counted, so that several may pause it. */
  pause(): void;
  /** Reading goes on, when all who paused it have said so. */
  resume(): void;
}

/** Takes the messages of a socket. */
export interface MessageSink {
  /**
   * One message: `buf[start, end)`, borrowed until this returns.
   *
   * @param source The peer it came from; for a ROUTER its identity frame belongs in front of the message.
   * @param delimiter Where the first empty frame's header stands; -1 where there is none.
   * @param framesAfterDelimiter How many there are.
   * @param block The block that this message alone lies in, the source's identity frame right in front of `start`: who
   *   retains it needs no copy. Null where the bytes are borrowed.
   */
  message(
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    framesAfterDelimiter: number,
    block: Block | null,
  ): void;
  /**
   * Messages follow in the chunk, right behind the one just taken: a sink that does with many what it did with that one
   * takes them at once.
   *
   * @returns Where the first message stands that it did not take; `at` when none.
   */
  run?(source: Source, buf: Uint8Array, at: number, end: number): number;
  /** The chunk that held the last messages is done. */
  chunkEnd(): void;
}

/** Why a socket dropped a message. */
export type DropReason =
  /** A client's queue is full: it does not read. */
  | "client-full"
  /** No peer has the identity in front of the message; it has gone, most likely. */
  | "no-such-peer"
  /** The message has no route to send it along. */
  | "no-route"
  /** The upstream is not there and its queue is full. */
  | "upstream-down"
  /** The upstream is there, but so much waits for it that nothing more is taken. */
  | "upstream-full"
  /** With its client's identity in front, a message would be larger than a message may be. */
  | "too-large"
  /** A peer sent a message that is larger than a message may be. */
  | "oversized"
  /** It would have more frames: it has been through too many servers. */
  | "too-many-frames"
  /** Again and again the upstream's link broke while this message was written. */
  | "breaks-link"
  /** What had come from a peer, but was not looked at when its connection was closed. */
  | "unread"
  /** What waited when a client left. */
  | "client-gone"
  /** What was being written when a link broke, where the runtime cannot tell how far it came. */
  | "link-lost"
  /** It was for a client that had been told that the server ends. */
  | "stopping"
  /** What still waited when linger ran out. */
  | "linger";

/** Messages dropped by a socket since it was made. */
export interface Drops {
  /** All of them. */
  readonly total: number;
  /** By the reason. */
  readonly byReason: ReadonlyMap<DropReason, number>;
  /** By the peer they were for: an endpoint or an identity. The latest thousand peers. */
  readonly byPeer: ReadonlyMap<string, ReadonlyMap<DropReason, number>>;
}

/** A ROUTER: many peers, each known by its identity. */
export interface RouterSocket {
  /**
   * Listens on an endpoint; returns it with the port the system chose.
   *
   * @throws An error with a sentence for the operator and the system's `code`.
   */
  bind(endpoint: string): Promise<string>;
  /**
   * Sends a message whose first frame is the identity of the peer it goes to.
   *
   * @returns False when it was dropped; it is counted then.
   */
  send(buf: Uint8Array, start: number, end: number, block: Block | null): boolean;
  /** No more clients, and nothing more is read from those that are there until {@link drain}; what has come is taken. */
  stopListening(): void;
  /** Has all been taken that came? */
  readonly idle: boolean;
  /**
   * Sends each client what is queued for it, then FIN, and takes what it had sent before it closes its side too, for at
   * most `ms`; nothing is taken after that.
   */
  drain(ms: number): Promise<void>;
  /** Waits up to `lingerMs` for what is queued, then ends everything. */
  close(lingerMs: number): Promise<void>;
  /** Peers whose handshake is done. */
  readonly peers: number;
  readonly drops: Drops;
  /** Is no client accepted for now, as no descriptor is free? */
  readonly rests: boolean;
  /** As many as there may be; null: the engine sets no bound. */
  readonly peersMax: number | null;
  /** Clients that were closed for a reason of ours. */
  readonly closed: ReadonlyMap<ClosedReason, number>;
}

/**
 * What became of a message that was given to a DEALER: it is queued; it is queued, and its source should be paused, as
 * there is no room for another; or it was dropped, and counted.
 */
export type SendResult = "queued" | "full" | "dropped";

/** A DEALER that is connected to one endpoint. */
export interface DealerSocket {
  /**
   * Sends `identityFrame`, then the message. Bytes of the chunk that is being taken in, and an identity frame in front of
   * them, must stay as they are until it has been: they may be written from where they lie.
   *
   * @param block See {@link MessageSink.message}.
   */
  send(
    identityFrame: Uint8Array,
    buf: Uint8Array,
    start: number,
    end: number,
    block: Block | null,
  ): SendResult;
  /** Pauses the source until the queue has drained or the upstream is down. */
  pause(source: Source): void;
  /** The queue that takes runs of messages; null where the engine has none. */
  readonly runs: RunQueue | null;
  /** Takes other options and keeps the link: what is of the link itself is the next one's. */
  reconfigure(options: DealerOptions): void;
  /** Waits up to `lingerMs` for what is queued, then ends the connection. What comes meanwhile is taken. */
  close(lingerMs: number): Promise<void>;
  /** Is the peer there, its handshake done? */
  readonly up: boolean;
  /** Messages that wait. */
  readonly queued: number;
  /**
   * Messages that were written to a link that broke before the peer's system had acknowledged them, by an estimate: some of
   * them may have arrived. They are not sent again.
   */
  readonly unconfirmed: number;
  readonly drops: Drops;
}

/** What a DEALER tells besides messages. */
export interface DealerEvents {
  /** The handshake is done. */
  up?(): void;
  /** The link is gone; why. */
  down?(reason: string): void;
  /** There is no link, and another try follows; why. */
  failed?(reason: string): void;
}

/** Options of both sockets. */
export interface SocketOptions {
  /** High water mark: messages that may wait for one peer. */
  hwm: number;
  /** Kernel buffer; 0: the system's size. */
  receiveBufferBytes: number;
  /** Kernel buffer; 0: the system's size. */
  sendBufferBytes: number;
  /** Probes of idle connections; null: none. */
  keepAlive: { idleSeconds: number; intervalSeconds: number; count: number } | null;
  /** Bytes of one message, all frames with their headers. */
  messageMaxBytes: number;
  /** Peers of earlier versions of ZMTP are refused; missing: 1.0. */
  minVersion?: MinVersion;
}

/** Why a ROUTER closed a client that had broken no rule of ZMTP. */
export type ClosedReason =
  /** As many as may be were there already. */
  | "max-clients"
  /** No descriptor was left. */
  | "descriptors"
  /** All clients together held too much, and it most of it. */
  | "memory-budget"
  /** It had begun a message, and then sent nothing for too long. */
  | "message-timeout"
  /** Its queue was full, and it took nothing for too long. */
  | "stalled";

/** Options of a ROUTER. */
export interface RouterOptions extends SocketOptions {
  /** Clients at one time; those that come past it are closed at once. */
  maxClients: number;
  /** A client that has begun a message and sends nothing for so long is closed. */
  messageTimeoutMs: number;
  /** Bytes of unfinished messages and large ones that wait, all together; past it the client that holds most is closed. */
  memoryBudgetBytes: number;
  /** Who has an identity that two peers claim. */
  identityTakeover: Takeover;
}

/** Options of a DEALER. */
export interface DealerOptions extends SocketOptions {
  /** Sent to the peer; empty lets the peer choose one. */
  identity?: Uint8Array;
  /** An upstream that takes nothing for so long counts as down. */
  stallMs?: number;
  /** The longest wait before it is connected anew; missing: 10 s. */
  reconnectMaxMs?: number;
  /** For so long from the start on nobody is told that it is not there yet. */
  awaitedMs?: number;
}

/** An engine: makes sockets. */
export interface Engine {
  readonly name: "native" | "libzmq";
  /** One line for people: which implementation, which version. */
  readonly description: string;
  router(options: RouterOptions, sink: MessageSink): RouterSocket;
  dealer(endpoint: string, options: DealerOptions, sink: MessageSink, events?: DealerEvents): DealerSocket;
}
