/**
 * Passes messages on later, in the order they came. What waits is bounded: past the bound its senders wait too. While the
 * handler behind is slow, messages wait here for longer.
 */
import { handlerName, number, option, required } from "../config/options.ts";
import type { Cancel } from "../contracts/environment.ts";
import type { Message, Outcome } from "../contracts/message.ts";
import { DELAYED_MAX_MESSAGES } from "../limits.ts";
import { defineHandler, EVERYWHERE } from "./define.ts";

interface Waiting {
  readonly message: Message;
  /** When it is passed on; never before the one in front of it. */
  readonly due: number;
  next: Waiting | null;
  settle(outcome: Outcome | Promise<Outcome>): void;
}

export const delay = defineHandler({
  name: "delay",
  summary:
    "Passes messages on later, in order (`delay.count`, `.ok`); while too many wait, so do their senders. At the end, what waits is passed on at once.",
  roles: EVERYWHERE,
  options: {
    "forward-to": required(handlerName, "the handler that gets the messages", "h:next"),
    delay: option(number(0, 86_400), "0", "how much later", "0.5", "s"),
  },
  inFlight: DELAYED_MAX_MESSAGES,
  keepsMessages: true,
  create({ options: first, environment: { clock }, meter, pass }) {
    let options = first;
    let head: Waiting | null = null;
    let tail: Waiting | null = null;
    let cancel: Cancel | null = null;
    /** The one that is being passed on, and is not through: the handler behind has no room. */
    let passing: Promise<void> | null = null;
    let stopping = false;
    const all = meter.counter("delay.count");
    const ok = meter.counter("delay.count.ok");

    /** Passes on what is due, one after the other. */
    function work(): void {
      while (head !== null && passing === null && (stopping || head.due <= clock.now())) {
        const { message, settle, next } = head;
        head = next;
        if (head === null) tail = null;
        const outcome = pass(message, options["forward-to"]);
        ok.add();
        settle(outcome);
        if (outcome instanceof Promise) passing = outcome.then(passed, passed);
      }
      if (head === null || passing !== null) return;
      cancel ??= clock.after(Math.max(0, head.due - clock.now()), () => {
        cancel = null;
        work();
      });
    }

    function passed(): void {
      passing = null;
      work();
    }

    return {
      plan: () => ({ raw: true }),
      handle(message) {
        all.add();
        return new Promise<Outcome>((settle) => {
          const due = Math.max(tail?.due ?? 0, clock.now() + options.delay * 1000);
          const last: Waiting = { message, due, next: null, settle };
          if (tail === null) head = last;
          else tail.next = last;
          tail = last;
          work();
        });
      },
      reconfigure(next) {
        options = next;
        return true;
      },
      async stop(signal) {
        stopping = true; // late is better than lost
        cancel?.();
        cancel = null;
        work();
        const over = aborted(signal);
        while (passing !== null && !signal.aborted) await Promise.race([passing, over]);
        // There is no time left for the rest: the server says so of each.
        head = tail = null;
      },
    };
  },
});

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
