import type { Bench } from "tinybench";
import { Egress } from "../../src/socket/egress.ts";
import { context, MESSAGES_PER_CHUNK, SMALL } from "./fixtures.ts";

/** Copies messages to a link that takes everything at once. */
export default function egressAppend(bench: Bench): void {
  const shared = context();
  const egress = new Egress(shared, { hwm: 100, floorBytes: 1 << 20, maxBytes: 1 << 27 });
  const nothing = () => {};
  egress.attach({
    remote: "bench",
    write: () => true,
    writtenBytes: () => 0,
    pause: nothing,
    resume: nothing,
    end: nothing,
    destroy: nothing,
  });
  egress.open();
  const identityFrame = new Uint8Array([1, 5, 0, 1, 2, 3, 4]);
  bench.add(`egress append: ${MESSAGES_PER_CHUNK} messages of ${SMALL.length} bytes, and flush`, () => {
    for (let i = 0; i < MESSAGES_PER_CHUNK; i++) egress.append(identityFrame, SMALL, 0, SMALL.length, null);
    shared.flusher.flush();
  });
}
