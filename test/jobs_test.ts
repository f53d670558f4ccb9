/** Jobs of a server, as processes: started, watched, taken over, and ended, and never the wrong process. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { ControlClient } from "../src/commands/control_client.ts";
import { codeOf } from "../src/errors.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { ROOT, skipFor, SLOW_TARGETS, tempFolder, until } from "./helpers/env.ts";
import { run, ServerProcess } from "./helpers/process.ts";
import { carriers, isGone, jobsConfig, JobServer, textOf, untilGone } from "./helpers/jobs.ts";

/** One job, with these options. */
const one = (options: string) => `[d:one]\n${options}\nstart-seconds = 0.1\n`;

for (const target of SLOW_TARGETS) {
  const on = (what: string) => `${target.name}: jobs: ${what}`;

  test(on("a command is started as its section says, and ends with the server"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const script =
      `umask > ${path}/umask; ulimit -n > ${path}/files; pwd > ${path}/cwd; env > ${path}/env; exec sleep 1000`;
    const text = jobsConfig(
      path,
      ["d:one"],
      one(
        `command = ${script}\nshell = yes\ncwd = /\numask = 077\nrlimit-nofile = 333\nenvironment = A=b "C=d e"\nnice = 3`,
      ),
    );
    await using server = await JobServer.start(path, target, text);
    const pid = await server.running("d:one");
    await until("the job to have written", () => textOf(join(path, "env")).includes("CC_JOB="));
    await until("sleep", () => /sleep/.test(textOf(`/proc/${pid}/cmdline`)));
    assert.match(textOf(join(path, "umask")), /077$/m);
    assert.equal(textOf(join(path, "files")), "333\n");
    assert.equal(textOf(join(path, "cwd")), "/\n");
    const env = textOf(join(path, "env"));
    for (
      const line of [
        "A=b",
        "C=d e",
        "CC_JOB=test.d:one",
        `CC_JOB_PIDFILE=${path}/test.d:one.pid`,
        "CC_SECTION=d:one",
        `CC_CONFIG=${path}/test.ini`,
      ]
    ) {
      assert.ok(env.includes(`${line}\n`), line);
    }
    const info = MACHINE.processes.look(pid)!;
    assert.deepEqual([info.session, info.group], [pid, pid]);
    assert.equal(textOf(`/proc/${pid}/stat`).replace(/^.*\) /s, "").split(" ")[16], "3", "nice");
    assert.equal(textOf(join(path, "test.d:one.pid")), String(pid));
    // Nothing of the server but the three standard descriptors.
    assert.deepEqual(
      [...MACHINE.processes.list()].filter(({ session }) => session === pid).map((p) => p.pid),
      [pid],
    );
    await server.stop();
    assert.ok(isGone(pid));
    for (const file of ["test.d:one.pid", "test.d:one.state", "test.d:one.out"]) {
      assert.equal(textOf(join(path, file)), "", file);
    }
  });

  test(on("one that ends is started again, after the formula's wait"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const text = jobsConfig(path, ["d:one"], one(`command = sleep 1000\nwatchdog-formula-b = 0.5`));
    await using server = await JobServer.start(path, target, text);
    const first = await server.running("d:one");
    process.kill(first, "SIGKILL");
    // The first restart waits for nothing.
    const second = (await server.until("d:one", ({ pid, state }) => state === "running" && pid !== first))
      .pid!;
    assert.match(server.output, /WARNING d:one\.exit: process \d+ has ended after [\d.]+ s: SIGKILL/);
    const killed = performance.now();
    process.kill(second, "SIGKILL");
    const waiting = await server.until("d:one", ({ state }) => state === "backoff");
    assert.match(waiting.detail!, /^again in 0\.[0-5] s$/);
    const third = await server.until("d:one", ({ pid, state }) => state === "running" && pid !== second);
    const ms = performance.now() - killed;
    assert.ok(ms >= 500 && ms < 3000, `${ms}`);
    assert.equal(third.restarts, 2);
    assert.equal(third.lastExit, "SIGKILL");
    await server.stop();
    assert.deepEqual(carriers(path), []);
  });

  test(
    on("one that ends at once is started once a second at most, and floods no log; a missing program too"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const text = jobsConfig(
        path,
        ["d:one", "d:two", "d:three"],
        `[d:one]\ncommand = sh -c 'echo x >> ${path}/starts; exit 3'\nwatchdog-formula-b = 0\n` +
          `[d:two]\ncommand = /no/such/program\nwatchdog-formula-b = 0\n[d:three]\ncommand = ls\ncwd = /no/such\n`,
      );
      await using server = await JobServer.start(path, target, text);
      const one = await server.until("d:one", ({ restarts }) => restarts >= 3);
      assert.equal(one.lastExit, "exit code 3");
      const starts = textOf(join(path, "starts")).length / 2;
      assert.ok(starts >= 2 && starts <= 5, `${starts} starts`);
      assert.equal((await server.view("d:two")).lastExit, "the program is missing (exit code 127)");
      assert.equal(
        (await server.view("d:three")).lastExit,
        "the folder of cwd cannot be entered (exit code 125)",
      );
      assert.ok((server.output.match(/d:one\.exit/g) ?? []).length === 1, "told once in ten seconds");
      await server.stop();
    },
  );

  test(
    on(
      "restart = never and on-failure: one that has ended stays so, and the server says whether that is well",
    ),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const section = (name: string, code: number, restart: string) =>
        `[d:${name}]\ncommand = sh -c 'exit ${code}'\nrestart = ${restart}\n`;
      const text = jobsConfig(
        path,
        ["d:well", "d:bad", "d:once"],
        section("well", 0, "on-failure") + section("bad", 1, "never") + section("once", 0, "never"),
        "http-listen = 127.0.0.1:0\n",
      );
      await using server = await JobServer.start(path, target, text);
      await server.until("d:well", ({ state }) => state === "stopped");
      await server.until("d:bad", ({ state }) => state === "failed");
      await server.until("d:once", ({ state }) => state === "stopped");
      const [, url] = await server.process.until(/HTTP on (\S+)/);
      const { reasons } = await (await fetch(`${url}/readyz`)).json();
      assert.deepEqual(reasons, ["h:job: d:bad is failed"]);
      const metrics = await (await fetch(`${url}/metrics`)).text();
      assert.match(
        metrics,
        /cc_handler_value\{job="d:bad",handler="h:job",gauge="job_up"\} 0/,
      );
      await server.stop();
    },
  );

  test(
    on("one that ignores signals is killed, with all its processes, also when it is stopped"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const deaf =
        `trap '' INT TERM HUP; sleep 1000 & sleep 1001 & echo ready > ${path}/ready; wait; wait; sleep 1002`;
      const text = jobsConfig(
        path,
        ["d:one", "d:two"],
        one(`command = ${deaf}\nshell = yes\nstop-wait = 0.3`) +
          `[d:two]\ncommand = sleep 1003\nstop-wait = 5\nstart-seconds = 0.1\n`,
      );
      await using server = await JobServer.start(path, target, text);
      await until("the job", () => textOf(join(path, "ready")) !== "");
      await server.running("d:one");
      const two = await server.running("d:two");
      process.kill(two, "SIGSTOP");
      assert.equal(carriers(path).length, 4);
      const began = performance.now();
      const [stopped] = await server.act("stop", "one");
      assert.equal(stopped.state, "stopped");
      assert.ok(performance.now() - began < 3000);
      assert.match(server.output, /it does not end by SIGINT: sending SIGTERM/);
      assert.match(server.output, /it does not end by SIGTERM: sending SIGKILL/);
      assert.deepEqual(carriers(path), [two]);
      await server.stop();
      assert.ok(performance.now() - began < 6000, "a job that is stopped gets its signal");
      assert.deepEqual(carriers(path), []);
    },
  );

  test(on("output becomes log lines, messages, or a file's"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const job = (name: string, output: string) =>
      `[d:${name}]\ncommand = sh -c 'echo ${name}-out; echo ${name}-err >&2; printf "a\\033[2Jb\\n"; printf ${name}-last; exit 4'\n` +
      `restart = never\noutput = ${output}\n`;
    const text = jobsConfig(
      path,
      ["d:log", "d:route", "d:file", "d:none"],
      job("log", "log") + job("route", "route") + job("file", "file") + `logfile = ${path}/file.log\n` +
        job("none", "none"),
    );
    await using server = await JobServer.start(path, target, text);
    for (const name of ["d:log", "d:route", "d:file", "d:none"]) {
      await server.until(name, ({ state }) => state === "failed");
    }
    await server.process.until(/route-err/);
    await server.stop();
    for (const word of ["out", "err", "last"]) {
      assert.match(server.output, new RegExp(`INFO d:log\\.output: log-${word}\n`));
      assert.match(
        server.output,
        new RegExp(`h:log\\.handle: \\[test\\.d:route@\\S+\\] \\S+ INFO route-${word}\n`),
      );
    }
    assert.match(server.output, /d:log\.output: a\\x1b\[2Jb/);
    assert.match(
      server.output,
      /d:log\.exit: .*exit code 4; its last line: log-last; restart = never: it is not started again\n/,
    );
    assert.equal(textOf(join(path, "file.log")), "file-out\nfile-err\na\x1b[2Jb\nfile-last");
    assert.doesNotMatch(server.output, /d:none\.output/);
  });

  test(on("one that writes without end holds nothing up, and what is held back is counted"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const text = jobsConfig(
      path,
      ["d:one"],
      one(
        `command = sh -c 'yes 0123456789 | head -c 50000000; echo the end; exec >/dev/null 2>&1; exec sleep 1000'`,
      ),
    );
    await using server = await JobServer.start(path, target, text);
    await server.process.until(/lines held back/, 30_000);
    await until("its end", () => /sleep/.test(textOf(`/proc/${carriers(path)[0]}/cmdline`)), 60_000);
    assert.ok(server.output.length < 2_000_000, `${server.output.length} characters of log`);
    await server.running("d:one");
    await server.stop();
    assert.deepEqual(carriers(path), []);
  });

  test(
    on(
      "the server is killed: the next one takes its jobs over, ends what has changed, and nothing runs twice",
    ),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const job = (name: string, more = "") =>
        `[d:${name}]\ncommand = sh -c 'while :; do echo ${name}; sleep 0.05; done'\nstart-seconds = 0.1\n${more}\n`;
      const first = jobsConfig(
        path,
        ["d:keeps", "d:changes", "d:goes"],
        job("keeps") + job("changes") + job("goes"),
      );
      const before: Record<string, number> = {};
      {
        await using server = await JobServer.start(path, target, first);
        for (const name of ["d:keeps", "d:changes", "d:goes"]) before[name] = await server.running(name);
        await server.kill();
        for (const pid of Object.values(before)) assert.ok(!isGone(pid), "it lives on");
        const second = jobsConfig(path, ["d:keeps", "d:changes"], job("keeps") + job("changes", "nice = 1"));
        await using next = await JobServer.start(path, target, second);
        assert.equal(await next.running("d:keeps"), before["d:keeps"]);
        assert.notEqual(await next.running("d:changes"), before["d:changes"]);
        await untilGone(before["d:changes"]);
        await untilGone(before["d:goes"]);
        const { since } = await next.view("d:keeps");
        assert.ok(Date.now() - since > 100);
        // Its output is read on.
        await next.process.until(/d:keeps\.output: keeps/);
        // One that was taken over is watched too.
        process.kill(before["d:keeps"], "SIGKILL");
        await next.until("d:keeps", ({ pid, state }) => state === "running" && pid !== before["d:keeps"]);
        await next.stop();
        assert.deepEqual(carriers(path), []);
      }
    },
  );

  test(
    on("both are killed: what the job left is ended before it starts again; a stranger with its pid is not"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const text = jobsConfig(
        path,
        ["d:one", "d:two"],
        one("command = sh -c 'sleep 1000 & setsid sleep 1001 & wait'\nstop-signal = term") +
          `[d:two]\ncommand = sleep 1002\nstart-seconds = 0.1\n`,
      );
      await using server = await JobServer.start(path, target, text);
      const leader = await server.running("d:one");
      const two = await server.running("d:two");
      await until("all of them", () => carriers(path).length === 4);
      await server.kill();
      process.kill(leader, "SIGKILL");
      process.kill(two, "SIGKILL");
      await untilGone(leader);
      await untilGone(two);
      const left = carriers(path);
      assert.equal(left.length, 2);
      // Its number now is a stranger's.
      const stranger = spawn("sleep", ["1004"], { stdio: "ignore" });
      const stateFile = join(path, "test.d:two.state");
      const record = JSON.parse(readFileSync(stateFile, "utf8"));
      assert.equal(record.pid, two);
      writeFileSync(stateFile, JSON.stringify({ ...record, pid: stranger.pid }));
      writeFileSync(join(path, "test.d:two.pid"), String(stranger.pid));
      try {
        await using next = await JobServer.start(path, target, null);
        await next.running("d:one");
        await next.running("d:two");
        for (const pid of left) assert.ok(isGone(pid), "ended before");
        assert.match(
          next.output,
          /d:one\.start: an earlier server left 2 processes of it \(\d+, \d+\): ending them/,
        );
        await next.stop();
        assert.ok(!isGone(stranger.pid!));
        assert.deepEqual(carriers(path), []);
      } finally {
        stranger.kill("SIGKILL");
      }
    },
  );

  test(on("a script goes to the background by itself: the process of its pidfile is the job"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const script = join(path, "daemon.sh");
    writeFileSync(
      script,
      `#!/bin/sh\necho "$@" > ${path}/args\nsetsid sleep 1000 </dev/null >/dev/null 2>&1 &\necho $! > "$CC_JOB_PIDFILE"\nexit 0\n`,
    );
    chmodSync(script, 0o755);
    const text = jobsConfig(
      path,
      ["d:one"],
      `[d:one]\nscript = ${script}\nown-option = 1\nstop-signal = TERM\nstart-seconds = 3\n`,
    );
    await using server = await JobServer.start(path, target, text);
    const pid = await server.running("d:one");
    assert.equal(textOf(join(path, "args")), `${path}/test.ini d:one -d\n`);
    await until("sleep", () => textOf(`/proc/${pid}/cmdline`).startsWith("sleep\0"));
    process.kill(pid, "SIGKILL");
    const next = await server.until("d:one", (job) => job.state === "running" && job.pid !== pid);
    await server.stop();
    assert.ok(isGone(next.pid!));
    assert.deepEqual(carriers(path), []);
  });

  test(on("a reload starts what is new, ends what is gone, and does not touch the others"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const job = (name: string, more = "") =>
      `[d:${name}]\ncommand = sleep 1000\nstart-seconds = 0.1\n${more}\n`;
    await using server = await JobServer.start(
      path,
      target,
      jobsConfig(path, ["d:a", "d:b", "d:c"], job("a") + job("b") + job("c")),
    );
    const [a, b, c] = [await server.running("d:a"), await server.running("d:b"), await server.running("d:c")];
    writeFileSync(
      join(path, "test.ini"),
      jobsConfig(path, ["d:a", "d:b", "d:new"], job("a") + job("b", "nice = 1") + job("new")),
    );
    process.kill(server.process.pid, "SIGHUP");
    await server.process.until(/handlers changed: h:job/);
    await server.running("d:new");
    assert.equal(await server.running("d:a"), a);
    assert.notEqual((await server.until("d:b", (job) => job.state === "running" && job.pid !== b)).pid, b);
    await untilGone(c);
    await untilGone(b);
    assert.equal(carriers(path).length, 3);
    // What is wrong changes nothing.
    writeFileSync(join(path, "test.ini"), jobsConfig(path, ["d:a"], "[d:a]\n"));
    process.kill(server.process.pid, "SIGHUP");
    await server.process.until(/needs one of the options command/);
    assert.equal(await server.running("d:a"), a);
    await server.stop();
    assert.deepEqual(carriers(path), []);
  });

  test(
    on("after: it starts when the other runs, and ends before it; an operator stops, starts and restarts"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const job = (name: string, more: string) =>
        `[d:${name}]\ncommand = sh -c 'trap "echo ${name} >> ${path}/ends; exit 0" INT; echo ${name} >> ${path}/starts; while :; do sleep 0.02; done'\nstart-seconds = 0.2\n${more}\n`;
      const text = jobsConfig(path, ["d:app", "d:db"], job("app", "after = d:db") + job("db", ""));
      await using server = await JobServer.start(path, target, text);
      const app = await server.running("d:app");
      assert.equal(textOf(join(path, "starts")), "db\napp\n");
      const db = await server.running("d:db");
      const [restarted] = await server.act("restart", "app");
      assert.equal(restarted.name, "d:app");
      await server.until("d:app", ({ state, pid }) => state === "running" && pid !== app);
      assert.equal(await server.running("d:db"), db);
      await server.act("stop", "d:app");
      assert.equal((await server.view("d:app")).state, "stopped");
      await server.act("start", "app");
      await server.running("d:app");
      await assert.rejects(server.act("stop", "nothing"), /there is no job "nothing"/);
      await server.stop();
      assert.equal(textOf(join(path, "ends")), "app\napp\napp\ndb\n");
    },
  );

  test(
    on(
      "an operator's start ends a wait, and says what became of it; a config that is wrong by now is no hindrance",
    ),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const text = jobsConfig(
        path,
        ["d:one", "d:two"],
        `[d:one]\ncommand = test -e ${path}/go\nwatchdog-formula-a = 60\n[d:two]\ncommand = sleep 1000\nstart-seconds = 0.1\n`,
      );
      await using server = await JobServer.start(path, target, text);
      await server.until("d:one", ({ state }) => state === "backoff");
      await server.running("d:two");
      const jobs = (...args: string[]) => run(["jobs", join(path, "test.ini"), ...args], target);
      const again = await jobs("start", "one");
      assert.equal(again.code, 1);
      assert.match(again.output, /^d:one +backoff .* 1 .*exit code 1 +again in (59|6\d)\.\d s$/m);
      writeFileSync(join(path, "test.ini"), text.replace("command = sleep", "comand = sleep"));
      const restarted = await jobs("restart", "two");
      assert.equal(restarted.code, 0, restarted.output);
      assert.match(
        restarted.output,
        /test\.ini is wrong by now \("--check" tells how\): only its \[ccserver\] is used/,
      );
      assert.match(restarted.output, /^d:two +running /m);
      assert.match(server.output, /INFO \S*h:job\.control: an operator asks: restart d:two$/m);
      const stopped = await run(["-s", join(path, "test.ini")], target);
      assert.equal(stopped.code, 0, stopped.output);
      assert.deepEqual(carriers(path), []);
    },
  );

  const noRoot = MACHINE.processes.user === 0 ? false : "needs root";
  test(on("user and group: the user's own group, or another; one that is not known is told"), {
    skip: skipFor(noRoot),
  }, async () => {
    using folder = tempFolder();
    const { path } = folder;
    chmodSync(path, 0o755);
    const job = (name: string, more: string) =>
      `[d:${name}]\ncommand = sleep 1000\nstart-seconds = 0.1\n${more}\n`;
    const text = jobsConfig(
      path,
      ["d:nobody", "d:group", "d:both", "d:none"],
      job("nobody", "user = nobody") + job("group", "group = daemon") +
        job("both", "user = nobody\ngroup = daemon\nnice = -1") + job("none", "user = no-such-user"),
    );
    await using server = await JobServer.start(path, target, text);
    const ids = async (name: string) => {
      const status = textOf(`/proc/${await server.running(name)}/status`);
      return /^Uid:\t(\d+)[^]*^Gid:\t(\d+)/m.exec(status)!.slice(1).join(":");
    };
    const id = (...args: string[]) => spawnSync("id", args, { encoding: "utf8" }).stdout.trim();
    const [uid, gid, daemon] = [id("-u", "nobody"), id("-g", "nobody"), id("-g", "daemon")];
    assert.equal(await ids("d:nobody"), `${uid}:${gid}`);
    assert.equal(await ids("d:group"), `0:${daemon}`);
    assert.equal(await ids("d:both"), `${uid}:${daemon}`);
    const none = await server.until("d:none", ({ state }) => state === "backoff");
    assert.equal(none.lastExit, "the user is not known (exit code 124)");
    await server.stop();
    assert.deepEqual(carriers(path), []);
  });

  test(on("a second server on the same config touches nothing of the first one's jobs"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const text = jobsConfig(path, ["d:one"], one(`command = sleep 1000\npidfile = ${path}/one.pid`))
      .replace("tcp://127.0.0.1:*", `ipc://${path}/cc.sock`).replace(/^pidfile = .*$/m, "");
    writeFileSync(join(path, "test.ini"), text);
    await using server = new ServerProcess(target, [join(path, "test.ini")]);
    await until("the job", () => textOf(join(path, "one.pid")) !== "");
    const pid = Number(textOf(join(path, "one.pid")));
    const second = await run([join(path, "test.ini")], target);
    assert.equal(second.code, 69, second.output);
    assert.ok(!isGone(pid));
    assert.equal(textOf(join(path, "one.pid")), String(pid));
    assert.equal((await server.stop()).code, 0);
    assert.ok(isGone(pid));
  });

  test(on("a stop in the middle of a start ends what an earlier server left"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const names = Array.from({ length: 8 }, (_, i) => `d:j${i}`);
    const text = jobsConfig(
      path,
      names,
      names.map((name) => `[${name}]\ncommand = sleep 1000\nstart-seconds = 0.1\n`).join(""),
    );
    for (const delayMs of [0, 20]) {
      const server = await JobServer.start(path, target, text);
      for (const name of names) await server.running(name);
      await server.kill();
      assert.equal(carriers(path).length, 8);
      await using next = new ServerProcess(target, [join(path, "test.ini")]);
      await next.until(/pidfile \S+ was stale/);
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      const { code } = await next.stop();
      assert.equal(code, 0, next.output);
      // One that was stopped before it listened has not touched them: the next one does.
      if (!next.output.includes("listening on")) {
        const last = await JobServer.start(path, target, text);
        await last.stop();
      }
      assert.deepEqual(carriers(path), [], `${delayMs} ms: ${next.output}`);
    }
  });

  test(
    on(
      "an operator is told of jobs as a reload leaves them, of one that waits in vain, and of the server's end",
    ),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const slow = `command = trap "" INT TERM; while :; do sleep 0.05; done\nshell = yes\nstop-wait = 0.3\n`;
      const config = (names: string[], more = "") =>
        jobsConfig(
          path,
          names,
          names.map((name) =>
            `[${name}]\nstart-seconds = 0.1\n${
              name === "d:app" ? "command = sleep 1000\nafter = d:db\n" : `${slow}${more}`
            }`
          ).join(""),
        );
      await using server = await JobServer.start(path, target, config(["d:db", "d:app", "d:gone"]));
      const reload = async (text: string, told: RegExp) => {
        writeFileSync(join(path, "test.ini"), text);
        process.kill(server.process.pid, "SIGHUP");
        await server.process.until(told);
      };
      for (const name of ["d:db", "d:app", "d:gone"]) await server.running(name);
      const many = Array.from({ length: 3000 }, () => "d:db");
      await assert.rejects(server.act("dance", ...many), { code: "unknown-action" });
      assert.doesNotMatch(server.output, /an operator asks/);

      assert.equal((await server.act("stop", "app", "db", ...many)).length, 2);
      assert.deepEqual(server.output.match(/an operator asks.*$/gm), ["an operator asks: stop d:app, d:db"]);
      const begin = performance.now();
      const [app] = await server.act("start", "app");
      assert.deepEqual([app.state, app.detail], ["starting", "waits for d:db, which is stopped"]);
      assert.ok(performance.now() - begin < 3000, "start-seconds and what comes on top need not pass");
      const both = await server.act("start", "app", "db");
      assert.deepEqual(both.map(({ state }) => state), ["running", "running"], "they wait for each other");

      const restarted = server.act("restart", "db", "gone");
      await server.process.until(/an operator asks: restart d:db, d:gone/);
      await reload(config(["d:db", "d:app"], "nice = 1\n"), /daemons removed: d:gone/);
      const [db, gone] = await restarted;
      assert.deepEqual([db.state, gone.name, gone.detail], [
        "running",
        "d:gone",
        "a reload has removed it from the config",
      ]);
      assert.notEqual(gone.state, "running");

      const last = server.act("restart", "db");
      await server.process.until(/an operator asks: restart d:db$/m);
      process.kill(server.process.pid, "SIGTERM");
      await assert.rejects(last, { code: "stopped" });
      assert.equal((await server.process.exited).code, 0);
      assert.deepEqual(carriers(path), []);
    },
  );

  test(
    on("operators who race each other, and one who is too late: nobody hangs, nothing runs twice"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const slow = `trap 'sleep 0.3; exit 0' INT TERM; while :; do sleep 0.02; done`;
      const text = jobsConfig(path, ["d:one"], one(`command = ${slow.replaceAll("; ", ";")}\nshell = yes`));
      await using server = await JobServer.start(path, target, text);
      await server.running("d:one");
      const ask = async (action: string): Promise<unknown> => {
        const client = await ControlClient.connect(join(path, "test.ctl"), MACHINE.clock);
        try {
          return await client.ask("job", { action, names: ["one"] }, 30_000);
        } catch (error) {
          // Those who have just left may still count.
          if (codeOf(error) === "busy") return await ask(action);
          throw error;
        } finally {
          client.close();
        }
      };
      for (let round = 0; round < 3; round++) {
        await Promise.all(["stop", "start", "restart", "stop", "start"].map(ask));
        await server.until("d:one", ({ state }) => state === "running" || state === "stopped");
      }
      await server.act("start", "one");
      const pid = await server.running("d:one");
      await until("one process and what it waits for", () => carriers(path).length <= 2);
      process.kill(server.process.pid, "SIGTERM");
      await server.process.until(/SIGTERM: stopping/);
      await assert.rejects(ask("start"), /the server is stopping/);
      assert.equal((await server.process.exited).code, 0);
      assert.ok(isGone(pid));
      assert.deepEqual(carriers(path), []);
    },
  );

  test(
    on("what forks while it is ended, and what has emptied its environment, is ended all the same"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      writeFileSync(join(path, "fork.sh"), "trap '' TERM INT\nwhile :; do sleep 0.05; done\n");
      const text = jobsConfig(
        path,
        ["d:forks", "d:empty"],
        `[d:forks]\ncommand = setsid sh ${path}/fork.sh & exec sleep 1000\nshell = yes\nstart-seconds = 0.1\nstop-wait = 0.3\n` +
          `[d:empty]\ncommand = env -i sh -c 'sleep 10${process.pid} & exec sleep 20${process.pid}'\nstop-signal = TERM\nstop-wait = 0.3\nstart-seconds = 0.1\n`,
      );
      const sleepers = () =>
        [...MACHINE.processes.list()].filter(({ pid }) =>
          new RegExp(`^sleep\\0[12]0${process.pid}\\0$`).test(textOf(`/proc/${pid}/cmdline`))
        ).map(({ pid }) => pid);
      await using server = await JobServer.start(path, target, text);
      await server.running("d:forks");
      const leader = await server.running("d:empty");
      await until("both", () => sleepers().length === 2);
      await server.kill();
      process.kill(leader, "SIGKILL");
      await untilGone(leader);
      await using next = await JobServer.start(
        path,
        target,
        text.replace(
          "start-seconds = 0.1\nstop-wait = 0.3",
          "start-seconds = 0.2\nstop-wait = 0.3\nstop-signal = TERM",
        ),
      );
      await next.running("d:forks");
      await next.running("d:empty");
      await until("one of each", () => sleepers().length === 2);
      const third = text.replace("[d:empty]\n", "[d:empty]\nnice = 1\n");
      await next.kill();
      await using last = await JobServer.start(path, target, third);
      await last.running("d:empty");
      await until("one of each, with other options", () => sleepers().length === 2);
      await last.stop();
      assert.deepEqual(sleepers(), []);
      assert.deepEqual(carriers(path), []);
    },
  );

  test(
    on(
      "a helper that a job started in a session of its own lives on with it; a server as a job leaves nothing",
    ),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      mkdirSync(join(path, "inner"));
      const inner = jobsConfig(
        join(path, "inner"),
        ["d:deaf"],
        `[d:deaf]\ncommand = trap '' INT TERM; while :; do sleep 0.1; done\nshell = yes\nstart-seconds = 0.1\n`
          .replaceAll("; ", ";"),
      );
      writeFileSync(join(path, "inner", "inner.ini"), inner);
      const text = jobsConfig(
        path,
        ["d:helped", "d:inner"],
        `[d:helped]\ncommand = sh -c 'setsid sleep 1000 & exec sleep 1001'\nstop-signal = TERM\nstart-seconds = 0.1\n` +
          `[d:inner]\ncommand = ${[...target.command, join(path, "inner", "inner.ini")].join(" ")}\n` +
          `cwd = ${ROOT}\nstop-wait = 1\nstart-seconds = 0.1\n`,
      );
      await using server = await JobServer.start(path, target, text);
      const helped = await server.running("d:helped");
      await until("the helper", () => carriers(path).length >= 5, 20_000);
      const own = () =>
        carriers(path).filter((pid) => MACHINE.processes.environmentOf(pid, "CC_JOB") === "test.d:helped");
      await until("both of them", () => own().length === 2);
      const before = own();
      await server.kill();
      await using next = await JobServer.start(path, target, null);
      assert.equal(await next.running("d:helped"), helped);
      await next.until("d:inner", ({ state }) => state === "running");
      assert.deepEqual(own(), before);
      await next.stop();
      assert.deepEqual(carriers(path), []);
    },
  );

  test(on("max-memory: one that takes more is restarted"), async () => {
    using folder = tempFolder();
    const { path } = folder;
    const text = jobsConfig(
      path,
      ["d:one"],
      one(
        `command = node -e 'const a = Buffer.alloc(200e6, 1); setInterval(() => a, 1000)'\nmax-memory = 100 MB`,
      ),
    );
    await using server = await JobServer.start(path, target, text);
    await server.until("d:one", ({ restarts }) => restarts > 0, 20_000);
    assert.match(
      server.output,
      /d:one\.watch: it has [12]\d\d MiB, more than max-memory \(100 MiB\): restarting/,
    );
    await server.stop();
  });

  test(
    on("200 of them start within some seconds, are watched at little cost, and end with the server"),
    async () => {
      using folder = tempFolder();
      const { path } = folder;
      const names = Array.from({ length: 200 }, (_, i) => `d:j${i}`);
      const sections = names.map((name) => `[${name}]\ncommand = sleep 1000\nstart-seconds = 0.1\n`).join("");
      const began = performance.now();
      await using server = await JobServer.start(path, target, jobsConfig(path, names, sections));
      for (;;) {
        const running = (await server.views()).filter(({ state }) => state === "running");
        if (running.length === 200) break;
        assert.ok(performance.now() - began < 20_000, `${running.length} run`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const startMs = performance.now() - began;
      const stopping = performance.now();
      await server.stop();
      console.log(
        `${target.name}: 200 jobs: ${startMs.toFixed(0)} ms to start, ${
          (performance.now() - stopping).toFixed(0)
        } to stop`,
      );
      assert.deepEqual(carriers(path), []);
    },
  );
}
