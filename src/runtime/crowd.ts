/**
 * Reads a crowd of links that bring much, each little more than one read at a time.
 *
 * A runtime's loop reads every socket that is ready, some thousand at once, before anybody can be paused: with 10,000 clients
 * whose upstream was slow, 1.3 GB came in that nobody could take. Here a link is read when it is its turn, into the arena, and
 * not while too much waits to be taken.
 *
 * ```
 *                   brought much, or much is held         it brings little, nothing, or its end
 *   read by the loop ────────────────────▶ in the crowd ─────────────────────────────────────▶ read by the loop
 *
 *                   something came                its turn            somebody has no room
 *   drained ───────────────────────────▶ ready ◀───────────▶ read ◀────────────────────────▶ paused
 *                                        │ ▲
 *                 much is held, and it   ▼ │ enough is taken
 *                 was paused last time  deferred
 * ```
 */
import type { Batch } from "../contracts/links.ts";
import type { Loop, Rounds } from "./turn.ts";

const KIB = 1024;

/** In a crowd that is much: the system is asked to let each send little at once. */
export const CROWD_MUCH_BYTES: number = 16 * KIB;
/** One that brings less so often, one time after the other, leaves: perhaps it waits for answers. */
const LITTLE_BYTES = 4 * KIB;
const LITTLE_TIMES = 2;
/** One that brings nothing for so long leaves. */
const IDLE_MS = 2000;
/** So many are looked at in a turn. */
const SWEPT = 64;
/**
 * Bytes that may have been read of those who are paused. From here on nobody is read who was paused the last time, until
 * enough of it is taken, and of others a little at first: they may send elsewhere.
 */
const HELD_MAX_BYTES = 8 * 1024 * KIB;
const HELD_ENOUGH_BYTES: number = HELD_MAX_BYTES * 3 / 4;
const PROBE_BYTES = KIB;
/** What one may bring before it is the next one's turn: what comes while it is read is still in the processor's cache. */
const STAY_BYTES = 8 * 1024 * KIB;
/** While too much is held, so many of those whom the loop still reads come in for each that is paused. */
const PULLED_IN = 32;
/** The same once all have been asked: others may have come, or left again. */
const PULLED_IN_AGAIN = 1;
/** What so many bytes cause to be written is written at once: fewer and larger writes cost less. */
const BATCH_BYTES = 256 * KIB;
/** A turn ends when so many have been paused: there is no room where they send. */
const PAUSED_MAX = 4;
/** So few are no crowd any more. */
const FEW = 8;

/** Tells which sockets have something to read, once for each time that something came. */
export interface Readiness {
  /** `id` is told with it; false: it cannot be watched. */
  add(fd: number, id: number): boolean;
  remove(fd: number): void;
  /** Does not wait. `ended`: the end of the stream, or an error, is there, perhaps behind bytes. */
  poll(ready: (id: number, ended: boolean) => void): void;
}

/** A link that can be read in a crowd. */
export interface CrowdLink {
  /**
   * Reads once, at most so much, says by {@link Member.more} whether there is more, and tells {@link Rounds.took}.
   *
   * @returns How many bytes came; 0: the stream's end; below: there is nothing, or an error.
   */
  readOnce(mostBytes: number): number;
  /** What its bytes cause to be written goes here; null: it goes at once. */
  readonly batch: Batch | null;
  /** It has left; `few`: it brings much, but there is no crowd any more. */
  left(few: boolean): void;
}

/** What the crowd knows of a link. */
export class Member {
  readonly link: CrowdLink;
  readonly fd: number;
  readonly id: number;
  /** Is it among those that are ready? */
  queued = false;
  paused = false;
  /** Was it paused when it was read last? */
  wasPaused = false;
  /** It is not read while too much is held. */
  deferred = false;
  ended = false;
  gone = false;
  /** Most likely there is more to read: the link says so. */
  more = false;
  little = 0;
  broughtAt: number;
  /** Bytes that it had brought when it was paused. */
  held = 0;

  constructor(link: CrowdLink, fd: number, id: number, now: number) {
    this.link = link;
    this.fd = fd;
    this.id = id;
    this.broughtAt = now;
  }
}

export class Crowd {
  readonly #rounds: Rounds;
  readonly #loop: Loop;
  readonly #readiness: Readiness;
  readonly #pullIn: (links: number) => boolean;
  readonly #members = new Map<number, Member>();
  #sweeper: Iterator<Member> = this.#members.values();
  #nextId = 0;
  /** Those that are ready, from the `head` on. */
  #ready: Member[] = [];
  #head = 0;
  #deferred: Member[] = [];
  /** Members that are neither paused nor deferred. */
  #active = 0;
  #held = 0;
  /** Since too much was held, have all been asked to come in whom the loop reads? */
  #pulledAll = false;
  #now = 0;
  #fewAt = -Infinity;
  #scheduled = false;

  /**
   * @param rounds Whose turns these are: their bytes, their time, and who is asked between two reads.
   * @param pullIn So many more of the links that the loop reads join; false: the next are the first again.
   */
  constructor(rounds: Rounds, loop: Loop, readiness: Readiness, pullIn: (links: number) => boolean) {
    this.#rounds = rounds;
    this.#loop = loop;
    this.#readiness = readiness;
    this.#pullIn = pullIn;
  }

  get size(): number {
    return this.#members.size;
  }

