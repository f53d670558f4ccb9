/** Opens messages: decrypted and verified once each, whatever number of handlers read it. What cannot be opened is refused here, by code. */
import type { Schema, SchemaIssue } from "../contracts/schema.ts";
import type { OpenedParts, Seal } from "../contracts/seal.ts";
import { BODY_DEFAULT_MAX_BYTES, BODY_MAX_BYTES } from "../limits.ts";
import { MessageError } from "../message/errors.ts";
import { ENCRYPTED_BYTES, parseBody } from "../message/body.ts";
import { type CCMessage, inside } from "../message/message.ts";
import { isPromise } from "./guard.ts";

/** A larger body that several handlers read is parsed for each of them. */
const FROZEN_MAX_BYTES = 2048;

/** How a handler reads the bodies of a type. */
export class BodyReader {
  readonly #validate: (value: unknown) => unknown;
  readonly #maxBytes: number;
  /** Reads bodies as they came. */
  readonly unsealed: boolean;

  constructor(schema: Schema<unknown>, maxBytes: number = BODY_DEFAULT_MAX_BYTES, unsealed = false) {
    const { validate } = schema["~standard"];
    this.unsealed = unsealed;
    this.#validate = validate;
    this.#maxBytes = Math.min(maxBytes, BODY_MAX_BYTES);
  }

  /**
   * The body in the shape that the schema asks for.
   *
   * @throws {MessageError} `too-large`, `too-complex`, `not-json`, `hijacked`, `bad-body`
   */
  read(body: Body): unknown {
    if (body.bytes > this.#maxBytes) {
      throw new MessageError(
        "too-large",
        `its body has ${body.bytes} bytes, at most ${this.#maxBytes} are read`,
      );
    }
    const { value } = body;
    const result = this.#validate(value) as { value: unknown; issues?: readonly SchemaIssue[] };
    if (isPromise(result)) throw new TypeError("A body's schema must not be asynchronous");
    if (result.issues === undefined) return result.value;
    throw new MessageError("bad-body", issueText(result.issues));
  }
}

function issueText([issue]: readonly SchemaIssue[]): string {
  const path = (issue.path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join(".");
  return path === "" ? `its body: ${issue.message}` : `field "${path}": ${issue.message}`;
}

/** The body of one message, parsed when the first handler reads it; a large one when each does. */
export class Body {
  readonly #type: string;
  readonly #json: Uint8Array;
  /** Several handlers read it: what one does with it the next must not see. */
  readonly #shared: boolean;
  /** Each gets its own: to freeze a long list takes a hundred times as long as to parse it again. */
  readonly #parsedForEach: boolean;
  #value: unknown;
  #parsed = false;

  constructor(type: string, { json, value }: OpenedParts, shared: boolean) {
    this.#type = type;
    this.#json = json;
    this.#shared = shared;
    this.#parsedForEach = shared && json.length > FROZEN_MAX_BYTES;
    if (value === undefined || this.#parsedForEach) return;
    this.#value = shared ? deepFreeze(value) : value;
    this.#parsed = true;
  }

  get bytes(): number {
    return this.#json.length;
  }

  get value(): unknown {
    if (this.#parsedForEach) return this.#parse();
    if (!this.#parsed) {
      this.#value = this.#parse();
      this.#parsed = true;
    }
    return this.#value;
  }

  #parse(): unknown {
    const value = parseBody(this.#type, this.#json);
    return this.#shared && !this.#parsedForEach ? deepFreeze(value) : value;
  }
}

/** The depth is bounded: see {@link checkJson}. */
function deepFreeze(value: object): object {
  for (const part of Object.values(value)) if (typeof part === "object" && part !== null) deepFreeze(part);
  return Object.freeze(value);
}

/**
 * Decrypts and verifies a message, by the seal. A message whose seal is asynchronous is kept.
 *
 * @param shared Do several handlers read it?
 * @param handles Is it handled here? Otherwise it only passes, and may do so as often as it comes.
 * @throws {MessageError} Refused.
 * @throws {DuplicateError} It has been handled before.
 * @throws {PendingCopyError} A copy of it is being handled.
 */
export function openMessage(
  message: CCMessage,
  seal: Seal,
  shared: boolean,
  handles = true,
): Body | Promise<Body> {
  if (seal.asynchronous) inside.keep(message);
  const parts = inside.parts(message);
  const bodyOf = (opened: OpenedParts): Body => {
    // One that was let in before is passed on by who handles it.
    const claim = handles && !inside.isLetIn(message) ? opened.claim?.() : undefined;
    if (claim === undefined) return openedBody(message, opened, shared);
    if (claim.state === "seen") throw new DuplicateError();
    if (claim.state === "new") {
      inside.claim(message, claim);
      return openedBody(message, opened, shared);
    }
    inside.keep(message);
    throw new PendingCopyError(claim.over);
  };
  const opened = seal.open(parts);
  return isPromise(opened) ? Promise.resolve(opened).then(bodyOf) : bodyOf(opened);
}

/** A message that has been handled before is not handled again. */
export class DuplicateError extends Error {
  constructor() {
    super("it is a copy of one that has been handled");
  }
}

/** A copy of the message is being handled; it is kept. */
export class PendingCopyError extends Error {
  /** Settles when that is over; null: a copy waits for that already. */
  readonly over: Promise<void> | null;
  constructor(over: Promise<void> | null) {
    super("a copy of it is being handled");
    this.over = over;
  }
}

/** The server ends before the message is open. */
export class GivenUpError extends Error {
  constructor() {
    super("it is not waited for any more");
  }
}

/** The body of a message that is open. */
export function openedBody(message: CCMessage, opened: OpenedParts, shared: boolean): Body {
  inside.opened(message, opened);
  return new Body(message.type, opened, shared);
}

/** The body of a message as it came, whoever signed it. @throws {MessageError} `encrypted` */
export function unsealedBody(message: CCMessage, shared: boolean): Body {
  const { type, body: json } = inside.parts(message);
  if (json.length <= ENCRYPTED_BYTES) {
    throw new MessageError("encrypted", "it is encrypted, and is read in clear here");
  }
  return new Body(type, { json, blob: null, signer: null }, shared);
}

/** Does this say that a message is not opened, and why? */
export function isRefusal(error: unknown): error is Error {
  return error instanceof MessageError || error instanceof DuplicateError ||
    error instanceof PendingCopyError;
}
