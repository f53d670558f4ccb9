/** Messages that answer no query, for those who iterate over them; while too many wait, the server does. */

import type { Received } from "./types.ts";

/** Who sends, and can be made to wait. */
interface Sender {
  pause(): void;
  resume(): void;
}

/** Which messages are wanted, and for how long. */
export interface InboxOptions {
  /** A message type: its own messages, and those of all types below it. Missing: all. */
  readonly type?: string;
  /** Ends the iteration, when aborted. */
  readonly signal?: AbortSignal;
}

export class Inbox implements AsyncIterableIterator<Received> {
  readonly #type: string | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #highWaterMark: number;
  readonly #ended: (inbox: Inbox) => void;
  readonly #queue: Received[] = [];
  readonly #wanting: ((result: IteratorResult<Received>) => void)[] = [];
  #paused: Sender | null = null;
  #over = false;

  /** @param ended Called once, when nobody iterates any more. */
  constructor({ type, signal }: InboxOptions, highWaterMark: number, ended: (inbox: Inbox) => void) {
    this.#type = type;
    this.#signal = signal;
    this.#highWaterMark = highWaterMark;
    this.#ended = ended;
    if (signal?.aborted) this.end();
    else signal?.addEventListener("abort", this.#abort);
  }

  readonly #abort = () => this.end();

  /** Messages that nobody has taken yet. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** Is it for messages of this type? */
  wants(type: string): boolean {
    return !this.#over &&
      (this.#type === undefined || type === this.#type || type.startsWith(`${this.#type}.`));
  }

  put(message: Received, sender: Sender): void {
    const wanting = this.#wanting.shift();
    if (wanting !== undefined) {
      wanting({ value: message, done: false });
      return;
    }
    this.#queue.push(message);
    if (this.#queue.length >= this.#highWaterMark && this.#paused === null) {
      this.#paused = sender;
      sender.pause();
    }
  }

  next(): Promise<IteratorResult<Received>> {
    const message = this.#queue.shift();
    if (message !== undefined) {
      if (this.#queue.length * 2 <= this.#highWaterMark) this.#resume();
      return Promise.resolve({ value: message, done: false });
    }
    if (this.#over) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve) => this.#wanting.push(resolve));
  }

  return(): Promise<IteratorResult<Received>> {
    this.#queue.length = 0;
    this.end();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Nothing more comes; what waits is still given. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#resume();
    for (const wanting of this.#wanting.splice(0)) wanting({ value: undefined, done: true });
    this.#ended(this);
  }

  #resume(): void {
    this.#paused?.resume();
    this.#paused = null;
  }
}
