/** Messages made here: from a draft to the bytes of all frames. */
import type { SealDraft, SealedParts } from "../contracts/seal.ts";
import { utf8 } from "../text.ts";
import { headerSize, MORE, writeHeader } from "../zmtp/frame.ts";
import { MessageError } from "./errors.ts";
import { isType } from "./type.ts";

const EMPTY = new Uint8Array(0);

/**
 * The body of a draft: JSON with what every body has.
 *
 * @param blobHash Empty unless a signature covers the blob.
 * @param id What tells a signed message from others; missing where nobody signs it.
 * @throws {MessageError} `bad-draft`
 */
export function bodyOf(
  { type, fields, time, hostname }: SealDraft,
  blobHash = "",
  id?: string,
): Uint8Array {
  if (!isType(type)) throw new MessageError("bad-draft", `"${type}" is not a message type`);
  let text: string;
  try {
    // What is undefined is left out.
    text = JSON.stringify({ ...fields, id: id ?? fields.id, req: type, time, hostname, blob_hash: blobHash });
  } catch (error) {
    throw new MessageError("bad-draft", `the fields of "${type}" are no JSON: ${(error as Error).message}`);
  }
  return utf8(text);
}

/**
 * A message as the bytes of its frames.
 *
 * @param route The bytes of the frames in front of the delimiter; empty where there are none.
 */
export function encodeMessage(route: Uint8Array, parts: SealedParts): Uint8Array {
  const frames = [EMPTY, utf8(parts.type), parts.body, parts.signature];
  if (parts.blob !== null) frames.push(parts.blob);
  let size = route.length;
  for (const { length } of frames) size += headerSize(length) + length;
  const bytes = new Uint8Array(size);
  bytes.set(route, 0);
  let at = route.length;
  frames.forEach((frame, i) => {
    at = writeHeader(bytes, at, frame.length, i + 1 < frames.length ? MORE : 0);
    bytes.set(frame, at);
    at += frame.length;
  });
  return bytes;
}
