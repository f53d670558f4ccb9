/** A link to a peer of ZMTP 1.0: what is written to it are frames of 3.x, and it sends them as that peer reads them. */
import type { Link } from "../contracts/links.ts";
import { gone10, to10 } from "../zmtp/frames_1_0.ts";

const NOTHING = new Uint8Array(0);

export class Link10 implements Link {
  readonly #link: Link;
  /** What was written last. */
  #chunk: Uint8Array = NOTHING;
  #start = 0;
  #end = 0;

  constructor(link: Link) {
    this.#link = link;
  }

  get remote(): string {
    return this.#link.remote;
  }

  write(chunk: Uint8Array, start: number, end: number): boolean {
    this.#chunk = chunk;
    this.#start = start;
    this.#end = end;
    const bytes = to10(chunk, start, end);
    const taken = this.#link.write(bytes, 0, bytes.length);
    if (taken) this.#chunk = NOTHING;
    return taken;
  }

  retry(): void {
    this.#link.retry?.();
  }

  writtenBytes(): number {
    const bytes = this.#link.writtenBytes();
    return bytes < 0 || this.#chunk === NOTHING ? bytes : gone10(this.#chunk, this.#start, this.#end, bytes);
  }

  /** By bytes as they were sent: a few more than those that it was given. */
  unacknowledgedBytes(): number {
    return this.#link.unacknowledgedBytes?.() ?? -1;
  }

  pause(): void {
    this.#link.pause();
  }

  resume(): void {
    this.#link.resume();
  }

  end(): void {
    this.#link.end();
  }

  destroy(): void {
    this.#link.destroy();
  }
}
