/** Signed and encrypted messages from end to end: servers, commands, daemons and programs, with real keys. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { type CCClient, connect, type Draft, loadConfig, loadSeal } from "../mod.ts";
import { expiryTexts } from "../src/server/state.ts";
import { skipFor, TARGETS, tempFolder, until } from "./helpers/env.ts";
import { JobServer } from "./helpers/jobs.ts";
import { HAS_OPENSSL, Pki } from "./helpers/pki.ts";
import { run, ServerProcess } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";

const missing = skipFor(!HAS_OPENSSL && "there is no openssl");
const folder = tempFolder();
after(() => folder[Symbol.dispose]());

let shared: Pki | null = null;

function pki(): Pki {
  if (shared !== null) return shared;
  const made = new Pki(join(folder.path, "keys"));
  made.ca("ca");
  made.ca("other_ca");
  for (const name of ["edge", "centre", "tool"]) made.issue(name, { by: "ca" });
  made.issue("stranger", { by: "other_ca" });
  return shared = made;
}

/** Logs what it gets, and who signed it. */
const TELLER = `export default {
  name: "teller", summary: "tells", roles: ["local", "remote"], options: {},
  create: ({ log }) => ({
    plan: () => ({ open: { "~standard": { version: 1, vendor: "x", validate: (value) => ({ value }) } } }),
    handle(message, body) {
      const blob = message.blob === null ? "none" : new TextDecoder().decode(message.blob);
      log.info("got", message.type + " " + (body.word ?? body.log_msg) + ", blob " + blob + ", by " + (message.signer?.name ?? "nobody"));
      return "ok";
    },
  }),
};`;

interface Site {
  readonly ini: string;
  readonly server: ServerProcess;
  [Symbol.asyncDispose](): Promise<void>;
}

let sites = 0;

