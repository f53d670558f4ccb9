import type { Bench } from "tinybench";
import runtime from "#runtime";
import { Relay, TABLE_BYTES } from "../../src/zmtp/relay.ts";
import { chunkOf, MESSAGES_PER_CHUNK, SMALL } from "./fixtures.ts";

/** Copies a run of messages behind an identity, in the kernel. */
export default function relayRun(bench: Bench): void {
  const { arena } = runtime;
  const [table, from, to] = [TABLE_BYTES, 512 * 1024, 1024 * 1024].map((bytes) => arena?.take(bytes) ?? null);
  if (!arena?.memory || !table || !from || !to) return;
  const limits = { messageMaxBytes: 1 << 26, messageMaxFrames: 37 };
  const relay = Relay.make(arena.memory, arena.buf, table.start, limits);
  if (relay === null) return;
  const chunk = chunkOf(MESSAGES_PER_CHUNK);
  arena.buf.set(chunk, from.start);
  const type = new TextEncoder().encode("pub.infofile");
  relay.set(Relay.slotOf(type, 0, type.length), type, 1);
  const prefix = new Uint8Array([1, 5, 0, 1, 2, 3, 4]);
  bench.add(`relay run: ${MESSAGES_PER_CHUNK} messages of ${SMALL.length} bytes`, () => {
    relay.run(prefix, from.start, from.start + chunk.length, to.start, to.end, 1);
    relay.collected();
  });
}
