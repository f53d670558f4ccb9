/** -d, -r, -s, -k and the pidfile, on each runtime and the compiled binary. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { ROOT, type Target, TARGETS, tempFolder, until } from "./helpers/env.ts";
import { run, ServerProcess } from "./helpers/process.ts";

/** A config in a folder of its own, and an end to whatever server runs on it. */
function site(target: Target, change: (ini: string) => string = (ini) => ini) {
  const folder = tempFolder();
  const at = (name: string) => join(folder.path, name);
  const ini = at("test.ini");
  const base = `[ccserver]
cc-socket = ipc://${at("cc.sock")}
cc-role = local
pidfile = ${at("test.pid")}
logfile = ${at("test.log")}
[routes]
echo = h:echo
[h:echo]
handler = echo
`;
  writeFileSync(ini, change(base));
  return {
    ini,
    at,
    endpoint: `ipc://${at("cc.sock")}`,
    pid: () => Number(readFileSync(at("test.pid"), "utf8")),
    log: () => existsSync(at("test.log")) ? readFileSync(at("test.log"), "utf8") : "",
    run: (...args: string[]) => run([...args, ini], target),
    async [Symbol.asyncDispose]() {
      if (existsSync(at("test.pid"))) await run(["-k", ini], target);
      folder[Symbol.dispose]();
    },
  };
}

/** The fields of `/proc/PID/stat` after the name: state, parent, group, session, terminal. */
function stat(pid: number): string[] {
  return readFileSync(`/proc/${pid}/stat`, "latin1").replace(/^.*\) /s, "").split(" ");
}

test("of processes that claim one stale pidfile in the same moment, one gets it, each of 300 times", async () => {
  using folder = tempFolder();
  const rounds = 300;
  for (let i = 0; i < rounds; i++) {
    writeFileSync(join(folder.path, `${i}`), "999999999\n");
    // What one leaves that is killed while it takes the file over.
    if (i % 3 === 0) writeFileSync(join(folder.path, `${i}.lock`), "999999998\n");
    if (i % 9 === 0) writeFileSync(join(folder.path, `${i}.lock.lock`), "999999997\n");
  }
  const bun = join(ROOT, "node_modules", ".bin", "bun");
  const args = ["test/peers/claim.ts", folder.path, `${rounds}`, `${Date.now() + 1_000}`];
  const claims = Array.from({ length: 4 }, () => {
    const child = spawn(bun, args, { cwd: ROOT, stdio: ["pipe", "pipe", "inherit"] });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text) => output += text);
    return { child, ended: once(child, "close"), got: () => output.endsWith("\n") && JSON.parse(output) };
  });
  await until("the claims", () => claims.every(({ child, got }) => got() || child.exitCode !== null), 60_000);
  const got: number[] = claims.flatMap((claim) => claim.got());
  for (const { child, ended } of claims) {
    child.stdin.end();
    await ended;
  }
  assert.deepEqual(got.sort((a, b) => a - b), Array.from({ length: rounds }, (_, i) => i));
  assert.equal(readdirSync(folder.path).length, rounds, "nothing else is left");
});

