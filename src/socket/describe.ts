/** Peers and messages, in words for people. */
import { IDENTITY_MAX_BYTES } from "../limits.ts";
import { counted, hex, printableBytes } from "../text.ts";
import { bodyStart, frameEnd, MORE } from "../zmtp/frame.ts";

/** Bytes of a type that are told. */
const TYPE_TEXT_BYTES = 64;

/** An identity for people: text where it is printable, else hexadecimal. */
export function identityName(identity: Uint8Array): string {
  if (identity.length <= IDENTITY_MAX_BYTES && identity.every((b) => b > 0x20 && b < 0x7f)) {
    return `"${printableBytes(identity, 255)}"`;
  }
  return hex(identity.subarray(0, 32));
}

/**
 * The message at `buf[start, end)` with a client's identity in front, or without: its type, size and client.
 *
 * @param bytes Where only its beginning is there, up to some frame's header at least: it has so many or more.
 */
export function describeMessage(buf: Uint8Array, start: number, end: number, bytes?: number): string {
  let at = start;
  while (frameEnd(buf, at) < end && frameEnd(buf, at) > bodyStart(buf, at) && (buf[at] & MORE) !== 0) {
    at = frameEnd(buf, at);
  }
  // Behind the delimiter stands the type.
  const typeAt = frameEnd(buf, at);
  const typeEnd = typeAt < end ? frameEnd(buf, typeAt) : end;
  const type = typeAt < end && typeEnd <= end
    ? `"${printableBytes(buf.subarray(bodyStart(buf, typeAt), typeEnd), TYPE_TEXT_BYTES)}"`
    : "of no type";
  const client = at === start ? "" : ` from the client ${firstIdentity(buf, start)}`;
  const size = bytes === undefined ? counted(end - start, "byte") : `${bytes} bytes or more`;
  return `${type}, ${size}${client}`;
}

function firstIdentity(buf: Uint8Array, start: number): string {
  return identityName(buf.subarray(bodyStart(buf, start), frameEnd(buf, start)));
}
