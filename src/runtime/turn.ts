/**
 * What links may read in one turn of the event loop, so that one that sends all it can does not make the others wait.
 *
 * A runtime's own loop reads a socket that has much again and again before it looks at the next: 98 MB were seen in one turn.
 * So links that bring much share a turn, and between two turns the loop serves everybody else. A turn ends with its bytes or
 * its time, whichever comes first, as messages that handlers read cost many times what forwarded ones do:
 *
 * ```
 *                                        all links together       one link at once
 *   nobody else is there                 8 MiB, 8 ms              4 ms (a turn's other costs do not count beside that)
 *   others send little at a time,        Bun: 4 MiB, 4 ms         128 KiB, 0.5 ms: then those who brought little last
 *   and perhaps wait for an answer       Deno: 1 MiB, 2 ms        are looked at (Bun), or the turn may end (others)
 *                                        Node: 256 KiB, 1 ms
 * ```
 *
 * There are two ways, for what a runtime lets its driver do:
 *
 * ```
 *   Rounds (Bun)      a link that brings much becomes hot: the loop is told not to read it, the driver does, in rounds
 *   Budget (others)   the loop reads; when a turn is spent, a link that brings more rests until the next
 * ```
 */

const KIB = 1024;
const MIB = 1024 * KIB;

/** Bytes of a turn, all links that bring much together, and milliseconds. */
export const TURN_BYTES: number = 8 * MIB;
const TURN_MS = 8;
/** Milliseconds of one read and what is done with its bytes. */
const READ_MS = 4;
/** The same while others send little at a time. */
const MIXED_READ_MS = 0.5;
const MIXED_READ_BYTES = 128 * KIB;
/** At least so much is read at once. */
const READ_MIN_BYTES = 4 * KIB;
/**
 * What one hot link may bring, over several rounds, before it is the next one's turn. What waits in the buffers of the
 * others is not in the processor's cache any more: with a share for each of eight in each round, a message cost half as
 * much again.
 */
const STAY_BYTES = 16 * MIB;
const STAY_MS = 16;
/** So many of the links that brought little last are looked at. */
const LIGHT_MAX = 8;
/** From here on a chunk is much. */
export const MUCH_BYTES: number = 64 * KIB;
/**
 * More hot links than that are a crowd, for so long. Of a crowd each brings little more than one read at a time, and the loop
 * does that for less.
 */
const HOT_MAX = 16;
const CROWD_MS = 200;
/** So long after it brought much, a link that brings little is not taken to wait. */
const WAS_BUSY_MS = 1000;
/**
 * What a link may bring in a turn whatever others have brought is its part of the turn, and not more than this: to rest
 * costs as much as reading that.
 */
const OWN_MOST_BYTES = 256 * KIB;
/** A link's first bytes are its handshake: nobody waits for an answer to that. */
const HANDSHAKE_BYTES = 256;
/** When nothing much has come for so long, the loop has served everybody meanwhile. */
const IDLE_MS = 50;
/** So long after the last one that brought little, nobody is taken to wait. */
const MIXED_MS = 2000;

/** What the event loop and its clock are to this. */
export interface Loop {
  /** Calls back in the next turn, once the sockets that are ready have been served. */
  nextTurn(f: () => void, mixed: boolean): void;
  /** Milliseconds of a clock that only goes forward. */
  now(): number;
  /** Bytes and milliseconds of a turn while others bring little at a time: as few as what else a turn costs allows. */
  readonly mixedBytes: number;
  readonly mixedMs: number;
}

/** What a link's bytes cost. */
export class Pace {
  #msPerByte = 0;

  /** So many bytes took so long. */
  took(bytes: number, ms: number): void {
    if (bytes < READ_MIN_BYTES) return;
    // What took longer mostly was interrupted by another process.
    const more = ms / bytes - this.#msPerByte;
    if (this.#msPerByte === 0) this.#msPerByte = more;
    else this.#msPerByte += more < 0 ? more / 2 : more / 8;
  }

  /** Bytes that take about so long: a power of two, or the most. */
  bytesIn(ms: number, mostBytes: number): number {
    const bytes = ms / this.#msPerByte;
    if (!(bytes < mostBytes)) return mostBytes;
    return Math.max(READ_MIN_BYTES, 1 << (31 - Math.clz32(bytes)));
  }
}

/** Tells a link that brings little at a time, and perhaps waits for answers, from one that begins to bring much. */
export class Manner {
  #bytes = 0;
  #times = 0;
  #busyAt = -Infinity;

  /** It has brought much. */
  much(now: number): void {
    this.#busyAt = now;
    this.#times = 0;
  }

