/**
 * A CC message: a view on the bytes of its frames.
 *
 * ```
 *   prefix          buf: start        delimiter                                       end
 *   [identity]           [route] …    [empty]    [type] [body] [signature] [blob]
 * ```
 *
 * One view is used again for every message that comes in. A handler that wants to hold on to it says
 * {@link CCMessage.keep}.
 */
import * as v from "valibot";
import { BODY_MAX_BYTES, MESSAGE_MAX_FRAMES } from "../limits.ts";
import { bodyStart, decodeFrames, encodeFrames, frameEnd, MORE } from "../zmtp/frame.ts";
import { POOL } from "../zmtp/pool.ts";
import { isType } from "./type.ts";

/** The body of a message cannot be read; `code` names why. */
export class MessageError extends Error {
  override name = "MessageError";
  readonly code: "not-json" | "hijacked" | "bad-body" | "too-large" | "encrypted";
  constructor(code: MessageError["code"], message: string) {
    super(message);
    this.code = code;
  }
}

/** Whoever a message came from, as far as handlers need to know. */
export interface MessageSource {
  readonly prefix: Uint8Array;
  readonly name: string;
  hold(): void;
  release(): void;
}

const DECODER = new TextDecoder("utf-8", { fatal: true });
const EMPTY = new Uint8Array(0);

export class CCMessage {
  /** The identity frame that belongs in front; empty when the message has none of its own. */
  prefix: Uint8Array = EMPTY;
  /** The frames as they came: `buf[start, end)`. */
  buf: Uint8Array = EMPTY;
  start = 0;
  end = 0;
  /** Where the empty frame between route and type stands. */
  delimiter = 0;
  /** The buffer is this message's alone: holding it needs no copy. */
  owned = false;
  /** Who sent it; can be held back. Null in a kept copy. */
  source: MessageSource | null = null;
  /** The type, already known to be valid. */
  type = "";

  /** Points the view at another message. */
  set(
    source: MessageSource,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    owned: boolean,
    type: string,
  ): void {
    this.source = source;
    this.prefix = source.prefix;
    this.buf = buf;
    this.start = start;
    this.end = end;
    this.delimiter = delimiter;
    this.owned = owned;
    this.type = type;
  }

  /** Bytes of all frames, headers included. */
  get size(): number {
    return this.end - this.start;
  }

  /** The body frame: JSON, or `ENC1`. A view, as all that follow. */
  get body(): Uint8Array {
    return this.#part(1);
  }
  /** The signature frame; empty where there is none. */
  get signature(): Uint8Array {
    return this.#part(2);
  }
  /** The blob frame; empty where there is none. */
  get blob(): Uint8Array {
    return this.#part(3);
  }

  /** The frames in front of the delimiter, without the identity of {@link prefix}. */
  get route(): Uint8Array[] {
    return decodeFrames(this.buf, this.start, this.delimiter);
  }

  /** All frames as they came, without {@link prefix}. */
  get frames(): Uint8Array[] {
    return decodeFrames(this.buf, this.start, this.end);
  }

  /** Has the message route frames of its own, besides the identity? */
  get routed(): boolean {
    return this.delimiter > this.start;
  }

  /** A copy that stays when the next message comes. Costs nothing for one that owns its buffer. */
  keep(): CCMessage {
    const kept = new CCMessage();
    kept.prefix = this.prefix;
    kept.type = this.type;
    kept.owned = true;
    if (this.owned) {
      POOL.forget(this.buf);
      kept.buf = this.buf;
      kept.start = this.start;
    } else {
      kept.buf = new Uint8Array(this.prefix.length + this.end - this.start);
      kept.buf.set(this.prefix, 0);
      kept.buf.set(this.buf.subarray(this.start, this.end), this.prefix.length);
      kept.start = this.prefix.length;
    }
    kept.end = kept.start + this.end - this.start;
    kept.delimiter = kept.start + this.delimiter - this.start;
    return kept;
  }

  /**
   * The body as an object of this schema.
   *
   * @throws {MessageError} It is not JSON, not an object of that shape, or claims to be of another type.
   */
  read<S extends v.GenericSchema<unknown, { req: string }>>(schema: S): v.InferOutput<S> {
    const { body } = this;
    if (body.length > BODY_MAX_BYTES) {
      throw new MessageError("too-large", `body of ${body.length} bytes, at most ${BODY_MAX_BYTES} are read`);
    }
    if (isEncrypted(body)) throw new MessageError("encrypted", "the body is encrypted");
    let value: unknown;
    try {
      value = JSON.parse(DECODER.decode(body));
    } catch {
      throw new MessageError("not-json", "the body is not JSON in UTF-8");
    }
    const result = v.safeParse(schema, value);
    if (!result.success) {
      const [issue] = result.issues;
      const path = v.getDotPath(issue);
      throw new MessageError("bad-body", path ? `field "${path}": ${issue.message}` : issue.message);
    }
    if (result.output.req !== this.type) {
      throw new MessageError("hijacked", `hijacked message: its body says "${result.output.req}"`);
    }
    return result.output;
  }

  /** A message to whoever sent this one, along the same route: the bytes of all its frames, identity first. */
  reply(type: string, fields: Record<string, unknown>, extra: Envelope): Uint8Array {
    const route = [
      ...decodeFrames(this.prefix, 0, this.prefix.length),
      ...decodeFrames(this.buf, this.start, this.delimiter),
    ];
    return encodeMessage(route, type, fields, extra);
  }

  #part(index: number): Uint8Array {
    // The type is the frame behind the delimiter: part 0.
    let at = frameEnd(this.buf, this.delimiter);
    for (let i = 0; i < index; i++) {
      if ((this.buf[at] & MORE) === 0) return EMPTY;
      at = frameEnd(this.buf, at);
    }
    return this.buf.subarray(bodyStart(this.buf, at), frameEnd(this.buf, at));
  }
}

const ENCRYPTED = [0x45, 0x4e, 0x43, 0x31]; // ENC1

function isEncrypted(body: Uint8Array): boolean {
  return body.length === 4 && ENCRYPTED.every((byte, i) => body[i] === byte);
}

/** What a message carries besides the fields of its type. */
export interface Envelope {
  /** The sender's host name. */
  hostname: string;
  /** Seconds since 1970; now when missing. */
  time?: number;
  blob?: Uint8Array;
}

/**
 * A CC message as bytes: route, delimiter, type, body, an empty signature, and the blob if there is one. The body gets
 * what every body has: `req`, `time`, `hostname`, and an empty `blob_hash`, which only a signature fills.
 */
export function encodeMessage(
  route: readonly Uint8Array[],
  type: string,
  fields: Record<string, unknown>,
  { hostname, time = Date.now() / 1000, blob }: Envelope,
): Uint8Array {
  // A reply goes back along whatever route came, with the identity of the peer in front.
  if (route.length > MESSAGE_MAX_FRAMES) {
    throw new RangeError(`A route has at most ${MESSAGE_MAX_FRAMES} frames`);
  }
  if (!isType(type)) throw new TypeError(`"${type}" is not a message type`);
  const body = { ...fields, req: type, time, hostname, blob_hash: "" };
  const frames = [...route, EMPTY, utf8(type), utf8(JSON.stringify(body)), EMPTY];
  if (blob !== undefined) frames.push(blob);
  return encodeFrames(frames);
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
