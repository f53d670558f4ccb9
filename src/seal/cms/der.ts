/**
 * DER (X.690), the encoding of CMS and of certificates: a reader that goes over bytes where they lie, and a writer.
 *
 * The reader takes DER alone: no indefinite lengths, no length longer than it need be, no tag of several bytes. It goes into a
 * value only where its caller says what must be there, so that nothing recurses, however deep a peer nests.
 */

/** Tags: class, the bit of constructed values, number. */
export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  enumerated: 0x0a,
  utf8String: 0x0c,
  printableString: 0x13,
  t61String: 0x14,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  bmpString: 0x1e,
  sequence: 0x30,
  set: 0x31,
} as const;

/** The tag of a context-specific value, `[number]`. */
export const context = (number: number, constructed = true): number =>
  0x80 | (constructed ? 0x20 : 0) | number;

/** Bytes are no DER, or not what is expected there. */
export class DerError extends Error {
  /** Which kind of error it is, in stacks. */
  override name = "DerError";
}

/** No OID of a known algorithm, attribute or extension is as long. */
const OID_MAX_BYTES = 32;

/** Goes over the values that lie in `buf[at, end)`, one after the other. */
export class DerReader {
  readonly buf: Uint8Array;
  /** Where the next value begins. */
  at: number;
  readonly end: number;
  /** Of the value read last: its tag, where it begins, where its content begins, and where that ends. */
  tag = 0;
  start = 0;
  from = 0;
  to = 0;

  constructor(buf: Uint8Array, at = 0, end: number = buf.length) {
    this.buf = buf;
    this.at = at;
    this.end = end;
  }

  get more(): boolean {
    return this.at < this.end;
  }

  /** The tag of the next value; 0: there is none. */
  get nextTag(): number {
    return this.at < this.end ? this.buf[this.at] : 0;
  }

  /** Reads a value of any tag. @throws {DerError} */
  next(): this {
    const { buf, end } = this;
    let at = this.at;
    if (end - at < 2) throw new DerError("it is cut short");
    this.start = at;
    const tag = this.tag = buf[at++];
    if ((tag & 0x1f) === 0x1f) throw new DerError("a tag has several bytes");
    let length = buf[at++];
    if (length >= 0x80) {
      const bytes = length & 0x7f;
      if (bytes === 0) throw new DerError("a length is indefinite: that is BER, and DER is wanted");
      if (bytes > 4 || end - at < bytes) throw new DerError("a length is cut short, or too large");
      length = 0;
      for (let i = 0; i < bytes; i++) length = length * 256 + buf[at++];
      if (length < 0x80 || length < 2 ** (8 * (bytes - 1))) {
        throw new DerError("a length is longer than it need be");
      }
    }
    if (length > end - at) throw new DerError("it is cut short");
    this.from = at;
    this.at = this.to = at + length;
    return this;
  }

  /** Reads a value of this tag. @throws {DerError} */
  expect(tag: number): this {
    this.next();
    if (this.tag !== tag) {
      throw new DerError(`a value has the tag 0x${this.tag.toString(16)}, expected 0x${tag.toString(16)}`);
    }
    return this;
  }

  /** Reads the next value if it has this tag. @throws {DerError} */
  optional(tag: number): boolean {
    if (this.at >= this.end || this.buf[this.at] !== tag) return false;
    this.next();
    return true;
  }

  /** A reader of what is in the next value, which has this tag. @throws {DerError} */
  enter(tag: number): DerReader {
    this.expect(tag);
    return new DerReader(this.buf, this.from, this.to);
  }

  /** The same, or null where the next value has another tag. @throws {DerError} */
  enterOptional(tag: number): DerReader | null {
    return this.optional(tag) ? new DerReader(this.buf, this.from, this.to) : null;
  }

  /** @throws {DerError} More follows than there should. */
  finish(): void {
    if (this.at < this.end) throw new DerError("more follows than there should");
  }

  /** The content of the value read last, where it lies. */
  get content(): Uint8Array {
    return this.buf.subarray(this.from, this.to);
  }

  /** The whole of it. */
  get element(): Uint8Array {
    return this.buf.subarray(this.start, this.to);
  }

