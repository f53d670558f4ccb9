import type { Bench } from "tinybench";
import process from "node:process";
import runtime from "#runtime";
import { Logger } from "../../src/log.ts";
import { Context, SYSTEM_CLOCK } from "../../src/socket/context.ts";
import { Egress } from "../../src/socket/egress.ts";
import { MESSAGES_PER_CHUNK, SMALL } from "./fixtures.ts";

/** Copies messages to a link that takes everything at once. */
export default function egressAppend(bench: Bench): void {
  const context = new Context({
    transport: runtime,
    clock: SYSTEM_CLOCK,
    random: Math.random,
    resolve: () => Promise.resolve([]),
    log: new Logger("bench", { sink: () => {}, pid: process.pid }),
  });
  const egress = new Egress(context, { hwm: 100, floorBytes: 1 << 20, maxBytes: 1 << 27 });
  const nothing = () => {};
  egress.attach({
    remote: "bench",
    write: () => true,
    taken: () => 0,
    pause: nothing,
    resume: nothing,
    end: nothing,
    destroy: nothing,
  });
  egress.open();
  const prefix = new Uint8Array([1, 5, 0, 1, 2, 3, 4]);
  bench.add(`egress append: ${MESSAGES_PER_CHUNK} messages of ${SMALL.length} bytes, and flush`, () => {
    for (let i = 0; i < MESSAGES_PER_CHUNK; i++) egress.append(prefix, SMALL, 0, SMALL.length, false);
    context.flush();
  });
}
