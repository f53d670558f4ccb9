/** Handlers of one's own in a server process: what they throw where nobody catches it, a slow start, files that change. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { type Target, TARGETS, tempFolder, until } from "./helpers/env.ts";
import { run, ServerProcess } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";

/** A handler that does, on a message `do.X`, what its table says under X; it answers `do.ask` with `told`. */
const HANDLER = `import { told } from "./part.mjs";
const DOES = {
  timer: () => void setTimeout(() => { throw new Error("thrown in a timer"); }),
  promise: () => void Promise.reject(new Error("rejected by nobody")),
  later: () => void setTimeout(async () => { throw new TypeError("rejected in a timer"); }),
  value: () => void Promise.reject("no error at all"),
};
export default ({ AnyBody }) => ({
  create: ({ environment, log }) => ({
    async start(signal) {
      if (environment.host.folder === undefined) throw new Error("no folder");
      log.info("start", "begins");
      if (SLOW) await new Promise((resolve) => signal.addEventListener("abort", resolve));
    },
    plan: () => ({ open: AnyBody }),
    handle(message) {
      if (message.type === "do.ask") message.reply({ type: "told", fields: { told } });
      else DOES[message.type.slice(3)]();
      return "ok";
    },
  }),
});
`;

function site(target: Target, slow = false) {
  const folder = tempFolder();
  const at = (name: string) => join(folder.path, name);
  writeFileSync(at("mine.mjs"), HANDLER.replace("SLOW", String(slow)));
  writeFileSync(at("part.mjs"), 'export const told = "old";\n');
  writeFileSync(
    at("test.ini"),
    `[ccserver]
cc-socket = ipc://${at("cc.sock")}
cc-role = local
pidfile = ${at("test.pid")}
logfile = ${at("test.log")}
[routes]
do = h:mine
echo = h:echo
[h:mine]
handler = ./mine.mjs
[h:echo]
handler = echo
`,
  );
  const log = () => existsSync(at("test.log")) ? readFileSync(at("test.log"), "utf8") : "";
  return {
    ini: at("test.ini"),
    endpoint: `ipc://${at("cc.sock")}`,
    at,
    log,
    send: (type: string) => run(["send", `ipc://${at("cc.sock")}`, type], target),
    ask: async () => (await run(["send", "--reply", `ipc://${at("cc.sock")}`, "do.ask"], target)).output,
    until: (pattern: RegExp) => until(`${pattern} in:\n${log()}`, () => pattern.exec(log())),
    [Symbol.dispose]: () => folder[Symbol.dispose](),
  };
}