  /** It has brought little; true: somebody most likely waits there. */
  little(bytes: number, now: number): boolean {
    this.#bytes += bytes;
    // A flood's first chunk is small.
    return this.#bytes > HANDSHAKE_BYTES && ++this.#times > 1 && now - this.#busyAt > WAS_BUSY_MS;
  }
}

/** A link that brings little at a time, and can be asked whether it has. */
export interface LightLink {
  /** Reads what is there; false: it is not to be asked again. */
  readLight(): boolean;
}

/** Does somebody send little at a time, beside those that send much? */
class Mix {
  readonly #now: () => number;
  #little = false;
  #until = -Infinity;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** A link has brought little: somebody may wait for an answer there. */
  little(): void {
    this.#little = true;
  }

  /** Asked once a turn. */
  get mixed(): boolean {
    const now = this.#now();
    if (this.#little) this.#until = now + MIXED_MS;
    this.#little = false;
    return now < this.#until;
  }
}

/** A link that can be read in rounds. */
export interface HotLink {
  /** Reads as {@link Rounds.next} allows, and tells {@link Rounds.took}. One that has no more leaves by {@link Rounds.remove}. */
  readTurn(): void;
  /** It is not hot any more: the loop reads it. */
  cool(): void;
}

/**
 * Reads hot links in rounds, one a turn.
 *
 * ```
 *                    much came at once                 it brings little, nothing, or its end
 *   read by the loop ──────────────────▶ hot ───────────────────────────────────────────────▶ read by the loop
 *                                        │ ▲
 *                                 paused ▼ │ resumed
 *                                       waiting
 * ```
 */
export class Rounds {
  readonly #loop: Loop;
  readonly #mix: Mix;
  readonly #hot: HotLink[] = [];
  /** Those that brought little last. */
  readonly #light: LightLink[] = [];
  /** Whose turn is next, and what is left of it. */
  #next = 0;
  #stayBytes = STAY_BYTES;
  #stayMs = STAY_MS;
  /** What is left of this turn. */
  #left = 0;
  #until = 0;
  /** When the latest read began. */
  #began = 0;
  #scheduled = false;
  #mixed = false;
  #crowdUntil = -Infinity;

  constructor(loop: Loop) {
    this.#loop = loop;
    this.#mix = new Mix(loop.now);
  }

