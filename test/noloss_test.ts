/** No loss while links are up: a million messages of eight libzmq clients through two servers, once, in order. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { TARGETS } from "./helpers/env.ts";
import { Libzmq, ServerProcess } from "./helpers/process.ts";

const CLIENTS = 8;
const TOTAL = 1_000_000;

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

for (const target of TARGETS) {
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