for (const target of TARGETS) {
  const on = target.name;

  for (const background of [false, true]) {
    const how = background ? ", in the background too" : "";
    test(`${on}: what nobody catches is logged, and the server goes on${how}`, async () => {
      using here = site(target);
      await using server = background ? null : new ServerProcess(target, [here.ini]);
      if (background) assert.deepEqual(await run(["-d", here.ini], target), { code: 0, output: "" });
      await here.until(/listening on/);
      try {
        for (
          const [what, told] of [
            ["timer", "Error: thrown in a timer"],
            ["promise", "Error: rejected by nobody"],
            ["later", "TypeError: rejected in a timer"],
            ["value", "no error at all"],
          ]
        ) {
          assert.equal((await here.send(`do.${what}`)).code, 0);
          const line = new RegExp(
            `WARNING CCServer\\.uncaught: an error that no handler caught, in code that cannot be told: ${told}`,
          );
          await here.until(line);
        }
        assert.match(here.log(), /thrown in a timer\\n +at .*mine\.mjs/, "with its stack, on one line");
        assert.match(await here.ask(), /^told \{.*"told":"old"/);
        assert.equal((await run(["ping", "-c", "1", here.endpoint], target)).code, 0);
      } finally {
        assert.equal((await run(["-s", here.ini], target)).code, 0);
      }
      if (server !== null) {
        assert.deepEqual(await server.exited, { code: 0, signal: null });
        assert.equal(server.output, "", "nothing passes by the log");
      }
      assert.match(here.log(), /stopped\n$/);
      assert.deepEqual(readdirSync(here.at(".")).sort(), ["mine.mjs", "part.mjs", "test.ini", "test.log"]);
    });
  }

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    test(`${on}: ${signal} in the middle of a slow start ends it with 0, and leaves nothing`, async () => {
      using here = site(target, true);
      await using server = new ServerProcess(target, [here.ini]);
      await here.until(/h:mine\.start: begins/);
      assert.equal(existsSync(here.at("test.pid")), true);
      assert.deepEqual(await server.stop(signal), { code: 0, signal: null });
      assert.doesNotMatch(here.log(), /listening on/);
      assert.match(here.log(), new RegExp(`${signal}: stopping\n`));
      assert.deepEqual(readdirSync(here.at(".")).sort(), ["mine.mjs", "part.mjs", "test.ini", "test.log"]);
    });
  }

  test(`${on}: a handler's file that has changed, or one that it imports, needs a restart, and a reload says so`, async () => {
    using here = site(target);
    const reload = async (pattern: RegExp) => {
      const from = here.log().length;
      process.kill(server.pid, "SIGHUP");
      await until(`${pattern} in:\n${here.log()}`, () => pattern.exec(here.log().slice(from)));
    };
    await using server = new ServerProcess(target, [here.ini]);
    await here.until(/listening on/);
    await reload(/INFO CCServer\.reload: nothing has changed/);
    assert.doesNotMatch(here.log(), /until a restart/);
    writeFileSync(here.at("part.mjs"), 'export const told = "new";\n');
    await reload(
      /WARNING CCServer\.reload: h:mine: \S+part\.mjs, which \S+mine\.mjs imports, has changed: the old code runs on until a restart/,
    );
    assert.match(await here.ask(), /"told":"old"/);
    writeFileSync(here.at("mine.mjs"), HANDLER.replace("SLOW", "false") + "// more\n");
    await reload(
      /WARNING CCServer\.reload: h:mine: \S+mine\.mjs has changed: the old code runs on until a restart/,
    );
    assert.match(await here.ask(), /"told":"old"/);
    assert.equal((await server.stop()).code, 0);
    await using again = new ServerProcess(target, [here.ini]);
    await here.until(/stopped\n[^]*listening on/);
    assert.match(await here.ask(), /"told":"new"/);
    assert.equal((await again.stop()).code, 0);
  });

  test(`${on}: a reload that is refused by a handler's start changes nothing, and the next one works`, async () => {
    using here = site(target);
    await using server = new ServerProcess(target, [here.ini]);
    await here.until(/listening on/);
    const good = readFileSync(here.ini, "utf8");
    writeFileSync(
      here.at("never.mjs"),
      "export default { create: () => ({ plan: () => ({ raw: true }), start() { throw new Error('never'); } }) };\n",
    );
    writeFileSync(
      here.ini,
      good.replace("[routes]", "[routes]\nn = h:never") + "[h:never]\nhandler = ./never.mjs\n",
    );
    process.kill(server.pid, "SIGHUP");
    await here.until(/ERROR CCServer\.reload: h:never: never\n.*ERROR CCServer\.reload: nothing has changed/);
    assert.match(await here.ask(), /"told":"old"/);
    writeFileSync(here.ini, good.replace("echo = h:echo", "echo = h:echo\nping = h:echo"));
    process.kill(server.pid, "SIGHUP");
    await here.until(/INFO CCServer\.reload: routes added: ping/);
    using peer = await RawPeer.overFile(here.at("cc.sock"));
    peer.write(message("", "do.ask", '{"req":"do.ask"}', ""));
    assert.equal(String((await peer.receive())[1]), "told");
    assert.equal((await server.stop()).code, 0);
  });
}