/** A server that gives everything to a handler that tells, and then forwards it where `to` is said. */
async function site(
  target: (typeof TARGETS)[number],
  cms: string,
  to?: string,
  keystore = `cms-keystore = ${pki().folder}\n`,
): Promise<Site> {
  const path = join(folder.path, `site${sites++}`);
  mkdirSync(path);
  writeFileSync(join(path, "teller.mjs"), TELLER);
  const ini = join(path, "test.ini");
  writeFileSync(ini, config(path, `${keystore}${cms}`, to));
  const server = new ServerProcess(target, [ini]);
  await server.until(/listening on \S+,/);
  return { ini, server, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

function config(path: string, cms: string, to?: string): string {
  const routes = to === undefined ? "* = h:tell" : "* = h:up";
  return `[ccserver]
cc-socket = ipc://${path}/cc.sock
cc-role = remote
${cms}
[routes]
${routes}
echo = h:echo
[h:tell]
handler = ./teller.mjs
[h:echo]
handler = echo
${to === undefined ? "" : `[h:up]\nhandler = proxy\nremote-cc = ${to}\n`}`;
}

/** A client with the keys of a config. */
async function client(at: Site, cms: string): Promise<CCClient> {
  const file = join(folder.path, `client${sites++}.ini`);
  writeFileSync(
    file,
    `[ccserver]\ncc-socket = ipc://${folder.path}/none\n${cms}\ncms-keystore = ${pki().folder}\n[routes]\n`,
  );
  return connect(at.server.endpoint, { seal: await loadSeal(await loadConfig(file)) });
}

const DRAFTS: Draft[] = [
  { type: "pub.infofile", fields: { word: "one" }, blob: new TextEncoder().encode("bytes") },
  { type: "log.info", fields: { log_msg: "two", job_name: "j", log_level: "INFO" } },
  { type: "task.send.x", fields: { word: "three" }, blob: new Uint8Array(0) },
];

for (const target of TARGETS) {
  const on = target.name;

  test(`${on}: seal: a chain of two servers carries signed and encrypted messages, and only those`, {
    skip: missing,
  }, async () => {
    for (
      const [how, centreCms, clientCms, profile] of [
        ["signed", "cms-verify-ca = ca", "cms-sign = edge", "modern"],
        [
          "encrypted",
          "cms-verify-ca = ca\ncms-decrypt = centre",
          "cms-sign = edge\ncms-encrypt = centre, tool",
          "modern",
        ],
      ] as const
    ) {
      await using centre = await site(target, `cms-profile = ${profile}\n${centreCms}`);
      await using edge = await site(target, "", centre.server.endpoint);
      await using sender = await client(edge, `cms-profile = ${profile}\n${clientCms}`);
      for (const draft of DRAFTS) await sender.publish(draft);
      await centre.server.until(/pub\.infofile one, blob bytes, by edge/);
      await centre.server.until(/log\.info two, blob none, by edge/);
      await centre.server.until(/task\.send\.x three, blob none, by edge/);
      // Not signed, signed by a stranger, and, where that is wanted, not encrypted.
      await using plain = await client(edge, "cms-profile = modern\ncms-sign = stranger");
      await plain.publish(DRAFTS[0]);
      await centre.server.until(
        how === "signed" ? /refusing .*\(untrusted\)/ : /refusing .*\(not-encrypted\)/,
      );
      await run(["send", edge.server.endpoint, "pub.x", "word=four"], target);
      await centre.server.until(how === "signed" ? /refusing "pub\.x" .*\(unsigned\)/ : /\(not-encrypted\)/);
      assert.doesNotMatch(centre.server.output, /four|by stranger/);
      assert.equal((await edge.server.stop()).code, 0);
      assert.equal((await centre.server.stop()).code, 0);
    }
  });

  test(`${on}: seal: who asks is told that he is refused, not why; publishers and answers are not`, {
    skip: missing,
  }, async () => {
    await using centre = await site(target, "cms-profile = modern\ncms-verify-ca = ca");
    await using signed = await client(centre, "cms-profile = modern\ncms-sign = stranger");
    await assert.rejects(signed.query({ type: "echo.request", fields: { target: "x" } }), /refused/);
    using peer = await RawPeer.overFile(centre.server.endpoint.replace("ipc://", ""));
    // Without a query id, and answers, in front of a request that is answered.
    peer.write(message("", "pub.x", '{"req":"pub.x"}', ""));
    for (const type of ["error", "error.x", "task.reply.x", "echo.response"]) {
      peer.write(message("Q000001", "", type, `{"req":"${type}"}`, ""));
    }
    for (let i = 0; i < 30; i++) peer.write(message(`Q0000${10 + i}`, "", "pub.x", '{"req":"pub.x"}', ""));
    const [id, delimiter, type, body] = (await peer.receive()).map(String);
    assert.deepEqual([id, delimiter, type], ["Q000010", "", "error"]);
    const { code, msg } = JSON.parse(body);
    assert.deepEqual([code, msg], ["refused", "refused"]);
    // Ten a second for one client.
    for (let i = 1; i < 10; i++) assert.equal(String((await peer.receive())[0]), `Q0000${10 + i}`);
    await centre.server.until(
      /refusing "pub\.x" from \S+: it is not signed, and cms-verify-ca wants that \(unsigned\)/,
    );
    assert.equal(
      await Promise.race([peer.receive(), new Promise((done) => setTimeout(done, 100, "nothing"))]),
      "nothing",
    );
  });

  test(
    `${on}: seal: send and ping sign by a config, and verify what comes back`,
    { skip: missing },
    async () => {
      await using centre = await site(target, "cms-profile = modern\ncms-verify-ca = ca\ncms-sign = centre");
      const tool = join(folder.path, `tool${sites++}.ini`);
      const text = (cms: string) =>
        `[ccserver]\ncc-socket = ipc://${folder.path}/none\ncms-keystore = ${pki().folder}\n${cms}\n`;
      writeFileSync(tool, text("cms-profile = modern\ncms-sign = tool\ncms-verify-ca = ca"));
      const { endpoint } = centre.server;
      assert.deepEqual(await run(["send", "--config", tool, endpoint, "pub.x", "word=hey"], target), {
        code: 0,
        output: "",
      });
      await centre.server.until(/pub\.x hey, blob none, by tool/);
      const pinged = await run(["ping", "-c", "1", "--config", tool, endpoint], target);
      assert.equal(pinged.code, 0, pinged.output);
      assert.match(pinged.output, /echo from .*: seq=1 time=/);
      const refused = await run(["send", "--reply", endpoint, "echo.request", "target=x"], target);
      assert.deepEqual(refused, { code: 1, output: "error refused\n" });
      writeFileSync(tool, text("cms-profile = modern\ncms-sign = tool\ncms-verify-ca = other_ca"));
      const strange = ["send", "--reply", "--config", tool, endpoint, "echo.request", "target=x"];
      const unknown = await run(strange, target);
      assert.equal(unknown.code, 1, unknown.output);
      assert.match(unknown.output, /^ccserver: the reply is refused: [^\n]* \(untrusted\)\n$/);
      writeFileSync(tool, text("cms-profile = modern\ncms-sign = nobody"));
      const wrong = await run(["send", "--config", tool, endpoint, "pub.x"], target);
      assert.match(wrong.output, /tool\d+\.ini:5: "cms-sign": .*nobody\.crt: no such file or folder/);
      assert.notEqual(wrong.code, 0);
      writeFileSync(tool, text(""));
      assert.match(
        (await run(["ping", "-c", "1", "--config", tool, endpoint], target)).output,
        /neither cms-sign nor/,
      );
    },
  );

  test(`${on}: seal: a reload takes new keys and lists; what is wrong with them changes nothing`, {
    skip: missing,
  }, async () => {
    const store = new Pki(join(folder.path, `reload${sites++}`));
    store.ca("ca");
    for (const name of ["one", "two"]) store.issue(name, { by: "ca" });
    const keystore = `cms-profile = modern\ncms-keystore = ${store.folder}\n`;
    await using centre = await site(target, "cms-profile = modern\ncms-verify-ca = ca");
    const good = `${keystore}cms-verify-ca = ca`;
    const write = (cms: string) =>
      writeFileSync(
        centre.ini,
        config(join(centre.ini, ".."), cms),
      );
    const reload = async (done: RegExp) => {
      const from = centre.server.output.length;
      process.kill(centre.server.pid, "SIGHUP");
      await until(`${done} in ${centre.server.output}`, () => done.test(centre.server.output.slice(from)));
    };
    write(good);
    await reload(/options changed: .*cms-keystore/);
    const sender = join(folder.path, `sender${sites++}.ini`);
    const send = async (name: string, word: string) => {
      writeFileSync(sender, `[ccserver]\ncc-socket = ipc://x\n${keystore}cms-sign = ${name}\n`);
      return await run(["send", "--config", sender, centre.server.endpoint, "pub.x", `word=${word}`], target);
    };
    await send("one", "first");
    await send("two", "second");
    await centre.server.until(/first, blob none, by one/);
    await centre.server.until(/second, blob none, by two/);
    store.revoke("ca", ["two"]);
    // Nothing but a file of the key store has changed.
    await reload(/nothing has changed|reload/);
    await send("two", "third");
    await centre.server.until(/refusing "pub\.x" .*"two" is revoked since .*\(revoked\)/);
    await send("one", "fourth");
    await centre.server.until(/fourth, blob none, by one/);
    writeFileSync(store.path("ca.crl"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    await reload(/ERROR .*test\.ini:\d+: "cms-keystore": \S+\/ca\.crl: .*\n.*nothing has changed/);
    await send("two", "fifth");
    await send("one", "sixth");
    await centre.server.until(/sixth, blob none, by one/);
    assert.doesNotMatch(centre.server.output, /third,|fifth,/);
    const checked = await run(["--check", centre.ini], target);
    assert.match(checked.output, /test\.ini:\d+: "cms-keystore": \S+\/ca\.crl: /);
    assert.notEqual(checked.code, 0);
    assert.equal((await centre.server.stop()).code, 0);
  });

  test(`${on}: seal: keys that cannot be used keep a server from starting, with file and line`, {
    skip: missing,
  }, async () => {
    const path = join(folder.path, `wrong${sites++}.ini`);
    writeFileSync(
      path,
      `[ccserver]\ncc-socket = ipc://${folder.path}/x\ncms-keystore = keys\ncms-sign = nobody\n[routes]\n`,
    );
    const { code, output } = await run([path], target);
    assert.match(output, /wrong\d+\.ini:4: "cms-sign": .*keys\/nobody\.crt: no such file/);
    assert.ok(code === 69 || code === 78, String(code));
  });

  test(`${on}: seal: daemons sign their logs, and get their options whatever the server verifies`, {
    skip: missing,
  }, async () => {
    using own = tempFolder();
    const store = new Pki(join(own.path, "keys"));
    store.ca("ca");
    store.issue("host", { by: "ca" });
    chmodSync(store.path("private/host.key"), 0o600);
    writeFileSync(
      join(own.path, "mine.mjs"),
      `export default {
        name: "mine", summary: "says", options: {}, live: [],
        async run({ log, signal }) {
          log.info("work", "says hello");
          await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
        },
      };`,
    );
    const text = `[ccserver]
cc-socket = ipc://${own.path}/cc.sock
cc-role = local
pidfile = ${own.path}/%(job_name)s.pid
cms-profile = modern
cms-keystore = keys
cms-sign = host
cms-verify-ca = ca
[routes]
log = h:log
job = h:job
[h:log]
handler = locallogger
[h:job]
handler = jobmgr
daemons = d:mine
[d:mine]
module = ./mine.mjs
start-seconds = 0.1
`;
    await using server = await JobServer.start(own.path, target, text);
    await server.running("d:mine");
    await server.process.until(/test\.d:mine@\S+\] \S+ INFO says hello/);
    assert.doesNotMatch(server.output, /refusing|refused/);
    // Whoever has no keys is not let in.
    await run(["send", `ipc://${own.path}/cc.sock`, "log.info", "log_msg=forged"], target);
    await server.process.until(/refusing "log\.info" .*\(unsigned\)/);
    assert.doesNotMatch(server.output, /INFO forged/);
    await server.stop();
  });
}

test("seal: a proxy with verify = yes lets pass what is signed, bytes as they came, and nothing else", {
  skip: missing,
}, async () => {
  const [target] = TARGETS;
  await using centre = await site(target, "cms-profile = modern\ncms-verify-ca = ca\ncms-decrypt = centre");
  await using plainCentre = await site(
    target,
    "cms-profile = modern\ncms-verify-ca = ca\ncms-time-window = 60",
  );
  const verifying = (to: Site, cms: string) =>
    site(target, `cms-profile = modern\n${cms}`, `${to.server.endpoint}\nverify = yes`);
  await using edge = await verifying(plainCentre, "cms-verify-ca = ca\ncms-time-window = 60");
  await using sender = await client(edge, "cms-profile = modern\ncms-sign = edge");
  await using stranger = await client(edge, "cms-profile = modern\ncms-sign = stranger");
  await stranger.publish({ type: "pub.x", fields: { word: "forged" } });
  await edge.server.until(/refusing "pub\.x" .*\(untrusted\)/);
  // More than the queues of a link hold, in order.
  for (let i = 0; i < 2000; i++) await sender.publish({ type: "pub.x", fields: { word: `w${i}` } });
  await plainCentre.server.until(/pub\.x w1999, blob none, by edge/);
  const words = [...plainCentre.server.output.matchAll(/pub\.x w(\d+),/g)].map(([, word]) => Number(word));
  assert.deepEqual(words, Array.from({ length: 2000 }, (_, i) => i));
  assert.doesNotMatch(plainCentre.server.output, /forged|refusing/);
  // A copy passes the proxy, and is seen where it is handled.
  const seal = await loadSeal(await loadConfig(edgeKeys("cms-sign = edge")));
  const parts = await seal.seal({
    type: "pub.x",
    fields: { word: "once" },
    time: Date.now() / 1000,
    hostname: "h",
  });
  using peer = await RawPeer.overFile(edge.server.endpoint.replace("ipc://", ""));
  for (let i = 0; i < 3; i++) peer.write(message("", parts.type, parts.body, parts.signature));
  await sender.publish({ type: "pub.x", fields: { word: "last" } });
  await plainCentre.server.until(/pub\.x last/);
  assert.equal([...plainCentre.server.output.matchAll(/pub\.x once/g)].length, 1);
  assert.equal((await edge.server.stop()).code, 0);
  assert.equal((await plainCentre.server.stop()).code, 0);
  assert.match(plainCentre.server.output, /count\.duplicate: 2/);

  // Encrypted: only where there is a key.
  await using blind = await verifying(centre, "cms-verify-ca = ca");
  await using toBlind = await client(blind, "cms-profile = modern\ncms-sign = edge\ncms-encrypt = centre");
  await toBlind.publish(DRAFTS[0]);
  await blind.server.until(/refusing "pub\.infofile" .*\(cannot-verify\)/);
  await using seeing = await verifying(centre, "cms-verify-ca = ca\ncms-decrypt = tool");
  await using toSeeing = await client(
    seeing,
    "cms-profile = modern\ncms-sign = edge\ncms-encrypt = centre, tool",
  );
  await toSeeing.publish(DRAFTS[0]);
  await centre.server.until(/pub\.infofile one, blob bytes, by edge/);
  const wrong = edgeKeys("", "[h:p]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:1\nverify = yes\n");
  assert.match(
    (await run(["--check", wrong], target)).output,
    /:\d+: verify = yes in \[h:p\] needs "cms-verify-ca"/,
  );
});

test(
  "seal: what expires within 30 days is told at the start, by /readyz and /metrics; what has expired is not ready",
  { skip: missing },
  async () => {
    const [target] = TARGETS;
    const keys = join(folder.path, `expiring${sites++}`);
    for (const args of [["init"], ["issue", "host", "--days", "20"]]) {
      const made = await run(["keys", ...args, "--keystore", keys], target);
      assert.equal(made.code, 0, made.output);
    }
    const cms = `cms-profile = modern\ncms-sign = host\ncms-verify-ca = ca\nhttp-listen = 127.0.0.1:*`;
    await using centre = await site(target, `cms-keystore = ${keys}\n${cms}`, undefined, "");
    await centre.server.until(/WARNING .*keys: host\.crt expires on \d{4}-\d\d-\d\d/);
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(centre.server.output)![0];
    const answer = await fetch(`${url}/readyz`);
    assert.equal(answer.status, 200);
    const { ready, warnings } = await answer.json();
    assert.equal(ready, true);
    assert.match(warnings.join(), /^host\.crt expires on \d{4}/);
    const metrics = await (await fetch(`${url}/metrics`)).text();
    const [, seconds] = /^cc_certificate_expiry_timestamp_seconds\{file="host\.crt"\} (\S+)$/m.exec(metrics)!;
    assert.ok(Math.abs(Number(seconds) - Date.now() / 1000 - 20 * 86_400) < 600, seconds);
    assert.doesNotMatch(metrics, /BEGIN|PRIVATE/);
    const { expired } = expiryTexts([{ name: "a.crt", until: Date.now() - 1000 }], Date.now());
    assert.match(expired.join(), /^a\.crt has expired on/);
  },
);

test("seal: examples/signed works as its README says", { skip: missing }, async () => {
  const [target] = TARGETS;
  const path = join(folder.path, "example");
  mkdirSync(path);
  const sockets: Record<string, string> = {
    "tcp://127.0.0.1:22633": `ipc://${path}/collector`,
    "tcp://127.0.0.1:10002": `ipc://${path}/host1`,
    "examples/signed": path,
  };
  const here = (text: string) =>
    Object.entries(sockets).reduce((done, [from, to]) => done.replaceAll(from, to), text);
  const from = join(process.cwd(), "examples", "signed");
  for (const name of ["collector.ini", "host1.ini"]) {
    writeFileSync(join(path, name), here(readFileSync(join(from, name), "utf8")));
  }
  const blocks = [...readFileSync(join(from, "README.md"), "utf8").matchAll(/```sh\n([^]*?)```/g)];
  const servers: ServerProcess[] = [];
  try {
    for (const line of blocks.flatMap(([, block]) => here(block).trim().split("\n"))) {
      const [program, ...args] = [...line.replace(/ &$/, "").matchAll(/"([^"]*)"|\S+/g)]
        .map(([word, quoted]) => quoted ?? word);
      assert.equal(program, "./dist/ccserver");
      if (line.endsWith("&")) {
        const server = new ServerProcess(target, args);
        servers.push(server);
        await server.until(/listening on/);
        continue;
      }
      const { code, output } = await run(args, target);
      assert.equal(code, 0, `${line}: ${output}`);
    }
    const [collector] = servers;
    await collector.until(/INFO for the collector alone/);
    await collector.until(/refusing "log\.info" .*\(not-encrypted\)/);
    assert.doesNotMatch(collector.output, /whoever this is/);
  } finally {
    for (const server of servers) await server.stop();
  }
});

test(
  "seal: cms-threads = 2 keeps each client's order, whatever is refused in between",
  { skip: missing },
  async () => {
    const [target] = TARGETS;
    await using centre = await site(target, "cms-profile = modern\ncms-verify-ca = ca\ncms-threads = 2");
    const seal = await loadSeal(await loadConfig(edgeKeys("cms-sign = edge")));
    const sealed = async (n: number, more: Partial<{ signature: Uint8Array }> = {}) => {
      const draft = { type: "pub.x", fields: { word: `w${n}` }, time: Date.now() / 1000, hostname: "h" };
      const { type, body, signature } = { ...await seal.seal(draft), ...more };
      return message("", type, body, signature);
    };
    const messages: Buffer[] = [];
    for (let n = 0; n < 500; n++) {
      messages.push(await sealed(n));
      // Refused at once, and after the arithmetic.
      if (n % 7 === 0) messages.push(message("", "pub.x", '{"req":"pub.x"}', ""));
      if (n % 11 === 0) messages.push(await sealed(n, { signature: new Uint8Array(100) }));
    }
    messages.push(await sealed(500));
    const peers = await Promise.all(
      [1, 2].map(() => RawPeer.overFile(centre.server.endpoint.replace("ipc://", ""))),
    );
    for (const peer of peers) peer.write(...messages);
    const words = () =>
      [...centre.server.output.matchAll(/pub\.x w(\d+), blob none, by edge/g)].map(([, n]) => Number(n));
    await until("all of them", () => words().length === 1002);
    // Of two clients with the same messages each number comes twice; a client's own are in order.
    const seen = new Map<number, number>();
    for (const n of words()) {
      seen.set(n, (seen.get(n) ?? 0) + 1);
      assert.ok((seen.get(n - 1) ?? 2) >= seen.get(n)!, `${n} came before ${n - 1}`);
    }
    // Reloads that change the threads, in the middle of it.
    for (const [threads, more] of [[3, 2], [1, 3], [2, 4]]) {
      const text = readFileSync(centre.ini, "utf8").replace(/cms-threads = \d/, `cms-threads = ${threads}`);
      writeFileSync(centre.ini, text);
      for (let n = 0; n < more; n++) peers[0].write(...messages);
      const from = centre.server.output.length;
      process.kill(centre.server.pid, "SIGHUP");
      for (let n = 0; n < more; n++) peers[0].write(...messages);
      const wanted = words().length;
      await until("the reload", () => /options changed: cms-threads/.test(centre.server.output.slice(from)));
      assert.ok(words().length >= wanted);
    }
    await until("all of them", () => words().length === 1002 + 2 * (2 + 3 + 4) * 501, 60_000);
    // A server that stops has handled what it had read; what it had not, it counts.
    const stops = "cms-profile = modern\ncms-verify-ca = ca\ncms-threads = 2\nzmq_linger = 30000";
    await using stopping = await site(target, stops);
    using last = await RawPeer.overFile(stopping.server.endpoint.replace("ipc://", ""));
    last.write(...messages.slice(0, 300));
    await stopping.server.until(/pub\.x w0,/);
    assert.equal((await stopping.server.stop()).code, 0);
    const [, ok] = /count\.ok: (\d+)/.exec(stopping.server.output)!;
    const [, refused] = /count\.refused: (\d+)/.exec(stopping.server.output)!;
    const unread = [...stopping.server.output.matchAll(/\(unread, (\d+) in all/g)].at(-1)?.[1] ?? 0;
    assert.equal(Number(ok) + Number(refused) + Number(unread), 300);
    for (const peer of peers) peer[Symbol.dispose]();
    assert.equal((await centre.server.stop()).code, 0);
    assert.match(centre.server.output, new RegExp(`count\\.refused: ${118 * (2 + 18)}`));
  },
);

/** A config with these keys. */
function edgeKeys(cms: string, more = ""): string {
  const file = join(folder.path, `keys${sites++}.ini`);
  const socket = `cc-socket = ipc://${folder.path}/none`;
  const keystore = `cms-profile = modern\ncms-keystore = ${pki().folder}`;
  writeFileSync(file, `[ccserver]\n${socket}\ncc-role = local\n${keystore}\n${cms}\n[routes]\n${more}`);
  return file;
}

test("seal: [cms-allow] says who may send what; --routes explains it; cms-hostname binds the host", {
  skip: missing,
}, async () => {
  const [target] = TARGETS;
  await using centre = await site(target, "cms-profile = modern\ncms-verify-ca = ca");
  const fingerprint = createHash("sha256").update(pki().certificate("tool")).digest("hex");
  const allow = `[cms-allow]\nedge = pub.*, log.*\n${fingerprint} = *\nO/Tes? = echo.request\n`;
  writeFileSync(centre.ini, readFileSync(centre.ini, "utf8") + allow);
  process.kill(centre.server.pid, "SIGHUP");
  await centre.server.until(/options changed: \[cms-allow\]/);
  for (
    const [name, type, fits] of [
      ["edge", "pub.x", true],
      ["edge", "task.x", false],
      ["tool", "task.x", true],
      ["centre", "pub.x", false],
    ] as const
  ) {
    await using sender = await client(centre, `cms-profile = modern\ncms-sign = ${name}`);
    await sender.publish({ type, fields: { word: `${name}-${type}` } });
    if (fits) await centre.server.until(new RegExp(`${name}-${type}, blob none, by ${name}`));
    const told = await run(["--routes", type, "--signer", name, centre.ini], target);
    assert.equal(told.code, fits ? 0 : 1, told.output);
    assert.match(
      told.output,
      fits ? /may send .*, by the line ".* = .*" of \[cms-allow\]\nh:tell/ : /may not send/,
    );
  }
  // Lines like the first are held back.
  await centre.server.until(/refusing "task\.x" .*lets "edge" send it \(not-allowed\)/);
  assert.doesNotMatch(centre.server.output, /edge-task|centre-pub/);
  const echo = await run(["--routes", "echo.request", "--signer", "centre", centre.ini], target);
  assert.match(echo.output, /by the line "o\/tes\? = echo\.request"/);
  const wrong = edgeKeys("", "[cms-allow]\nx =\ny = a b(\n");
  const checked = (await run(["--check", wrong], target)).output;
  assert.match(checked, /\[cms-allow\] needs "cms-verify-ca"/);
  assert.match(checked, /"x" in \[cms-allow\] names no message type/);
  assert.match(checked, /"b\(" in \[cms-allow\] is no message type/);
});

test(
  "seal: what a server has handled it does not handle again after a restart",
  { skip: missing },
  async () => {
    const [target] = TARGETS;
    const pidfile = join(folder.path, `seen${sites++}.pid`);
    const cms = `pidfile = ${pidfile}\ncms-profile = modern\ncms-verify-ca = ca\ncms-time-window = 60`;
    await using centre = await site(target, cms);
    const seal = await loadSeal(await loadConfig(edgeKeys("cms-sign = edge")));
    const make = async (word: string) => {
      const { type, body, signature } = await seal.seal({
        type: "pub.x",
        fields: { word },
        time: Date.now() / 1000,
        hostname: "h",
      });
      return message("", type, body, signature);
    };
    const send = async (...messages: Buffer[]) => {
      using peer = await RawPeer.overFile(centre.server.endpoint.replace("ipc://", ""));
      for (const bytes of messages) peer.write(bytes);
    };
    const [one, two] = [await make("one"), await make("two")];
    await send(one);
    await centre.server.until(/pub\.x one/);
    // A reload does not forget it.
    process.kill(centre.server.pid, "SIGHUP");
    await centre.server.until(/no option has changed/);
    await send(one, await make("between"));
    await centre.server.until(/pub\.x between/);
    assert.equal((await centre.server.stop()).code, 0);
    assert.equal([...centre.server.output.matchAll(/pub\.x one/g)].length, 1);
    await using next = new ServerProcess(target, [centre.ini]);
    await next.until(/listening on/);
    await send(one, two);
    await next.until(/pub\.x two/);
    assert.doesNotMatch(next.output, /pub\.x one/);
    process.kill(next.pid, "SIGKILL");
    await next.exited;
    await using last = new ServerProcess(target, [centre.ini]);
    await last.until(/listening on/);
    await send(two, await make("three"));
    await last.until(/pub\.x three/);
    await last.until(/refusing "pub\.x" .*\(out-of-time\)/);
    assert.doesNotMatch(last.output, /pub\.x two,/);
  },
);

test("seal: an original's messages go through a chain with accept-legacy", { skip: missing }, async () => {
  const [target] = TARGETS;
  const store = pki();
  const vectors = join(process.cwd(), "test", "vectors");
  copyFileSync(join(vectors, "keys", "ca.crt"), store.path("vector_ca.crt"));
  await using centre = await site(target, "cms-profile = accept-legacy\ncms-verify-ca = vector_ca");
  await using edge = await site(target, "", centre.server.endpoint);
  const { frames } = JSON.parse(readFileSync(join(vectors, "signed.blob.json"), "utf8"));
  using peer = await RawPeer.overFile(edge.server.endpoint.replace("ipc://", ""));
  peer.write(message(...frames.map((frame: string) => Buffer.from(frame, "base64"))));
  await centre.server.until(/pub\.infofile undefined, blob signed content\n?.*, by User Name/);
});
