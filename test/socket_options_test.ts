/** The zmq_ options of the server and of each proxy, as the system shows them on its sockets. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawnSync } from "node:child_process";
import net from "node:net";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { applyOptions } from "../src/runtime/sockopt.ts";
import { ROOT, RUNTIME, skipFor, TARGETS, until } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { GREETING, message, RawPeer, ready } from "./helpers/raw.ts";
import { metrics } from "./helpers/watched.ts";

const skip = RUNTIME === "node"
  ? "Node sets the idle time of keep-alive only, see docs/configuration.md"
  : spawnSync("ss", ["-V"]).status !== 0
  ? "ss is not installed (Debian package iproute2)"
  : false;

const python = spawnSync("python3", ["-c", "import os; os.pidfd_open"]).status === 0
  ? false
  : "python3 with pidfd_open, which looks at another process's sockets, is not installed";

const KIB = 1024;

interface TcpSocket {
  local: number;
  remote: number;
  keepAlive: boolean;
  idle: number;
  interval: number;
  count: number;
}

/** The TCP sockets of a process, as getsockopt() shows them. */
function socketsOf(pid: number): TcpSocket[] {
  const { stdout, stderr } = spawnSync("python3", [join(ROOT, "test/peers/sockets.py"), String(pid)], {
    encoding: "utf8",
  });
  assert.equal(stderr, "");
  return JSON.parse(stdout);
}

