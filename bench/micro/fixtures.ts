import { encodeMessage } from "../../src/message/message.ts";

export const MESSAGES_PER_CHUNK = 1000;

/** A small message as a client sends it. */
export const SMALL: Uint8Array = encodeMessage(
  [],
  "pub.infofile",
  { filename: "/var/lib/info/info.test", mtime: 1314187603, comp: "none", data: "", mode: "b" },
  { hostname: "host", time: 1795331293.1 },
);

/** So many of them, one behind the other. */
export function chunkOf(count: number, messages: readonly Uint8Array[] = [SMALL]): Uint8Array {
  const parts = Array.from({ length: count }, (_, i) => messages[i % messages.length]);
  const chunk = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    chunk.set(part, at);
    at += part.length;
  }
  return chunk;
}
