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

  /**
   * May so many more wait here, for one that is down? All of them have half of the memory; once half of that is taken, each
   * has its part only, so that one which takes all it can leaves room for the others.
   */
  takes(queue: Egress, bytes: number): boolean {
    if (this.budgetBytes === Infinity) return true;
    const most = this.budgetBytes / 2;
    const total = this.bytes + bytes;
    return total <= most / 2 || (total <= most && queue.heldBytes + bytes <= most / this.#queues.size);
  }
}
