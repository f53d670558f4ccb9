/** A look at JSON before it is parsed: parsing nested or countless values costs far more than their bytes. */
import { JSON_MAX_DEPTH, JSON_MAX_VALUES } from "../limits.ts";
import { MessageError } from "./errors.ts";

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** In fewer bytes there is no room for what is costly, however it nests. */
const CHECKED_MIN_BYTES = 2048;

/**
 * Refuses what nests deeper or has more values than any body needs. Whether it is JSON at all, the parser says.
 *
 * @throws {MessageError} `too-complex`
 */
export function checkJson(bytes: Uint8Array): void {
  const end = bytes.length;
  if (end < CHECKED_MIN_BYTES) return;
  let depth = 0;
  let values = 1;
  for (let at = 0; at < end; at++) {
    const byte = bytes[at];
    if (byte === QUOTE) {
      at = endOfString(bytes, at + 1);
    } else if (byte === COMMA) {
      if (++values > JSON_MAX_VALUES) throw tooMany();
    } else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      if (++values > JSON_MAX_VALUES) throw tooMany();
      if (++depth > JSON_MAX_DEPTH) {
        throw new MessageError("too-complex", `the body nests deeper than ${JSON_MAX_DEPTH} levels`);
      }
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      depth--;
    }
  }
}

function tooMany(): MessageError {
  return new MessageError("too-complex", `the body has more than ${JSON_MAX_VALUES} values`);
}

/** Up to so many bytes a loop is faster than a search of the system's. */
const SHORT_STRING_BYTES = 32;

/** Where the quote stands that ends the string whose first character is at `at`; the end of the bytes where none does. */
function endOfString(bytes: Uint8Array, at: number): number {
  const end = bytes.length;
  const near = Math.min(end, at + SHORT_STRING_BYTES);
  while (at < near) {
    const byte = bytes[at];
    if (byte === QUOTE) return at;
    at += byte === BACKSLASH ? 2 : 1;
  }
  // A long one: mostly base64, without a backslash in it.
  while (at < end) {
    const quote = bytes.indexOf(QUOTE, at);
    if (quote < 0) return end;
    let backslashes = 0;
    while (quote - 1 - backslashes >= at && bytes[quote - 1 - backslashes] === BACKSLASH) backslashes++;
    if (backslashes % 2 === 0) return quote;
    at = quote + 1;
  }
  return at;
}
