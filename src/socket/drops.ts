/** Counts what a socket drops, by reason and peer, and says so once in a while. */
import { PEERS_COUNTED } from "../limits.ts";
import type { Logger } from "../log.ts";
import { counted, printable } from "../text.ts";
import type { DropReason, Drops } from "./types.ts";

const TEXTS: Record<DropReason, string> = {
  "client-full": "it does not read and its queue is full",
  "no-such-peer": "no peer has this identity",
  "no-route": "it has no route",
  "upstream-down": "the upstream is down and its queue is full",
  "upstream-full": "it does not keep up and its queue is full",
  "too-large": "with what is put in front of it, it is larger than zmq_maxmsgsize",
  "oversized": "larger than zmq_maxmsgsize",
  "too-many-frames": "it has been through too many servers. A loop?",
  "breaks-link": "the upstream closes on it",
  "unread": "the connection was closed before they were looked at",
  "client-gone": "it left before they were sent",
  "link-lost": "the link broke while they were written",
  "stopping": "it had been told that the server ends",
  "linger": "linger ran out before they were sent",
};

/** What a peer sent; all else was to be sent to it. */
const FROM: ReadonlySet<DropReason> = new Set<DropReason>(["oversized", "unread"]);

export class DropCounter implements Drops {
  total = 0;
  readonly byReason = new Map<DropReason, number>();
  readonly byPeer = new Map<string, Map<DropReason, number>>();
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  /**
   * @param peer Who it was for, or who sent it: an endpoint or an identity.
   * @param which Tells more of the message; asked for a line that is written.
   */
  add(reason: DropReason, peer: string, messages = 1, which?: () => string): void {
    if (messages === 0) return;
    this.total += messages;
    this.byReason.set(reason, (this.byReason.get(reason) ?? 0) + messages);
    const counts = this.#countsOf(peer);
    counts.set(reason, (counts.get(reason) ?? 0) + messages);
    const preposition = FROM.has(reason) ? "from" : "for";
    let described = which;
    const text = (times: number) => {
      const what = counted(times, "message") + (described === undefined ? "" : ` (${described()})`);
      return `dropped ${what} ${preposition} ${printable(peer)}: ${TEXTS[reason]} ` +
        `(${reason}, ${this.byReason.get(reason)} in all, ${counts.get(reason)} of them ${preposition} it)`;
    };
    this.#log.warnRarely("drop", `${reason} ${peer}`, text, messages);
    // Later lines are of several messages, and this one's bytes are gone by then.
    described = undefined;
  }

  #countsOf(peer: string): Map<DropReason, number> {
    const counts = this.byPeer.get(peer) ?? new Map<DropReason, number>();
    // The one counted last stands last.
    this.byPeer.delete(peer);
    this.byPeer.set(peer, counts);
    if (this.byPeer.size > PEERS_COUNTED) {
      const [oldest] = this.byPeer.keys();
      this.byPeer.delete(oldest);
    }
    return counts;
  }
}
