/** What jobs say of themselves and ask for, daemons of one's own, and messages for a process. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { connect } from "../mod.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { ROOT, RUNTIME, skipFor, SLOW_TARGETS, tempFolder, until } from "./helpers/env.ts";
import { carriers, jobsConfig, JobServer, textOf, untilGone } from "./helpers/jobs.ts";
import { run, ServerProcess } from "./helpers/process.ts";

/** A config whose jobmgr is reached by messages. */
function routed(path: string, daemons: string[], sections: string, jobmgr = ""): string {
  return jobsConfig(path, daemons, sections)
    .replace("echo = h:echo\n", "echo = h:echo\njob = h:job\n")
    .replace(/^daemons = .*$/m, (line) => `${line}\n${jobmgr}`);
}

async function reload(server: JobServer, text: string, done: RegExp): Promise<void> {
  const from = server.output.length;
  writeFileSync(join(server.folder, "test.ini"), text);
  process.kill(server.process.pid, "SIGHUP");
  await until(`${done} in the log`, () => done.test(server.output.slice(from)));
}

const endpointOf = (server: JobServer): string => /listening on ([^,\s]+)/.exec(server.output)![1];

/** A program that says what comes on its standard input of the socket that NOTIFY_SOCKET names. */
const PYTHON = (path: string) => {
  const file = join(path, "say.py");
  writeFileSync(
    file,
    `import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
seen = 0
while True:
    try:
        lines = open(${JSON.stringify(join(path, "say"))}).read().split("\\n")[:-1]
    except OSError:
        lines = []
    for line in lines[seen:]:
        s.sendto(line.replace("|", "\\n").encode(), os.environ["NOTIFY_SOCKET"])
    seen = len(lines)
    time.sleep(0.02)
`,
  );
  return `python3 ${file}`;
};

/** Node receives no datagrams: a daemon is heard by `ccserver notify` there. */
const datagrams = MACHINE.host.receivesDatagrams;

