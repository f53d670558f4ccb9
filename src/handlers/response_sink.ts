/** Takes what comes back on a DEALER. */
import { CCMessage } from "../message/message.ts";
import { isType } from "../message/type.ts";
import type { MessageSink, Source } from "../socket/types.ts";
import { bodyStart, frameEnd } from "../zmtp/frame.ts";

/** Gives each CC message to `take`; the view is used again for the next one. Others are passed to `other`. */
export class ResponseSink implements MessageSink {
  readonly #take: (message: CCMessage) => void;
  readonly #other: () => void;
  readonly #view = new CCMessage();

  constructor(take: (message: CCMessage) => void, other: () => void = () => {}) {
    this.#take = take;
    this.#other = other;
  }

  message(
    source: Source,
    buf: Uint8Array,
    start: number,
    end: number,
    delimiter: number,
    tail: number,
    owned: boolean,
  ): void {
    const type = delimiter < 0 || tail < 2 ? null : typeAt(buf, delimiter);
    if (type === null) return this.#other();
    this.#view.set(source, buf, start, end, delimiter, owned, type);
    this.#take(this.#view);
  }

  chunkEnd(): void {}
}

/** The type behind a delimiter; null where that is no message type. */
function typeAt(buf: Uint8Array, delimiter: number): string | null {
  const header = frameEnd(buf, delimiter);
  const type = new TextDecoder("latin1").decode(buf.subarray(bodyStart(buf, header), frameEnd(buf, header)));
  return isType(type) ? type : null;
}