/** What `ss -tmno` says of the socket at this local port that has this state and remote port. */
function socketAt(filter: string): { receive: number; send: number; idle: number | null } {
  const { stdout } = spawnSync("ss", ["-tmnoH", "state", "established", filter], { encoding: "utf8" });
  const [, receive, send] = /skmem:\(r\d+,rb(\d+),t\d+,tb(\d+)/.exec(stdout) ?? assert.fail(stdout);
  const timer = /timer:\(keepalive,(?:(\d+)min)?(?:([\d.]+)sec)?/.exec(stdout);
  return {
    receive: Number(receive),
    send: Number(send),
    idle: timer && Number(timer[1] ?? 0) * 60 + Number(timer[2] ?? 0),
  };
}

test("socket options: every time and size is handed to setsockopt, on Linux by these numbers", {
  skip: skipFor(process.platform === "linux" ? false : "the numbers are those of Linux"),
}, () => {
  const calls: number[][] = [];
  applyOptions(
    {
      keepAlive: { idleSeconds: 240, intervalSeconds: 15, count: 4 },
      receiveBufferBytes: 1000,
      sendBufferBytes: 2000,
    },
    (...call) => calls.push(call),
  );
  // SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, SO_SNDBUF, SO_RCVBUF
  assert.deepEqual(calls, [[1, 9, 1], [6, 4, 240], [6, 5, 15], [6, 6, 4], [1, 7, 2000], [1, 8, 1000]]);
});

const portOf = (endpoint: string) => Number(/:(\d+)$/.exec(endpoint)![1]);

for (const target of TARGETS) {
  test(`${target.name}: buffers and keep-alive reach the server's sockets, and each proxy's its own`, {
    skip: skipFor(skip),
  }, async () => {
    const plain = "[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\n";
    const sink = `${plain}[routes]\n* = h:sink\n[h:sink]\nhandler = disposer\n`;
    await using far = await ServerProcess.start(sink, target);
    await using off = await ServerProcess.start(sink, target);
    await using server = await ServerProcess.start(
      `${plain}zmq_rcvbuf = 96 KB
zmq_sndbuf = 80 KB
zmq_tcp_keepalive_idle = 50
[routes]
a = h:a
b = h:b
[h:a]
handler = proxy
remote-cc = ${far.endpoint}
zmq_rcvbuf = 48 KB
zmq_sndbuf = 40 KB
zmq_tcp_keepalive_idle = 100
[h:b]
handler = proxy
remote-cc = ${off.endpoint}
zmq_tcp_keepalive = off
`,
      target,
    );
    await until("both upstreams", () => (server.output.match(/ is up/g) ?? []).length === 2);
    using client = await RawPeer.open(server.port);
    // Linux doubles what is asked for: half is for its own book-keeping.
    // Until what was sent is acknowledged, ss shows another timer.
    const keptAlive = (filter: string) =>
      until("the keep-alive timer", () => {
        const found = socketAt(filter);
        return found.idle === null ? null : found;
      });
    const accepted = await keptAlive(`sport = :${server.port} and dport = :${client.socket.localPort}`);
    assert.equal(accepted.receive, 2 * 96 * KIB);
    assert.equal(accepted.send, 2 * 80 * KIB);
    assert.ok(accepted.idle! > 30 && accepted.idle! <= 50, `${accepted.idle} s`);
    const a = await keptAlive(`dport = :${portOf(far.endpoint)}`);
    assert.equal(a.receive, 2 * 48 * KIB);
    assert.equal(a.send, 2 * 40 * KIB);
    assert.ok(a.idle! > 60 && a.idle! <= 100, `${a.idle} s`);
    const b = socketAt(`dport = :${portOf(off.endpoint)}`);
    assert.equal(b.idle, null, "keep-alive is off");
    assert.notEqual(b.receive, 2 * 48 * KIB, "the system's own size");
  });

  test(
    `${target.name}: idle time, interval and count of keep-alive are on each socket, as it was configured`,
    {
      skip: skipFor(skip || python),
    },
    async () => {
      const sink = "[routes]\n* = h:sink\n[h:sink]\nhandler = disposer\n";
      const plain = "[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\n";
      await using far = await ServerProcess.start(`${plain}zmq_tcp_keepalive = off\n${sink}`, target);
      await using server = await ServerProcess.start(
        `${plain}zmq_tcp_keepalive_idle = 51
zmq_tcp_keepalive_intvl = 12
zmq_tcp_keepalive_cnt = 7
[routes]
a = h:a
[h:a]
handler = proxy
remote-cc = ${far.endpoint}
zmq_tcp_keepalive_idle = 101
zmq_tcp_keepalive_intvl = 21
zmq_tcp_keepalive_cnt = 9
`,
        target,
      );
      await server.until(/ is up/);
      using client = await RawPeer.open(server.port);
      const sockets = socketsOf(server.pid);
      const { localPort } = client.socket;
      const options = ({ keepAlive, idle, interval, count }: TcpSocket) => [keepAlive, idle, interval, count];
      assert.deepEqual(options(sockets.find(({ remote }) => remote === localPort)!), [true, 51, 12, 7]);
      assert.deepEqual(options(sockets.find(({ remote }) => remote === far.port)!), [true, 101, 21, 9]);
      const accepted = socketsOf(far.pid).find(({ local }) => local === far.port)!;
      assert.equal(accepted.keepAlive, false);
    },
  );

  test(`${target.name}: zmq_hwm of the server is how much waits for a client that does not read`, async () => {
    const REPLIES = 3000;
    const small = await waitingFor(20);
    const large = await waitingFor(420);
    // The kernel's buffers, and what a runtime reads before it stops, are some hundred messages at most. What waits is bounded
    // at twice the mark, behind a write of up to one.
    const more = large - small;
    assert.ok(more >= 2 * 400 - 200 && more <= 3 * 400 + 200, `${small} and ${large} messages waited`);

    /** Messages that a client got which began to read when all had come. */
    async function waitingFor(hwm: number): Promise<number> {
      const links: net.Socket[] = [];
      const far = net.createServer((socket) => {
        links.push(socket);
        socket.on("error", () => {}).resume();
        socket.write(Buffer.concat([GREETING, ready("ROUTER")]));
      });
      await new Promise<void>((resolve) => far.listen(0, "127.0.0.1", resolve));
      using _far = {
        [Symbol.dispose]() {
          far.close();
          for (const link of links) link.destroy();
        },
      };
      await using server = await ServerProcess.start(
        `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
zmq_hwm = ${hwm}
zmq_sndbuf = 64 KB
http-listen = 127.0.0.1:0
[routes]
pub = h:up
[h:up]
handler = proxy
remote-cc = tcp://127.0.0.1:${(far.address() as net.AddressInfo).port}
`,
        target,
      );
      await server.until(/ is up/);
      using frozen = await RawPeer.open(server.port, "DEALER", "frozen");
      frozen.socket.pause();
      using witness = await RawPeer.open(server.port, "DEALER", "witness");
      const reply = "r".repeat(4000);
      for (let n = 0; n < REPLIES; n++) links[0].write(message("frozen", "", "x", reply, ""));
      links[0].write(message("witness", "", "x", "{}", ""));
      // It comes behind all of them, on the same link.
      await witness.receive();
      const dropped = (await metrics(server)).get('cc_drops_total{socket="router",reason="client-full"}') ??
        0;
      frozen.socket.resume();
      let received = 0;
      await until("what waited, all that was not counted as dropped", () => {
        while (frozen.take() !== null) received++;
        return received === REPLIES - dropped;
      });
      assert.equal((await server.stop()).code, 0);
      return received;
    }
  });

  test(`${target.name}: a message above zmq_maxmsgsize is dropped and told, one below is taken; one above 1 GiB ends its connection`, async () => {
    await using server = await ServerProcess.start(
      "[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\nzmq_maxmsgsize = 2 KB\nstats-period = 0.1\n" +
        "[routes]\nx = h:sink\n[h:sink]\nhandler = disposer\n",
      target,
    );
    using peer = await RawPeer.open(server.port);
    peer.write(message("", "x", "b".repeat(1500), ""));
    await server.until(/disposed_count: 1\b/);
    assert.equal(peer.closed, false);
    peer.write(message("", "x", "b".repeat(3000), ""));
    peer.write(message("", "x", "b".repeat(1500), ""));
    await server.until(/disposed_count: 2\b/);
    await server.until(
      /dropped 1 message \("x", 3014 bytes or more\) from tcp:\S+: larger than zmq_maxmsgsize \(oversized, 1 in all/,
    );
    assert.equal(peer.closed, false);
    // A frame of 1 GiB: its header is enough.
    peer.write(Buffer.from([2, 0, 0, 0, 0, 0x40, 0, 0, 0]));
    await until("the end of the connection", () => peer.closed);
    await server.until(/closed tcp:\S+: message of more than 1073741824 bytes \(too-large\)/);
    assert.equal((await server.stop()).code, 0);
    assert.doesNotMatch(server.output, /disposed_count: 3/);
  });

  test(`${target.name}: zmq_nthreads above 1 says at start that one thread serves everything`, async () => {
    await using server = await ServerProcess.start(
      "[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\nzmq_nthreads = 4\n[routes]\necho = h:echo\n[h:echo]\nhandler = echo\n",
      target,
    );
    await server.until(/WARNING CCServer\.startup: zmq_nthreads is 4, but one thread serves everything/);
    assert.equal((await server.stop()).code, 0);
  });
}
