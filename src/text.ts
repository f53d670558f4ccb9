/** Text for people and logs, each conversion once. */
import { LOG_TEXT_MAX_CHARS } from "./limits.ts";

/**
 * Control, format and unassigned characters, separators of lines, halves of pairs, and letters and blanks that show nothing.
 * A soft hyphen and variation selectors are among them.
 */
const UNPRINTABLE =
  /[\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\u{e0100}-\u{e01ef}]/u;
/** Is there anything but plain ASCII? */
const SPECIAL = /[^\x20-\x7e]/;
/** What stands for a character, null where it stands for itself: to ask the pattern takes long. Peers choose characters. */
const ESCAPES = new Map<number, string | null>();
const ESCAPES_MAX = 1000;

/** Text as it may go to a log or terminal: control and bidirectional characters escaped, length bounded. */
export function printable(text: string, maxChars: number = LOG_TEXT_MAX_CHARS): string {
  const cut = text.length > maxChars
    ? `${text.slice(0, maxChars)}... (${text.length - maxChars} characters more)`
    : text;
  if (!SPECIAL.test(cut)) return cut;
  let out = "";
  let from = 0;
  for (let at = 0, next = 0; at < cut.length; at = next) {
    const code = cut.codePointAt(at)!;
    next = at + (code > 0xffff ? 2 : 1);
    const escape = code >= 0x20 && code <= 0x7e ? null : escapeOf(code);
    if (escape === null) continue;
    out += cut.slice(from, at) + escape;
    from = next;
  }
  return out + cut.slice(from);
}

function escapeOf(code: number): string | null {
  let escape = ESCAPES.get(code);
  if (escape === undefined) {
    escape = UNPRINTABLE.test(String.fromCodePoint(code)) ? escaped(code) : null;
    if (ESCAPES.size >= ESCAPES_MAX) ESCAPES.clear();
    ESCAPES.set(code, escape);
  }
  return escape;
}

function escaped(code: number): string {
  if (code === 0x0a) return "\\n";
  if (code === 0x0d) return "\\r";
  if (code === 0x09) return "\\t";
  const digits = code.toString(16);
  return code < 256
    ? `\\x${digits.padStart(2, "0")}`
    : code < 0x1_0000
    ? `\\u${digits.padStart(4, "0")}`
    : `\\u{${digits}}`;
}

/** Bytes as text for a log: UTF-8 where it is, escaped by {@link printable}. */
export function printableBytes(bytes: Uint8Array, maxBytes = 64): string {
  const cut = bytes.length > maxBytes;
  const text = new TextDecoder().decode(cut ? bytes.subarray(0, maxBytes) : bytes);
  return printable(text) + (cut ? "..." : "");
}

/** `buf[start, end)` as text, a character a byte. */
export function latin1(buf: Uint8Array, start = 0, end: number = buf.length): string {
  let text = "";
  for (let i = start; i < end; i++) text += String.fromCharCode(buf[i]);
  return text;
}

/** The bytes of a text whose characters are all below 256. */
export function latin1Bytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** Bytes in hexadecimal, two digits each. */
export function hex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

const ENCODER = new TextEncoder();

/** A text's bytes in UTF-8. */
export function utf8(text: string): Uint8Array {
  return ENCODER.encode(text);
}

/** `1 message`, `2 messages` */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** Longer words are no slip of the finger. */
const WORD_MAX_CHARS = 64;

/** `. Did you mean "x"?` for the known word that is nearest, or nothing when none is near. */
export function didYouMean(word: string, known: Iterable<string>): string {
  if (word.length > WORD_MAX_CHARS) return "";
  let best = "";
  let least = Math.min(3, Math.ceil(word.length / 3)) + 1;
  for (const candidate of known) {
    const d = distance(word.toLowerCase(), candidate.toLowerCase(), least);
    if (d < least) {
      least = d;
      best = candidate;
    }
  }
  return best === "" ? "" : `. Did you mean "${best}"?`;
}

/** Edits from one word to the other, a swap of neighbours counted as one; `atLeast` where it is that or more. */
function distance(a: string, b: string, atLeast: number): number {
  if (Math.abs(a.length - b.length) >= atLeast) return atLeast;
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(row[j - 1] + 1, last[j] + 1, last[j - 1] + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        row[j] = Math.min(row[j], before[j - 2] + 1);
      }
    }
    before = last;
    last = row;
  }
  return last[b.length];
}

/** The address without its port: all connections of one host are one subject of the rate limiter. */
export function hostOf(remote: string): string {
  return remote.replace(/:\d+$/, "");
}

/** A day by UTC: `2028-07-27`. */
export function dateText(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}
