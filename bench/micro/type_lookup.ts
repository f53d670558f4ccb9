import type { Bench } from "tinybench";
import process from "node:process";
import { Logger } from "../../src/log.ts";
import { encodeMessage } from "../../src/message/message.ts";
import { Dispatcher } from "../../src/server/dispatch.ts";
import { Statistics } from "../../src/server/stats.ts";
import type { Source } from "../../src/socket/types.ts";
import { Decoder } from "../../src/zmtp/decoder.ts";
import { chunkOf, MESSAGES_PER_CHUNK } from "./fixtures.ts";

/** From a chunk to a handler that does nothing: decode, find the type, call. */
export default function typeLookup(bench: Bench): void {
  for (const types of [1, 3, 300]) {
    const handlers = [{ name: "h:nothing", handler: { handle() {} } }];
    const log = new Logger("bench", { sink: () => {}, pid: process.pid });
    const dispatcher = new Dispatcher(() => handlers, new Statistics(2), () => 0, log);
    const source: Source & { command(): void } = {
      prefix: new Uint8Array(7),
      name: "bench",
      hold() {},
      release() {},
      command() {},
    };
    const limits = {
      messageMaxBytes: 1 << 26,
      messageMaxFrames: 37,
      commandMaxBytes: 512,
      announcedMaxBytes: 1 << 22,
    };
    const decoder = new Decoder<typeof source>(source, dispatcher, limits);
    const messages = Array.from(
      { length: types },
      (_, i) => encodeMessage([], `pub.t${i}`, {}, { hostname: "h", time: 1 }),
    );
    const chunk = chunkOf(MESSAGES_PER_CHUNK, messages);
    bench.add(
      `type look-up: ${MESSAGES_PER_CHUNK} messages of ${types} ${types === 1 ? "type" : "types in turn"}`,
      () => {
        decoder.push(chunk, 0, chunk.length);
        dispatcher.chunkEnd();
      },
    );
  }
}