  /** An object identifier, as {@link oidKey} makes it. @throws {DerError} */
  oid(): string {
    this.expect(TAG.oid);
    const { buf, from, to } = this;
    if (to === from || to - from > OID_MAX_BYTES) {
      throw new DerError("an object identifier is empty, or too long");
    }
    let key = "";
    for (let i = from; i < to; i++) key += String.fromCharCode(buf[i]);
    return key;
  }

  /** Is the next value this object identifier? Quicker than {@link oid}. @param bytes Its content. @throws {DerError} */
  isOid(bytes: Uint8Array): boolean {
    this.expect(TAG.oid);
    const { buf, from } = this;
    if (this.to - from !== bytes.length) return false;
    for (let i = 0; i < bytes.length; i++) if (buf[from + i] !== bytes[i]) return false;
    return true;
  }

  /** Is the next value just these bytes? Then it is read. */
  skips(element: Uint8Array): boolean {
    const { buf, at } = this;
    if (element.length === 0 || this.end - at < element.length) return false;
    for (let i = 0; i < element.length; i++) if (buf[at + i] !== element[i]) return false;
    this.next();
    return true;
  }

  /** A small number that is not negative. @throws {DerError} */
  smallInteger(): number {
    this.integer();
    const { buf, from, to } = this;
    if (buf[from] >= 0x80 || to - from > 4) throw new DerError("a number is too large, or negative");
    let value = 0;
    for (let i = from; i < to; i++) value = value * 256 + buf[i];
    return value;
  }

  /** A whole number of any size, as its bytes. @throws {DerError} */
  integer(): Uint8Array {
    this.expect(TAG.integer);
    const { buf, from, to } = this;
    if (to === from) throw new DerError("a number has no bytes");
    const [first, second] = [buf[from], buf[from + 1]];
    if (to - from > 1 && (first === 0 && second < 0x80 || first === 0xff && second >= 0x80)) {
      throw new DerError("a number is longer than it need be");
    }
    return this.content;
  }

  /** @throws {DerError} */
  boolean(): boolean {
    this.expect(TAG.boolean);
    const value = this.buf[this.from];
    if (this.to - this.from !== 1 || value !== 0 && value !== 0xff) {
      throw new DerError("a truth value is neither");
    }
    return value === 0xff;
  }

  /** The bytes of a bit string of whole bytes. @throws {DerError} */
  bitString(): Uint8Array {
    this.expect(TAG.bitString);
    if (this.to === this.from || this.buf[this.from] !== 0) {
      throw new DerError("a bit string is not of whole bytes");
    }
    return this.buf.subarray(this.from + 1, this.to);
  }

  /** Bits by number, as keyUsage has them: bit 0 is the first. @throws {DerError} */
  namedBits(): number {
    this.expect(TAG.bitString);
    const { buf, from, to } = this;
    if (to - from < 1 || to - from > 3 || buf[from] > 7) {
      throw new DerError("named bits are too many, or none");
    }
    const unused = buf[from];
    if (unused > 0 && (to - from === 1 || (buf[to - 1] & (1 << unused) - 1) !== 0)) {
      throw new DerError("bits are set that are none");
    }
    let bits = 0;
    for (let i = from + 1; i < to; i++) {
      for (let bit = 0; bit < 8; bit++) if (buf[i] & 0x80 >> bit) bits |= 1 << 8 * (i - from - 1) + bit;
    }
    return bits;
  }

  /** A point in time, milliseconds since 1970. @throws {DerError} */
  time(): number {
    this.next();
    const { tag, buf, from, to } = this;
    if (tag !== TAG.utcTime && tag !== TAG.generalizedTime) throw new DerError("a time is none");
    const digits = tag === TAG.utcTime ? 12 : 14;
    let right = to - from === digits + 1 && buf[to - 1] === 0x5a /* Z */;
    for (let i = from; right && i < to - 1; i++) right = buf[i] >= 0x30 && buf[i] <= 0x39;
    if (!right) throw new DerError("a time is not written as RFC 5280 wants it");
    // A long CRL has half a million: no text is made of them.
    const two = (at: number) => 10 * buf[at] + buf[at + 1] - 11 * 0x30;
    const at = to - 11;
    const short = two(at - 2);
    const year = tag === TAG.generalizedTime ? 100 * two(from) + short : short + (short < 50 ? 2000 : 1900);
    const [month, day, hour, minute, second] = [two(at), two(at + 2), two(at + 4), two(at + 6), two(at + 8)];
    const leap = month === 2 && year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
    const days = (MONTH_DAYS[month - 1] ?? 0) + (leap ? 1 : 0);
    if (year < 100 || day < 1 || day > days || hour > 23 || minute > 59 || second > 59) {
      throw new DerError("a time is none");
    }
    return Date.UTC(year, month - 1, day, hour, minute, second);
  }
}

