import process from "node:process";
import { readConfig } from "../../src/config/reader.ts";
import { HANDLERS_BY_NAME } from "../../src/handlers/index.ts";
import { Logger } from "../../src/log.ts";
import { bodyOf, encodeMessage } from "../../src/message/draft.ts";
import { MACHINE } from "../../src/runtime/machine.ts";
import { SocketContext } from "../../src/socket/context.ts";

export const MESSAGES_PER_CHUNK = 1000;

const NOTHING = new Uint8Array(0);

/** A message as a client sends it. */
export function encoded(type: string, fields: Record<string, unknown>): Uint8Array {
  const body = bodyOf({ type, fields, hostname: "host", time: 1795331293.1 });
  return encodeMessage(NOTHING, { type, body, signature: NOTHING, blob: null });
}

/** A small one. */
export const SMALL: Uint8Array = encoded("pub.infofile", {
  filename: "/var/lib/info/info.test",
  mtime: 1314187603,
  comp: "none",
  data: "",
  mode: "b",
});

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

export const SILENT: Logger = new Logger("bench", { sink: () => {}, pid: process.pid });

export const context = () => new SocketContext(MACHINE, SILENT);

/** A config's text, checked. */
export const config = (text: string) =>
  readConfig(text, "bench.ini", { host: MACHINE.host, definitions: HANDLERS_BY_NAME });
