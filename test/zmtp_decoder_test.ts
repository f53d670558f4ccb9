import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { Decoder, type DecoderLimits, type DecoderOwner } from "../src/zmtp/decoder.ts";
import { decodeFrames, encodeFrames, lastBoundary, ProtocolError } from "../src/zmtp/frame.ts";
import { POOL } from "../src/memory/pool.ts";
import { seeded } from "./helpers/env.ts";
import { message } from "./helpers/raw.ts";
import { test } from "./helpers/memory.ts";

const LIMITS: DecoderLimits = {
  messageMaxBytes: 1 << 20,
  skipMaxBytes: 3 << 20,
  messageMaxFrames: 8,
  commandMaxBytes: 64,
  announcedMaxBytes: 1 << 16,
};

/** Feeds chunks; returns what came out, and the error that ended it. */
function decode(chunks: Uint8Array[], options: { identityFrame?: Uint8Array; direct?: boolean } = {}) {
  const messages: string[] = [];
  const delimiters: number[] = [];
  const tails: number[] = [];
  const commands: string[] = [];
  const oversized: number[] = [];
  let error: ProtocolError | null = null;
  const identityFrame = options.identityFrame ?? new Uint8Array(0);
  const decoder = new Decoder(
    {
      command(buf: Uint8Array, start: number, end: number) {
        commands.push(Buffer.from(buf.slice(start, end)).toString("latin1"));
      },
      oversized(_buf: Uint8Array, _start: number, _end: number, bytes: number) {
        oversized.push(bytes);
      },
      look() {},
    },
    {
      message(_source, buf, start, end, delimiter, tail, block) {
        if (block !== null) {
          assert.equal(Buffer.compare(buf.subarray(start - identityFrame.length, start), identityFrame), 0);
        }
        messages.push(Buffer.from(buf.slice(start, end)).toString("latin1"));
        delimiters.push(delimiter < 0 ? -1 : delimiter - start);
        tails.push(tail);
      },
    },
    LIMITS,
    identityFrame,
  );
  try {
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.length;) {
        const space = options.direct ? decoder.readTarget(1) : null;
        if (space !== null) {
          const n = Math.min(space.length, chunk.length - at);
          space.set(chunk.subarray(at, at + n));
          decoder.commitRead(n);
          at += n;
        } else {
          at = decoder.push(chunk, at, chunk.length);
        }
      }
    }
  } catch (e) {
    if (!(e instanceof ProtocolError)) throw e;
    error = e;
    decoder.clear(); // as a connection does
  }
  return { messages, delimiters, tails, commands, oversized, error: error?.code ?? null, decoder };
}

const STREAM = [
  message("", "log.info", "{}", ""),
  message("route", "", "pub.infofile", "x".repeat(300), "", "b".repeat(70_000)),
  Buffer.from([4, 5, 4, 0x50, 0x49, 0x4e, 0x47]),
  message("one"),
  message(""),
  message("a", "b", ""),
];
const EXPECTED = STREAM.filter((_, i) => i !== 2).map((m) => m.toString("latin1"));

test("decoder: one chunk holds all messages, with delimiter and tail", () => {
  const { messages, delimiters, tails, commands, error } = decode([Buffer.concat(STREAM)]);
  assert.equal(error, null);
  assert.deepEqual(messages, EXPECTED);
  assert.deepEqual(delimiters, [0, 7, -1, 0, 6]);
  assert.deepEqual(tails, [3, 4, 0, 0, 0]);
  assert.deepEqual(commands, ["\x04PING"]);
});

test("decoder: every chunk size gives the same messages, read into our buffer or not", () => {
  const bytes = Buffer.concat(STREAM);
  const identityFrame = Buffer.from([1, 5, 0, 1, 2, 3, 4]);
  for (const size of [1, 2, 3, 5, 7, 8, 9, 10, 13, 64, 255, 256, 257, 4096, 16_384, 65_536]) {
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
    for (const direct of [false, true]) {
      const { messages, commands, error } = decode(chunks, { identityFrame, direct });
      assert.deepEqual({ messages, commands, error }, {
        messages: EXPECTED,
        commands: ["\x04PING"],
        error: null,
      });
    }
  }
});