/** The content of an object identifier, by its key. */
export function oidBytes(key: string): Uint8Array {
  return Uint8Array.from(key, (char) => char.charCodeAt(0));
}

const MONTH_DAYS: readonly number[] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/** `1.2.840.113549.1.7.2` as a text whose characters are the bytes of its encoding: what OIDs are compared by. */
export function oidKey(dotted: string): string {
  const [first, second, ...rest] = dotted.split(".").map(Number);
  let key = "";
  for (const part of [40 * first + second, ...rest]) {
    let digits = String.fromCharCode(part % 128);
    for (let left = Math.floor(part / 128); left > 0; left = Math.floor(left / 128)) {
      digits = String.fromCharCode(0x80 | left % 128) + digits;
    }
    key += digits;
  }
  return key;
}

/** The other way round, for people. */
export function oidText(key: string): string {
  const parts: number[] = [];
  let part = 0;
  for (let i = 0; i < key.length; i++) {
    const byte = key.charCodeAt(i);
    part = part * 128 + (byte & 0x7f);
    if (byte >= 0x80) continue;
    if (parts.length > 0) parts.push(part);
    else {
      const first = Math.min(2, Math.floor(part / 40));
      parts.push(first, part - 40 * first);
    }
    part = 0;
  }
  return parts.join(".");
}

/** Bytes of a length behind its first. */
function lengthBytes(length: number): number {
  return length < 0x80 ? 0 : length < 0x100 ? 1 : length < 0x1_0000 ? 2 : length < 0x100_0000 ? 3 : 4;
}

/** Bytes of a value whose content has so many. */
export const sizeOf = (length: number): number => 2 + lengthBytes(length) + length;

/** A value: its tag, and the parts of its content. */
export function der(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const more = lengthBytes(length);
  const bytes = new Uint8Array(sizeOf(length));
  bytes[0] = tag;
  bytes[1] = more === 0 ? length : 0x80 | more;
  for (let i = more, left = length; i > 0; i--, left = Math.floor(left / 256)) bytes[1 + i] = left % 256;
  let at = 2 + more;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

export const sequence = (...parts: readonly Uint8Array[]): Uint8Array => der(TAG.sequence, ...parts);
export const octets = (bytes: Uint8Array): Uint8Array => der(TAG.octetString, bytes);
export const bits = (bytes: Uint8Array): Uint8Array => der(TAG.bitString, ZERO, bytes);
export const NULL: Uint8Array = der(TAG.null);
const ZERO = new Uint8Array(1);

/** SET OF: its members in the order of their bytes. */
export function setOf(...members: readonly Uint8Array[]): Uint8Array {
  return der(TAG.set, ...[...members].sort(compareBytes));
}

/** A whole number that is not negative: a small one, or its bytes. */
export function integer(value: number | Uint8Array): Uint8Array {
  if (typeof value === "number") {
    const bytes: number[] = [];
    do bytes.unshift(value % 256); while ((value = Math.floor(value / 256)) > 0);
    value = Uint8Array.from(bytes);
  }
  let from = 0;
  while (from < value.length - 1 && value[from] === 0) from++;
  const bytes = value.subarray(from);
  return bytes[0] >= 0x80 ? der(TAG.integer, ZERO, bytes) : der(TAG.integer, bytes);
}

/** An object identifier, by its key. */
export function oid(key: string): Uint8Array {
  return der(TAG.oid, oidBytes(key));
}

/** A point in time, to the second: UTCTime up to 2049, as RFC 5280 wants it. */
export function time(ms: number): Uint8Array {
  const text = new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, "");
  const short = ms < Date.UTC(2050, 0, 1) && ms >= Date.UTC(1950, 0, 1);
  const chars = short ? text.slice(2) : text;
  return der(short ? TAG.utcTime : TAG.generalizedTime, Uint8Array.from(chars, (char) => char.charCodeAt(0)));
}

/** Less than 0: the first stands before the second. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && compareBytes(a, b) === 0;
}
