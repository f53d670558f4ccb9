/**
 * Message types that are forwarded to the same queues: messages of one group go together in a run. Those that are only
 * dropped are a group too, without queues.
 */
import type { Block } from "../memory/block.ts";

/** Room for a run in a queue: up to `bytes` of the block from `at` on. One object a queue, filled anew each time. */
export interface RunSpace {
  block: Block | null;
  at: number;
  /** 0: there is no room. */
  bytes: number;
}

/** Where runs of messages are put at once, for the same to be done as by sending each. */
export interface RunQueue {
  /** Makes room for a run, as much as may come before the queue could be full. */
  reserveRun(): RunSpace;
  /** Bytes that may come before the queue could be full; 0 when none. */
  runLimit(): number;
  /** So many messages and bytes, identity frames included, were put where {@link reserveRun} said. */
  commitRun(messages: number, bytes: number): void;
  /** Would a run be written at once, from where it lies? Then {@link writeRun} takes it, instead of the two above. */
  readonly writesNow: boolean;
  /** A run of so many messages and bytes is listed in the transport's vectors, each behind `identityFrame`. */
  writeRun(identityFrame: Uint8Array, messages: number, bytes: number): void;
  /** The same run as another queue has it in its block, at `at`. */
  shareRun(block: Block, at: number, messages: number, bytes: number): void;
}

/** A group of types. */
export interface Group {
  /** Its number in the relay's table; 0 is no group. */
  readonly number: number;
  /** Each gets every message. */
  readonly queues: readonly RunQueue[];
}

/** The groups of a table. */
export class Groups {
  readonly #groups: Group[] = [];

  /** The group that is forwarded to these queues; null where no run can be, as one of them is there twice. */
  to(queues: readonly RunQueue[]): Group | null {
    if (new Set(queues).size < queues.length) return null;
    const known = this.#groups.find((group) =>
      group.queues.length === queues.length && group.queues.every((queue, i) => queue === queues[i])
    );
    if (known !== undefined) return known;
    const group = { number: this.#groups.length + 1, queues };
    this.#groups.push(group);
    return group;
  }

  clear(): void {
    this.#groups.length = 0;
  }
}