test("decoder: any split of any stream gives the same bytes out (1000 seeded streams)", () => {
  const random = seeded(20261122);
  const int = (n: number) => Math.floor(random() * n);
  for (let round = 0; round < 1000; round++) {
    const sent = Array.from(
      { length: 1 + int(12) },
      () =>
        message(
          ...Array.from({ length: 1 + int(6) }, () =>
            Buffer.alloc(random() < 0.1 ? int(40_000) : int(300), int(256))),
        ),
    );
    const bytes = Buffer.concat(sent);
    const chunks: Uint8Array[] = [];
    const most = random() < 0.3 ? 16 : 1 + int(60_000);
    for (let at = 0; at < bytes.length;) {
      const n = 1 + int(most);
      chunks.push(bytes.subarray(at, at + n));
      at += n;
    }
    const { messages, error } = decode(chunks, {
      direct: round % 2 === 0,
      identityFrame: Buffer.alloc(round % 9),
    });
    assert.equal(error, null);
    assert.deepEqual(messages, sent.map((m) => m.toString("latin1")), `round ${round}`);
  }
});

test("decoder: pause stops in the middle of a chunk, and the rest can be given again", () => {
  const bytes = Buffer.concat([message("1"), message("2"), message("3"), message("4")]);
  for (const size of [bytes.length, 5, 2, 1]) {
    const out: string[] = [];
    const decoder: Decoder<DecoderOwner> = new Decoder({ command() {}, oversized() {}, look() {} }, {
      message(_source, buf, _start, end) {
        out.push(String.fromCharCode(buf[end - 1]));
        decoder.pause();
      },
    }, LIMITS);
    let rest = Buffer.alloc(0);
    for (let at = 0; at < bytes.length; at += size) {
      rest = Buffer.concat([rest, bytes.subarray(at, at + size)]);
      const before = out.length;
      rest = rest.subarray(decoder.push(rest, 0, rest.length));
      assert.ok(out.length - before <= 1, "no more than one message a push");
      decoder.resume();
    }
    for (let i = 0; i < 4; i++) {
      rest = rest.subarray(decoder.push(rest, 0, rest.length));
      decoder.resume();
    }
    assert.deepEqual(out, ["1", "2", "3", "4"]);
  }
});

const long = (flags: number, high: number, low: number, ...rest: number[]) => {
  const head = Buffer.alloc(9);
  head[0] = flags;
  head.writeUInt32BE(high, 1);
  head.writeUInt32BE(low, 5);
  return Buffer.concat([head, Buffer.from(rest)]);
};

test("decoder: a message above the bound is told once and passed over, in any chunking; those around it come", () => {
  const big = [
    message("route", "", "pub.big", Buffer.alloc(LIMITS.messageMaxBytes, 1), "", "blob"),
    message("", "pub.big", Buffer.alloc(700_000, 1), "", Buffer.alloc(700_000, 2)),
    message("", ...Array.from({ length: 7 }, () => Buffer.alloc(200_000, 3))),
    message("", "pub.big", Buffer.alloc(LIMITS.messageMaxBytes, 1), ""),
  ];
  const stream = Buffer.concat(STREAM.flatMap((bytes, i) => i < big.length ? [bytes, big[i]] : [bytes]));
  const random = seeded(5);
  for (let round = 0; round < 30; round++) {
    const chunks: Uint8Array[] = [];
    const most = [3, 50, 5000, 2 << 20][round % 4];
    for (let at = 0; at < stream.length;) {
      // Small chunks around the headers, larger ones in the bodies.
      const size = 1 + Math.floor(random() * (random() < 0.999 && at % 200_000 < 1000 ? most : 100_000));
      chunks.push(stream.subarray(at, at += size));
    }
    const { messages, commands, oversized, error, decoder } = decode(chunks, { direct: round % 2 === 1 });
    assert.equal(error, null);
    assert.deepEqual(messages, EXPECTED);
    assert.equal(commands.length, 1);
    assert.equal(oversized.length, big.length);
    for (const [i, bytes] of oversized.entries()) {
      assert.ok(bytes > LIMITS.messageMaxBytes && bytes <= big[i].length, `${bytes} of ${big[i].length}`);
    }
    assert.ok(decoder.idle);
    decoder.clear();
  }
});

