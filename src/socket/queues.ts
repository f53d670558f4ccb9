/** What waits for all upstreams of one program, and how much of the memory there is that may be. */
import type { Egress } from "./egress.ts";

export class Queues {
  /** For messages of all kinds; half of it may wait for upstreams that are down. */
  budgetBytes = Infinity;
  readonly #queues = new Set<Egress>();

  add(queue: Egress): void {
    this.#queues.add(queue);
  }

  delete(queue: Egress): void {
    this.#queues.delete(queue);
  }

  /** Bytes that wait. */
  get bytes(): number {
    let bytes = 0;
    for (const queue of this.#queues) bytes += queue.heldBytes;
    return bytes;
  }

  /** May so many more wait for one that is down? */
  takes(bytes: number): boolean {
    return this.budgetBytes === Infinity || this.bytes + bytes <= this.budgetBytes / 2;
  }
}