  /** A link has brought much at once. True: it is hot, and the loop must not read it any more. */
  add(link: HotLink): boolean {
    const now = this.#loop.now();
    if (now < this.#crowdUntil) return false;
    if (this.#hot.length === HOT_MAX) {
      this.#crowdUntil = now + CROWD_MS;
      for (const one of this.#hot.splice(0)) one.cool();
      return false;
    }
    this.#hot.push(link);
    this.#schedule();
    return true;
  }

  /** A link that was hot has no more, is paused, or gone. */
  remove(link: HotLink): void {
    const i = this.#hot.indexOf(link);
    if (i < 0) return;
    this.#hot.splice(i, 1);
    if (i < this.#next) this.#next--;
  }

  /** A link has brought little. */
  light(link: LightLink): void {
    this.#mix.little();
    if (this.#light.includes(link)) return;
    if (this.#light.length === LIGHT_MAX) this.#light.shift();
    this.#light.push(link);
  }

  /** Does somebody send little at a time, beside those that send much? */
  get mixed(): boolean {
    return this.#mixed;
  }

  /** A turn begins: that of the hot links, or of one of a crowd. */
  begin(): void {
    this.#mixed = this.#mix.mixed;
    if (!this.#mixed) this.#light.length = 0;
    this.#left = this.#mixed ? this.#loop.mixedBytes : TURN_BYTES;
    this.#began = this.#loop.now();
    this.#until = this.#began + (this.#mixed ? this.#loop.mixedMs : TURN_MS);
  }

  /** Bytes that a link may read now; 0: its turn is over. */
  next(pace: Pace): number {
    if (this.over) return 0;
    return this.#mixed
      ? pace.bytesIn(MIXED_READ_MS, Math.min(this.#left, MIXED_READ_BYTES))
      : pace.bytesIn(READ_MS, this.#left);
  }

  /** So much has come of it, and is done with. */
  took(pace: Pace, bytes: number): void {
    const ms = this.#loop.now() - this.#began;
    pace.took(bytes, ms);
    this.#left -= bytes;
    this.#stayBytes -= bytes;
    this.#stayMs -= ms;
    // Who waited last most likely waits again.
    const light = this.#light;
    for (let i = light.length - 1; i >= 0; i--) if (!light[i].readLight()) light.splice(i, 1);
    this.#began = this.#loop.now();
  }

  /** Is this turn over? */
  get over(): boolean {
    return this.#left <= 0 || this.#began >= this.#until;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#loop.nextTurn(this.#round, this.#mixed);
  }

  readonly #round = (): void => {
    this.#scheduled = false;
    const hot = this.#hot;
    this.begin();
    for (let todo = hot.length; todo > 0 && hot.length > 0 && !this.over; todo--) {
      if (this.#next >= hot.length) this.#next = 0;
      const link = hot[this.#next];
      link.readTurn();
      // It may have left meanwhile, and others.
      if (hot[this.#next] === link) {
        if (this.over && this.#stayBytes > 0 && this.#stayMs > 0) break;
        this.#next++;
      }
      this.#stayBytes = STAY_BYTES;
      this.#stayMs = STAY_MS;
    }
    if (hot.length > 0) this.#schedule();
  };
}

/** What one link has of the budget. */
export class Share {
  readonly pace: Pace = new Pace();
  /** From here on what it brings is much. */
  much = MUCH_BYTES;
  /** The turn that `bytes` are of. */
  turn = -1;
  bytes = 0;
  readonly manner: Manner = new Manner();
}

/** The bytes and the time of a turn, for links that the runtime reads. */
export class Budget {
  readonly #loop: Loop;
  readonly #mix: Mix;
  readonly #resting: (() => void)[] = [];
  #turn = 0;
  #left = TURN_BYTES;
  /** What each may bring in this turn whatever others have brought. */
  #each = OWN_MOST_BYTES;
  #until = 0;
  /** Milliseconds of one read while nobody sends little: less where several links may have asked for that. */
  #readMs = READ_MS;
  /** When much came last. */
  #spentAt = -Infinity;
  #scheduled = false;
  #mixed = false;

  constructor(loop: Loop) {
    this.#loop = loop;
    this.#mix = new Mix(loop.now);
  }

  /** Bytes that a link should ask for at once. */
  next(share: Share, mostBytes: number): number {
    const most = this.#mixed ? Math.min(mostBytes, this.#each) : mostBytes;
    const bytes = share.pace.bytesIn(this.#mixed ? MIXED_READ_MS : this.#readMs, most);
    // One that is asked for less brings much if it brings that: there is more.
    share.much = Math.min(bytes, MUCH_BYTES);
    return bytes;
  }

  /**
   * Bytes of a link have come, and are done with.
   *
   * @param cameAt When they came, by the loop's clock.
   * @returns True: it may go on; false: it rests until {@link rest} calls back.
   */
  spend(share: Share, bytes: number, cameAt: number): boolean {
    const now = this.#loop.now();
    if (bytes < share.much) {
      if (share.manner.little(bytes, now)) this.#mix.little();
      return true;
    }
    share.manner.much(now);
    share.pace.took(bytes, now - cameAt);
    if (!this.#scheduled && cameAt - this.#spentAt > IDLE_MS) this.#begin(cameAt, 0);
    this.#spentAt = now;
    if (share.turn !== this.#turn) share.bytes = 0;
    share.turn = this.#turn;
    share.bytes += bytes;
    this.#left -= bytes;
    if (this.#left > 0 && now < this.#until) return true;
    // Not before it is needed: to be called back costs a turn of the loop as much as reading 200 KiB.
    if (!this.#scheduled) {
      this.#scheduled = true;
      this.#loop.nextTurn(this.#renew, this.#mixed);
    }
    return share.bytes < share.pace.bytesIn(MIXED_READ_MS, this.#each);
  }

  /** Calls back in the next turn. */
  rest(goOn: () => void): void {
    this.#resting.push(goOn);
  }

  #begin(now: number, links: number): void {
    this.#turn++;
    this.#mixed = this.#mix.mixed;
    this.#left = this.#mixed ? this.#loop.mixedBytes : TURN_BYTES;
    this.#until = now + (this.#mixed ? this.#loop.mixedMs : TURN_MS);
    // What was asked for comes, though the turn is spent.
    this.#readMs = Math.max(MIXED_READ_MS, Math.min(READ_MS, TURN_MS / Math.max(1, links)));
    const each = this.#left / Math.max(1, links);
    this.#each = Math.max(READ_MIN_BYTES, Math.min(OWN_MOST_BYTES, 1 << (31 - Math.clz32(each))));
  }

  readonly #renew = (): void => {
    this.#scheduled = false;
    const resting = this.#resting.splice(0);
    this.#begin(this.#loop.now(), resting.length);
    for (const goOn of resting) goOn();
  };
}
