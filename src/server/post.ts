/** Sends what is made here: drafts are sealed, and go to clients along the way that was kept, or to upstreams. */
import type { Environment } from "../contracts/environment.ts";
import type { Draft, Message, Outcome, ReturnPath } from "../contracts/message.ts";
import type { OpenedParts, Seal, SealDraft, SealedParts } from "../contracts/seal.ts";
import { errorText } from "../errors.ts";
import type { Logger } from "../log.ts";
import { Block } from "../memory/block.ts";
import { ENCRYPTED_BYTES } from "../message/body.ts";
import { bodyOf, encodeMessage } from "../message/draft.ts";
import { CCMessage, inside, type MessageHome } from "../message/message.ts";
import { routeBytes } from "../message/route.ts";
import type { DealerSocket, RouterSocket, Source } from "../socket/types.ts";
import type { Statistics } from "./counts.ts";
import { isPromise } from "./guard.ts";

const NO_IDENTITY = new Uint8Array(0);
const NO_ROUTE = new Uint8Array(0);
const NO_SIGNATURE = new Uint8Array(0);

export class Post implements MessageHome {
  readonly #environment: Environment;
  readonly #seal: Seal;
  readonly #statistics: Statistics;
  readonly #log: Logger;
  /** Where clients are; null until the server has a socket. */
  router: RouterSocket | null = null;

  constructor(environment: Environment, seal: Seal, statistics: Statistics, log: Logger) {
    this.#environment = environment;
    this.#seal = seal;
    this.#statistics = statistics;
    this.#log = log;
  }

  reply(to: ReturnPath, draft: Draft): void {
    const sent = this.toClient(to, draft);
    if (isPromise(sent)) {
      sent.then(undefined, (error) => {
        const text = `a reply "${draft.type}" could not be sealed: ${errorText(error)}`;
        this.#log.warnRarely("reply", `unsealed ${draft.type}`, text);
      });
    }
  }

  /**
   * Sends along a way that was kept; `retry` when it was dropped, and counted.
   *
   * @throws {MessageError} `bad-draft`
   */
  toClient(to: ReturnPath, what: Draft | Message): Outcome | Promise<Outcome> {
    const route = routeBytes(to);
    if (!isDraft(what)) return this.#toRouter(alongRoute(route, what));
    return this.#sealed(this.#dated(what), (parts) => this.#toRouter(encodeMessage(route, parts)));
  }

  /**
   * Sends to an upstream; settles when there is room for another.
   *
   * @throws {MessageError} `bad-draft`
   */
  toUpstream(dealer: DealerSocket, what: Draft | Message): Outcome | Promise<Outcome> {
    if (!isDraft(what)) return sendOn(dealer, what);
    return this.#sealed(this.#dated(what), (parts) => {
      const bytes = encodeMessage(NO_ROUTE, parts);
      return outcomeOf(dealer, dealer.send(NO_IDENTITY, bytes, 0, bytes.length, blockOf(bytes)));
    });
  }

  /**
   * A message of ours as bytes, without a route, for this server's own routes.
   *
   * @param take Is also given what makes the same message open: nobody has to decrypt or verify what he has made himself.
   * @throws {MessageError} `bad-draft`
   */
  encode<T>(
    draft: Draft,
    take: (bytes: Uint8Array, plain: () => OpenedParts) => T | Promise<T>,
  ): T | Promise<T> {
    const dated = this.#dated(draft);
    return this.#sealed(dated, (parts) => {
      const plain = () => ({
        json: parts.body.length > ENCRYPTED_BYTES ? parts.body : bodyOf(dated),
        blob: draft.blob?.slice() ?? null,
        signer: null,
      });
      return take(encodeMessage(NO_ROUTE, parts), plain);
    });
  }

  #sealed<T>(draft: SealDraft, take: (parts: SealedParts) => T | Promise<T>): T | Promise<T> {
    const parts = draft.unsealed
      ? { type: draft.type, body: bodyOf(draft), signature: NO_SIGNATURE, blob: draft.blob ?? null }
      : this.#seal.seal(draft);
    return isPromise(parts) ? Promise.resolve(parts).then(take) : take(parts);
  }

  #dated({ type, fields, blob, unsealed }: Draft): SealDraft {
    const { clock, host } = this.#environment;
    return { type, fields, blob, unsealed, time: clock.time() / 1000, hostname: host.name };
  }

  #toRouter(bytes: Uint8Array): Outcome {
    const sent = this.router?.send(bytes, 0, bytes.length, blockOf(bytes)) ?? false;
    if (sent) this.#statistics.reply(bytes.length);
    return sent ? "ok" : "retry";
  }
}

/** @throws {TypeError} It is neither a draft nor one of our messages. */
function isDraft(what: Draft | Message): what is Draft {
  if (what instanceof CCMessage) return false;
  if (typeof (what as Partial<Draft> | null)?.fields === "object") return true;
  throw new TypeError("Expected a draft { type, fields } or a message that came in");
}

/** Forwards a message, unchanged; settles when there is room for another. */
export function sendOn(dealer: DealerSocket, message: Message): Outcome | Promise<Outcome> {
  const sent = inside.bytes(
    message as CCMessage,
    (identityFrame, buf, start, end, block) => dealer.send(identityFrame, buf, start, end, block),
  );
  inside.give(message as CCMessage);
  return outcomeOf(dealer, sent);
}

/** The same for one who can be paused meanwhile. */
export function sendFrom(
  dealer: DealerSocket,
  message: CCMessage,
  source: Source | null,
): Outcome | Promise<Outcome> {
  if (source === null) return sendOn(dealer, message);
  const sent = inside.bytes(
    message,
    (identityFrame, buf, start, end, block) => dealer.send(identityFrame, buf, start, end, block),
  );
  inside.give(message);
  if (sent !== "queued") dealer.pause(source);
  return sent === "dropped" ? "retry" : "ok";
}

function outcomeOf(dealer: DealerSocket, sent: ReturnType<DealerSocket["send"]>): Outcome | Promise<Outcome> {
  if (sent === "dropped") return "retry";
  if (sent === "queued") return "ok";
  const waiter = new Waiter();
  dealer.pause(waiter);
  return waiter.paused === null ? "ok" : waiter.paused;
}

/** Stands in for a source where there is none to pause: a promise waits instead. */
class Waiter implements Source {
  readonly identityFrame = NO_IDENTITY;
  readonly name = "";
  /** Null while it goes on. */
  paused: Promise<Outcome> | null = null;
  #resume: (outcome: Outcome) => void = () => {};

  pause(): void {
    this.paused ??= new Promise((resolve) => this.#resume = resolve);
  }

  resume(): void {
    this.#resume("ok");
  }
}

/** The parts of a message behind another route. */
function alongRoute(route: Uint8Array, message: Message): Uint8Array {
  return inside.tail(message as CCMessage, (buf, start, end) => {
    const bytes = new Uint8Array(route.length + end - start);
    bytes.set(route, 0);
    bytes.set(buf.subarray(start, end), route.length);
    return bytes;
  });
}

/** Smaller ones are copied anyway. */
const BLOCK_MIN_BYTES = 32 * 1024;

/** The block of bytes that were made for one message: a large one need not be copied. */
function blockOf(bytes: Uint8Array): Block | null {
  return bytes.length < BLOCK_MIN_BYTES ? null : new Block(bytes, 0, bytes.length, null);
}
