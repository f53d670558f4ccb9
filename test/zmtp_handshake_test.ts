import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { ProtocolError } from "../src/zmtp/frame.ts";
import { encodePong, encodeReady, GREETING as OWN_GREETING, Handshake } from "../src/zmtp/handshake.ts";
import { GREETING, ready } from "./helpers/raw.ts";

const LIMITS = { metadataMaxBytes: 1024, identityMaxBytes: 255 };

function shake(own: "DEALER" | "ROUTER", bytes: Uint8Array, chunk = bytes.length) {
  const handshake = new Handshake(own, LIMITS);
  for (let at = 0; at < bytes.length; at += chunk) {
    if (handshake.push(bytes, at, Math.min(bytes.length, at + chunk))) {
      return {
        ...handshake.peer!,
        rest: Buffer.concat([handshake.rest, bytes.subarray(at + chunk)]).toString(),
      };
    }
  }
  return null;
}

const greeting = (change: (g: Buffer) => void) => {
  const g = Buffer.from(GREETING);
  change(g);
  return g;
};

test("handshake: what we send is what RFC 37 asks for", () => {
  assert.deepEqual(Buffer.from(OWN_GREETING), GREETING);
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
    ["ZMTP 1.0 without identity", Buffer.from([1, 0]), "old-version"],
    ["ZMTP 1.0 with an identity", Buffer.from([5, 0, 0x61, 0x62, 0x63, 0x64]), "old-version"],
    ["ZMTP 2.0", Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1, 5, 0, 0]), "old-version"],
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
