/**
 * What meets the network: messages at every bound, links that break, and servers that stop, each from outside. One
 * client's messages must not cost another's, and what is lost is counted and named.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import { lstatSync, readdirSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { CCClient } from "../mod.ts";
import { SLOW_TARGETS, type Target, tempFolder, until } from "./helpers/env.ts";
import { Answering, Collector, Flood, numbers } from "./helpers/collector.ts";
import { run, ServerProcess } from "./helpers/process.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";

const MIB = 1024 * 1024;

const server = (routes: string, more = "") =>
  `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
cc-stats = 2
${more}
[routes]
${routes}
`;
const proxy = (name: string, remote: string, more = "") =>
  `[h:${name}]\nhandler = proxy\nremote-cc = ${remote}\n${more}\n`;
const DISPOSER = "[h:bin]\nhandler = disposer\n";

/** The last figure of a counter in a server's statistics lines; 0 where it stands in none. */
function counter(output: string, name: string): number {
  const found = [...output.matchAll(new RegExp(`[{ ]${name.replaceAll(".", "\\.")}: (\\d+)`, "g"))];
  return Number(found.at(-1)?.[1] ?? 0);
}

const drops = (output: string, reason: string) =>
  Math.max(
    0,
    ...[...output.matchAll(new RegExp(`\\(${reason}, (\\d+) in all`, "g"))].map(([, n]) => Number(n)),
  );

/** A Unix socket that listens, accepts nobody, and has as many waiting as it may. */
class BusySocket {
  readonly #child: ReturnType<typeof spawn>;

  private constructor(child: ReturnType<typeof spawn>) {
    this.#child = child;
  }
  static async open(path: string): Promise<BusySocket> {
    const code = `
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(0)
waiting = []
while True:
    c = socket.socket(socket.AF_UNIX)
    c.setblocking(False)
    try:
        c.connect(sys.argv[1])
    except BlockingIOError:
        break
    waiting.append(c)
print("full", flush=True)
time.sleep(600)
`;
    const child = spawn("python3", ["-c", code, path], { stdio: ["ignore", "pipe", "inherit"] });
    await new Promise<void>((resolve) => child.stdout!.once("data", () => resolve()));
    return new BusySocket(child);
  }
  kill(): void {
    this.#child.kill("SIGKILL");
  }
  [Symbol.dispose](): void {
    this.kill();
  }
}

async function chain(target: Target, far: string, near: (endpoint: string) => string) {
  const second = await ServerProcess.start(far, target);
  const first = await ServerProcess.start(near(second.endpoint), target);
  await first.until(/is up/);
  return {
    first,
    second,
    async [Symbol.asyncDispose]() {
      await first[Symbol.asyncDispose]();
      await second[Symbol.asyncDispose]();
    },
  };
}

const inOrder = (found: number[]) => found.every((n, i) => n === i);

