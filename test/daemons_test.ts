/** Daemons of this program, under jobmgr and alone. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { MACHINE } from "../src/runtime/machine.ts";
import { LONG, ROOT, skipFor, SLOW_TARGETS, tempFolder, until } from "./helpers/env.ts";
import { carriers, isGone, JobServer, textOf, untilGone } from "./helpers/jobs.ts";
import { run, ServerProcess } from "./helpers/process.ts";

/** Writes what comes as lines of JSON. */
const TAKER = `import { appendFileSync } from "node:fs";
export default ({ AnyBody, defineHandler, EVERYWHERE, required, text }) => defineHandler({
  name: "taker", summary: "Notes.", roles: EVERYWHERE, options: { file: required(text, "", "x") },
  create: ({ options }) => ({
    plan: () => ({ open: AnyBody, maxBytes: 1e6 }),
    handle(message, body) {
      const blob = message.blob === null ? null : Buffer.from(message.blob).toString("base64");
      appendFileSync(options.file, JSON.stringify({ type: message.type, body, blob }) + "\\n");
      return "ok";
    },
  }),
});
`;

interface Taken {
  type: string;
  body: Record<string, unknown>;
  blob: string | null;
}

function configWith(path: string, section: string, jobs = "d:df"): string {
  writeFileSync(join(path, "taker.mjs"), TAKER);
  return `[ccserver]
cc-socket = ipc://${path}/cc.sock
cc-role = local
pidfile = ${path}/%(job_name)s.pid
[routes]
log = h:log
pub = h:taker
[h:log]
handler = locallogger
[h:taker]
handler = ./taker.mjs
file = ${path}/taken
[h:job]
handler = cc.handler.jobmgr
daemons = ${jobs}
[d:df]
module = cc.daemon.infoscript
start-seconds = 0.1
${section}
`;
}

const taken = (path: string): Taken[] =>
  textOf(join(path, "taken")).split("\n").filter(Boolean).map((line) => JSON.parse(line));

