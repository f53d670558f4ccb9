import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { ProtocolError } from "../src/zmtp/frame.ts";
import {
  encodePong,
  encodeReady,
  GREETING as OWN_GREETING,
  Handshake,
  type MinVersion,
} from "../src/zmtp/handshake.ts";
import { GREETING, ready } from "./helpers/raw.ts";

const LIMITS = { metadataMaxBytes: 1024, identityMaxBytes: 255 };
const NOBODY = new Uint8Array(0);

function shake(
  own: "DEALER" | "ROUTER",
  bytes: Uint8Array,
  chunk = bytes.length,
  { identity = NOBODY, minVersion = "1.0" as MinVersion } = {},
) {
  const sent: Uint8Array[] = [];
  const send = (bytes: Uint8Array) => void sent.push(new Uint8Array(bytes));
  const handshake = new Handshake({ own, identity, minVersion, ...LIMITS, send });
  for (let at = 0; at < bytes.length; at += chunk) {
    if (handshake.push(bytes, at, Math.min(bytes.length, at + chunk))) {
      return {
        ...handshake.peer!,
        sent: Buffer.concat(sent),
        rest: Buffer.concat([handshake.rest, bytes.subarray(at + chunk)]).toString(),
      };
    }
  }
  return null;
}

const SIGNATURE = Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f]);

const greeting = (change: (g: Buffer) => void) => {
  const g = Buffer.from(GREETING);
  change(g);
  return g;
};

test("handshake: what we send is what RFC 37 asks for", () => {
  assert.deepEqual(Buffer.from(OWN_GREETING), greeting((g) => g[8] = 1));
  const { sent } = shake("ROUTER", Buffer.concat([GREETING, ready("DEALER")]))!;
  assert.deepEqual(sent, Buffer.from(OWN_GREETING));
  assert.deepEqual(Buffer.from(encodeReady("DEALER", Buffer.from("me"))), ready("DEALER", "me"));
  assert.deepEqual(Buffer.from(encodeReady("ROUTER", Buffer.alloc(0))), ready("ROUTER"));
});

test("handshake: any chunking gives the peer and the bytes behind", () => {
  const bytes = Buffer.concat([GREETING, ready("REQ", "id-1"), Buffer.from("and more")]);
  for (const size of [1, 2, 3, 10, 63, 64, 65, 80, bytes.length]) {
    const result = shake("ROUTER", bytes, size)!;
    assert.equal(result.socketType, "REQ");
    assert.equal(Buffer.from(result.identity).toString(), "id-1");
    assert.equal(result.version, "3.1");
    assert.equal(result.rest, "and more");
  }
});

test("handshake: ZMTP 3.0 and later minor versions are taken", () => {
  assert.equal(shake("ROUTER", Buffer.concat([greeting((g) => g[11] = 0), ready("DEALER")]))!.version, "3.0");
  assert.ok(shake("ROUTER", Buffer.concat([greeting((g) => g[10] = 4), ready("DEALER")])));
});

test("handshake: a peer of ZMTP 2.0 is told the revision, our type and our identity, each when it is its turn", () => {
  const sizes = [1, 2, 5, 10, 11, 12, 100];
  for (const name of ["", "host1", "x".repeat(255)]) {
    const peer = Buffer.concat([SIGNATURE, Buffer.from([1, 6, 0, name.length]), Buffer.from(name)]);
    for (const size of sizes) {
      const identity = Buffer.from("me");
      const found = shake("DEALER", Buffer.concat([peer, Buffer.from("and more")]), size, { identity })!;
      assert.equal(found.version, "2.0");
      assert.equal(found.socketType, "ROUTER");
      assert.equal(Buffer.from(found.identity).toString(), name);
      assert.equal(found.rest, "and more");
      const own = Buffer.from(SIGNATURE);
      own[8] = 3;
      assert.deepEqual(found.sent, Buffer.concat([own, Buffer.from([3, 5, 0, 2]), identity]));
    }
  }
  assert.ok(shake("ROUTER", Buffer.concat([SIGNATURE, Buffer.from([1, 3, 0, 0])])), "a REQ");
});

