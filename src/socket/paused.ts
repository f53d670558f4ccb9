/** Sources that are paused until there is room, and resume one after the other, as long as there is. */
import type { Source } from "./types.ts";

export class PausedSources {
  readonly #hasRoom: () => boolean;
  readonly #soon: (f: () => void) => void;
  readonly #sources = new Set<Source>();

  /**
   * @param hasRoom May another source go on?
   * @param soon Calls a function behind what runs now.
   */
  constructor(hasRoom: () => boolean, soon: (f: () => void) => void) {
    this.#hasRoom = hasRoom;
    this.#soon = soon;
  }

  get size(): number {
    return this.#sources.size;
  }

  has(source: Source): boolean {
    return this.#sources.has(source);
  }

  /** Pauses a source that is not paused here yet. */
  add(source: Source): void {
    if (this.#sources.has(source)) return;
    this.#sources.add(source);
    source.pause();
  }

  /** There is room: the one that has waited longest has its turn, then the next, until it is used up. */
  resume(): void {
    if (this.#sources.size > 0) this.#soon(this.#resumeNext);
  }

  readonly #resumeNext = (): void => {
    for (const source of this.#sources) {
      if (!this.#hasRoom()) return;
      this.#sources.delete(source);
      source.resume();
      if (this.#sources.size > 0) this.#soon(this.#resumeNext);
      return;
    }
  };

  /** All go on: nothing is waited for any more. */
  resumeAll(): void {
    const sources = [...this.#sources];
    this.#sources.clear();
    for (const source of sources) source.resume();
  }
}
