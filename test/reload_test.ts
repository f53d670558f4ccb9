/** SIGHUP: another config is taken over whole or not at all, and no message in flight is lost. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { compareConfigs, describeChanges } from "../src/server/changes.ts";
import { decodeFrames, loadConfig, Router } from "../mod.ts";
import { TARGETS, tempFolder, text, until } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";

/** A ROUTER that keeps what comes, and answers each message with its body. */
async function collector() {
  const bodies: string[] = [];
  let peers = new Set<string>();
  const router: Router = new Router({
    message(source, buf, start, end) {
      peers.add(source.name);
      const [client, , , body] = decodeFrames(buf, start, end);
      bodies.push(text(body));
      const reply = message(
        Buffer.from(source.identityFrame.subarray(2)),
        client,
        "",
        "pub.reply",
        text(body),
        "",
      );
      router.send(reply, 0, reply.length, null);
    },
    chunkEnd() {},
  });
  const endpoint = await router.bind("tcp://127.0.0.1:*");
  return {
    endpoint,
    bodies,
    /** Connections that brought messages. */
    peers: () => peers,
    forget: () => void (peers = new Set()),
    [Symbol.asyncDispose]: () => router.close(0),
  };
}

/** A handler that takes a second to start. */
const SLOW = `export default ({ EVERYWHERE }) => ({
  name: "slow",
  summary: "Starts slowly.",
  roles: EVERYWHERE,
  create: ({ environment: { clock } }) => ({
    start: () => new Promise((resolve) => void clock.after(1000, resolve)),
    plan: () => ({ drop: true }),
  }),
});
`;

const config = (remote: string, more = "") =>
  `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
[routes]
echo = h:echo
pub = h:up
${more}
[h:echo]
handler = echo
[h:up]
handler = proxy
remote-cc = ${remote}
`;

