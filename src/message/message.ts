/**
 * One message that handlers get. The object is made for it and never used for another; what it lies in may be, so every byte
 * it gives away is a copy, or lies in memory that is this message's alone.
 *
 * ```
 *             handle returned, for every handler
 *   borrowed ──────────────────────────────────────▶ over
 *      │ a handler returned a promise                  ▲
 *      ▼                                               │ all promises have settled
 *    kept: bytes copied, or their block retained ──────┘
 * ```
 */
import type { Draft, Message, ReturnPath, Signer } from "../contracts/message.ts";
import type { Claim, OpenedParts } from "../contracts/seal.ts";
import type { Block } from "../memory/block.ts";
import { latin1 } from "../text.ts";
import { bodyStart, copyOf, frameEnd } from "../zmtp/frame.ts";
import { MessageError } from "./errors.ts";
import { MessageParts } from "./parts.ts";
import { isQueryId, Route } from "./route.ts";

/** What a message needs of its server. */
export interface MessageHome {
  /** Seals a draft and sends it along a way; what cannot be sent is dropped and counted. */
  reply(to: ReturnPath, draft: Draft): void;
}

/** Takes a message's bytes: `identityFrame`, then `buf[start, end)`. */
type BytesTaker<T> = (
  identityFrame: Uint8Array,
  buf: Uint8Array,
  start: number,
  end: number,
  block: Block | null,
) => T;

/** The server's side of a message, which handlers do not have. */
export let inside: {
  /** The parts as they came. */
  parts(message: CCMessage): MessageParts;
  /** What {@link Message.blob} and {@link Message.signer} give from now on. */
  opened(message: CCMessage, opened: OpenedParts): void;
  /** From now on the message does not need the memory it came in. */
  keep(message: CCMessage): void;
  /** Somebody uses the message; it is over when each has said {@link leave}. */
  enter(message: CCMessage): void;
  leave(message: CCMessage): void;
  /** Several handlers get it: none may see what another does with its bytes. */
  share(message: CCMessage): void;
  /** It is refused; true the first time: it is counted and told once, whatever number of handlers refuse it. */
  refuse(message: CCMessage): boolean;
  /** It has not come before, and counts as handled or not when it is over. */
  claim(message: CCMessage, claim: Claim): void;
  /** Has it been let in? Whoever it is passed to gets it too. */
  isLetIn(message: CCMessage): boolean;
  /** Handlers get it; true: none that has passed it on is under way with it. */
  begin(message: CCMessage): boolean;
  /** Those who got it first are done with it: has it been handled for good? */
  settle(message: CCMessage, handled: boolean): void;
  /** An upstream has got it: it sends it, or has dropped it and counts that. */
  give(message: CCMessage): void;
  given(message: CCMessage): boolean;
  /** The identity of the peer that it came from, where it is a request: who sent it waits for an answer. Null: nobody does. */
  asker(message: CCMessage): string | null;
  /** Gives the bytes to `take`; they are borrowed, unless it retains the block. */
  bytes<T>(message: CCMessage, take: BytesTaker<T>): T;
  /** The same of the parts from the delimiter on, without the way that the message came. */
  tail<T>(message: CCMessage, take: (buf: Uint8Array, start: number, end: number) => T): T;
};

/** A member of a message was used when that was over. */
function over(): MessageError {
  return new MessageError(
    "message-over",
    "the message is over: its handlers have returned. A handler that needs it longer is async, and returns when it is done",
  );
}

export class CCMessage implements Message {
  readonly #type: string;
  readonly #home: MessageHome;
  readonly #size: number;
  #identityFrame: Uint8Array;
  #buf: Uint8Array;
  #start: number;
  #end: number;
  #delimiter: number;
  /** The block that it lies in, alone; null: the bytes are borrowed, or its own. */
  #block: Block | null;
  /** Is the block retained, or are the bytes its own? */
  #kept = false;
  /** Does the memory belong to this message for good? */
  #own = false;
  #shared = false;
  #signer: Signer | null = null;
  /** In memory of its own; undefined: as it came, in the message's frames. */
  #openedBlob: Uint8Array | null | undefined;
  /** As it was given away; undefined: not yet. */
  #blob: Uint8Array | null | undefined;
  #from: ReturnPath | null = null;
  #users = 0;
  #refused = false;
  #claim: Claim | null = null;
  #letIn = false;
  #begun = false;
  #given = false;
  #over = false;

  constructor(
    home: MessageHome,
    type: string,
    identityFrame: Uint8Array,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    block: Block | null,
  ) {
    this.#home = home;
    this.#type = type;
    this.#size = end - start;
    this.#identityFrame = identityFrame;
    this.#buf = buf;
    this.#start = start;
    this.#end = end;
    this.#delimiter = delimiter;
    this.#block = block;
  }

