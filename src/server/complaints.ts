/** Tells who asked that his message was refused: an `error` for a request, at most so many a second. */
import type { Clock } from "../contracts/environment.ts";
import { COMPLAINTS_A_CLIENT, COMPLAINTS_IN_ALL } from "../limits.ts";
import { MessageError } from "../message/errors.ts";
import { type CCMessage, inside } from "../message/message.ts";

/** Of the answers themselves nobody is told: two servers would go on for ever. */
const ANSWER = /^error(\.|$)|(^|\.)reply(\.|$)|(^|\.)response$/;

const WINDOW_MS = 1000;

export class Complaints {
  readonly #clock: Clock;
  /** Of this second: how many each peer was told, by its identity. */
  readonly #told = new Map<string, number>();
  #since = -Infinity;
  #count = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Call once a refused message. Publishers do not read: only who asks with a query id is told. */
  tell(message: CCMessage, error: MessageError): void {
    const identity = inside.asker(message);
    if (identity === null || ANSWER.test(message.type) || !this.#mayTell(identity)) return;
    // What a signature or a key has to do with it is for the log.
    const [code, msg] = error.discreet ? ["refused", "refused"] : [error.code, error.message];
    try {
      message.reply({ type: "error", fields: { code, msg } });
    } catch (failed) {
      // The way back may be what is wrong with it.
      if (!(failed instanceof MessageError)) throw failed;
    }
  }

  #mayTell(identity: string): boolean {
    const now = this.#clock.now();
    if (now - this.#since >= WINDOW_MS) {
      this.#since = now;
      this.#count = 0;
      this.#told.clear();
    }
    const told = this.#told.get(identity) ?? 0;
    if (told >= COMPLAINTS_A_CLIENT || this.#count >= COMPLAINTS_IN_ALL) return false;
    this.#told.set(identity, told + 1);
    this.#count++;
    return true;
  }
}
