/** Passes messages on later. Bounded: what does not fit is dropped and counted. */
import type { DelayOptions } from "../config/schemas.ts";
import type { HandlerFactory } from "../handler.ts";
import { DELAYED_MAX_BYTES, DELAYED_MAX_MESSAGES } from "../limits.ts";
import type { CCMessage } from "../message/message.ts";

interface Waiting {
  message: CCMessage;
  due: number;
  next: Waiting | null;
}

export const delay: HandlerFactory<DelayOptions> = (context) => {
  const { options, forward, count, clock, log } = context;
  const to = options["forward-to"];
  const delayMs = options.delay * 1000;
  // All wait equally long, so the queue is in the order of their time.
  let head: Waiting | null = null;
  let tail: Waiting | null = null;
  let waiting = 0;
  let bytes = 0;
  let cancel: (() => void) | null = null;

  function pass(now: number): void {
    while (head !== null && head.due <= now) {
      const { message } = head;
      head = head.next;
      waiting--;
      bytes -= message.size;
      forward(to, message);
      count("delay.count.ok");
    }
    if (head === null) tail = null;
    cancel = head === null ? null : clock.after(Math.max(0, head.due - now), () => pass(clock.now()));
  }

  return {
    handle(message) {
      count("delay.count");
      if (waiting >= DELAYED_MAX_MESSAGES || bytes + message.size > DELAYED_MAX_BYTES) {
        count("delay.count.dropped");
        log.limited(
          "handle",
          "full",
          `dropping "${message.type}": ${waiting} messages wait already`,
        );
        return;
      }
      const now = clock.now();
      const last: Waiting = { message: message.keep(), due: now + delayMs, next: null };
      if (tail === null) head = last;
      else tail.next = last;
      tail = last;
      waiting++;
      bytes += message.size;
      cancel ??= clock.after(delayMs, () => pass(clock.now()));
    },
    stop() {
      cancel?.();
      pass(Infinity); // late is better than lost
    },
  };
};
