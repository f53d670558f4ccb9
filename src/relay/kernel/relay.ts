/**
 * The relay kernel, in AssemblyScript: takes a run of messages of one group, and copies each behind the
 * identity of its peer, lists both for writev(), or only counts them. `npm run kernel` compiles it to WebAssembly, `../wasm.ts`; `../table.ts`
 * is its face and says what each argument is.
 *
 * It takes only what is plain: short route frames, a type that is in the table, two to four frames from the type on,
 * nothing over the bounds. At anything else it stops in front of that message, and the decoder goes on there.
 */

/** The layout of a table; the same numbers stand in `../table.ts`. */
const TAKEN: usize = 0;
const TOUCHED_COUNT: usize = 4;
const IDENTITY: usize = 16;
const TOUCHED: usize = 512;
const SLOTS: usize = 4096;
const SLOT_BYTES: usize = 32;
const SLOT_MASK: u32 = 1023;
const TYPES: usize = 36864;
const TYPE_BYTES: usize = 64;

/** Within a slot: bytes of the type, its group, messages and bytes since they were collected. */
const LENGTH: usize = 0;
const GROUP: usize = 4;
const COUNT: usize = 8;
const BYTES: usize = 16;

/** A short frame with MORE: what the first header byte of route, delimiter and type is. */
const MORE: u32 = 1;
/** An empty frame with MORE, both header bytes: the delimiter. */
const DELIMITER: u32 = 0x0001;
const LONG: u32 = 2;
const ROUTE_MAX: i32 = 32;
/** Frames behind the type: body, signature, blob. */
const TAIL_MAX: i32 = 3;
/** Vectors of 16 bytes are copied whole, so up to 15 bytes behind a message are written. */
const SLACK: usize = 16;
/** An address and a length, for writev(). */
const ENTRY_BYTES: usize = 16;

/** Where the route ends, behind the delimiter; 0 when that is not plain. `frames` counts the route's. */
let frames: i32 = 0;
function skipRoute(at: usize, end: usize): usize {
  frames = 0;
  while (at + 2 <= end) {
    const header: u32 = load<u16>(at);
    if (header == DELIMITER) return at + 2;
    if ((header & 0xff) != MORE || ++frames > ROUTE_MAX) return 0;
    at += 2 + <usize> (header >> 8);
  }
  return 0;
}

/** Where the message ends whose frames behind the type start at `at`; 0 when it is not plain or not all there. */
@inline
function skipTail(at: usize, end: usize, room: i32): usize {
  for (let i = 0; i < room; i++) {
    if (at + 2 > end) return 0;
    const flags: u32 = load<u8>(at);
    if (flags > (LONG | MORE)) return 0;
    if (flags & LONG) {
      if (at + 9 > end) return 0;
      const size = bswap<u64>(load<u64>(at, 1));
      if (size > 0x7fffffff) return 0;
      at += 9 + <usize> size;
    } else {
      at += 2 + <usize> load<u8>(at, 1);
    }
    if (at > end) return 0;
    if ((flags & MORE) == 0) return at;
  }
  return 0;
}

/** Are the `size` bytes at `a` those of the entry at `b`, which is filled up with zeros? */
@inline
function sameType(a: usize, b: usize, size: u32): bool {
  let at: u32 = 0;
  for (; at + 8 <= size; at += 8) {
    if (load<u64>(a + at) != load<u64>(b + at)) return false;
  }
  const rest = size - at;
  return rest == 0 || (load<u64>(a + at) << (64 - 8 * <u64> rest)) == (load<u64>(b + at) << (64 - 8 * <u64> rest));
}

/** The slot of a type; the same function stands in `../table.ts`. */
function slotOf(at: usize, size: u32): u32 {
  let h: u32 = 0x811c9dc5 ^ size;
  let i: u32 = 0;
  for (; i + 4 <= size; i += 4) h = (h ^ load<u32>(at + i)) * 0x9e3779b1;
  const rest = size - i;
  if (rest > 0) h = (h ^ (load<u32>(at + i) & (0xffffffff >> (32 - 8 * rest)))) * 0x9e3779b1;
  return (h ^ (h >> 15)) & SLOT_MASK;
}

