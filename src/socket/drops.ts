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
  "unread": "the connection was closed before they were looked at",
  "client-gone": "it left before they were sent",
  "link-lost": "the link broke while they were written",
  "linger": "linger ran out before they were sent",
};

export class DropCounter implements Drops {
  total = 0;
  readonly byReason = new Map<DropReason, number>();
  readonly byPeer = new Map<string, Map<DropReason, number>>();
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** @param peer Who it was for: an endpoint or an identity. */
  add(reason: DropReason, peer: string, messages = 1): void {
    if (messages === 0) return;
    this.total += messages;
    const count = (this.byReason.get(reason) ?? 0) + messages;
    this.byReason.set(reason, count);
    const ofPeer = this.#countPeer(reason, peer, messages);
    this.#log.warnRarely(
      "drop",
      `${reason} ${peer}`,
      `dropped ${counted(messages, "message")} for ${printable(peer)}: ${TEXTS[reason]} ` +
        `(${reason}, ${count} in all, ${ofPeer} of them for it)`,
    );
  }

  #countPeer(reason: DropReason, peer: string, messages: number): number {
    const counts = this.byPeer.get(peer) ?? new Map<DropReason, number>();
    // The one counted last stands last.
    this.byPeer.delete(peer);
    this.byPeer.set(peer, counts);
    if (this.byPeer.size > PEERS_COUNTED) {
      const [oldest] = this.byPeer.keys();
      this.byPeer.delete(oldest);
    }
    const count = (counts.get(reason) ?? 0) + messages;
    counts.set(reason, count);
    return count;
  }
}