  /** A link comes in, and the loop must not read it any more; null: it cannot. */
  join(link: CrowdLink, fd: number): Member | null {
    this.#nextId = (this.#nextId + 1) >>> 0;
    const member = new Member(link, fd, this.#nextId, this.#loop.now());
    if (!this.#readiness.add(fd, member.id)) return null;
    if (this.size === 0) this.#fewAt = this.#loop.now();
    this.#members.set(member.id, member);
    this.#active++;
    this.#enqueue(member);
    return member;
  }

  /** A link is paused, or has come in so, after it brought so many bytes. */
  pause(member: Member, bytes: number): void {
    if (!member.paused && !member.deferred) this.#active--;
    member.paused = true;
    member.held += bytes;
    this.#held += bytes;
    if (this.#held <= HELD_MAX_BYTES) return;
    if (!this.#pullIn(this.#pulledAll ? PULLED_IN_AGAIN : PULLED_IN)) this.#pulledAll = true;
  }

  resume(member: Member): void {
    if (!member.paused || member.gone) return;
    member.paused = false;
    if (!member.deferred) this.#active++;
    this.#release(member);
    member.broughtAt = this.#loop.now();
    this.#enqueue(member);
  }

  /** A link is gone, or the loop reads it again. `closed`: its descriptor is not there any more. */
  drop(member: Member, closed: boolean): void {
    if (member.gone) return;
    member.gone = true;
    if (!closed) this.#readiness.remove(member.fd);
    this.#members.delete(member.id);
    if (!member.paused && !member.deferred) this.#active--;
    this.#release(member);
  }

  #release(member: Member): void {
    this.#held -= member.held;
    member.held = 0;
    if (this.#held > HELD_ENOUGH_BYTES) return;
    this.#pulledAll = false;
    for (const one of this.#deferred.splice(0)) {
      one.deferred = one.queued = false;
      if (one.gone || one.paused) continue;
      this.#active++;
      this.#enqueue(one);
    }
  }

  #leave(member: Member, few: boolean): void {
    this.drop(member, false);
    member.link.left(few);
  }

  #enqueue(member: Member): void {
    if (member.queued) return;
    member.queued = true;
    this.#ready.push(member);
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#loop.nextTurn(this.#turn, this.#rounds.mixed);
  }

  readonly #becameReady = (id: number, ended: boolean): void => {
    const member = this.#members.get(id);
    if (member === undefined) return;
    if (ended) member.ended = true;
    if (!member.paused) this.#enqueue(member);
  };

  readonly #turn = (): void => {
    this.#rounds.begin();
    this.#now = this.#loop.now();
    this.#readiness.poll(this.#becameReady);
    let rests = false;
    try {
      rests = this.#readAll();
    } finally {
      if (2 * this.#head > this.#ready.length) {
        this.#ready.splice(0, this.#head);
        this.#head = 0;
      }
      this.#sweep();
      this.#scheduled = this.#active > 0;
      if (this.#scheduled) this.#loop.nextTurn(this.#turn, rests || this.#rounds.mixed);
    }
  };

  /** Those that are ready, until the turn is over; true: none was. */
  #readAll(): boolean {
    let rests = true;
    let batch: Batch | null = null;
    let left = 0;
    let paused = 0;
    try {
      while (this.#head < this.#ready.length && paused < PAUSED_MAX && !this.#rounds.over) {
        const member = this.#ready[this.#head++];
        member.queued = false;
        if (member.gone || member.paused) continue;
        if (member.wasPaused && this.#held > HELD_MAX_BYTES) {
          member.deferred = member.queued = true;
          this.#active--;
          this.#deferred.push(member);
          continue;
        }
        rests = false;
        if (left <= 0 || member.link.batch !== batch) {
          batch?.end();
          batch = member.link.batch;
          batch?.begin();
          left = BATCH_BYTES;
        }
        left -= this.#read(member);
        if (member.wasPaused) paused++;
      }
    } finally {
      batch?.end();
    }
    return rests;
  }

  /** Reads what there is, for as long as its turn lasts; returns how many bytes that were. */
  #read(member: Member): number {
    let sum = 0;
    let bytes = 0;
    let most = this.#held > HELD_MAX_BYTES ? PROBE_BYTES : Infinity;
    do {
      bytes = member.link.readOnce(most);
      member.wasPaused = member.paused;
      if (member.gone) return sum;
      if (bytes <= 0) {
        // The loop sees the end once more, and tells.
        if (bytes === 0 || member.ended) this.#leave(member, false);
        return sum;
      }
      sum += bytes;
      // Nobody is paused in the middle of a message.
      most *= 4;
    } while (member.more && !member.paused && sum < STAY_BYTES && !this.#rounds.over);
    member.broughtAt = this.#now;
    member.little = sum < LITTLE_BYTES ? member.little + 1 : 0;
    if (member.paused) this.pause(member, bytes);
    else if (member.little === LITTLE_TIMES) this.#leave(member, false);
    else if (member.more || member.ended) this.#enqueue(member);
    return sum;
  }

  #sweep(): void {
    for (let i = 0; i < SWEPT; i++) {
      const { value, done } = this.#sweeper.next();
      if (done) {
        this.#sweeper = this.#members.values();
        break;
      }
      const member = value as Member;
      const rests = !member.paused && !member.queued;
      if (rests && this.#now - member.broughtAt > IDLE_MS) this.#leave(member, false);
    }
    if (this.size > FEW) this.#fewAt = this.#now;
    else if (this.#now - this.#fewAt > IDLE_MS) {
      for (const member of this.#members.values()) {
        if (!member.paused && !member.deferred) this.#leave(member, true);
      }
    }
  }
}
