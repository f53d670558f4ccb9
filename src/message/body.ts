/** The body of a message, parsed. */
import { MessageError } from "./errors.ts";
import { checkJson } from "./json.ts";

/** `ENC1`: no JSON object with the fields of a body is as short. */
export const ENCRYPTED_BYTES = 4;

const DECODER = new TextDecoder("utf-8", { fatal: true });

/**
 * A body as the object that it is.
 *
 * @param type What its frame says; the body repeats it.
 * @throws {MessageError} `too-complex`, `not-json`, `bad-body`, `hijacked`
 */
export function parseBody(type: string, json: Uint8Array): Record<string, unknown> {
  checkJson(json);
  let value: unknown;
  try {
    value = JSON.parse(DECODER.decode(json));
  } catch {
    throw new MessageError("not-json", "its body is not JSON in UTF-8");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new MessageError("bad-body", "its body is not an object");
  }
  const { req } = value as { req?: unknown };
  if (typeof req !== "string") throw new MessageError("bad-body", 'field "req": expected the message type');
  if (req !== type) throw new MessageError("hijacked", `hijacked message: its body says "${req}"`);
  return value as Record<string, unknown>;
}
