import type { Bench } from "tinybench";
import { Decoder } from "../../src/zmtp/decoder.ts";
import { chunkOf, MESSAGES_PER_CHUNK } from "./fixtures.ts";

/** Finds the messages of a chunk. */
export default function frameDecode(bench: Bench): void {
  const chunk = chunkOf(MESSAGES_PER_CHUNK);
  let seen = 0;
  const limits = {
    messageMaxBytes: 1 << 26,
    skipMaxBytes: 1 << 26,
    messageMaxFrames: 37,
    commandMaxBytes: 512,
    announcedMaxBytes: 1 << 22,
  };
  const decoder = new Decoder(
    { command() {}, oversized() {}, look() {} },
    { message: () => void seen++ },
    limits,
  );
  bench.add(`frame decode: ${MESSAGES_PER_CHUNK} messages in one chunk`, () => {
    decoder.push(chunk, 0, chunk.length);
  });
  bench.add(`frame decode: the same in chunks of 1000 bytes`, () => {
    for (let at = 0; at < chunk.length; at += 1000) {
      decoder.push(chunk, at, Math.min(chunk.length, at + 1000));
    }
  });
}
