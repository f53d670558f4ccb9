/** What systemd hears from a server, on a datagram socket of the test's own, and the unit that is printed for it. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { TARGETS, tempFolder, until } from "./helpers/env.ts";
import { run, ServerProcess } from "./helpers/process.ts";

const CONFIG = `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
[routes]
echo = h:echo
[h:echo]
handler = echo
`;

/** Prints each datagram with the monotonic clock at which it came. */
const RECEIVER = `
import json, socket, sys, time
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\\0" + name[1:] if name.startswith("@") else name)
print("bound", flush=True)
while True:
    text = s.recv(65536).decode()
    print(json.dumps({"text": text, "micros": time.monotonic_ns() // 1000}), flush=True)
`;

/** The service manager's end. */
class Manager {
  readonly socket: string;
  readonly #child: ChildProcess;
  #output = "";

  constructor(socket: string) {
    this.socket = socket;
    this.#child = spawn("python3", ["-c", RECEIVER, socket], { stdio: ["ignore", "pipe", "inherit"] });
    this.#child.stdout!.setEncoding("utf8").on("data", (chunk: string) => this.#output += chunk);
  }

  async bound(): Promise<void> {
    await until("the socket", () => this.#output.startsWith("bound\n"));
  }

  /** What came; systemd-notify asks in a message of its own whether it was heard. */
  get heard(): { text: string; micros: number }[] {
    return this.#output.split("\n").slice(1, -1).map((line) => JSON.parse(line))
      .filter(({ text }) => text.trim() !== "BARRIER=1");
  }

  /** The messages but those of the watchdog, whose number depends on time. */
  get states(): string[] {
    return this.heard.map(({ text }) => text.trim()).filter((text) => text !== "WATCHDOG=1");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#child.on("close", resolve));
    this.#child.kill("SIGKILL");
    await closed;
  }
}

const noPython = spawnSync("python3", ["-c", ""]).status === 0
  ? null
  : "python3 is missing, which plays systemd";

for (const target of TARGETS) {
  const on = target.name;

  for (const kind of ["a path", "an abstract name"]) {
    test(`${on}: systemd is told of start, life, reload and stop, on ${kind}`, async (t) => {
      if (noPython !== null) {
        console.log(`skipped: ${noPython}`);
        return t.skip?.(noPython);
      }
      using folder = tempFolder();
      const path = join(folder.path, "notify");
      await using manager = new Manager(kind === "a path" ? path : `@${path}`);
      await manager.bound();
      const ini = join(folder.path, "test.ini");
      writeFileSync(ini, CONFIG);
      await using server = new ServerProcess(target, [ini], {
        NOTIFY_SOCKET: manager.socket,
        WATCHDOG_USEC: "300000",
      });
      await until("READY", () => manager.states.length === 1);
      await until(
        "WATCHDOG, twice",
        () => manager.heard.filter(({ text }) => /^WATCHDOG=1/.test(text)).length >= 2,
      );
      process.kill(server.pid, "SIGHUP");
      await until("READY again", () => manager.states.length === 3);
      assert.equal((await server.stop()).code, 0);
      await until("STOPPING", () => manager.states.length === 4);
      const ready = `READY=1\nSTATUS=listening on ${server.endpoint}`;
      assert.deepEqual(manager.states.map((text) => text.replace(/\d{6,}$/, "N")), [
        ready,
        "RELOADING=1\nSTATUS=reloading\nMONOTONIC_USEC=N",
        ready,
        "STOPPING=1\nSTATUS=stopping",
      ]);
      const reloading = manager.heard.find(({ text }) => text.startsWith("RELOADING"))!;
      const ageMicros = reloading.micros - Number(/MONOTONIC_USEC=(\d+)/.exec(reloading.text)![1]);
      assert.ok(ageMicros >= 0 && ageMicros < 10_000_000, `the clock is the system's: ${ageMicros} µs ago`);
      assert.doesNotMatch(server.output, /WARNING/);
    });
  }

  test(`${on}: another process's watchdog is not ours; without the socket nothing fails`, async (t) => {
    if (noPython !== null) {
      console.log(`skipped: ${noPython}`);
      return t.skip?.(noPython);
    }
    using folder = tempFolder();
    await using manager = new Manager(join(folder.path, "notify"));
    await manager.bound();
    const ini = join(folder.path, "test.ini");
    writeFileSync(ini, CONFIG);
    await using server = new ServerProcess(target, [ini], {
      NOTIFY_SOCKET: manager.socket,
      WATCHDOG_USEC: "20000",
      WATCHDOG_PID: "1",
    });
    await until("READY", () => manager.states.length === 1);
    assert.equal((await run(["ping", "-c", "5", "-i", "0.02", server.endpoint], target)).code, 0);
    assert.equal((await server.stop()).code, 0);
    await until("STOPPING", () => manager.states.length === 2);
    assert.equal(manager.heard.length, 2);

    await using alone = new ServerProcess(target, [ini], { NOTIFY_SOCKET: join(folder.path, "none") });
    await alone.until(
      /WARNING CCServer\.notify: the service manager cannot be told: NOTIFY_SOCKET is \S+none/,
    );
    process.kill(alone.pid, "SIGHUP");
    assert.equal((await run(["ping", "-c", "1", alone.endpoint], target)).code, 0);
    assert.equal((await alone.stop()).code, 0);
    assert.equal(alone.output.match(/cannot be told/g)?.length, 1, "said once");
  });

  test(`${on}: --unit prints a unit that systemd takes`, async () => {
    using folder = tempFolder();
    const ini = join(folder.path, "my server.ini");
    const service = join(folder.path, "cc.service");
    const unit = async (text: string) => {
      writeFileSync(ini, text);
      const { code, output } = await run(["--unit", ini], target);
      assert.equal(code, 0, output);
      writeFileSync(service, output);
      const { status, stderr, error } = spawnSync("systemd-analyze", ["verify", service], {
        encoding: "utf8",
      });
      if (error) console.log("systemd-analyze is missing: the unit's syntax was not checked");
      else assert.equal(status, 0, stderr);
      return output;
    };
    const files = ["pidfile = /run/cc/a.pid", "logfile = /var/log/cc/a.log", "infofile = /run/cc/a.info"];
    const writes = await unit(CONFIG.replace("[routes]", `${files.join("\n")}\n[routes]`));
    assert.match(writes, new RegExp(`^ExecStart=/.* "${ini}"$`, "m"));
    for (
      const line of [
        "Type=notify",
        on === "node" ? "NotifyAccess=all" : "NotifyAccess=main",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "WatchdogSec=30",
        "Restart=on-failure",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "RuntimeDirectory=cc\nRuntimeDirectoryPreserve=yes\nReadWritePaths=-/run/cc\nReadWritePaths=-/var/log/cc",
        "CapabilityBoundingSet=",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
      ]
    ) {
      assert.ok(writes.includes(`\n${line}\n`), `${line} in\n${writes}`);
    }
    assert.match(writes, /^User=\w/m);
    assert.doesNotMatch(writes, /^MemoryDenyWriteExecute/m);
    // Private keys are read by whose they are.
    const signs = CONFIG.replace(
      "[routes]",
      "cms-profile = modern\ncms-keystore = keys\ncms-sign = host1\n[routes]",
    );
    assert.match(await unit(signs), /^# The keys in \/.*\/keys\/private must be this user's\.\nUser=\w/m);
    const plain = await unit(CONFIG.replace("127.0.0.1:*", "*:22"));
    assert.match(plain, /^DynamicUser=yes$/m);
    assert.match(plain, /^AmbientCapabilities=CAP_NET_BIND_SERVICE$/m);
    assert.doesNotMatch(plain, /ReadWritePaths|^User=/m);
    // Daemons: their folders, their time to end, and nothing kept from them that they may need.
    const jobs = "[h:job]\nhandler = jobmgr\npidfiledir = /run/mine\ndaemons = d:a, d:b\n" +
      "[d:a]\ncommand = x\nstop-wait = 20\n[d:b]\ncommand = x\nafter = d:a\nstop-wait = 20\nlogfile = /var/log/b/x\noutput = file\n" +
      "[d:not-started]\ncommand = x\npidfile = /nowhere/x.pid\n";
    const daemons = await unit(`${CONFIG}${jobs}`);
    assert.match(daemons, /^KillMode=mixed\nTimeoutStopSec=147$/m);
    assert.match(daemons, /^ReadWritePaths=-\/run\/mine\nReadWritePaths=-\/var\/log\/b$/m);
    assert.match(daemons, /^# Not with daemons, which may need it: ProtectSystem=strict$/m);
    assert.doesNotMatch(daemons, /^(NoNewPrivileges|CapabilityBoundingSet|Protect|Private|Restrict)/m);
    assert.doesNotMatch(daemons, /nowhere/);
    assert.match(
      await unit(`${CONFIG}${jobs.replace("stop-wait", "user = app\nstop-wait")}`),
      /^User=root$/m,
    );
    assert.equal((await run(["--unit"], target)).code, 64);
  });
}
