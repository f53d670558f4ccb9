import type { Bench } from "tinybench";
import { RelayTable } from "../../src/relay/table.ts";
import { chunkOf, context, MESSAGES_PER_CHUNK, SMALL } from "./fixtures.ts";

/** Copies a run of messages behind an identity, in the kernel. */
export default function relayRun(bench: Bench): void {
  const shared = context();
  const { arena } = shared;
  const table = shared.relayTable({ messageMaxBytes: 1 << 26, messageMaxFrames: 37 });
  const [from, to] = [512 * 1024, 1024 * 1024].map((bytes) => arena?.take(bytes) ?? null);
  if (!table || !from || !to) return;
  const chunk = chunkOf(MESSAGES_PER_CHUNK);
  from.buf.set(chunk, from.start);
  const type = new TextEncoder().encode("pub.infofile");
  table.set(RelayTable.slotOf(type, 0, type.length), type, 1);
  const identityFrame = new Uint8Array([1, 5, 0, 1, 2, 3, 4]);
  bench.add(`relay run: ${MESSAGES_PER_CHUNK} messages of ${SMALL.length} bytes`, () => {
    table.run(identityFrame, from.start, from.start + chunk.length, to.start, to.end, 1);
    table.collected();
  });
}
