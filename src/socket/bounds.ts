/** What goes to an upstream must not pass the bounds that a server like ours has: it would close the link of all. */
import { MESSAGE_MAX_FRAMES } from "../limits.ts";
import { bodyStart, frameEnd, MORE } from "../zmtp/frame.ts";
import type { DropReason } from "./types.ts";

/** Why the message cannot go with `identityFrame` in front; null where it can. */
export function boundPassed(
  identityFrame: Uint8Array,
  buf: Uint8Array,
  start: number,
  end: number,
  messageMaxBytes: number,
): DropReason | null {
  if (identityFrame.length + end - start > messageMaxBytes) return "too-large";
  // Without a route, a message has few frames.
  if (bodyStart(buf, start) === frameEnd(buf, start)) return null;
  let frames = identityFrame.length > 0 ? 2 : 1;
  for (let at = start; (buf[at] & MORE) !== 0; at = frameEnd(buf, at)) frames++;
  return frames > MESSAGE_MAX_FRAMES ? "too-many-frames" : null;
}