for (const target of TARGETS) {
  const on = target.name;

  test(`${on}: -d returns when the server listens; -r reloads it, -s waits until it has gone`, async () => {
    await using here = site(target);
    assert.deepEqual(await here.run("-d"), { code: 0, output: "" });
    assert.match(here.log(), /listening on/, "before the command has returned");
    const pid = here.pid();
    const [, , group, session, terminal] = stat(pid);
    assert.deepEqual(
      [group, session, terminal],
      [`${pid}`, `${pid}`, "0"],
      "a session of its own, no terminal",
    );
    for (const fd of [0, 1, 2]) {
      assert.ok(existsSync(`/proc/${pid}/fd/${fd}`), `fd ${fd} is open`);
    }
    assert.equal((await run(["ping", "-c", "1", here.endpoint], target)).code, 0);

    const second = await here.run("-d");
    assert.deepEqual(second, {
      code: 69,
      output: `${here.ini}:4: pidfile ${here.at("test.pid")}: a server runs already, process ${pid}\n`,
    });
    assert.deepEqual(await here.run("-r"), { code: 0, output: "" });
    await until("the reload", () => here.log().includes("CCServer.reload: SIGHUP"));
    assert.deepEqual(await here.run("-s"), { code: 0, output: "" });
    assert.match(here.log(), /SIGINT: stopping[^]*stopped\n$/, "before the command has returned");
    assert.equal(existsSync(here.at("test.pid")), false);

    assert.equal((await here.run("-q", "-d")).code, 0);
    assert.equal((await here.run("-k")).code, 0);
    assert.doesNotMatch(here.log().split("stopped\n")[1], /INFO/, "-q is handed on");
    assert.deepEqual(readdirSync(here.at(".")).sort(), ["test.ini", "test.log"]);
  });

  test(`${on}: -d says why a server cannot start, and ends as it does`, async () => {
    await using here = site(target, (ini) => ini.replace("cc.sock", "none/cc.sock"));
    const { code, output } = await here.run("-d");
    assert.equal(code, 69);
    assert.match(output, /^ccserver: .*test\.ini: cannot listen on ipc:.*: no such file or folder\n$/);
    assert.equal(existsSync(here.at("test.pid")), false);
    await using wrong = site(target, (ini) => ini.replace("cc-role", "cc-rolle"));
    assert.deepEqual(await wrong.run("-d"), await wrong.run("--check"));
  });

  test(`${on}: -d needs a pidfile, and warns when nothing will be logged`, async () => {
    await using none = site(target, (ini) => ini.replace(/pidfile.*\n/, ""));
    for (const flag of ["-d", "-r", "-s", "-k"]) {
      const { code, output } = await none.run(flag);
      assert.equal(code, 78);
      assert.match(output, /test\.ini:1: \[ccserver\] needs the option "pidfile": /);
    }
    await using silent = site(target, (ini) => ini.replace(/logfile.*\n/, ""));
    assert.deepEqual(await silent.run("-d"), {
      code: 0,
      output: `${silent.ini}:1: [ccserver] has no option "logfile": nothing is logged\n`,
    });
    assert.equal((await run(["ping", "-c", "1", silent.endpoint], target)).code, 0);
    assert.equal((await silent.run("-d", "-s")).code, 64);
  });

  test(`${on}: a pidfile without a living server is told apart, by -s and at the start`, async () => {
    await using here = site(target);
    await using other = site(target);
    assert.equal((await other.run("-d")).code, 0);
    const cases: [string | null, string][] = [
      [null, "there is no such file"],
      ["junk", "it holds no process id"],
      ["999999999\n", "process 999999999 is gone"],
      [`${process.pid}\n`, `process ${process.pid} is another program`],
      // A server, but not the one of this pidfile.
      [`${other.pid()}\n`, `process ${other.pid()} is another program`],
    ];
    for (const [text, why] of cases) {
      if (text !== null) writeFileSync(here.at("test.pid"), text);
      for (const flag of ["-r", "-s", "-k"]) {
        assert.deepEqual(await here.run(flag), {
          code: 69,
          output: `ccserver: ${here.ini}: no server runs: pidfile ${here.at("test.pid")}: ${why}\n`,
        });
      }
    }
    assert.equal((await here.run("-d")).code, 0);
    assert.match(
      here.log(),
      /WARNING CCServer\.startup: pidfile \S+ was stale, process \d+ is another program: taken over/,
    );
    assert.equal((await here.run("-s")).code, 0);
    assert.equal((await other.run("-s")).code, 0);
  });

  test(`${on}: of several servers that start at once on a stale pidfile, one runs`, async () => {
    // Each with a port of its own, so that the pidfile alone can decide.
    await using here = site(
      target,
      (ini) => ini.replace(/ipc:.*/, "tcp://127.0.0.1:*").replace(/logfile.*\n/, ""),
    );
    writeFileSync(here.at("test.pid"), "999999999\n");
    await using a = new ServerProcess(target, [here.ini]);
    await using b = new ServerProcess(target, [here.ini]);
    await using c = new ServerProcess(target, [here.ini]);
    await using d = new ServerProcess(target, [here.ini]);
    const all = [a, b, c, d];
    const is = (what: RegExp) => all.filter(({ output }) => what.test(output));
    await until("an end to the race", () => is(/listening on|runs already/).length === 4, 30_000);
    assert.equal(is(/listening on/).length, 1, all.map(({ output }) => output).join("---\n"));
    const [winner] = is(/listening on/);
    assert.equal(here.pid(), winner.pid);
    for (const { exited } of is(/runs already/)) assert.equal((await exited).code, 69);
    assert.equal((await winner.stop()).code, 0);
    assert.deepEqual(readdirSync(here.at(".")), ["test.ini"]);
  });

  test(`${on}: a logfile, a pidfile and an infofile that cannot be written are told together`, async () => {
    await using here = site(
      target,
      (ini) =>
        ini.replace("test.pid", "none/none/x.pid").replace("test.log", "none/none/x.log").replace(
          "[routes]",
          "infofile = none/none/x.info\n[routes]",
        ),
    );
    const files = (text: string) =>
      text.split("\n").filter((line) => line !== "").map((line) =>
        /test\.ini:(\d+): cannot write the (\w+) \S*none\/x\.\w+: no such file or folder$/.exec(line)?.slice(
          1,
        )
      );
    const told = [["4", "pidfile"], ["5", "logfile"], ["6", "infofile"]];
    for (const flags of [[], ["-d"], ["--check"]]) {
      const { code, output } = await here.run(...flags);
      assert.equal(code, 69, "the config itself is right");
      assert.deepEqual(files(output), told, output);
    }
    // With what is wrong in the config, they are one list.
    writeFileSync(here.ini, `${readFileSync(here.ini, "utf8")}\nwrong = 1\n`);
    for (const flags of [[], ["-d"], ["--check"]]) {
      const { code, output } = await here.run(...flags);
      assert.equal(code, 78);
      assert.deepEqual(files(output).slice(0, 3), told, output);
      assert.match(output, /unknown option "wrong" in \[/);
    }
  });
}