for (const target of SLOW_TARGETS) {
  const on = target.name;

  test(`${on}: a message that the upstream closes on is dropped after three tries, named, and the others pass`, async () => {
    using collector = new Collector();
    const endpoint = await collector.listen({ frameMaxBytes: MIB });
    await using first = await ServerProcess.start(server("pub = h:up") + proxy("up", endpoint), target);
    await first.until(/is up/);
    using culprit = await RawPeer.open(first.port, "DEALER", "culprit");
    using other = await RawPeer.open(first.port);
    // More than the kernel's buffers hold: the link breaks while it is written.
    culprit.write(message("", "pub.big", Buffer.alloc(40 * MIB), ""));
    await until("a link that is closed", () => collector.links[0].closed);
    for (let i = 0; i < 10; i++) other.write(message("", "pub.small", `{"n":${i}}`, ""));
    const named =
      /dropped 1 message \("pub\.big", 419\d+ bytes from the client "culprit"\) for \S+: the upstream closes on it/;
    // Node does not tell how far a broken link came: one try, then.
    await first.until(on === "node" ? /dropped 1 message for \S+: the link broke while/ : named);
    await until("the others", () => collector.count === 10);
    const links = first.output.match(/is up/g)!.length;
    assert.ok(links <= 6, `${links} links`);
  });

  test(`${on}: a message that is too large for the next server is dropped there and named; no link ends`, async () => {
    await using servers = await chain(
      target,
      server("pub = h:bin", "zmq_maxmsgsize = 1 MB\nstats-period = 0.2") + DISPOSER,
      (endpoint) => server("pub = h:up") + proxy("up", endpoint),
    );
    const { first, second } = servers;
    using culprit = await RawPeer.open(first.port, "DEALER", "culprit");
    using other = await RawPeer.open(first.port);
    for (let i = 0; i < 10; i++) {
      culprit.write(message("", "pub.big", Buffer.alloc(i % 2 === 0 ? 20 * MIB : 1.2 * MIB), ""));
      other.write(message("", "pub.small", `{"n":${i}}`, ""));
      culprit.write(message("", "pub.small", `{"n":${i}}`, ""));
    }
    await second.until(/disposed_count: 20[,}]/);
    await second.until(
      /dropped 1 message \("pub\.big", \d+ bytes or more from the client "culprit"\) from \S+: larger than zmq_maxmsgsize/,
    );
    await second.stop();
    assert.equal(counter(second.output, "drops.oversized"), 10);
    await first.stop();
    assert.equal(first.output.match(/is up/g)!.length, 1);
    assert.equal(counter(first.output, "count.ok"), 30);
  });

  test(`${on}: what a server takes leaves room for what it adds: at equal bounds the upstream closes on nothing`, async () => {
    await using servers = await chain(
      target,
      server("pub = h:bin", "zmq_maxmsgsize = 64 KB\nstats-period = 0.2") + DISPOSER,
      (endpoint) => server("pub = h:up", "zmq_maxmsgsize = 64 KB") + proxy("up", endpoint),
    );
    const { first, second } = servers;
    using greedy = await RawPeer.open(first.port, "DEALER", "greedy");
    using other = await RawPeer.open(first.port);
    const head = message("", "pub.large", "", "").length;
    // Around the bound, with the seven bytes of a long header: some are taken and not forwarded.
    for (let size = 64 * 1024 - head - 30; size <= 64 * 1024 - head - 7; size++) {
      greedy.write(message("", "pub.large", Buffer.alloc(size), ""));
    }
    // 32 servers have forwarded it already: its frames are as many as there may be.
    const hops = Array.from({ length: 32 }, (_, i) => `hop${i}`);
    for (let i = 0; i < 10; i++) greedy.write(message(...hops, "", "pub.far", "{}", "", ""));
    for (let i = 0; i < 4000; i++) other.write(message("", "pub.small", "{}", ""));
    await second.until(/count\.ok\.msg\.pub\.small: 4000|disposed_count: 40\d\d/);
    await first.stop();
    assert.match(first.output, /dropped 1 message \("pub\.large", \d+ bytes from the client "greedy"\)/);
    assert.match(
      first.output,
      /dropped 1 message \("pub\.far", .*: it has been through too many servers\. A loop\?/,
    );
    assert.equal(drops(first.output, "too-many-frames"), 10);
    const tooLarge = drops(first.output, "too-large");
    assert.ok(tooLarge > 0 && tooLarge < 24, `${tooLarge} too large`);
    await second.until(new RegExp(`disposed_count: ${4000 + 24 - tooLarge}[,}]`));
    assert.doesNotMatch(first.output, /is down/);
    assert.doesNotMatch(second.output, /closed tcp/);
  });

  test(`${on}: a stopping server handles all that clients had sent before they saw that it ends`, async () => {
    using collector = new Collector();
    await using first = await ServerProcess.start(
      server("pub = h:up", "zmq_linger = 10000") +
        proxy("up", await collector.listen(), "zmq_linger = 10000"),
      target,
    );
    await first.until(/is up/);
    const peers = await Promise.all([1, 2, 3, 4].map((n) => RawPeer.open(first.port, "DEALER", `c${n}`)));
    const floods = peers.map((peer) => new Flood(peer, "pub.n"));
    await until("messages", () => collector.count > 2000);
    const { code } = await first.stop();
    await Promise.all(floods.map(({ done }) => done));
    assert.equal(code, 0);
    await until("all of them", () => collector.count === floods.reduce((sum, { sent }) => sum + sent, 0));
    for (const bodies of collector.bodies.values()) assert.ok(inOrder(numbers(bodies)), "in order");
    assert.doesNotMatch(first.output, /dropped/);
  });

  test(`${on}: a peer that ignores that the server ends keeps what it sends on; what was read and not handled is counted`, async () => {
    using collector = new Collector();
    await using first = await ServerProcess.start(
      server("pub = h:up", "zmq_linger = 1000") + proxy("up", await collector.listen()),
      target,
    );
    await first.until(/is up/);
    using peer = await RawPeer.open(first.port, "DEALER", "deaf", true);
    const flood = new Flood(peer, "pub.n", false);
    await until("messages", () => collector.count > 2000);
    const began = performance.now();
    const { code } = await first.stop();
    const ms = performance.now() - began;
    await flood.done;
    assert.equal(code, 0);
    assert.ok(ms < 3000, `stopped in ${ms.toFixed(0)} ms`);
    const unread = drops(first.output, "unread") + drops(first.output, "linger");
    const found = numbers([...collector.bodies.values()][0]);
    assert.ok(inOrder(found), "a beginning, whole and in order");
    const ok = counter(first.output, "count.ok");
    assert.equal(found.length + unread, ok + drops(first.output, "unread"), `${found.length} came, ${ok} ok`);
  });
}