test("handshake: to a peer of ZMTP 1.0 our signature is the head of our identity", () => {
  for (const name of ["", "host1", "x".repeat(253), "x".repeat(254), "x".repeat(255)]) {
    const size = name.length + 1;
    const head = size < 255 ? [size, 0] : [0xff, 0, 0, 0, 0, 0, 0, size >> 8, size & 0xff, 0];
    const peer = Buffer.concat([Buffer.from(head), Buffer.from(name), Buffer.from("and more")]);
    for (const chunk of [1, 2, 7, 300]) {
      for (const identity of [NOBODY, Buffer.from("me")]) {
        const found = shake("ROUTER", peer, chunk, { identity })!;
        assert.equal(found.version, "1.0");
        assert.equal(found.socketType, "");
        assert.equal(Buffer.from(found.identity).toString(), name);
        assert.equal(found.rest, "and more");
        const own = Buffer.from(SIGNATURE);
        own[8] = identity.length + 1;
        // Where its own begins like a signature, it is not told the revision either.
        assert.deepEqual(found.sent, Buffer.concat([own, identity]));
      }
    }
  }
});

test("handshake: zmtp-min-version refuses those before it", () => {
  const peers = {
    "1.0": Buffer.from([1, 0]),
    "2.0": Buffer.concat([SIGNATURE, Buffer.from([1, 5, 0, 0])]),
    "3.0": Buffer.concat([GREETING, ready("DEALER")]),
  };
  const versions = Object.keys(peers) as MinVersion[];
  for (const minVersion of versions) {
    for (const version of versions) {
      const shaken = () => shake("ROUTER", peers[version], 1, { minVersion });
      if (version >= minVersion) assert.ok(shaken());
      else {
        assert.throws(
          shaken,
          (error) =>
            error instanceof ProtocolError && error.code === "old-version" &&
            error.message ===
              `peer speaks ZMTP ${version}, zmtp-min-version = ${minVersion} wants a later one`,
        );
      }
    }
  }
});

test("handshake: property names are read in any case, others are passed over", () => {
  const odd = Buffer.from(ready("DEALER").toString("latin1").replace("Socket-Type", "SOCKET-TYPE"), "latin1");
  assert.equal(shake("ROUTER", Buffer.concat([GREETING, odd]))!.socketType, "DEALER");
});

test("handshake: types that fit", () => {
  for (const type of ["REQ", "DEALER", "ROUTER"]) {
    assert.ok(shake("ROUTER", Buffer.concat([GREETING, ready(type)])));
  }
  for (const type of ["REP", "DEALER", "ROUTER"]) {
    assert.ok(shake("DEALER", Buffer.concat([GREETING, ready(type)])));
  }
});

const readyOf = (body: Buffer) => Buffer.concat([GREETING, Buffer.from([4, body.length]), body]);