for (const target of SLOW_TARGETS) {
  const on = (what: string) => `${target.name}: jobs: ${what}`;
  const notify = `'${[...target.command, "notify"].join("' '")}'`;

  test(
    on("notify = yes: it runs once it says so; one that says nothing in time has failed to start"),
    { skip: skipFor(!datagrams && "this runtime receives no datagrams") },
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const text = jobsConfig(
        path,
        ["d:one", "d:mute"],
        `[d:one]\ncommand = ${PYTHON(path)}\nnotify = yes\n` +
          `[d:mute]\ncommand = sleep 1000\nnotify = yes\nready-timeout = 1\nrestart = never\n`,
      );
      await using server = await JobServer.start(path, target, text);
      const { pid } = await server.until("d:one", ({ pid }) => pid !== null);
      await server.until("d:mute", ({ state }) => state === "failed");
      assert.match(server.output, /WARNING d:mute\.watch: not ready within 1 s: ending it/);
      assert.equal((await server.view("d:mute")).lastExit, "not ready within 1 s");
      assert.equal(MACHINE.processes.environmentOf(pid!, "NOTIFY_SOCKET"), join(path, "test.d:one.notify"));
      // Far longer than start-seconds, and the next server waits for it too.
      assert.equal((await server.view("d:one")).state, "starting");
      await server.kill();
      await using next = await JobServer.start(path, target, null);
      const taken = await next.until("d:one", (job) => job.pid === pid);
      assert.equal(taken.state, "starting");
      writeFileSync(join(path, "say"), "X_ODD=1|STATUS=41 of\u001b 70|READY=1\n");
      const view = await next.until("d:one", ({ state }) => state === "running");
      assert.deepEqual([view.pid, view.detail], [pid, "41 of\\x1b 70"]);
      // One that had said it runs at once.
      await next.kill();
      await using last = await JobServer.start(path, target, null);
      assert.equal(await last.running("d:one"), pid);
      await last.stop();
      assert.deepEqual(carriers(path), []);
      assert.equal(MACHINE.processes.look(pid!)?.state ?? "Z", "Z");
    },
  );

  test(
    on("notify: a daemon of another user is heard too"),
    { skip: skipFor(MACHINE.processes.user !== 0 && "only root runs daemons as others") },
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      chmodSync(path, 0o755);
      const file = join(path, "test.sh");
      writeFileSync(
        file,
        datagrams
          ? `exec python3 -c 'import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    try:
        s.sendto(b"WATCHDOG=1", os.environ["NOTIFY_SOCKET"])
    except OSError:
        pass
    time.sleep(0.2)'`
          : `echo READY=1 >"$CC_NOTIFY"; while :; do echo WATCHDOG=1 1<>"$CC_NOTIFY"; sleep 0.2; done`,
      );
      const text = jobsConfig(
        path,
        ["d:one"],
        `[d:one]\ncommand = sh ${file}\nuser = nobody\nwatchdog-ping = 2\nstart-seconds = 600\n`,
      );
      await using server = await JobServer.start(path, target, text);
      const pid = await server.running("d:one");
      assert.equal(MACHINE.processes.userOf(pid), 65534);
      await server.kill();
      await using next = await JobServer.start(path, target, null);
      assert.equal(await next.running("d:one"), pid);
      // It is heard by the server that has taken it over, for longer than it may be silent.
      const began = performance.now();
      await until("its patience to be over", () => performance.now() - began > 2500);
      assert.equal(await next.running("d:one"), pid);
      await next.stop();
      assert.deepEqual(carriers(path), []);
    },
  );

  test(
    on("a mailbox that is removed is made anew with the next start; a daemon's run that returns ends it"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      writeFileSync(join(path, "back.mjs"), "export default { async run() {} };\n");
      const text = jobsConfig(
        path,
        ["d:one", "d:back"],
        `[d:one]\ncommand = ${notify} --ready; exec sleep 1000\nshell = yes\nstart-seconds = 600\nwatchdog-ping = 600\n` +
          "[d:back]\nmodule = ./back.mjs\nrestart = never\n",
      ).replace("tcp://127.0.0.1:*", `ipc://${path}/cc.sock`);
      await using server = await JobServer.start(path, target, text);
      await server.running("d:one");
      rmSync(join(path, "test.d:one.notify"));
      await server.act("restart", "d:one");
      await server.running("d:one");
      const { lastExit } = await server.until("d:back", ({ state }) => state === "failed");
      assert.equal(lastExit, "exit code 1");
      assert.match(server.output, /run has returned, and nobody has told it to end/);
      await server.stop();
      assert.deepEqual(carriers(path), []);
    },
  );

  test(on("watchdog-ping: one that falls silent is restarted, one that speaks is not"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const speak = datagrams ? PYTHON(path) : "";
    const text = jobsConfig(
      path,
      ["d:silent", "d:speaks", "d:hangs"],
      `[d:silent]\ncommand = sleep 1000\nwatchdog-ping = 1\nstart-seconds = 0.1\nwatchdog-formula-b = 60\n` +
        `[d:speaks]\ncommand = while :; do ${notify} WATCHDOG=1; sleep 0.2; done\nshell = yes\nwatchdog-ping = 2\n` +
        "start-seconds = 0.1\nstop-signal = SIGTERM\n" +
        (datagrams
          ? `[d:hangs]\ncommand = ${speak}\nwatchdog-ping = 600\nstart-seconds = 0.1\nrestart = never\n`
          : `[d:hangs]\ncommand = ${notify} WATCHDOG=trigger; exec sleep 1000\nshell = yes\nwatchdog-ping = 600\n` +
            "start-seconds = 0.1\nrestart = never\n"),
    );
    await using server = await JobServer.start(path, target, text);
    const speaks = await server.running("d:speaks");
    assert.equal(MACHINE.processes.environmentOf(speaks, "WATCHDOG_USEC"), "2000000");
    const silent = await server.running("d:silent");
    await server.process.until(/WARNING d:silent\.watch: silent for 1 s: ending it/);
    const next = await server.until("d:silent", (job) => job.state === "running" && job.pid !== silent);
    assert.equal(next.lastExit, "silent for 1 s");
    await untilGone(silent);
    // The next waits by the formula.
    await server.until("d:silent", ({ state }) => state === "backoff");
    writeFileSync(join(path, "say"), "WATCHDOG=trigger\n");
    await server.until("d:hangs", ({ state }) => state === "failed");
    assert.equal(await server.running("d:speaks"), speaks);
    await server.stop();
    assert.deepEqual(carriers(path), []);
  });

  test(on("notify: a shell script says by the program that it is ready, and how it is"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const text = jobsConfig(
      path,
      ["d:one"],
      `[d:one]\ncommand = ${notify} --ready --status 'all is well'; exec sleep 1000\nshell = yes\n` +
        "start-seconds = 600\nwatchdog-ping = 600\n",
    );
    await using server = await JobServer.start(path, target, text);
    const { detail } = await server.until("d:one", ({ state }) => state === "running");
    assert.equal(detail, "all is well");
    await server.stop();
    for (
      const [args, code, told] of [
        [[], 64, /notify needs something to say/],
        [["ready"], 64, /expected VARIABLE=VALUE, in capitals and one line, not "ready"/],
        [["--ready"], 1, /nobody listens: neither CC_NOTIFY nor NOTIFY_SOCKET is set/],
      ] as const
    ) {
      const done = await run(["notify", ...args], target);
      assert.equal(done.code, code);
      assert.match(done.output, told);
    }
  });

  test(on("job.config: who knows the token of a process gets its options, and nobody else"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const token = join(path, "token");
    const section =
      `[DEFAULT]\nregion = north\n[d:one]\ncommand = cat <&3 > ${token}; exec sleep 1000\nshell = yes\n` +
      "start-seconds = 0.1\nenvironment = WHERE=%(region)s\n";
    const endpoint = `ipc://${path}/cc.sock`;
    await using server = await JobServer.start(
      path,
      target,
      routed(path, ["d:one"], section).replace("tcp://127.0.0.1:*", endpoint),
    );
    const pid = await server.running("d:one");
    await until("its token", () => textOf(token).length === 64);
    assert.equal(MACHINE.processes.environmentOf(pid, "CC_TOKEN_FD"), "3");
    const first = textOf(token);
    const client = connect(endpointOf(server));
    const ask = (fields: Record<string, unknown>) =>
      client.query({ type: "job.config", fields }).then(
        ({ type, body }) => ({ type, body }),
        (error) => error,
      );
    const { type, body } = await ask({ job_name: "d:one", token: first });
    assert.equal(type, "job.config");
    assert.equal(body.job_name, "d:one");
    assert.deepEqual(body.config, {
      job_name: "d:one",
      pidfile: `${path}/test.d:one.pid`,
      region: "north",
      command: `cat <&3 > ${token}; exec sleep 1000`,
      shell: "yes",
      "start-seconds": "0.1",
      environment: "WHERE=north",
    });
    for (
      const fields of [
        { job_name: "d:one" },
        { job_name: "d:one", token: "0".repeat(64) },
        { job_name: "d:one", token: 1 },
        { job_name: "d:two", token: first },
        { job_name: "__proto__", token: first },
      ]
    ) {
      assert.match(String(await ask(fields)), /Token is missing or wrong/, JSON.stringify(fields));
    }
    assert.match(String(await ask({ token: first })), /Missing job_name/);
    await server.process.until(
      /WARNING h:job\.config: somebody asked for the options of d:one without its token/,
    );
    // The file holds a digest, and the token dies with its process.
    assert.ok(!textOf(join(path, "test.d:one.state")).includes(first));
    process.kill(pid, "SIGKILL");
    await server.until("d:one", (job) => job.state === "running" && job.pid !== pid);
    await until("another token", () => textOf(token).length === 64 && textOf(token) !== first);
    assert.match(String(await ask({ job_name: "d:one", token: first })), /Token is missing or wrong/);
    await client.close();
    const second = textOf(token);
    // The next server knows it too, from its first moment on: clients of then are not refused.
    await server.kill();
    const clients = Array.from({ length: 30 }, () => connect(endpoint));
    const asked = clients.map(async (client, i) => {
      await new Promise((resolve) => setTimeout(resolve, 10 * i));
      return await client.query({ type: "job.config", fields: { job_name: "d:one", token: second } }, {
        timeoutMs: 10_000,
      });
    });
    await using next = await JobServer.start(path, target, null);
    for (const told of await Promise.all(asked)) assert.equal(told.type, "job.config");
    for (const client of clients) await client.close();
    await next.running("d:one");
    await next.stop();
  });

  test(on("job-config = open answers who has no token, and needs a loopback address"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const section = "[d:one]\ncommand = sleep 1000\n";
    const text = routed(path, ["d:one"], section, "job-config = open");
    await using server = await JobServer.start(path, target, text);
    await using client = connect(endpointOf(server));
    const { body } = await client.query({ type: "job.config", fields: { job_name: "d:one" } });
    assert.equal((body.config as Record<string, string>).command, "sleep 1000");
    await assert.rejects(
      client.query({ type: "job.config", fields: { job_name: "d:two" } }),
      /Unknown job_name/,
    );
    await server.stop();
    const wide = join(path, "wide.ini");
    writeFileSync(wide, text.replace("tcp://127.0.0.1:*", "tcp://0.0.0.0:10000"));
    const checked = await run(["--check", wide], target);
    assert.equal(checked.code, 78);
    assert.match(
      checked.output,
      /:\d+: job-config = open in \[h:job\] would give the options of daemons to whoever/,
    );
  });

  test(on("a daemon of one's own: options checked, taken while it runs, or by another process"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    writeFileSync(
      join(path, "mine.mjs"),
      `export default ({ defineDaemon, option, integer, text }) => defineDaemon({
  options: { word: option(text, "hello", "", "x"), size: option(integer(1), "1", "", "2") },
  live: ["word"],
  async run({ options, log, signal }) {
    log.info("work", "says " + options.word + " " + options.size);
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  },
});
`,
    );
    const text = (mine: string, supervised = "") =>
      routed(path, ["d:mine"], `[d:mine]\nmodule = ./mine.mjs\nstart-seconds = 0.1\n${supervised}${mine}`)
        .replace("tcp://127.0.0.1:*", `ipc://${path}/cc.sock`);
    await using server = await JobServer.start(path, target, text("word = moin\n"));
    const pid = await server.running("d:mine");
    await server.process.until(/test\.d:mine@\S+\] \S+ INFO says moin 1/);
    await reload(server, text("word = hey\n"), /INFO the server has sent other options[^]*INFO says hey 1/);
    assert.match(server.output, /daemons changed while they run: d:mine/);
    // What only jobmgr knows touches nothing.
    await reload(server, text("word = hey\n", "stop-wait = 3\n"), /daemons changed while they run: d:mine/);
    assert.equal(await server.running("d:mine"), pid);
    // An option that goes back to its default.
    await reload(server, text("", "stop-wait = 3\n"), /INFO says hello 1/);
    assert.equal(await server.running("d:mine"), pid);
    await reload(server, text("size = 2\n"), /INFO says hello 2/);
    assert.notEqual(await server.running("d:mine"), pid);
    // What is wrong is told by the server, and changes nothing.
    await reload(server, text("size = 0\n"), /:\d+: size = 0: expected a whole number of at least 1/);
    // Without its own process: by the server that runs next.
    const running = await server.running("d:mine");
    await server.kill();
    await using next = await JobServer.start(path, target, text("size = 2\n"));
    assert.equal(await next.running("d:mine"), running);
    await reload(next, text("size = 2\nword = later\n"), /INFO says later 2/);
    assert.equal(await next.running("d:mine"), running);
    await next.stop();
    assert.deepEqual(carriers(path), []);
    for (
      const [code, told] of [
        [
          "export default 1;",
          /module = \.\/mine\.mjs in \[d:mine\] is no daemon: its default export has no function "run"/,
        ],
        ["throw new Error('not today');", /\[d:mine\]: cannot load \S+mine\.mjs: not today/],
      ] as const
    ) {
      writeFileSync(join(path, "mine.mjs"), code);
      const checked = await run(["--check", join(path, "test.ini")], target);
      assert.equal(checked.code, 78);
      assert.match(checked.output, told);
    }
  });

  test(
    on("process: the example in Python answers messages, is watched, and is taken over"),
    {
      skip: skipFor(
        spawnSync("/usr/bin/python3", ["-c", "import zmq"]).status !== 0 && "python3-zmq is not installed",
      ),
    },
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const example = join(ROOT, "examples", "process");
      const [, code] = readFileSync(join(example, "greeter.py"), "utf8").split('"""\n\n');
      assert.ok(readFileSync(join(ROOT, "docs", "jobs.md"), "utf8").includes(code), "the docs show it");
      copyFileSync(join(example, "greeter.py"), join(path, "greeter.py"));
      const text = readFileSync(join(example, "greeter.ini"), "utf8")
        .replace("127.0.0.1:10000", "127.0.0.1:*")
        .replace("./%(job_name)s.pid", `${path}/%(job_name)s.pid`)
        .replace("greeter.py\n", `${path}/greeter.py\nstart-seconds = 0.1\n`);
      await using server = await JobServer.start(path, target, text);
      await using client = connect(endpointOf(server));
      const greet = async (by: typeof client) =>
        (await by.query({ type: "greet", fields: { name: "world" } }, { timeoutMs: 20_000 })).body.text;
      // Also one that is sent before the process listens.
      assert.equal(await greet(client), "hello world");
      const views = async (of: JobServer) => {
        const { output } = await run(["jobs", "--json", join(of.folder, "test.ctl")], target);
        return JSON.parse(output)[0];
      };
      const { name, pid, state } = await views(server);
      assert.deepEqual([name, state], ["h:greet", "running"]);
      assert.ok(carriers(path).includes(pid));
      process.kill(pid, "SIGKILL");
      await server.process.until(
        /h:greet\.connect: the process listens on[^]*h:greet\.connect: the process listens on/,
      );
      assert.equal(await greet(client), "hello world");
      assert.notEqual((await views(server)).pid, pid);
      const restarted = await run(["jobs", join(path, "test.ctl"), "restart", "h:greet"], target);
      assert.equal(restarted.code, 0, restarted.output);
      const last = (await views(server)).pid;
      await server.kill();
      await using next = await JobServer.start(path, target, null);
      await using other = connect(endpointOf(next));
      assert.equal(await greet(other), "hello world");
      assert.equal((await views(next)).pid, last);
      await next.stop();
      assert.deepEqual(carriers(path), []);
      assert.match(next.output, /replies: 1/);
      assert.ok(!existsSync(join(path, "test.h:greet.sock")));
    },
  );

  test(on("what is wrong with a process's section is told with its line"), async () => {
    using folder = tempFolder();
    const file = join(folder.path, "test.ini");
    const check = async (section: string, pidfile = `pidfile = ${folder.path}/x.pid`) => {
      writeFileSync(
        file,
        `[ccserver]\ncc-socket = tcp://127.0.0.1:10000\n${pidfile}\n[routes]\na = h:p\n[h:p]\nhandler = process\n${section}`,
      );
      return await run(["--check", file], target);
    };
    for (
      const [section, told] of [
        ["", /:6: \[h:p\] needs the option "command", or "daemon"/],
        ["command = true\ndaemon = d:x\n", /:9: \[h:p\] has command and daemon: one of them is expected/],
        ["command = 'true\n", /:8: command = 'true: /],
        ["command = true\nscript = /x\n", /:9: unknown option "script"/],
        [
          "command = true\nendpoint = tcp://127.0.0.1:10000\n",
          /:9: endpoint in \[h:p\] is this server itself/,
        ],
      ] as const
    ) {
      const { code, output } = await check(section);
      assert.equal(code, 78, section);
      assert.match(output, told);
    }
    assert.match(
      (await check("command = true\n", "")).output,
      /\[h:p\] needs a pidfile|\[h:p\] needs the option "endpoint"/,
    );
    assert.equal((await check("command = true\n")).code, 0);
  });

  test(
    on("as process 1 of a container, what loses its parent is collected"),
    {
      skip: skipFor(
        !MACHINE.processes.collectsOrphans
          ? "this runtime collects no orphans: the docs ask for --init"
          : spawnSync("unshare", ["-fp", "--mount-proc", "true"]).status !== 0 &&
            "no namespace of processes can be made here",
      ),
    },
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      writeFileSync(
        join(path, "test.ini"),
        jobsConfig(
          path,
          ["d:one"],
          `[d:one]\ncommand = (setsid true &); (setsid true &); sleep 0.3; cat /proc/[0-9]*/stat > ${path}/stats; exit 7\n` +
            "shell = yes\nwatchdog-formula-b = 0\nstart-seconds = 0.1\n",
        ),
      );
      const [command, ...args] = target.command;
      const namespaced = {
        name: target.name,
        command: ["unshare", "-fp", "--kill-child", "--mount-proc", command, ...args],
      };
      await using server = new ServerProcess(namespaced, [join(path, "test.ini")]);
      await server.until(/listening on/);
      const zombies = () =>
        [...textOf(join(path, "stats")).matchAll(/^(\d+) \(true\) Z 1 /gm)].map(([, pid]) => pid);
      const [first] = await until("one to be left", () => zombies()[0] && zombies());
      await until(
        "it to be collected",
        () => textOf(join(path, "stats")) !== "" && !zombies().includes(first),
      );
      await server.until(/exit code 7/);
      assert.doesNotMatch(server.output, /--init/);
      assert.doesNotMatch(server.output, /unknown/);
      const init = [...MACHINE.processes.list()].find(({ parent }) => parent === server.pid)!;
      process.kill(init.pid, "SIGTERM");
      assert.equal((await server.exited).code, 0, server.output);
    },
  );

  test(on("on Node a program that wants NOTIFY_SOCKET is told"), {
    skip: skipFor(RUNTIME !== "node" && "that is Node's"),
  }, async () => {
    using folder = tempFolder();
    const file = join(folder.path, "test.ini");
    writeFileSync(file, jobsConfig(folder.path, ["d:one"], "[d:one]\ncommand = sleep 1\nnotify = yes\n"));
    const { code, output } = await run(["--check", file], target);
    assert.equal(code, 78);
    assert.match(output, /:\d+: notify in \[d:one\]: here no program can be heard by NOTIFY_SOCKET/);
  });
}