for (
  const [what, bytes, code] of [
    ["reserved flag bits", Buffer.from([0x08, 0]), "reserved-flags"],
    ["all flag bits", Buffer.from([0xff, 0]), "reserved-flags"],
    ["a length of 2^53", long(2, 0x20_0000, 0), "length"],
    ["a length of 2^64 - 1", long(2, 0xffff_ffff, 0xffff_ffff), "length"],
    ["a length above the bound", long(2, 0, LIMITS.skipMaxBytes), "too-large"],
    ["a length of 2^53 - 1", long(2, 0x1f_ffff, 0xffff_ffff), "too-large"],
    [
      "frames that add up above the bound",
      Buffer.concat([long(1 | 2, 0, 2_000_000), Buffer.alloc(2_000_000), long(2, 0, 2_000_000)]),
      "too-large",
    ],
    [
      "a command inside a message that is passed over",
      Buffer.concat([long(1 | 2, 0, 2_000_000), Buffer.alloc(2_000_000), Buffer.from([4, 0])]),
      "command-in-message",
    ],
    [
      "too many frames behind one that is passed over",
      Buffer.concat([long(1 | 2, 0, 2_000_000), Buffer.alloc(2_000_000), Buffer.from("\x01\0".repeat(8))]),
      "too-many-frames",
    ],
    [
      "a command inside a message",
      Buffer.concat([Buffer.from([1, 0]), Buffer.from([4, 5, 4]), Buffer.from("PING")]),
      "command-in-message",
    ],
    ["a command with MORE", Buffer.from([5, 0]), "bad-command"],
    ["a command that is too long", long(6, 0, 65), "bad-command"],
    [
      "too many frames",
      Buffer.concat(Array.from({ length: 9 }, () => Buffer.from([1, 0]))),
      "too-many-frames",
    ],
  ] as const
) {
  test(`decoder: ${what} is refused as ${code}, in any chunking`, () => {
    assert.equal(decode([bytes]).error, code);
    const size = bytes.length > 1000 ? 1000 : 1;
    const chunks = Array.from(
      { length: Math.ceil(bytes.length / size) },
      (_, i) => bytes.subarray(i * size, (i + 1) * size),
    );
    assert.equal(decode(chunks).error, code);
  });
}

test("decoder: an announced length takes no more memory than its bound", () => {
  const { decoder } = decode([long(2, 0, LIMITS.messageMaxBytes - 100), Buffer.alloc(100)]);
  assert.ok(decoder.reserved <= LIMITS.announcedMaxBytes + 1024, `${decoder.reserved} bytes`);
  decoder.clear();
});

test("decoder: an idle one keeps little", () => {
  const bytes = Buffer.concat([message("x".repeat(200_000)), message("small")]);
  const { decoder } = decode([bytes.subarray(0, 100), bytes.subarray(100)]);
  assert.equal(decoder.idle, true);
  assert.ok(decoder.reserved <= 4096, `${decoder.reserved} bytes`);
});

test("decoder: what a driver may still be reading into is not given to another message", () => {
  const begun = Buffer.concat([message("x".repeat(100_000)).subarray(0, 50_000)]);
  const { decoder } = decode([begun]);
  const space = decoder.readTarget(1)!;
  decoder.clear();
  const taken = [1, 2, 3].map(() => POOL.take(100_000));
  assert.ok(taken.every(({ buf }) => buf.buffer !== space.buffer));
  for (const block of taken) block.release();
});

test("frames: encode and decode are each other's inverse, at every length of header", () => {
  for (const sizes of [[0], [255], [256], [0, 1, 255, 256, 70_000], [65_536, 0]]) {
    const frames = sizes.map((size) => new Uint8Array(size).fill(7));
    const bytes = encodeFrames(frames);
    assert.deepEqual(bytes, new Uint8Array(message(...frames)));
    assert.deepEqual(decodeFrames(bytes, 0, bytes.length), frames);
  }
  assert.throws(() => encodeFrames([]), RangeError);
});

test("frames: the last boundary of a broken write is the start of the message that was not whole", () => {
  const a = message("a", "bb");
  const b = message("ccc");
  const c = message("x".repeat(300));
  const bytes = Buffer.concat([Buffer.alloc(5), a, b, c]);
  const ends = [5, 5 + a.length, 5 + a.length + b.length, bytes.length];
  for (let limit = 5; limit <= bytes.length; limit++) {
    const whole = ends.filter((end) => end <= limit).length - 1;
    assert.deepEqual(
      lastBoundary(bytes, 5, bytes.length, limit),
      { at: ends[whole], messages: 3 - whole },
      `${limit}`,
    );
  }
});