for (const target of TARGETS) {
  test(`${target.name}: a reload keeps what it does not change, and loses nothing of what is under way`, async () => {
    await using one = await collector();
    await using two = await collector();
    using folder = tempFolder();
    const file = join(folder.path, "a.ini");
    writeFileSync(file, config(one.endpoint));
    await using server = new ServerProcess(target, [file]);
    await server.until(/listening on/);
    await server.until(/is up/);
    using client = await RawPeer.open(server.port);
    let sent = 0;
    const replies: number[] = [];
    // Requests all the time, while configs come and go.
    const send = (type: string) => client.write(message("", type, String(sent++), ""));
    const takeAll = () => {
      for (let frames = client.take(); frames !== null; frames = client.take()) {
        replies.push(Number(text(frames[2])));
      }
    };
    const steady = setInterval(() => {
      for (let i = 0; i < 20; i++) send("pub.x");
      takeAll();
    }, 1);
    const reload = async (ini: string, pattern: RegExp) => {
      const from = server.output.length;
      writeFileSync(file, ini);
      process.kill(server.pid, "SIGHUP");
      await until(`${pattern} in:\n${server.output}`, () => pattern.test(server.output.slice(from)), 15_000);
    };
    await until("replies", () => replies.length > 500);

    // A handler and a route more: the one that was there keeps its connection.
    one.forget();
    const more = `log = h:two\n[h:two]\nhandler = proxy\nremote-cc = ${two.endpoint}\n`;
    await reload(config(one.endpoint, more), /reload: routes added: log/);
    assert.match(server.output, /reload: handlers added: h:two/);
    const before = replies.length;
    await until("more replies", () => replies.length > before + 500);
    assert.equal(one.peers().size, 1);
    assert.equal(
      (server.output.match(/ is up/g) ?? []).length,
      2,
      "one upstream was connected anew: the new one",
    );
    client.write(message("", "log.info", "logged", ""));
    await until("the new route", () => two.bodies.includes("logged"));

    // Other options of the proxy: the same link, and the same order.
    one.forget();
    await reload(
      `${config(one.endpoint, more)}zmq_hwm = 5\nstall-timeout = 7\n`,
      /reload: handlers changed: h:up/,
    );
    const then = replies.length;
    await until("replies behind it", () => replies.length > then + 500);
    assert.equal(one.peers().size, 1);
    assert.equal((server.output.match(/ is up/g) ?? []).length, 2);
    assert.ok(one.bodies.every((body, i) => Number(body) === i), "in order");

    // The upstream is another one: what was sent to the old comes back, the rest goes to the new.
    await reload(config(two.endpoint), /reload: handlers changed: h:up/);
    await until("messages at the new upstream", () => two.bodies.length > 500, 10_000);
    clearInterval(steady);
    await until(`all ${sent} replies, ${replies.length} came`, () => {
      takeAll();
      return replies.filter((n) => !Number.isNaN(n)).length >= sent;
    }, 10_000);
    assert.deepEqual(
      replies.filter((n) => !Number.isNaN(n)).sort((a, b) => a - b),
      Array.from({ length: sent }, (_, i) => i),
      "each once",
    );
    assert.doesNotMatch(server.output, /dropped \d/);
    assert.equal((await server.stop()).code, 0);
  });

  test(`${target.name}: a wrong config changes nothing and says what is wrong; what needs a restart says so`, async () => {
    await using one = await collector();
    using folder = tempFolder();
    const file = join(folder.path, "a.ini");
    const good = config(one.endpoint);
    writeFileSync(file, good);
    await using server = new ServerProcess(target, [file]);
    await server.until(/listening on/);
    await server.until(/is up/);
    using client = await RawPeer.open(server.port);
    const works = async () => {
      client.write(message("", "pub.x", "7", ""));
      const [, , body] = await client.receive();
      assert.equal(text(body), "7");
    };
    writeFileSync(file, good.replace("echo = h:echo", "echo = h:nobody").replace("remote-cc", "remote-ccc"));
    process.kill(server.pid, "SIGHUP");
    await server.until(
      /ERROR CCServer\.reload: nothing has changed: the server goes on with the config it has/,
    );
    assert.match(server.output, /ERROR CCServer\.reload: .*a\.ini:5: .*h:nobody/);
    assert.match(
      server.output,
      /ERROR CCServer\.reload: .*a\.ini:12: unknown option "remote-ccc".*"remote-cc"/,
    );
    await works();
    writeFileSync(
      file,
      good.replace("tcp://127.0.0.1:*", "tcp://127.0.0.1:1").replace(
        "cc-role",
        "stats-period = 0.3\ncontrol-socket = /x.ctl\ncc-role",
      ),
    );
    process.kill(server.pid, "SIGHUP");
    await server.until(
      /WARNING CCServer\.reload: control-socket: "\/x\.ctl" needs a restart; it stays its default/,
    );
    await server.until(
      /WARNING CCServer\.reload: cc-socket: "tcp:\/\/127\.0\.0\.1:1" needs a restart; it stays "tcp:\/\/127\.0\.0\.1:\*"/,
    );
    await server.until(/INFO CCServer\.reload: options changed: stats-period/);
    await server.until(/INFO CCServer\.stats: \{count: /, 5000);
    await works();
    process.kill(server.pid, "SIGHUP");
    await server.until(/(cc-socket: \S+ needs a restart[^]*){2}/);
    assert.equal((await server.stop()).code, 0);
  });
}

for (const target of TARGETS) {
  test(`${target.name}: a SIGHUP that comes while the server starts is followed by a reload`, async () => {
    await using one = await collector();
    using folder = tempFolder();
    const file = join(folder.path, "a.ini");
    const pidfile = join(folder.path, "a.pid");
    writeFileSync(join(folder.path, "slow.js"), SLOW);
    const ini = (more: string) =>
      `${config(one.endpoint, more)}[h:slow]\nhandler = ./slow.js\n`
        .replace("cc-role", `pidfile = ${pidfile}\ncc-role`)
        .replace("[routes]", "[routes]\nslow = h:slow");
    writeFileSync(file, ini(""));
    await using server = new ServerProcess(target, [file]);
    await until("the pidfile", () => existsSync(pidfile));
    writeFileSync(file, ini("extra = h:echo"));
    process.kill(server.pid, "SIGHUP");
    await server.until(/listening on \S+,/);
    await server.until(/reload: routes added: extra/);
    assert.equal((await server.stop()).code, 0);
  });
}

test("reload: changes are told by name", async () => {
  using folder = tempFolder();
  const load = (ini: string) => {
    const file = join(folder.path, "a.ini");
    writeFileSync(file, ini);
    return loadConfig(file);
  };
  const before = await load(config("tcp://127.0.0.1:1"));
  assert.deepEqual(describeChanges(compareConfigs(before, await load(config("tcp://127.0.0.1:1")))), []);
  const after = await load(
    config("tcp://127.0.0.1:2", "log = h:log\n[h:log]\nhandler = locallogger").replace("echo = h:echo\n", "")
      .replace(
        "pub = h:up",
        "pub = h:up, h:echo",
      ),
  );
  assert.deepEqual(describeChanges(compareConfigs(before, after)), [
    "handlers added: h:log",
    "handlers changed: h:up",
    "routes added: log",
    "routes removed: echo",
    "routes changed: pub",
  ]);
});
