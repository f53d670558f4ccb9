/** The books of a soak: who sent what, and whether it came once and in order. It stays small however long the soak goes on. */

/** Numbers of a client behind its latest that are told apart: one that comes again from those that come late. */
const WINDOW = 4096;
/** A client that has left is forgotten when so much time has passed: nothing of it waits anywhere by then. */
const FORGET_MS = 120_000;

interface Track {
  sent: number;
  arrived: number;
  /** The largest number that has come. */
  top: number;
  readonly seen: Uint32Array;
  leftAt: number | null;
}

/** One path's messages. */
export class Ledger {
  sent = 0;
  arrived = 0;
  /** Came again. */
  twice = 0;
  /** Came behind one that was sent later. */
  late = 0;
  /** Nobody had sent them. */
  strange = 0;
  readonly #tracks = new Map<number, Track>();
  #clients = 0;

  /** A new client's number. */
  join(): number {
    const client = ++this.#clients;
    const seen = new Uint32Array(WINDOW / 32);
    this.#tracks.set(client, { sent: 0, arrived: 0, top: -1, seen, leftAt: null });
    return client;
  }

  /** The number of a client's next message, which is sent now. */
  next(client: number): number {
    this.sent++;
    return this.#tracks.get(client)!.sent++;
  }

  arrive(client: number, n: number): void {
    const track = this.#tracks.get(client);
    if (track === undefined || n >= track.sent) {
      this.strange++;
      return;
    }
    const { seen } = track;
    if (n > track.top) {
      if (n - track.top >= WINDOW) seen.fill(0);
      else for (let i = track.top + 1; i < n; i++) seen[(i % WINDOW) >> 5] &= ~(1 << (i & 31));
      track.top = n;
    } else if (track.top - n < WINDOW && (seen[(n % WINDOW) >> 5] & (1 << (n & 31))) !== 0) {
      this.twice++;
      return;
    } else {
      this.late++;
    }
    seen[(n % WINDOW) >> 5] |= 1 << (n & 31);
    track.arrived++;
    this.arrived++;
  }

  /** Nothing more is sent by it. */
  leave(client: number, now: number): void {
    this.#tracks.get(client)!.leftAt = now;
  }

  /** Forgets those that left long ago. */
  sweep(now: number): void {
    for (const [client, { leftAt }] of this.#tracks) {
      if (leftAt !== null && now - leftAt > FORGET_MS) this.#tracks.delete(client);
    }
  }
}
