/**
 * Ten thousand seeded byte strings, mutated handshakes and mutated messages against a running server: it never ends,
 * never disturbs another client, and keeps no memory of it.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { freshSeed, seeded, TARGETS } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";

const SEED = freshSeed();
const TOTAL = 10_000;
const AT_ONCE = 50;
/** What a run may leave: caches that fill once, and what the collector has not given back. */
const LEFT_MAX_BYTES = 40 * 1024 * 1024;

const CONFIG = `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
cc-stats = 2
zmq_maxmsgsize = 1 MB
[routes]
echo = h:echo
log = h:log
pub = h:sink
[h:echo]
handler = echo
[h:log]
handler = locallogger
[h:sink]
handler = disposer
`;

const random = seeded(SEED);
const int = (n: number) => Math.floor(random() * n);
const bytes = (n: number) => Buffer.from(Array.from({ length: n }, () => int(256)));
const pick = <T>(list: readonly T[]) => list[int(list.length)];

const GOOD: readonly (() => Buffer)[] = [
  () => message("", "echo.request", '{"req":"echo.request","target":"x"}', ""),
  () =>
    message("route", "", "log.info", '{"req":"log.info","log_level":"INFO","log_msg":"m","log_time":1}', ""),
  () =>
    message(
      "",
      "pub.infofile",
      `{"req":"pub.infofile","data":"${"y".repeat(int(2000))}"}`,
      "",
      bytes(int(3000)),
    ),
  () => message("", `t${int(1e9)}.x`, "{}", ""),
  () => Buffer.from([4, 7, 4, 0x50, 0x49, 0x4e, 0x47, 0, 1]),
];

function mutated(original: Buffer): Buffer {
  const out = Buffer.from(original);
  for (let n = 1 + int(4); n > 0; n--) {
    if (out.length > 0) out[int(out.length)] = pick([0, 1, 2, 4, 0x7f, 0x80, 0xff, int(256)]);
  }
  const at = int(out.length + 1);
  switch (int(4)) {
    case 0:
      return out.subarray(0, at);
    case 1:
      return Buffer.concat([out.subarray(0, at), bytes(int(40)), out.subarray(at)]);
    default:
      return out;
  }
}

/** One attack: the bytes of a whole connection. */
function attack(): Buffer {
  switch (int(5)) {
    case 0:
      return bytes(int(200));
    case 1:
      return mutated(GREETING);
    case 2:
      return Buffer.concat([
        GREETING,
        mutated(ready(pick(["DEALER", "REQ", "ROUTER", "SUB"]), pick(["", "me", "\0abcd"]))),
      ]);
    case 3:
      return Buffer.concat([GREETING, ready("DEALER"), bytes(int(400))]);
    default:
      return Buffer.concat([
        GREETING,
        ready(pick(["DEALER", "REQ"])),
        ...Array.from({ length: 1 + int(5) }, () => random() < 0.5 ? pick(GOOD)() : mutated(pick(GOOD)())),
      ]);
  }
}

/** Sends it, in one piece or in several, and leaves: by FIN or by reset. */
async function run(port: number, attacker: Buffer): Promise<void> {
  const { socket } = await RawPeer.connect(port);
  // The server may have closed the connection already: then nothing waits to be written.
  const over = new Promise<void>((resolve) => {
    for (const event of ["close", "end", "error"]) socket.once(event, () => resolve());
  });
  for (let at = 0; at < attacker.length && !socket.destroyed;) {
    const n = random() < 0.7 ? attacker.length : 1 + int(attacker.length);
    const piece = attacker.subarray(at, at + n);
    await Promise.race([over, new Promise<void>((resolve) => socket.write(piece, () => resolve()))]);
    at += n;
  }
  if (random() < 0.5) socket.destroy();
  else socket.resetAndDestroy();
}

for (const target of TARGETS) {
  test(`${target.name}: ${TOTAL} random and mutated connections (seed ${SEED}) leave no trace`, async () => {
    await using server = await ServerProcess.start(CONFIG, target);
    using witness = await RawPeer.open(server.port, "DEALER", "witness");
    let echoes = 0;
    const echo = async () => {
      witness.write(message("", "echo.request", `{"req":"echo.request","target":"${echoes}"}`, ""));
      const [, type, body] = await witness.receive();
      assert.equal(type.toString(), "echo.response");
      assert.equal(JSON.parse(body.toString()).orig_target, String(echoes++));
    };
    let before = 0;
    for (let sent = 0; sent < TOTAL; sent += AT_ONCE) {
      await Promise.all(Array.from({ length: AT_ONCE }, () => run(server.port, attack())));
      await echo();
      if (sent === TOTAL / 2) before = server.residentBytes;
    }
    const grown = server.residentBytes - before;
    assert.ok(
      grown < LEFT_MAX_BYTES,
      `memory grew by ${(grown / 2 ** 20).toFixed(1)} MiB in the second half`,
    );
    assert.equal(witness.closed, false);
    assert.doesNotMatch(server.output, /internal error|crashed|\bat .*:\d+:\d+/);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
  });
}