  get type(): string {
    if (this.#over) throw over();
    return this.#type;
  }

  get size(): number {
    if (this.#over) throw over();
    return this.#size;
  }

  get signer(): Signer | null {
    if (this.#over) throw over();
    return this.#signer;
  }

  get blob(): Uint8Array | null {
    if (this.#over) throw over();
    if (this.#shared) return this.#copyBlob();
    return this.#blob === undefined ? this.#blob = this.#takeBlob() : this.#blob;
  }

  get from(): ReturnPath {
    if (this.#over) throw over();
    return this.#from ??= new Route(this.#identityFrame, this.#buf, this.#start, this.#delimiter);
  }

  reply(draft: Draft): void {
    this.#home.reply(this.from, draft);
  }

  /** Without a copy, where the memory can be this message's for good. */
  #takeBlob(): Uint8Array | null {
    const blob = this.#openedBlob === undefined ? this.#parts().blob : this.#openedBlob;
    if (blob === null || blob.length === 0) return null;
    if (this.#own || this.#openedBlob !== undefined) return blob;
    // In a block that nobody else holds: it is not used again.
    if (this.#block === null || this.#block.holders > 1) return copyOf(blob);
    this.#block.disown();
    return blob;
  }

  #copyBlob(): Uint8Array | null {
    const blob = this.#openedBlob === undefined ? this.#parts().blob : this.#openedBlob;
    return blob === null || blob.length === 0 ? null : copyOf(blob);
  }

  /** @param opened What a seal made of the parts: a blob that lies in them is looked up again when it is asked for. */
  #setOpened({ signer, blob }: OpenedParts): void {
    this.#signer = signer;
    this.#openedBlob = blob !== null && blob.buffer === this.#buf.buffer ? undefined : blob;
  }

  #asker(): string | null {
    if (this.#over) return null;
    let last = -1;
    for (let at = this.#start; at < this.#delimiter; at = frameEnd(this.#buf, at)) last = at;
    return last >= 0 && isQueryId(this.#buf, bodyStart(this.#buf, last), frameEnd(this.#buf, last))
      ? latin1(this.#identityFrame)
      : null;
  }

  #parts(): MessageParts {
    return new MessageParts(this.#type, this.#buf, this.#delimiter);
  }

  #keep(): void {
    if (this.#kept) return;
    this.#kept = true;
    if (this.#block !== null) {
      this.#block.retain();
      return;
    }
    const identityFrame = this.#identityFrame;
    const before = this.#start;
    const bytes = new Uint8Array(identityFrame.length + this.#size);
    bytes.set(identityFrame, 0);
    bytes.set(this.#buf.subarray(before, this.#end), identityFrame.length);
    this.#buf = bytes;
    this.#start = identityFrame.length;
    this.#end = bytes.length;
    this.#delimiter += this.#start - before;
    this.#own = true;
  }

  #leave(): void {
    if (--this.#users > 0) return;
    this.#over = true;
    this.#claim?.settle(false);
    this.#claim = null;
    if (this.#kept) this.#block?.release();
    // Whoever still has the object has nothing but that.
    this.#block = null;
    this.#buf = this.#identityFrame = NOTHING;
    this.#openedBlob =
      this.#blob =
      this.#from =
      this.#signer =
        null;
  }

  static {
    inside = {
      parts: (message) => message.#parts(),
      opened: (message, opened) => message.#setOpened(opened),
      keep: (message) => message.#keep(),
      enter: (message) => void message.#users++,
      leave: (message) => message.#leave(),
      share: (message) => void (message.#shared = true),
      refuse(message) {
        const first = !message.#refused;
        message.#refused = true;
        return first;
      },
      claim(message, claim) {
        message.#claim = claim;
        message.#letIn = true;
      },
      isLetIn: (message) => message.#letIn,
      begin(message) {
        const first = !message.#begun;
        message.#begun = true;
        return first;
      },
      settle(message, handled) {
        message.#claim?.settle(handled);
        message.#claim = null;
        message.#begun = false;
      },
      give: (message) => void (message.#given = true),
      given: (message) => message.#given,
      asker: (message) => message.#asker(),
      bytes(message, take) {
        if (message.#over) throw over();
        return take(message.#identityFrame, message.#buf, message.#start, message.#end, message.#block);
      },
      tail(message, take) {
        if (message.#over) throw over();
        return take(message.#buf, message.#delimiter, message.#end);
      },
    };
  }
}

const NOTHING = new Uint8Array(0);
