/** Passes messages on later. Bounded: what does not fit is dropped and counted. */
import type { DelayOptions } from "../config/schemas.ts";
import type { HandlerFactory } from "../handler.ts";
import { DELAYED_MAX_BYTES, DELAYED_MAX_MESSAGES } from "../limits.ts";
import type { CCMessage } from "../message/message.ts";

interface Waiting {
  message: CCMessage;
  due: number;
}

export const delay: HandlerFactory<DelayOptions> = (context) => {
  const { options, forward, count, clock, log } = context;
  const to = options["forward-to"];
  const delayMs = options.delay * 1000;
  // All wait equally long, so the queue is in the order of their time.
  let queue: Waiting[] = [];
  let head = 0;
  let bytes = 0;
  let cancel: (() => void) | null = null;

  function pass(now: number): void {
    while (head < queue.length && queue[head].due <= now) {
      const { message } = queue[head++];
      bytes -= message.size;
      forward(to, message);
      count("delay.count.ok");
    }
    if (head > 1024 && head * 2 > queue.length) {
      queue = queue.slice(head);
      head = 0;
    }
    cancel = head < queue.length
      ? clock.after(Math.max(0, queue[head].due - now), () => pass(clock.now()))
      : null;
  }

  return {
    handle(message) {
      count("delay.count");
      if (queue.length - head >= DELAYED_MAX_MESSAGES || bytes + message.size > DELAYED_MAX_BYTES) {
        count("delay.count.dropped");
        log.limited(
          "handle",
          "full",
          `dropping "${message.type}": ${queue.length - head} messages wait already`,
        );
        return;
      }
      const now = clock.now();
      queue.push({ message: message.keep(), due: now + delayMs });
      bytes += message.size;
      cancel ??= clock.after(delayMs, () => pass(clock.now()));
    },
    stop() {
      cancel?.();
      pass(Infinity); // late is better than lost
    },
  };
};