for (const target of SLOW_TARGETS) {
  const on = (what: string) => `${target.name}: ${what}`;

  test(on("infoscript sends what its command writes, each period, and says what fails"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const section = (script: string) =>
      `info-script = ${script}\ninfo-name = a\\b.txt\ninfo-period = 0.3\ncompression = gzip\nmsg-suffix = df`;
    await using server = await JobServer.start(
      path,
      target,
      configWith(path, section("echo out; echo err >&2")),
    );
    const pid = await server.running("d:df");
    await until("two files", () => taken(path).length >= 2, 20_000);
    const [{ type, body, blob }] = taken(path);
    assert.equal(type, "pub.infofile.df");
    assert.deepEqual([body.filename, body.comp, body.mode, body.data], ["a/b.txt", "gzip", "b", ""]);
    assert.equal(gunzipSync(Buffer.from(blob!, "base64")).toString(), "out\nerr\n");
    assert.ok(Math.abs(Number(body.mtime) - Date.now() / 1000) < 60);
    await server.process.until(
      /h:log\.handle: \[test\.d:df@\S+\] \S+ INFO \{infoscript\.count: 1, infoscript\.bytes\.read: 8, infoscript\.bytes\.sent: \d+\}/,
    );
    // Other options: it is started anew by the server's reload.
    writeFileSync(join(path, "test.ini"), configWith(path, section("echo broken; exit 3")));
    process.kill(server.process.pid, "SIGHUP");
    await server.process.until(/ERROR exit code 3: broken/);
    assert.ok(isGone(pid));
    await server.stop();
    assert.deepEqual(carriers(path), []);
  });

  test(
    on("a script that hangs, floods or leaves something behind is ended whole; the daemon ends at once"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const section = (script: string) =>
        `info-script = ${script}\ninfo-name = x\ninfo-period = 0.2\nscript-timeout = 0.5\nuse-blob = no`;
      await using server = await JobServer.start(
        path,
        target,
        configWith(path, section("sleep 1000 & sleep 1001")),
      );
      await server.process.until(/ERROR it took more than 0\.5 s, and was ended/, 20_000);
      writeFileSync(join(path, "test.ini"), configWith(path, section("yes")));
      process.kill(server.process.pid, "SIGHUP");
      await server.process.until(/ERROR it (writes more than 16 MiB|took more)/, 20_000);
      writeFileSync(join(path, "test.ini"), configWith(path, section("sleep 1002 & printf %%0100d 1")));
      process.kill(server.process.pid, "SIGHUP");
      await until("its file", () => taken(path).length > 0, 20_000);
      const data = String(taken(path)[0].body.data);
      assert.deepEqual(data.split("\n").map((line) => line.length), [76, 60, 0]);
      assert.equal(Buffer.from(data, "base64").toString(), "1".padStart(100, "0"));
      await until("nothing but the daemon", () => carriers(path).length <= 3);
      const stopping = performance.now();
      await server.stop();
      assert.ok(performance.now() - stopping < 5000, "within its first signal");
      assert.deepEqual(carriers(path), []);
    },
  );

  test(
    on("a script that leaves a process in a session of its own holds nothing up, and leaves nothing"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const section = "info-script = setsid sleep 1003 & setsid sleep 1003 >/dev/null 2>&1 & echo hi\n" +
        "info-name = x\ninfo-period = 0.2";
      await using server = await JobServer.start(path, target, configWith(path, section));
      await until("more than one file", () => taken(path).length > 1, 20_000);
      assert.equal(Buffer.from(taken(path)[0].blob!, "base64").toString(), "hi\n");
      await server.process.until(
        /WARNING process \d+ was left by the script, in a session of its own: it was ended/,
      );
      await server.stop();
      assert.deepEqual(carriers(path), []);
    },
  );

  test(
    on("a daemon whose server takes nothing ends soon all the same, with all it has started"),
    { skip: skipFor(LONG) },
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const file = join(path, "test.ini");
      const config = (script: string) => {
        const section = `info-script = ${script}\ninfo-name = x\ninfo-period = 0.1\nscript-timeout = 1000`;
        return configWith(path, section).replace("daemons = d:df", "daemons =");
      };
      writeFileSync(file, config("head -c 4000000 /dev/zero"));
      // It would be ended as the identity of another one's.
      await using server = await JobServer.start(path, target, config("head -c 4000000 /dev/zero"));
      await using daemon = new ServerProcess(target, ["daemon", "cc.daemon.infoscript", file, "d:df"]);
      await until("a file", () => textOf(join(path, "taken")) !== "", 20_000);
      process.kill(server.process.pid, "SIGSTOP");
      const sent = () => [...daemon.output.matchAll(/d:df\.stats: /g)].length;
      // Until it sends no more.
      for (let before = -1; before !== sent();) {
        before = sent();
        await new Promise((resolve) => setTimeout(resolve, 400));
      }
      const stopping = performance.now();
      const { code } = await daemon.stop("SIGINT");
      process.kill(server.process.pid, "SIGCONT");
      assert.equal(code, 0, daemon.output);
      assert.ok(performance.now() - stopping < 5000);
      // The second signal ends the script too.
      writeFileSync(file, config(`trap "" TERM; echo $$ > ${path}/pid; sleep 1004; true`));
      await using stubborn = new ServerProcess(target, ["daemon", "cc.daemon.infoscript", file, "d:df"]);
      const pid = Number(await until("the script's pid", () => textOf(join(path, "pid"))));
      process.kill(stubborn.pid, "SIGINT");
      await stubborn.until(/SIGINT: ending/);
      process.kill(stubborn.pid, "SIGINT");
      assert.notEqual((await stubborn.exited).code, 0);
      await untilGone(pid);
      await server.stop();
    },
  );

  test(
    on("a daemon runs alone too, for whoever looks, without a server, and reloads by itself"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const file = join(path, "test.ini");
      const section = (name: string) => `info-script = false\ninfo-name = ${name}\ninfo-period = 0.2`;
      writeFileSync(file, configWith(path, section("one")));
      await using daemon = new ServerProcess(target, ["daemon", "cc.daemon.infoscript", file, "d:df"]);
      await daemon.until(/ERROR d:df\.run: exit code 1: /);
      writeFileSync(file, configWith(path, section("two")));
      process.kill(daemon.pid, "SIGHUP");
      await daemon.until(/d:df\.reload: SIGHUP: the options have changed/);
      writeFileSync(file, "[ccserver]\n");
      process.kill(daemon.pid, "SIGHUP");
      await daemon.until(/d:df\.reload: SIGHUP: nothing has changed/);
      assert.equal((await daemon.stop("SIGINT")).code, 0);
      for (
        const [args, told] of [
          [["cc.daemon.nothing", file, "d:df"], /unknown daemon "cc\.daemon\.nothing"/],
          [["cc.daemon.infosender", file, "d:df"], /cc\.daemon\.infosender is not part of this version/],
          [["cc.daemon.infoscript", file], /daemon needs a daemon's name, a config file and a section/],
        ] as const
      ) {
        const { code, output } = await run(["daemon", ...args], target);
        assert.equal(code, 64);
        assert.match(output, told);
      }
      writeFileSync(file, configWith(path, `${section("one")}\nmsg-suffix = a b`));
      const suffix = await run(["--check", file], target);
      assert.equal(suffix.code, 78);
      assert.match(suffix.output, /msg-suffix = a b: expected names as a message type has them/);
      writeFileSync(file, configWith(path, section("one")));
      const missing = await run(["daemon", "cc.daemon.infoscript", file, "d:nothing"], target);
      assert.equal(missing.code, 78);
      assert.match(missing.output, /there is no section \[d:nothing\] that a jobmgr reads/);
    },
  );

  test(
    on("a daemon whose server is gone goes on, then ends by itself; the next server takes it over"),
    { skip: skipFor(LONG) },
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const section = "info-script = echo x\ninfo-name = x\ninfo-period = 0.1\nserver-gone-timeout = 4";
      await using server = await JobServer.start(path, target, configWith(path, section));
      const pid = await server.running("d:df");
      await until("a file", () => taken(path).length > 0, 20_000);
      await server.kill();
      const count = taken(path).length;
      await using next = await JobServer.start(path, target, null);
      assert.equal(await next.running("d:df"), pid);
      await until("more files", () => taken(path).length > count, 20_000);
      await next.kill();
      await untilGone(pid);
      assert.equal(MACHINE.processes.look(pid)?.state ?? "Z", "Z");
    },
  );

  test(on("the seed's example works as it is written, but for its ports and its home"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    writeFileSync(join(path, "taker.mjs"), TAKER);
    const collector =
      `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = remote\n[routes]\npub = h:taker\n` +
      `[h:taker]\nhandler = ${path}/taker.mjs\nfile = ${path}/taken\n`;
    await using remote = await ServerProcess.start(collector, target);
    const port = await freePort();
    const file = join(path, "cclocal.ini");
    const seed = readFileSync(join(ROOT, "examples", "seed", "cclocal.ini"), "utf8");
    writeFileSync(file, seed.replace(":22632", `:${remote.port}`).replace(":10000", `:${port}`));
    await using server = new ServerProcess(target, [file], { HOME: path });
    const log = () => textOf(join(path, "log", "cclocal.log"));
    await until(() => `it to listen: ${server.output}${log()}`, () => /listening on/.test(log()), 20_000);
    await until("the file of df", () => taken(path).length > 0, 20_000);
    assert.equal(taken(path)[0].body.filename, "df.txt");
    await until("a line of the other", () => /d:clock\.output: \w/.test(log()), 20_000);
    const { code, output } = await run(["jobs", join(path, "pid", "cclocal.ctl")], target);
    assert.equal(code, 0);
    assert.match(output, /^d:df +(starting|running)[^]*^d:clock +(starting|running)/m);
    assert.match(textOf(join(path, "log", "cclocal.info")), /^status: running$/m);
    assert.equal((await server.stop()).code, 0);
    assert.deepEqual(carriers(join(path, "pid")), []);
  });
}

/** A port that nobody listens on. */
async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