/** Adds a run of one type to its slot, and the slot to the list of those to collect. */
function addRun(table: usize, slot: usize, count: u32, bytes: u64): void {
  if (count == 0) return;
  const before = load<u32>(slot, COUNT);
  if (before == 0) {
    const touched = load<u32>(table, TOUCHED_COUNT);
    store<u16>(table + TOUCHED + 2 * <usize> touched, <u16> ((slot - table - SLOTS) / SLOT_BYTES));
    store<u32>(table, touched + 1, TOUCHED_COUNT);
  }
  store<u32>(slot, before + count, COUNT);
  store<u64>(slot, load<u64>(slot, BYTES) + bytes, BYTES);
}

@inline
function copy(to: usize, from: usize, size: usize): void {
  let at: usize = 0;
  while (at + 64 <= size) {
    v128.store(to + at, v128.load(from + at));
    v128.store(to + at, v128.load(from + at, 16), 16);
    v128.store(to + at, v128.load(from + at, 32), 32);
    v128.store(to + at, v128.load(from + at, 48), 48);
    at += 64;
  }
  while (at < size) {
    v128.store(to + at, v128.load(from + at));
    at += 16;
  }
}

/** See `RelayTable.run` in `../table.ts`. Returns where it stopped; how many messages it took stands in the table. */
export function relay(
  table: usize,
  from: usize,
  end: usize,
  to: usize,
  toEnd: usize,
  identitySize: usize,
  group: u32,
  framesMax: i32,
  messageMax: usize,
  base: f64,
): usize {
  const lists = base > 0;
  const skips = base < 0;
  const address = <u64> base;
  let taken: u32 = 0;
  /** The type of the last message, and the run of it that is not yet added to its slot. */
  let slot: usize = 0;
  let slotType: usize = 0;
  let slotSize: u32 = 0;
  let count: u32 = 0;
  let bytes: u64 = 0;
  for (;;) {
    const delimited = skipRoute(from, end);
    if (delimited == 0 || delimited + 2 > end) break;
    const header: u32 = load<u16>(delimited);
    const size = header >> 8;
    if ((header & 0xff) != MORE || size == 0 || size > <u32> TYPE_BYTES) break;
    const type = delimited + 2;
    const typeEnd = type + <usize> size;
    if (typeEnd > end) break;
    const next = skipTail(typeEnd, end, min(TAIL_MAX, framesMax - frames - 2));
    if (next == 0) break;
    const length = next - from;
    if (length > messageMax) break;
    if (!skips && to + (lists ? 2 * ENTRY_BYTES : identitySize + length + SLACK) > toEnd) break;
    if (size != slotSize || !sameType(type, slotType, size)) {
      const index = <usize> slotOf(type, size);
      const found = table + SLOTS + index * SLOT_BYTES;
      const foundType = table + TYPES + index * TYPE_BYTES;
      if (load<u32>(found, LENGTH) != size || load<u32>(found, GROUP) != group) break;
      if (!sameType(type, foundType, size)) break;
      addRun(table, slot, count, bytes);
      slot = found;
      slotType = foundType;
      slotSize = size;
      count = 0;
      bytes = 0;
    }
    if (lists) {
      store<u64>(to, address + table + IDENTITY);
      store<u64>(to, identitySize, 8);
      store<u64>(to, address + from, 16);
      store<u64>(to, length, 24);
      to += 2 * ENTRY_BYTES;
    } else if (!skips) {
      // Most identities are the five bytes that a ROUTER makes; the rest of a longer one follows.
      v128.store(to, v128.load(table, IDENTITY));
      if (identitySize > 16) memory.copy(to + 16, table + IDENTITY + 16, identitySize - 16);
      copy(to + identitySize, from, length);
      to += identitySize + length;
    }
    from = next;
    count++;
    bytes += <u64> length;
    taken++;
  }
  addRun(table, slot, count, bytes);
  store<u32>(table, taken, TAKEN);
  return from;
}
