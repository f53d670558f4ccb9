/** No loss while links are up: messages of many clients, of all sizes, to upstreams fast and slow, once, in order. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import net from "node:net";
import { test } from "node:test";
import { RUNTIME, seeded, SLOW_TARGETS, until } from "./helpers/env.ts";
import { Libzmq, ServerProcess } from "./helpers/process.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";

const CLIENTS = 8;
const TOTAL = RUNTIME === "bun" ? 1_000_000 : 200_000;

const proxyTo = (endpoint: string) =>
  `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
[routes]
pub = h:up
[h:up]
handler = proxy
remote-cc = ${endpoint}
`;

for (const target of SLOW_TARGETS) {
  test(`${target.name}: ${TOTAL} messages from ${CLIENTS} clients through two servers arrive once, in order`, async () => {
    await using senders = new Libzmq();
    await using receiver = new Libzmq();
    const sink = await receiver.open("Router", "tcp://127.0.0.1:*", { receiveHighWaterMark: 100 });
    await using second = await ServerProcess.start(proxyTo(sink.endpoint), target);
    await using first = await ServerProcess.start(proxyTo(second.endpoint), target);
    await Promise.all([second.until(/is up/), first.until(/is up/)]);
    const dealers = await Promise.all(
      Array.from({ length: CLIENTS }, () => senders.open("Dealer", first.endpoint)),
    );
    const collecting = sink.collect(TOTAL, CLIENTS, 20_000);
    await Promise.all(dealers.map((dealer, i) => dealer.blast(i, TOTAL / CLIENTS, 100, "pub.infofile")));
    const { received, wrong, next } = await collecting;
    assert.deepEqual(
      { received, wrong, next },
      { received: TOTAL, wrong: 0, next: new Array(CLIENTS).fill(TOTAL / CLIENTS) },
    );
    for (const server of [first, second]) {
      assert.equal((await server.stop()).code, 0);
      assert.doesNotMatch(server.output, /dropped \d|WARNING/);
    }
  });
}

/** A ROUTER that reads in small bites when `slow`, and remembers a digest of each message by its client. */
class Upstream {
  readonly digests = new Map<string, string[]>();
  readonly #server: net.Server;
  #peer: RawPeer | null = null;
  #reading = false;

  constructor(slow: boolean) {
    this.#server = net.createServer((socket) => {
      this.#peer = new RawPeer(socket);
      this.#peer.write(GREETING, ready("ROUTER"));
      void this.#read(this.#peer, slow);
    });
  }
  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `tcp://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }
  /** Reads only from now on. */
  start(): void {
    this.#reading = true;
    this.#peer!.socket.resume();
  }
  async #read(peer: RawPeer, slow: boolean): Promise<void> {
    await peer.handshake();
    if (slow && !this.#reading) peer.socket.pause();
    peer.socket.on("data", () => {
      for (let frames = peer.take(); frames !== null; frames = peer.take()) {
        const [identity, delimiter, ...rest] = frames;
        assert.equal(delimiter.length, 0);
        const client = identity.toString("hex");
        if (!this.digests.has(client)) this.digests.set(client, []);
        this.digests.get(client)!.push(digest(rest));
      }
      if (!slow) return;
      peer.socket.pause();
      setImmediate(() => peer.socket.resume());
    });
  }
  get received(): number {
    return [...this.digests.values()].reduce((sum, { length }) => sum + length, 0);
  }
  close(): void {
    this.#peer?.close();
    this.#server.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}

function digest(frames: (Uint8Array | string)[]): string {
  const hash = createHash("md5");
  for (const frame of frames) hash.update(`${frame.length} `).update(frame);
  return hash.digest("hex");
}

for (const target of SLOW_TARGETS) {
  test(`${target.name}: messages of all sizes to a slow upstream and a fast one come out as they went in`, async () => {
    const random = seeded(7);
    const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)];
    const size = () => {
      const r = random();
      const most = r < 0.6 ? 300 : r < 0.85 ? 8000 : r < 0.98 ? 80_000 : 1_500_000;
      return Math.floor(random() * most);
    };
    using slow = new Upstream(true);
    using fast = new Upstream(false);
    await using server = await ServerProcess.start(
      `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
[routes]
slow = h:slow
both = h:fast, h:slow
back = h:slow, h:fast
fast = h:fast
[h:slow]
handler = proxy
remote-cc = ${await slow.listen()}
[h:fast]
handler = proxy
remote-cc = ${await fast.listen()}
`,
      target,
    );
    await until("both upstreams", () => (server.output.match(/ is up/g) ?? []).length === 2);
    const wanted = { slow: new Set<string>(), fast: new Set<string>() };
    let toSlow = 0;
    let toFast = 0;
    const clients = await Promise.all(Array.from({ length: 3 }, () => RawPeer.open(server.port)));
    for (const client of clients) {
      const kinds = { slow: [] as string[], fast: [] as string[] };
      let type = "slow.x";
      for (let i = 0; i < 500; i++) {
        // Mostly runs of one type, and of about one size.
        if (random() < 0.1) type = pick(["slow.x", "slow.y", "both.x", "back.x", "fast.x"]);
        const most = size();
        const frames = [type, Buffer.alloc(Math.floor(most * (0.9 + random() / 10)), i % 251), "", "blob"];
        client.write(message("", ...frames));
        if (type !== "fast.x") kinds.slow.push(digest(frames));
        if (!type.startsWith("slow")) kinds.fast.push(digest(frames));
      }
      toSlow += kinds.slow.length;
      toFast += kinds.fast.length;
      wanted.slow.add(kinds.slow.join());
      wanted.fast.add(kinds.fast.join());
    }
    // Held back by TCP before the slow one has read anything.
    await until("a client that is held back", () => clients.some(({ socket }) => socket.writableLength > 0));
    slow.start();
    await until("all messages", () => slow.received === toSlow && fast.received === toFast, 60_000);
    const found = (upstream: Upstream) => new Set([...upstream.digests.values()].map((list) => list.join()));
    assert.deepEqual(found(slow), wanted.slow);
    assert.deepEqual(found(fast), wanted.fast);
    for (const client of clients) client.close();
    assert.equal((await server.stop()).code, 0);
    assert.doesNotMatch(server.output, /dropped \d|WARNING/);
  });
}