for (
  const [what, bytes, code] of [
    ["HTTP", Buffer.from("GET / HTTP/1.1\r\n"), "not-zmtp"],
    ["TLS", Buffer.from([0x16, 3, 1, 2, 0]), "not-zmtp"],
    ["zeros", Buffer.alloc(20), "not-zmtp"],
    ["a frame of ZMTP 1.0 with MORE for an identity", Buffer.from([5, 1, 0x61]), "not-zmtp"],
    ["a long identity of ZMTP 1.0", Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 1, 2, 0]), "bad-identity"],
    ["an identity of ZMTP 1.0 of no bytes", Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "length"],
    ["a reserved identity of ZMTP 1.0", Buffer.from([5, 0, 0, 1, 2, 3]), "bad-identity"],
    ["a draft of ZMTP 2.0", Buffer.concat([SIGNATURE, Buffer.from([0])]), "old-version"],
    ["a SUB of ZMTP 2.0", Buffer.concat([SIGNATURE, Buffer.from([1, 2, 0, 0])]), "socket-type"],
    ["an unknown type of ZMTP 2.0", Buffer.concat([SIGNATURE, Buffer.from([1, 77, 0, 0])]), "socket-type"],
    [
      "an identity of ZMTP 2.0 with MORE",
      Buffer.concat([SIGNATURE, Buffer.from([1, 5, 1, 0])]),
      "bad-handshake",
    ],
    [
      "a long identity of ZMTP 2.0",
      Buffer.concat([SIGNATURE, Buffer.from([1, 5, 2, 0, 0, 0, 0, 0, 0, 1, 0])]),
      "bad-identity",
    ],
    [
      "a reserved identity of ZMTP 2.0",
      Buffer.concat([SIGNATURE, Buffer.from([1, 5, 0, 2, 0, 1])]),
      "bad-identity",
    ],
    ["a broken signature", greeting((g) => g[9] = 0x7d), "bad-greeting"],
    ["PLAIN", greeting((g) => g.write("PLAIN", 12)), "unknown-mechanism"],
    ["CURVE", greeting((g) => g.write("CURVE", 12)), "unknown-mechanism"],
    ["bytes behind NULL", greeting((g) => g[31] = 1), "unknown-mechanism"],
    ["as-server", greeting((g) => g[32] = 1), "bad-greeting"],
    ["a message before READY", Buffer.concat([GREETING, Buffer.from([0, 1, 1])]), "bad-handshake"],
    ["another command before READY", readyOf(Buffer.from("\x04PING")), "bad-handshake"],
    ["reserved flags before READY", Buffer.concat([GREETING, Buffer.from([0x14, 1])]), "bad-handshake"],
    ["ERROR", readyOf(Buffer.from("\x05ERROR\x03no!")), "peer-error"],
    ["a command without a name", readyOf(Buffer.from([0])), "bad-command"],
    ["metadata cut short", readyOf(Buffer.from("\x05READY\x0bSocket-Type\0\0\0\x09REQ")), "bad-metadata"],
    ["a property without a name", readyOf(Buffer.from("\x05READY\0\0\0\0\0")), "bad-metadata"],
    [
      "metadata above the bound",
      Buffer.concat([GREETING, Buffer.from([6, 0, 0, 0, 0, 0, 0, 8, 0])]),
      "bad-metadata",
    ],
    ["no socket type", readyOf(Buffer.from("\x05READY")), "socket-type"],
    ["SUB", Buffer.concat([GREETING, ready("SUB")]), "socket-type"],
    ["REP to a ROUTER", Buffer.concat([GREETING, ready("REP")]), "socket-type"],
    [
      "an identity with a reserved start",
      Buffer.concat([GREETING, ready("DEALER", "\0abcd")]),
      "bad-identity",
    ],
    [
      "a long identity",
      Buffer.concat([
        GREETING,
        Buffer.from([6, 0, 0, 0, 0, 0, 0, 1, 65]),
        ready("REQ", "x".repeat(200)).subarray(2),
        Buffer.alloc(100),
      ]),
      "bad-metadata",
    ],
  ] as const
) {
  test(`handshake: ${what} is refused as ${code}, in any chunking`, () => {
    for (const size of [bytes.length, 1]) {
      assert.throws(() => shake("ROUTER", bytes, size), (e) => e instanceof ProtocolError && e.code === code);
    }
  });
}

test("PONG carries the context of its PING back", () => {
  const ping = Buffer.from("\x04PING\0\x64context");
  assert.equal(Buffer.from(encodePong(ping, 0, ping.length)).toString(), "\x04\x0c\x04PONGcontext");
  assert.throws(() => encodePong(Buffer.from("\x04PING\0"), 0, 6), ProtocolError);
  const long = Buffer.from("\x04PING\0\x64" + "c".repeat(17));
  assert.throws(() => encodePong(long, 0, long.length), ProtocolError);
});
