/** The command as an operator meets it: each runtime, and the compiled binary. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { ROOT, RUNTIME, TARGET, TARGETS, tempFolder, until } from "./helpers/env.ts";
import { run, ServerProcess } from "./helpers/process.ts";

const CONFIG = `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
[routes]
echo = h:echo
log = h:log
[h:echo]
handler = cc.handler.echo
[h:log]
handler = cc.handler.locallogger
`;

function file(folder: string, text: string, name = "test.ini"): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

for (const target of TARGETS) {
  const on = target.name;

  test(`${on}: help, version, example config, wrong usage`, async () => {
    const help = await run(["--help"], target);
    assert.equal(help.code, 0);
    assert.match(help.output, /usage:[\s\S]*--check[\s\S]*send[\s\S]*ping/);
    assert.match((await run(["-V"], target)).output, /^ccserver \d+\.\d+\.\d+ \(\w+ \d/);
    const ini = await run(["--ini"], target);
    assert.match(ini.output, /\[ccserver\]/);
    for (
      const args of [[], ["--nonsense"], ["a.ini", "b.ini"], ["send"], [
        "send",
        "tcp://127.0.0.1:1",
        "bad type",
      ], ["ping"]]
    ) {
      const { code, output } = await run(args, target);
      assert.equal(code, 64, `${args}: ${output}`);
      assert.match(output, /^ccserver: .*\nusage: ccserver/, `${args}`);
    }
  });

  test(`${on}: help fits a terminal of 80 columns, and says of every command what it takes`, async () => {
    const help = await run(["help"], target);
    assert.deepEqual([help.code, (await run(["--help"], target)).output], [0, help.output]);
    for (const line of help.output.split("\n")) assert.ok(line.length <= 80, line);
    const listed = help.output.split("\n\n")[2].matchAll(/^ {2}\[?(-?-?[a-z]+)/gm);
    const names = [...listed].map(([, name]) => name);
    assert.ok(names.includes("run") && names.includes("reload") && names.includes("completion"), `${names}`);
    assert.deepEqual(await run(["help", "send"], target), await run(["send", "--help"], target));
    // Elsewhere the same table is read.
    for (const name of names.filter((name) => name !== "help" && (target === TARGET || name === "run"))) {
      const one = await run(["help", name], target);
      assert.equal(one.code, 0, name);
      assert.match(one.output, /^ccserver .*[\s\S]*\n\nfor example:\n {2}ccserver /, name);
      const [above] = one.output.split("for example:");
      for (const line of above.split("\n")) assert.ok(line.length <= 80, line);
    }
  });

  test(`${on}: a word that is nearly a command is answered with that`, async () => {
    using folder = tempFolder();
    const said = async (...args: string[]) => {
      const { code, output } = await run(args, target);
      assert.equal(code, 64, output);
      return output.split("\n")[0];
    };
    assert.equal(
      await said("chek", "a.ini"),
      'ccserver: "chek" is no command, and no file. Did you mean "check"?',
    );
    assert.equal(await said("xyzzy"), 'ccserver: "xyzzy" is no command, and no file');
    assert.equal(await said("help", "pnig"), 'ccserver: "pnig" is no command. Did you mean "ping"?');
    assert.equal(
      await said("help", "ping", "send"),
      'ccserver: help on one command is expected, not "send" too',
    );
    assert.match(await said("completion"), /the name of a shell is needed: bash, zsh or fish/);
    assert.match(await said("completion", "bahs"), /none of bash, zsh and fish. Did you mean "bash"/);
    const { code, output } = await run([file(folder.path, CONFIG), "--nonsense"], target);
    assert.deepEqual([code, /Unknown option '--nonsense'/.test(output)], [64, true]);
  });

  test(`${on}: verbs do what the original's flags do`, async () => {
    using folder = tempFolder();
    const good = file(folder.path, CONFIG);
    assert.deepEqual(await run(["check", good], target), await run(["--check", good], target));
    assert.deepEqual(
      await run(["routes", "echo.request", good], target),
      await run(["--routes", "echo.request", good], target),
    );
    assert.deepEqual(await run(["ini"], target), await run(["--ini"], target));
    const unit = await run(["unit", good], target);
    assert.deepEqual([unit.code, /ExecStart=/.test(unit.output)], [0, true], unit.output);
    const config = file(folder.path, CONFIG.replace("[routes]", `pidfile = ${folder.path}/cc.pid\n[routes]`));
    await using server = new ServerProcess(target, ["run", config]);
    await server.until(/listening on/);
    assert.equal((await run(["reload", config], target)).code, 0);
    await server.until(/reload/i);
    assert.equal((await run(["stop", config], target)).code, 0);
    assert.deepEqual(await server.exited, { code: 0, signal: null });
  });

  test(`${on}: bash completes commands, their options, and files`, async () => {
    using folder = tempFolder();
    const { code, output } = await run(["completion", "bash"], target);
    assert.equal(code, 0);
    writeFileSync(join(folder.path, "ccserver.bash"), output);
    writeFileSync(join(folder.path, "my.ini"), "");
    const complete = (...words: string[]) => {
      const line = words.map((word) => `'${word}'`).join(" ");
      const script = `source ./ccserver.bash; COMP_WORDS=(ccserver ${line}); COMP_CWORD=${words.length}; ` +
        "_ccserver; printf '%s\\n' \"\${COMPREPLY[@]}\"";
      const { stdout, stderr } = spawnSync("bash", ["-c", script], { cwd: folder.path, encoding: "utf8" });
      assert.equal(stderr, "");
      return stdout.split("\n").filter((word) => word !== "").sort();
    };
    assert.deepEqual(complete("re"), ["reload"]);
    assert.deepEqual(complete("--che"), ["--check"]);
    assert.deepEqual(complete("help", "ch"), ["check"]);
    assert.deepEqual(complete("send", "--re"), ["--reply"]);
    writeFileSync(join(folder.path, "my own *.ini"), "");
    assert.deepEqual(complete("start", "m"), ["my own *.ini", "my.ini"]);
    for (const shell of ["zsh", "fish"]) {
      const { output } = await run(["completion", shell], target);
      for (const word of ["reload", "send", "completion", "reply"]) {
        assert.match(output, new RegExp(word), shell);
      }
    }
  });

  test(`${on}: --check tells all that is wrong, with exit code 78; a server does not start on it`, async () => {
    using folder = tempFolder();
    const bad = file(
      folder.path,
      CONFIG.replace("cc-role", "cc-rolle").replace("handler.echo", "handler.ecco"),
    );
    const expected = [
      `${bad}:3: unknown option "cc-rolle" in [ccserver]. Did you mean "cc-role"?`,
      `${bad}:8: unknown handler "cc.handler.ecco" in [h:echo]. Did you mean "echo"?`,
      "",
    ].join("\n");
    assert.deepEqual(await run(["--check", bad], target), { code: 78, output: expected });
    assert.deepEqual(await run([bad], target), { code: 78, output: expected });
    const good = file(folder.path, CONFIG);
    assert.deepEqual(await run(["--check", good], target), {
      code: 0,
      output: `${good}: ok, 2 routes, 2 handlers\n`,
    });
    const none = await run([join(folder.path, "none.ini")], target);
    assert.equal(none.code, 78);
    assert.match(none.output, /none\.ini:1: cannot read the config: no such file/);
  });

  test(`${on}: check warns of what is perhaps not meant, and --strict takes none of it`, async () => {
    using folder = tempFolder();
    const odd = file(
      folder.path,
      CONFIG.replace(/cc-socket = .*/, "cc-socket = tcp://*:*\nhttp-listen = 0.0.0.0:*") +
        "[h:lost]\nhandler = disposer\n[h:filter]\nhandler = filter\nforward-to = h:behind\n[h:behind]\nhandler = disposer\n",
    );
    const lines = readFileSync(odd, "utf8").split("\n");
    const at = (text: string) => `${odd}:${1 + lines.indexOf(text)}: warning: `;
    const expected = [
      `${at("cc-socket = tcp://*:*")}cc-role is local, but tcp://*:* can be reached from other hosts`,
      `${
        at("http-listen = 0.0.0.0:*")
      }http-listen is on 0.0.0.0: other hosts can read message types and endpoints there`,
      ...["lost", "filter", "behind"].map((name) =>
        `${
          at(`[h:${name}]`)
        }no route leads to [h:${name}], by itself or through other handlers: no message reaches it`
      ),
    ];
    const found = await run(["check", odd], target);
    assert.equal(found.code, 0, found.output);
    assert.deepEqual(found.output.trimEnd().split("\n").slice(0, -1), expected);
    const strict = await run(["check", "--strict", odd], target);
    assert.equal(strict.code, 78);
    assert.match(strict.output, /: 5 warnings, and --strict takes none\n$/);
    assert.equal((await run(["check", "--strict", file(folder.path, CONFIG)], target)).code, 0);
  });

  test(`${on}: send says at once why a server cannot be reached; without a reply its exit code is 1`, async () => {
    using folder = tempFolder();
    const none = join(folder.path, "none.sock");
    const cases: [string, RegExp][] = [
      ["tcp://127.0.0.1:1", /^ccserver: tcp:\/\/127\.0\.0\.1:1 cannot be reached: connection refused\n$/],
      [`ipc://${none}`, /^ccserver: ipc:\S+none\.sock cannot be reached: no such file or folder\n$/],
      [
        "tcp://no.such.host.invalid:1",
        /cannot be reached: the name "no\.such\.host\.invalid" cannot be resolved/,
      ],
    ];
    for (const [endpoint, expected] of cases) {
      const begin = performance.now();
      const { code, output } = await run(["send", "--timeout", "60", endpoint, "a.b"], target);
      assert.equal(code, 69);
      assert.match(output, expected);
      // A resolver that is away takes as long as it likes.
      if (!endpoint.includes("invalid")) assert.ok(performance.now() - begin < 30_000, "at once");
    }
    const ping = await run(["ping", "-c", "1", "-W", "0.3", "tcp://127.0.0.1:1"], target);
    assert.equal(ping.code, 1);
    assert.match(
      ping.output,
      /seq=1: no reply to "echo\.request" from \S+ within 0\.3 s: connection refused\n/,
    );
    await using server = await ServerProcess.start(CONFIG, target);
    const ask = ["send", "--reply", "--timeout", "0.3", server.endpoint, "log.info", "log_msg=x"];
    const asked = await run(ask, target);
    assert.deepEqual(
      [asked.code, asked.output],
      [1, `ccserver: no reply to "log.info" from ${server.endpoint} within 0.3 s\n`],
    );
  });

  test(`${on}: send takes a blob from stdin`, async () => {
    await using server = await ServerProcess.start(
      CONFIG.replace("[routes]", "[routes]\nblob = h:echo"),
      target,
    );
    const args = [
      ...target.command.slice(1),
      "send",
      "--blob",
      "-",
      server.endpoint,
      "log.info",
      "log_msg=with a blob",
    ];
    const { status, stderr } = spawnSync(target.command[0], args, {
      cwd: ROOT,
      input: "some bytes",
      encoding: "utf8",
    });
    assert.deepEqual([status, stderr], [0, ""]);
    await server.until(/with a blob/);
  });

  test(`${on}: --routes tells which handlers a type reaches`, async () => {
    using folder = tempFolder();
    const ini = file(folder.path, CONFIG.replace("log = h:log", "log = h:log\n* = h:log, h:echo"));
    assert.deepEqual(await run(["--routes", "log.info", ini], target), {
      code: 0,
      output:
        'h:log (locallogger), by the route "*"\nh:echo (echo), by the route "*"\nh:log (locallogger), by the route "log"\n',
    });
    assert.equal((await run(["--routes", "x.y", file(folder.path, CONFIG)], target)).code, 1);
    assert.equal((await run(["--routes", "x..y", ini], target)).code, 64);
  });

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    test(`${on}: ${signal} stops cleanly, exit code 0`, async () => {
      await using server = await ServerProcess.start(CONFIG, target);
      assert.deepEqual(await server.stop(signal), { code: 0, signal: null });
      assert.match(server.output, /stopped\n$/);
    });
  }

  test(`${on}: an upstream that is away holds the stop no longer than linger`, async () => {
    using folder = tempFolder();
    const ini = CONFIG.replace("[routes]", "zmq_linger = 400\n[routes]\npub = h:up") +
      "[h:up]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:1\nzmq_linger = 400\n";
    await using server = await ServerProcess.start(ini, target);
    const blob = file(folder.path, "contents", "blob");
    assert.equal((await run(["send", server.endpoint, "pub.x", "a=b", "--blob", blob], target)).code, 0);
    const begin = performance.now();
    assert.equal((await server.stop()).code, 0);
    const took = performance.now() - begin;
    assert.ok(took > 350 && took < 2500, `${took} ms`);
    assert.match(server.output, /dropped 1 message for tcp:\/\/127\.0\.0\.1:1: linger ran out/);
  });

  test(`${on}: a port in use: one clear line, exit code 69, nothing left behind`, async () => {
    using folder = tempFolder();
    await using server = await ServerProcess.start(CONFIG, target);
    const ini = file(
      folder.path,
      CONFIG.replace("tcp://127.0.0.1:*", server.endpoint).replace(
        "[routes]",
        `pidfile = ${folder.path}/x.pid\n[routes]`,
      ),
    );
    const { code, output } = await run([ini], target);
    assert.equal(code, 69);
    assert.equal(output, `ccserver: ${ini}: cannot listen on ${server.endpoint}: the address is in use\n`);
    assert.deepEqual(readdirSync(folder.path), ["test.ini"]);
  });

  test(`${on}: bad paths and addresses: one clear line each`, async () => {
    using folder = tempFolder();
    const told = async (change: (ini: string) => string) => {
      const { code, output } = await run([file(folder.path, change(CONFIG))], target);
      assert.equal(code, 69, output);
      return output;
    };
    const at = (socket: string) => (ini: string) => ini.replace("tcp://127.0.0.1:*", socket);
    assert.match(
      await told(at(`ipc://${folder.path}/none/cc.sock`)),
      /cannot listen on ipc:.*: no such file or folder\n$/,
    );
    assert.match(
      await told(at("tcp://192.0.2.1:5000")),
      /cannot listen on .*: the address is not one of this host\n$/,
    );
    assert.match(
      await told(at("tcp://no-such-name.invalid:5000")),
      /the name "no-such-name\.invalid" cannot be resolved/,
    );
    const logfile = (ini: string) =>
      ini.replace("[routes]", `logfile = ${folder.path}/none/none/x.log\n[routes]`);
    assert.match(
      await told(logfile),
      /cannot write the logfile \S*none\/none\/x\.log: no such file or folder/,
    );
    const pidfile = (ini: string) =>
      ini.replace("[routes]", `pidfile = ${folder.path}/none/none/x.pid\n[routes]`);
    assert.match(await told(pidfile), /cannot write the pidfile/);
  });

  test(`${on}: send and ping`, async () => {
    await using server = await ServerProcess.start(CONFIG, target);
    const { endpoint } = server;
    assert.deepEqual(await run(["send", endpoint, "log.warning", "log_msg=from the shell"], target), {
      code: 0,
      output: "",
    });
    await server.until(/\[send@[^\]]+\] [\d:,]+ WARNING from the shell/);
    const reply = await run(["send", "--reply", endpoint, "echo.request", "target=x", "n:=[1,2]"], target);
    assert.equal(reply.code, 0);
    assert.match(reply.output, /^echo\.response \{.*"orig_target":"x"/);
    const ping = await run(["ping", "-c", "3", "-i", "0.01", endpoint], target);
    assert.equal(ping.code, 0, ping.output);
    assert.match(
      ping.output,
      /^PING tcp:.*\n(echo from \S+: seq=\d time=\d+\.\d{3} ms\n){3}\n--- tcp:.* echo statistics ---\n3 sent, 3 received, 0% loss, time \d+ ms\nrtt min\/avg\/max\/mdev = [\d.]+\/[\d.]+\/[\d.]+\/[\d.]+ ms\n$/,
    );
    const gone = await run(["ping", "-c", "1", "-W", "0.2", "tcp://127.0.0.1:1"], target);
    assert.equal(gone.code, 1);
    assert.match(gone.output, /1 sent, 0 received, 100% loss/);
    const nobody = await run(["send", "--timeout", "0.2", "tcp://127.0.0.1:1", "x"], target);
    assert.equal(nobody.code, 69);
    assert.match(nobody.output, /tcp:\/\/127\.0\.0\.1:1 cannot be reached: connection refused/);
  });

  test(`${on}: logfile, pidfile; a second server on the same pidfile does not start`, async () => {
    using folder = tempFolder();
    const log = join(folder.path, "log", "test.log");
    mkdirSync(join(folder.path, "log"));
    const ini = file(
      folder.path,
      CONFIG.replace(
        "[routes]",
        `logfile = ${folder.path}/log/%(job_name)s.log\npidfile = ${folder.path}/%(job_name)s.pid\n[routes]`,
      ),
    );
    await using server = new ServerProcess(target, [ini]);
    await until("the log file", () => existsSync(log) && readFileSync(log, "utf8").includes("listening on"));
    assert.equal(readFileSync(join(folder.path, "test.pid"), "utf8"), `${server.pid}\n`);
    const second = await run([ini], target);
    assert.equal(second.code, 69);
    assert.match(second.output, new RegExp(`a server runs already, process ${server.pid}`));
    assert.equal((await server.stop()).code, 0);
    assert.equal(existsSync(join(folder.path, "test.pid")), false);
    assert.match(
      readFileSync(log, "utf8"),
      /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ INFO CCServer\.startup: listening on /,
    );
    // A pidfile of a process that is gone, or of another program, is taken over.
    for (const stale of ["999999999", String(process.pid), "junk"]) {
      writeFileSync(join(folder.path, "test.pid"), stale);
      await using again = new ServerProcess(target, [ini]);
      const pidfile = join(folder.path, "test.pid");
      // It is removed before it is made anew.
      await until("its pid", () => {
        try {
          return readFileSync(pidfile, "utf8") === `${again.pid}\n`;
        } catch {
          return false;
        }
      });
      await until(
        "the start",
        () => readFileSync(log, "utf8").includes(` ${again.pid} INFO CCServer.startup`),
      );
      assert.equal((await again.stop()).code, 0);
    }
  });

  test(`${on}: log-level says what is logged, a reload takes it over, and -v goes before it`, async () => {
    using folder = tempFolder();
    const leveled = (level: string, type: string) =>
      file(
        folder.path,
        CONFIG.replace("[routes]", `log-level = ${level}\n[routes]\n${type} = h:log`),
        "level.ini",
      );
    const config = leveled("debug", "one");
    await using server = new ServerProcess(target, [config]);
    await server.until(/listening on/);
    assert.equal((await run(["ping", "-c", "1", server.endpoint], target)).code, 0);
    await server.until(/ DEBUG CCServer\.peer/);
    const reload = (level: string, type: string) => {
      leveled(level, type);
      process.kill(server.pid, "SIGHUP");
    };
    reload("warning", "two");
    await server.until(/options changed: log-level/);
    // This one is said by nobody, and the next is.
    const before = server.output.length;
    reload("info", "three");
    await until(
      "the next reload to be told",
      () => {
        reload("info", `more${performance.now().toFixed(0)}`);
        return /INFO CCServer\.reload: routes added: more/.test(server.output);
      },
      10_000,
      200,
    );
    assert.doesNotMatch(server.output.slice(before), /added: three|DEBUG/);
    await using loud = new ServerProcess(target, ["-v", leveled("error", "one")]);
    await loud.until(/ INFO .*listening on/);
    await using quiet = new ServerProcess(target, [leveled("wrong", "one")]);
    await quiet.until(/level\.ini:4: log-level = wrong: expected error, warning, info, debug, trace/);
  });

  test(`${on}: -q and -v change what is logged`, async () => {
    using folder = tempFolder();
    const ini = file(folder.path, CONFIG);
    await using verbose = new ServerProcess(target, ["-v", ini]);
    await verbose.until(/^\d\d:\d\d:\d\d,\d{3} INFO CCServer\.startup: listening on/m);
    assert.equal((await run(["ping", "-c", "1", verbose.endpoint], target)).code, 0);
    await verbose.until(/^\d\d:\d\d:\d\d,\d{3} DEBUG CCServer\.peer: .* connected as/m);
    await using quiet = new ServerProcess(target, [
      "-q",
      file(folder.path, CONFIG.replace("127.0.0.1", "0.0.0.0")),
    ]);
    await quiet.until(
      /WARNING CCServer\.startup: cc-role is local, but tcp:\/\/0\.0\.0\.0:\* can be reached from other hosts/,
    );
    await quiet.stop();
    assert.doesNotMatch(quiet.output, /INFO/);
  });

  test(`${on}: a killed server's socket file is taken over`, async () => {
    using folder = tempFolder();
    const ini = CONFIG.replace("tcp://127.0.0.1:*", `ipc://${folder.path}/cc.sock`);
    {
      await using _killed = await ServerProcess.start(ini, target);
    }
    assert.equal(existsSync(join(folder.path, "cc.sock")), true, "SIGKILL leaves the file");
    await using server = await ServerProcess.start(ini, target);
    assert.equal((await run(["ping", "-c", "1", server.endpoint], target)).code, 0);
  });

  test(`${on}: --example starts with no config at all and says what to try`, async () => {
    await using server = new ServerProcess(target, ["--example", "tcp://127.0.0.1:*"]);
    const [, endpoint] = await server.until(/Try, in another terminal:\n.* ping (tcp:\/\/127\.0\.0\.1:\d+)/);
    assert.ok(server.output.split("\n").length < 25, "one screen");
    assert.equal((await run(["ping", "-c", "1", endpoint], target)).code, 0);
    // Without one it has a port that is easy to remember: free or not, what is printed is right.
    await using fixed = new ServerProcess(target, ["--example"]);
    await fixed.until(/ listens on tcp:\/\/127\.0\.0\.1:10000 |Try another port: .* --example tcp:/);
    if (/Try another port/.test(fixed.output)) {
      assert.match(fixed.output, /cannot listen on tcp:\/\/127\.0\.0\.1:10000: the address is in use/);
      assert.equal((await fixed.exited).code, 69);
    }
    const { code, output } = await run(["--example", endpoint], target);
    assert.equal(code, 69, output);
    assert.match(output, /the address is in use\n$/);
    assert.equal((await run(["--example", "tcp://nonsense"], target)).code, 78);
    assert.equal((await run(["--example", endpoint, "more"], target)).code, 64);
  });

  test(`${on}: the chain of the examples routes log, echo, pub and task, and carries replies back`, async () => {
    using folder = tempFolder();
    const example = (name: string) => readFileSync(join(ROOT, "examples", name), "utf8");
    const far = await ServerProcess.start(
      example("chain-remote.ini").replace(/127\.0\.0\.1:\d+/, "127.0.0.1:*").replace(
        "cc-role",
        "cc-stats = 2\ncc-role",
      ),
      target,
    );
    await using _far = far;
    const near = await ServerProcess.start(
      example("chain-local.ini").replace("cc-socket = tcp://127.0.0.1:10001", "cc-socket = tcp://127.0.0.1:*")
        .replaceAll("tcp://127.0.0.1:22632", far.endpoint),
      target,
    );
    await using _near = near;
    await near.until(/h:proxycc\.connect: tcp:.* is up/);
    const reply = await run(["send", "--reply", near.endpoint, "echo.request", "target=far away"], target);
    assert.match(reply.output, /^echo\.response \{"orig_hostname":"[^"]+","orig_target":"far away"/);
    const blob = file(folder.path, "contents", "blob");
    for (
      const args of [["log.info", "log_msg=stays here"], ["pub.infofile", "filename=x", "--blob", blob], [
        "task.send.1",
        "task_host=x",
      ]]
    ) {
      assert.deepEqual(await run(["send", near.endpoint, ...args], target), { code: 0, output: "" });
    }
    await near.until(/h:locallog\.handle: \[send@[^\]]+\] [\d:,]+ INFO stays here/);
    assert.equal((await near.stop()).code, 0);
    assert.equal((await far.stop()).code, 0);
    for (const type of ["echo.request", "pub.infofile", "task.send.<uid>"]) {
      assert.match(far.output, new RegExp(`count\\.ok\\.msg\\.${type.replaceAll(".", "\\.")}: \\d`));
    }
    assert.doesNotMatch(far.output, /stays here/);
    assert.doesNotMatch(near.output + far.output, /dropp|WARNING/);
  });

  test(`${on}: a handler of one's own, in TypeScript, as the example has it`, async (t) => {
    if (on === "node") {
      console.log("skipped: Node 20 runs no TypeScript, the next test loads JavaScript");
      const { code, output } = await run(["--check", "examples/count_words.ini"], target);
      assert.equal(code, 78);
      assert.match(
        output,
        /count_words\.ini:\d+: \[h:words\]: cannot load .*count_words\.ts: it is TypeScript, which node 20\S* does not run: name a \.js file, or run the server in the binary, on Bun or on Deno\n$/,
      );
      return t.skip?.("Node 20 runs no TypeScript");
    }
    await using server = new ServerProcess(target, ["examples/count_words.ini"]);
    await server.until(/listening on/);
    const { code, output } = await run([
      "send",
      "--reply",
      server.endpoint,
      "text.count",
      "text=how many words are these",
    ], target);
    assert.equal(code, 0, output);
    assert.match(output, /^text\.counted \{.*"words":5/);
    assert.match(
      (await run(["send", "--reply", server.endpoint, "text.count"], target)).output,
      /^error .*is missing/,
    );
  });

  test(`${on}: a handler of one's own in JavaScript; one that cannot be loaded is told by --check`, async () => {
    using folder = tempFolder();
    file(
      folder.path,
      "export default ({AnyBody}) => ({ create: ({options}) => ({ plan: () => ({open: AnyBody}), handle(m) { " +
        "m.reply({type: 'mine', fields: {o: options.o}}); return 'ok'; } }) });",
      "mine.mjs",
    );
    file(folder.path, "export const nothing = 1;", "empty.mjs");
    file(folder.path, "this is not JavaScript", "broken.mjs");
    const ini = (name: string) =>
      file(
        folder.path,
        CONFIG.replace("log = h:log", "log = h:log\nmine = h:mine") +
          `[h:mine]\nhandler = ./${name}\no = 5\n`,
      );
    {
      await using server = new ServerProcess(target, [ini("mine.mjs")]);
      await server.until(/listening on/);
      assert.match(
        (await run(["send", "--reply", server.endpoint, "mine.x"], target)).output,
        /^mine \{"o":"5"/,
      );
    }
    for (
      const [name, why] of [
        ["empty.mjs", /its default export is no handler: there is no function "create"/],
        [
          "broken.mjs",
          /cannot load/,
        ],
        ["none.mjs", /cannot load/],
      ] as const
    ) {
      const { code, output } = await run(["--check", ini(name)], target);
      assert.equal(code, 78, output);
      assert.match(output, why);
      assert.match(output, /test\.ini:13: \[h:mine\]/);
      assert.equal((await run([ini(name)], target)).code, 78);
    }
  });

  test(`${on}: zmq-engine = libzmq runs where its addon does, and is a clear error elsewhere`, async () => {
    using folder = tempFolder();
    const ini = file(folder.path, CONFIG.replace("cc-role", "zmq-engine = libzmq\ncc-role"));
    if (RUNTIME !== "bun") {
      await using server = new ServerProcess(target, [ini]);
      await server.until(/engine libzmq 4\.\d/);
      return;
    }
    const { code, output } = await run([ini], target);
    assert.equal(code, 69);
    assert.match(
      output,
      /^ccserver: .*zmq-engine = libzmq needs Node or Deno: .* Use zmq-engine = native\n$/,
    );
  });
}
