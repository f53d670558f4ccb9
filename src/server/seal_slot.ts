/** The seal that a server has now: a reload may put another one in its place. */
import type { OpenedParts, Seal, SealDraft, SealedParts } from "../contracts/seal.ts";

export class SealSlot implements Seal {
  #seal: Seal | null;

  constructor(seal: Seal | null) {
    this.#seal = seal;
  }

  /** From now on this one. */
  use(seal: Seal): void {
    const before = this.#seal;
    this.#seal = seal;
    if (before !== null && before !== seal) before.replaced?.(seal);
  }

  /** Null before the start. */
  get now(): Seal | null {
    return this.#seal;
  }

  get #current(): Seal {
    if (this.#seal === null) throw new Error("A server has no seal before it starts");
    return this.#seal;
  }

  get asynchronous(): boolean {
    return this.#current.asynchronous;
  }

  open(parts: SealedParts): OpenedParts | Promise<OpenedParts> {
    return this.#current.open(parts);
  }

  seal(draft: SealDraft): SealedParts | Promise<SealedParts> {
    return this.#current.seal(draft);
  }

  reload(): Promise<void> {
    return this.#current.reload();
  }

  async close(): Promise<void> {
    await this.#seal?.close?.();
  }
}