/** Bytes that a peer's kernel has taken and the peer has not read: those of the socket with these ports. */
function unreadBytes(localPort: number, remotePort: number): number {
  const hex = (port: number) => port.toString(16).toUpperCase().padStart(4, "0");
  const line = new RegExp(`:${hex(localPort)} \\w+:${hex(remotePort)} \\w\\w \\w+:(\\w+)`);
  return parseInt(line.exec(readFileSync("/proc/net/tcp", "utf8"))![1], 16);
}

for (const target of SLOW_TARGETS) {
  const on = target.name;

  test(`${on}: messages whose arrival a broken link leaves unknown are counted as unconfirmed; order is kept, nothing comes twice`, async () => {
    using collector = new Collector();
    // The first link is not read from.
    const endpoint = await collector.listen({ deafLinks: 1 });
    await using first = await ServerProcess.start(
      server("pub = h:up", "zmq_linger = 5000") + proxy("up", endpoint, "zmq_linger = 5000\nzmq_hwm = 10000"),
      target,
    );
    await first.until(/is up/);
    using client = await RawPeer.open(first.port);
    const total = 3000;
    for (let n = 0; n < total; n++) {
      client.write(message("", "pub.n", `{"n":${n},"x":"${"x".repeat(10_000)}"}`, ""));
    }
    const port = Number(/\d+$/.exec(endpoint)![0]);
    const link = await until("a link", () => collector.links[0]);
    const { socket } = link;
    // Until the upstream's kernel takes no more, and ours neither.
    let before = -1;
    await until(
      "a full pipe",
      () => {
        const now = unreadBytes(port, socket.remotePort!);
        const still = now > 0 && now === before;
        before = now;
        return still;
      },
      15_000,
      700,
    );
    // And up to 256 KiB that its runtime has read already.
    const atPeer = unreadBytes(port, socket.remotePort!) + socket.readableLength + link.rest().length;
    socket.resetAndDestroy();
    const [, said] = await first.until(
      /up to (\d+) messages may not have arrived \(unconfirmed, \1 in all\)/,
    );
    const unconfirmed = Number(said);
    const found = () => numbers([...collector.bodies.values()][0]);
    await until("the last message", () => found().at(-1) === total - 1, 30_000);
    const arrived = found();
    assert.ok(
      arrived.every((n, i) => i === 0 || n === arrived[i - 1] + 1),
      "in order, none twice, from one on",
    );
    // Node does not always tell how far a broken link came.
    const lost = drops(first.output, "link-lost");
    if (on !== "node") assert.equal(lost, 0);
    const missing = total - arrived.length - lost;
    const there = Math.ceil((atPeer + 256 * 1024) / 10_000);
    assert.ok(missing > 0, "some were in the kernels");
    assert.ok(
      missing <= unconfirmed + there,
      `${missing} missing, ${unconfirmed} unconfirmed, ${there} there`,
    );
    // By written blocks: at most one more of them, of 1 MiB.
    assert.ok(unconfirmed <= missing + 110, `${unconfirmed} unconfirmed, ${missing} missing`);
    await first.stop();
    assert.equal(counter(first.output, "unconfirmed"), unconfirmed);
    assert.equal(counter(first.output, "drops.link-lost"), lost);
  });

  test(`${on}: all drops are told: in the log by time and at the end, in the statistics, and in the metrics after a reload`, async () => {
    using folder = tempFolder();
    const file = join(folder.path, "test.ini");
    const nobody = "tcp://127.0.0.1:1";
    const ini = (more: string) => server("pub = h:bin", "http-listen = 127.0.0.1:0") + DISPOSER + more;
    writeFileSync(file, ini(proxy("up", nobody, "zmq_hwm = 10")).replace("pub = h:bin", "pub = h:up"));
    await using first = new ServerProcess(target, [file]);
    await first.until(/listening on \S+,/);
    using client = await RawPeer.open(first.port);
    for (let n = 0; n < 5000; n++) client.write(message("", "pub.n", `{"n":${n}}`, ""));
    client.write(message("", "pub.last", "{}", ""));
    const [, url] = /HTTP on (\S+)/.exec(first.output)!;
    const dropped = async () => {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(/cc_drops_total\{socket="h:up",reason="upstream-down"\} (\d+)/.exec(text)?.[1] ?? 0);
    };
    for (let i = 0; await dropped() < 4991; i++) {
      assert.ok(i < 1000, `${await dropped()} dropped`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    // Its ten messages that wait are dropped when it ends.
    writeFileSync(file, ini(""));
    process.kill(first.pid, "SIGHUP");
    await first.until(/dropped 10 messages for \S+: linger ran out/);
    assert.equal(await dropped(), 4991, "of a handler that is gone");
    await first.stop();
    const told = [...first.output.matchAll(/dropped (\d+) messages? for \S+ the upstream is down/g)];
    assert.equal(told.reduce((sum, [, n]) => sum + Number(n), 0), 4991, first.output);
    assert.ok(told.length <= 3, `${told.length} lines`);
    assert.equal(counter(first.output, "drops.upstream-down"), 4991);
    assert.equal(counter(first.output, "drops.linger"), 10);
  });

  test(`${on}: a client that lives keeps its identity, and the other is told; one that is silent loses it`, async () => {
    await using first = await ServerProcess.start(
      server("echo = h:echo") + "[h:echo]\nhandler = echo\n",
      target,
    );
    await using holder = new CCClient(first.endpoint, { name: "web1" });
    await holder.ready({ timeoutMs: 5000 });
    const echo = { type: "echo.request", fields: { target: "x" } };
    await holder.query(echo);
    using thief = await RawPeer.connect(first.port);
    thief.write(GREETING, ready("DEALER", "web1"));
    await until("the end of the other", () => thief.closed);
    // Behind the greeting, an ERROR command instead of READY.
    assert.match(
      thief.rest().toString("latin1"),
      /ERROR.the identity "web1" is in use by tcp:\S+, which lives/,
    );
    await first.until(/WARNING .* closed tcp:\S+: the identity "web1" is in use by tcp:\S+, which lives/);
    await holder.query(echo);

    // Half open: nothing comes from it any more.
    using silent = await RawPeer.open(first.port, "DEALER", "web2");
    await using second = new CCClient(first.endpoint, { name: "web2" });
    await second.ready({ timeoutMs: 10_000 });
    await second.query(echo);
    await first.until(/takes over the identity "web2" from tcp:/);
    await until("the end of the silent one", () => silent.closed);
  });

  test(`${on}: one that claims the name of a client which is held back is not told for good, and comes again`, async () => {
    using collector = new Collector();
    await using first = await ServerProcess.start(
      server("pub = h:up") + proxy("up", await collector.listen({ deafLinks: 1 })),
      target,
    );
    await first.until(/is up/);
    using holder = await RawPeer.open(first.port, "DEALER", "web1");
    const chunk = Buffer.concat(
      Array.from({ length: 100 }, () => message("", "pub.x", "y".repeat(10_000), "")),
    );
    // Until nobody takes anything any more.
    for (let held = false; !held;) {
      held = !holder.socket.write(chunk) && await Promise.race([
        new Promise<false>((resolve) => holder.socket.once("drain", () => resolve(false))),
        new Promise<true>((resolve) => setTimeout(() => resolve(true), 1000)),
      ]);
    }
    using heir = await RawPeer.connect(first.port);
    heir.write(GREETING, ready("DEALER", "web1"));
    await until("its end", () => heir.closed);
    // libzmq takes an ERROR for final.
    assert.doesNotMatch(heir.rest().toString("latin1"), /ERROR/);
    await first.until(/WARNING .* closed tcp:\S+: the identity "web1" is in use by tcp:\S+, which may live/);
    holder.close();
    for (const link of collector.links) link.close();
    await first.until(/is up[^]*is up/);
    using again = await RawPeer.open(first.port, "DEALER", "web1");
    again.write(message("", "pub.last", "z", ""));
    await until("the last", () => collector.bodies.get("web1")?.at(-1) === "z");
  });

  test(`${on}: an identity goes to nobody but who asked for it of the one that had it`, async () => {
    await using first = await ServerProcess.start(
      server("echo = h:echo") + "[h:echo]\nhandler = echo\n",
      target,
    );
    for (let i = 0; i < 10; i++) {
      const identity = `name${i}`;
      using holder = await RawPeer.open(first.port, "DEALER", identity);
      using claimant = await RawPeer.connect(first.port);
      claimant.write(GREETING, ready("DEALER", identity));
      await new Promise((resolve) => setTimeout(resolve, 40));
      holder.close();
      // It comes when the holder has gone and the claimant is not yet let in, perhaps.
      using third = await RawPeer.connect(first.port);
      third.write(GREETING, ready("DEALER", identity));
      const has = (peer: RawPeer) => peer.rest().includes("\x05READY");
      await until("one of them has it", () => has(third) || has(claimant));
      await new Promise((resolve) => setTimeout(resolve, 60));
      const winner = has(third) ? third : claimant;
      assert.equal(winner.closed, false, "who was let in stays");
    }
  });

  test(`${on}: a client that takes a large reply, slowly, lives: nobody takes its identity`, async () => {
    using up = await Answering.listen(() => Buffer.alloc(40 * MIB));
    await using first = await ServerProcess.start(server("big = h:up") + proxy("up", up.endpoint), target);
    await first.until(/is up/);
    using holder = await RawPeer.open(first.port, "DEALER", "slow");
    const { socket } = holder;
    let bytes = 0;
    socket.removeAllListeners("data").on("data", (chunk) => {
      bytes += chunk.length;
      socket.pause();
      setTimeout(() => socket.resume(), chunk.length / 10_000);
    });
    holder.write(message("", "big.request", "{}", ""));
    await until("some of it", () => bytes > MIB);
    using claimant = await RawPeer.connect(first.port);
    claimant.write(GREETING, ready("DEALER", "slow"));
    await until("its refusal", () => claimant.closed);
    await until("all of it", () => bytes > 40 * MIB, 30_000);
  });

  test(`${on}: a reply that would pass the bound is dropped; the link of all stays`, async () => {
    await using servers = await chain(
      target,
      server("echo = h:echo", "zmq_maxmsgsize = 4 KB") + "[h:echo]\nhandler = echo\n",
      (endpoint) => server("echo = h:up", "zmq_maxmsgsize = 4 KB") + proxy("up", endpoint),
    );
    const { first, second } = servers;
    using client = await RawPeer.open(first.port);
    const ask = (text: string) =>
      client.write(message("", "echo.request", JSON.stringify({ req: "echo.request", target: text }), ""));
    // The answer says more than the question.
    ask("x".repeat(3950));
    await second.until(/dropped 1 message \("echo\.response", 4\d\d\d bytes.*larger than zmq_maxmsgsize/);
    ask("y");
    assert.equal((await client.receive())[1].toString(), "echo.response");
    assert.doesNotMatch(first.output, /is down/);
  });

  test(`${on}: a link that breaks while a server stops leaves messages unconfirmed too`, async () => {
    using collector = new Collector();
    const endpoint = await collector.listen({ deafLinks: 1 });
    await using first = await ServerProcess.start(
      server("pub = h:up", "zmq_linger = 8000") + proxy("up", endpoint, "zmq_linger = 8000\nzmq_hwm = 10000"),
      target,
    );
    await first.until(/is up/);
    using client = await RawPeer.open(first.port);
    for (let n = 0; n < 30; n++) {
      client.write(message("", "pub.n", `{"n":${n},"x":"${"x".repeat(100_000)}"}`, ""));
    }
    const link = await until("a link", () => collector.links[0]);
    // Asked once a second on Node.
    await new Promise((resolve) => setTimeout(resolve, 2200));
    process.kill(first.pid, "SIGTERM");
    await first.until(/SIGTERM: stopping/);
    await new Promise((resolve) => setTimeout(resolve, 300));
    link.socket.resetAndDestroy();
    assert.equal((await first.exited).code, 0);
    const told = counter(first.output, "unconfirmed") + drops(first.output, "linger") +
      drops(first.output, "link-lost");
    assert.ok(told > 0, first.output);
  });

  test(`${on}: the Unix socket of a busy server is not taken over, and only the file that is ours is removed`, async () => {
    using folder = tempFolder();
    const path = join(folder.path, "cc.sock");
    const file = join(folder.path, "test.ini");
    writeFileSync(
      file,
      server("echo = h:echo").replace("tcp://127.0.0.1:*", `ipc://${path}`) + "[h:echo]\nhandler = echo\n",
    );
    const listening = /listening on \S+,/;
    {
      // It accepts nobody, and its backlog is full.
      using busy = await BusySocket.open(path);
      const { ino } = lstatSync(path);
      const { code, output } = await run([file], target);
      assert.notEqual(code, 0, output);
      assert.match(output, /cannot listen on ipc:\S+: the address is in use/);
      assert.equal(lstatSync(path).ino, ino, "its file is still there");
      busy.kill();
    }
    // It was killed: its file is stale.
    await using first = new ServerProcess(target, [file]);
    await first.until(listening);
    unlinkSync(path);
    await using second = new ServerProcess(target, [file]);
    await second.until(listening);
    const { ino } = lstatSync(path);
    await first.stop();
    assert.equal(lstatSync(path).ino, ino, "the second's file is still there");
    assert.equal((await run(["ping", "-c", "1", `ipc://${path}`], target)).code, 0);
    await second.stop();
    assert.deepEqual(readdirSync(folder.path), ["test.ini"], "nothing is left");
  });
}

test("--check finds a proxy to the server itself", async () => {
  using folder = tempFolder();
  const check = async (socket: string, remote: string) => {
    const file = join(folder.path, "test.ini");
    writeFileSync(
      file,
      `[ccserver]\ncc-socket = ${socket}\ncc-role = local\n[routes]\n* = h:up\n[h:up]\nhandler = proxy\nremote-cc = ${remote}\n`,
    );
    return await run(["--check", file]);
  };
  const own: [string, string][] = [
    ["tcp://127.0.0.1:4000", "tcp://127.0.0.1:4000"],
    ["tcp://127.0.0.1:4000", "tcp://localhost:4000"],
    ["tcp://*:4000", "tcp://127.0.0.1:4000"],
    [`ipc://${folder.path}/x`, `ipc://${folder.path}/x`],
  ];
  for (const [socket, remote] of own) {
    const { code, output } = await check(socket, remote);
    assert.notEqual(code, 0, output);
    assert.match(
      output,
      /test\.ini:8: remote-cc in \[h:up\] is this server itself: a message would go round/,
    );
  }
  for (
    const [socket, remote] of [["tcp://127.0.0.1:4000", "tcp://127.0.0.1:4001"], [
      "tcp://127.0.0.2:4000",
      "tcp://127.0.0.1:4000",
    ]]
  ) assert.equal((await check(socket, remote)).code, 0);
});
