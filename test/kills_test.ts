/**
 * Jobs and their server are killed, stopped, reloaded and told to stop, under seeds: nothing runs twice, nothing that is not
 * a job's is signalled, and in the end the states are right and nothing is left.
 *
 *     npm test -- kills                                some rounds of a fresh seed
 *     npm test -- kills --seed=17 --on=bun             the round of that seed first; times differ from run to run
 *     npm test -- kills --seed=17 --seconds=600        more of them: seeds 17, 18, …
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { ControlClient } from "../src/commands/control_client.ts";
import type { JobView } from "../src/contracts/jobs.ts";
import { errorText } from "../src/errors.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { freshSeed, secondsFor, seeded, SLOW_TARGETS, type Target, tempFolder } from "./helpers/env.ts";
import { carriers, isGone, jobsConfig, JobServer, textOf, untilGone } from "./helpers/jobs.ts";

/** What jobs may take to be as they should, and a server to end. */
const SETTLE_MS = 20_000;
const STOP_MS = 40_000;

/** Lines of a shell, by the kind of job; all that they start holds the job's lock, at descriptor 9. */
const KINDS = {
  plain: "exec sleep 1000",
  deaf: "trap '' INT TERM; while :; do sleep 0.2; done",
  ends: "sleep 0.$(($$ % 9)); exit $(($$ % 2))",
  forks: "sleep 1000 & sleep 1001 & wait; sleep 1002",
  session: "setsid sleep 1000 & exec sleep 1001",
  deafSession: `setsid sh -c 'trap "" INT TERM; while :; do sleep 0.2; done' & exec sleep 1001`,
  closes: "exec >&- 2>&-; exec sleep 1000",
  floods: "yes 0123456789 | head -c 2000000; exec sleep 1000",
  stops: "kill -STOP $$; exec sleep 1000",
  // Empty from when its record is written: before that, only its environment tells whose it is.
  empty: `until [ "$(cat "$CC_JOB_PIDFILE" 2>/dev/null)" = $$ ]; do sleep 0.02; done
    exec env -i KILLS_VERSION=$KILLS_VERSION sh -c 'sleep 1000 & exec sleep 1001'`,
  script: "exec sleep 1000",
} as const;
type Kind = keyof typeof KINDS;
const NAMES = Object.keys(KINDS) as Kind[];

/** `$1` the job, `$2` its kind. One that finds the lock taken tells by whom. */
const jobScript = (folder: string) =>
  `#!/bin/sh
exec 9>>"${folder}/lock.$1"
flock -n 9 || {
  for fd in /proc/[0-9]*/fd/9; do
    [ "$(readlink $fd)" = "${folder}/lock.$1" ] || continue
    pid=\${fd#/proc/} pid=\${pid%/fd/9}
    [ $pid = $$ ] || echo "$1: $$ finds $pid: $(tr '\\0' ' ' </proc/$pid/cmdline), $(cat /proc/$pid/stat)" >>"${folder}/twice"
  done
  echo "$1: $$ is one of two" >>"${folder}/twice"
  exit 1
}
case $2 in
${NAMES.map((kind) => `${kind})\n  ${KINDS[kind]} ;;\n`).join("")}esac
`;

const daemonScript = (folder: string, name: string) =>
  `#!/bin/sh
setsid ${folder}/job.sh ${name} script </dev/null >/dev/null 2>&1 &
echo $! > "$CC_JOB_PIDFILE"
`;

interface Planned {
  readonly name: string;
  readonly kind: Kind;
  readonly options: string;
  /** Another one is another section. */
  version: number;
  after: string | null;
}

class Round {
  readonly #random: () => number;
  readonly #folder: string;
  readonly #target: Target;
  readonly #jobs: Planned[] = [];
  /** Those that the config does not name for now. */
  readonly #spare: Planned[] = [];
  readonly #servers: JobServer[] = [];
  readonly #done: string[] = [];
  /** What an operator has stopped, and what may be stopped or not. */
  readonly #stopped = new Set<string>();
  readonly #unsure = new Set<string>();
  readonly #pidfilesGone = new Set<string>();
  /** Removed before the server that runs was started, which does not know of their files. */
  readonly #orphans = new Set<string>();
  #reloads = false;
  /** Operators who are not waited for. */
  readonly #operators: Promise<void>[] = [];
  readonly #stranger: ChildProcess;
  /** What was seen of a job last, by the server. */
  readonly #seen = new Map<string, { server: JobServer; version: number; view: JobView }>();
  readonly #began = Date.now();

  constructor(seed: number, folder: string, target: Target) {
    this.#random = seeded(seed);
    this.#folder = folder;
    this.#target = target;
    this.#stranger = spawn("sleep", ["1004"], { stdio: "ignore", detached: true });
    this.#plan();
  }

  #between(from: number, to: number): number {
    return from + Math.floor(this.#random() * (to - from + 1));
  }

  #pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.#random() * list.length)];
  }

  #chance(part: number): boolean {
    return this.#random() < part;
  }

  async #pause(mostMs: number): Promise<void> {
    const ms = this.#between(0, mostMs);
    this.#done.push(`${ms} ms`);
    await new Promise((resolve) => setTimeout(resolve, ms));
  }

  #plan(): void {
    writeFileSync(join(this.#folder, "job.sh"), jobScript(this.#folder));
    chmodSync(join(this.#folder, "job.sh"), 0o755);
    const kinds = [...NAMES];
    const count = this.#between(5, 8);
    for (let i = 0; i < count; i++) {
      const [kind] = kinds.splice(Math.floor(this.#random() * kinds.length), 1);
      const name = `d:${kind}`;
      let start: string;
      if (kind === "script") {
        const file = join(this.#folder, "daemon.sh");
        writeFileSync(file, daemonScript(this.#folder, name));
        chmodSync(file, 0o755);
        start = `script = ${file}\nstart-seconds = 2`;
      } else {start = `command = ${this.#folder}/job.sh ${name} ${kind}\nstart-seconds = 0.${
          this.#between(0, 3)
        }`;}
      const options = `${start}\nstop-signal = ${this.#chance(0.8) ? "TERM" : "INT"}\n` +
        `stop-wait = 0.3\nwatchdog-formula-b = 0.2\nwatchdog-formula-cap = 0.5\n`;
      const job = { name, kind, options, version: 0, after: null as string | null };
      const others = this.#jobs.filter((other) => other.kind !== "ends");
      if (others.length > 0 && this.#chance(0.3)) job.after = this.#pick(others).name;
      this.#jobs.push(job);
    }
    for (let left = count - this.#between(4, 6); left > 0; left--) this.#remove();
    this.#write();
  }

  #write(): void {
    const sections = this.#jobs.map(({ name, options, version, after }) =>
      `[${name}]\n${options}environment = KILLS_VERSION=${version}\n${
        after === null ? "" : `after = ${after}\n`
      }`
    );
    writeFileSync(
      join(this.#folder, "test.ini"),
      jobsConfig(this.#folder, this.#jobs.map(({ name }) => name), sections.join("")),
    );
  }

  #remove(job = this.#pick(this.#jobs)): void {
    if (this.#jobs.length < 3) return;
    // While no server runs: nothing names its process any more, and it lives on.
    if (job.kind === "empty" && this.#servers.length > 0) return;
    this.#jobs.splice(this.#jobs.indexOf(job), 1);
    this.#done.push(`${job.name} removed`);
    this.#stopped.delete(job.name);
    this.#spare.push(job);
    for (const other of this.#jobs) {
      if (other.after !== job.name) continue;
      other.after = null;
      this.#change(other);
    }
    if (!this.#jobs.some(({ name }) => name === job.after)) job.after = null;
  }

  #change(job: Planned): void {
    job.version++;
    this.#done.push(`${job.name} changed`);
    if (this.#stopped.delete(job.name)) this.#unsure.add(job.name);
  }

  #add(job: Planned): void {
    this.#done.push(`${job.name} added`);
    this.#spare.splice(this.#spare.indexOf(job), 1);
    if (!this.#jobs.some(({ name }) => name === job.after)) job.after = null;
    this.#jobs.push(job);
    this.#orphans.delete(job.name);
  }

  /** Another config. */
  #mutate(): void {
    for (let left = this.#between(1, 2); left > 0; left--) {
      const what = this.#random();
      if (what < 0.5) this.#change(this.#pick(this.#jobs));
      else if (what < 0.75 || this.#spare.length === 0) this.#remove();
      else {
        this.#add(this.#spare[0]);
      }
    }
    this.#write();
  }

  get #server(): JobServer {
    return this.#servers[this.#servers.length - 1];
  }

  #start(): void {
    this.#servers.push(JobServer.spawn(this.#folder, this.#target));
    this.#stopped.clear();
    this.#unsure.clear();
    this.#reloads = false;
    for (const { name } of this.#spare) this.#orphans.add(name);
  }

  /** Kills what there may be of a server, and starts one. */
  async #startAnew(): Promise<void> {
    await this.#pause(this.#chance(0.5) ? 0 : 300);
    if (this.#chance(0.4)) this.#mutate();
    this.#start();
    while (this.#chance(0.2)) {
      await this.#pause(400);
      this.#done.push("kill that one");
      await this.#server.kill();
      this.#start();
    }
    if (this.#chance(0.5)) await this.#server.listening();
  }

  #signal(pid: number, signal: "SIGKILL" | "SIGSTOP" | "SIGCONT" | "SIGHUP" | "SIGTERM"): void {
    try {
      process.kill(pid, signal);
    } catch {
      // It has just ended.
    }
  }

  /** Processes that hold a job's lock, its leader first. */
  #holders(name: string): number[] {
    const found = holders(this.#folder).filter((holder) => holder.name === name).map(({ pid }) => pid);
    return found.sort((a, b) => Number(isLeader(b)) - Number(isLeader(a)) || a - b);
  }

  /** One thing that happens, to one job or to all. */
  async #act(): Promise<void> {
    const job = this.#pick(this.#jobs);
    const { name } = job;
    const actions: Record<string, [weight: number, act: () => Promise<void> | void]> = {
      "kill the leader": [2, () => {
        const [pid] = this.#holders(name);
        if (pid !== undefined) this.#signal(pid, "SIGKILL");
      }],
      "kill a process": [2, () => {
        const own = carriers(this.#folder).filter((pid) =>
          MACHINE.processes.environmentOf(pid, "CC_SECTION") === name
        );
        const all = [...new Set([...own, ...this.#holders(name)])];
        if (all.length > 0) this.#signal(this.#pick(all), "SIGKILL");
      }],
      "kill the server": [4, async () => {
        await this.#server.kill();
        await this.#startAnew();
      }],
      "kill the server and some": [2, async () => {
        await this.#server.kill();
        for (const { name } of this.#jobs) {
          const [pid] = this.#holders(name);
          if (pid !== undefined && this.#chance(0.4)) this.#signal(pid, "SIGKILL");
        }
        await this.#startAnew();
      }],
      // What the earlier server left of it may still end when it is there again.
      "kill the server, remove a job, and add it": [
        job.kind === "empty" || this.#jobs.length < 3 ? 0 : 2,
        async () => {
          // One that takes its time to end.
          const one = this.#jobs.find(({ kind }) => kind === "deaf") ?? job;
          await this.#server.kill();
          this.#remove(one);
          this.#write();
          this.#start();
          await this.#server.listening();
          await this.#pause(100);
          this.#add(one);
          this.#write();
          this.#hup();
        },
      ],
      "reload": [3, async () => {
        await this.#server.listening();
        this.#mutate();
        this.#hup();
      }],
      "reload what is broken": [1, async () => {
        await this.#server.listening();
        writeFileSync(join(this.#folder, "test.ini"), `${textOf(join(this.#folder, "test.ini"))}\n[${name}`);
        this.#hup();
        await this.#pause(100);
        this.#write();
      }],
      "reload what is not there": [1, async () => {
        await this.#server.listening();
        rmSync(join(this.#folder, "test.ini"));
        this.#hup();
        await this.#pause(100);
        this.#write();
        if (this.#chance(0.5)) this.#hup();
      }],
      "SIGSTOP": [1, () => {
        const pids = this.#holders(name);
        if (pids.length > 0) this.#signal(this.#pick(pids), "SIGSTOP");
      }],
      "SIGCONT": [0.5, () => {
        for (const pid of this.#holders(name)) this.#signal(pid, "SIGCONT");
      }],
      "an operator": [4, () => this.#operate()],
      "SIGTERM": [1.5, async () => {
        await this.#server.listening();
        if (this.#chance(0.6)) await this.#stop();
        else {
          this.#signal(this.#server.process.pid, "SIGTERM");
          await this.#pause(400);
          this.#done.push("SIGKILL");
          this.#signal(this.#server.process.pid, "SIGKILL");
          await this.#server.process.exited;
        }
        await this.#startAnew();
      }],
      "remove a pidfile": [1, () => {
        rmSync(join(this.#folder, this.#chance(0.8) ? `test.${name}.pid` : "test.pid"), { force: true });
        this.#pidfilesGone.add(name);
      }],
      // What has emptied its environment is known by its record alone.
      "its pid is a stranger's": [job.kind === "empty" ? 0 : 1.5, async () => {
        await this.#server.kill();
        const [pid] = this.#holders(name);
        if (pid !== undefined) {
          this.#signal(pid, "SIGKILL");
          await untilGone(pid);
        }
        const file = join(this.#folder, `test.${name}.state`);
        const text = textOf(file);
        if (text !== "") {
          writeFileSync(file, JSON.stringify({ ...JSON.parse(text), pid: this.#stranger.pid }));
          writeFileSync(join(this.#folder, `test.${name}.pid`), String(this.#stranger.pid));
        }
        await this.#startAnew();
      }],
    };
    const entries = Object.entries(actions);
    let at = this.#random() * entries.reduce((sum, [, [weight]]) => sum + weight, 0);
    const [what, [, act]] = entries.find(([, [weight]]) => (at -= weight) < 0)!;
    this.#done.push(`${what} (${name})`);
    await act();
  }

  #hup(): void {
    this.#reloads = true;
    this.#signal(this.#server.process.pid, "SIGHUP");
  }

  async #operate(): Promise<void> {
    await this.#server.listening();
    const action = this.#pick(["start", "stop", "restart"]);
    const names = this.#jobs.map(({ name }) => name).filter(() => this.#chance(0.3));
    if (names.length === 0) names.push(this.#jobs[0].name);
    this.#done.push(`${action} ${names.join(" ")}`);
    const reloads = this.#reloads;
    const asked = ask(this.#folder, action, names).then((error) => {
      if (error !== null) this.#done.push(`(${action}: ${error})`);
      return error === null;
    });
    if (this.#chance(0.5)) {
      // Nobody knows in what order these come.
      this.#operators.push(asked.then(() => {
        for (const name of names) {
          this.#stopped.delete(name);
          this.#unsure.add(name);
        }
      }));
      return;
    }
    const went = await asked;
    for (const name of names) {
      this.#stopped.delete(name);
      if (action !== "stop" || !went || reloads || this.#operators.length > 0) this.#unsure.add(name);
      else {
        this.#unsure.delete(name);
        this.#stopped.add(name);
      }
    }
  }

  async play(): Promise<void> {
    this.#start();
    await this.#pause(1000);
    for (let left = this.#between(5, 12); left > 0; left--) {
      await this.#act();
      await this.#pause(this.#chance(0.5) ? 30 : 500);
      this.#checkAll();
    }
    await this.#settle();
    await this.#stop();
  }

  #checkAll(): void {
    assert.equal(textOf(join(this.#folder, "twice")), "", "two at once");
    assert.ok(!isGone(this.#stranger.pid!), "a stranger was signalled");
  }

  /** Waits until all is as the config says. */
  async #settle(): Promise<void> {
    await Promise.all(this.#operators);
    await this.#server.listening();
    this.#write();
    this.#signal(this.#server.process.pid, "SIGHUP");
    this.#done.push("settle");
    const end = performance.now() + SETTLE_MS;
    for (;;) {
      const views = await this.#server.views();
      const unsure = [...this.#unsure].filter((name) => views.some((view) => view.name === name));
      if (unsure.length > 0) {
        if (await ask(this.#folder, "start", unsure) === null) {
          for (const name of unsure) this.#unsure.delete(name);
        }
      }
      for (const name of this.#unsure) {
        if (!this.#jobs.some((job) => job.name === name)) this.#unsure.delete(name);
      }
      for (const view of views) this.#look(view);
      const wrong = this.#wrong(views);
      this.#checkAll();
      if (wrong === null && this.#unsure.size === 0) return;
      if (performance.now() > end) throw new Error(`after ${SETTLE_MS / 1000} s: ${wrong}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Does what a server tells of a job follow from what it told before? */
  #look(view: JobView): void {
    const { name, pid, state, since, restarts } = view;
    assert.ok(Number.isInteger(restarts) && restarts >= 0, `${name}: ${restarts} restarts`);
    assert.ok(since >= this.#began - 1000 && since <= Date.now() + 1000, `${name}: since ${since}`);
    const before = this.#seen.get(name);
    // The section that it runs by is known of what runs.
    const version = pid === null ? -1 : Number(MACHINE.processes.environmentOf(pid, "KILLS_VERSION") ?? -1);
    if (
      before !== undefined && before.server === this.#server && before.version === version && version >= 0
    ) {
      const text = `${JSON.stringify(before.view)}, then ${JSON.stringify(view)}`;
      assert.ok(since >= before.view.since || state === "running", `${name}: ${text}`);
      // One of a script that goes to the background is another process, of the same start.
      const script = name === "d:script";
      if (before.view.pid === pid) assert.equal(restarts, before.view.restarts, text);
      else if (before.view.pid !== null && !script) assert.ok(restarts > before.view.restarts, text);
    }
    this.#seen.set(name, { server: this.#server, version, view });
  }

  /** What is not as it should be; null: nothing. */
  #wrong(views: readonly JobView[]): string | null {
    const names = this.#jobs.map(({ name }) => name).join(" ");
    const told = views.map(({ name }) => name).join(" ");
    if (names !== told) return `there should be ${names}, not ${told}`;
    const all = holders(this.#folder);
    const lost = all.find(({ name }) => !this.#jobs.some((job) => job.name === name));
    if (lost !== undefined) return `process ${lost.pid} of ${lost.name}, which was removed, lives`;
    for (const job of this.#jobs) {
      const view = views.find(({ name }) => name === job.name)!;
      const why = this.#wrongOf(job, view, all.filter(({ name }) => name === job.name).map(({ pid }) => pid));
      if (why !== null) return `${why}: ${JSON.stringify(view)}`;
    }
    return null;
  }

  #wrongOf({ name, kind, version, after }: Planned, { state, pid }: JobView, own: number[]): string | null {
    const { processes } = MACHINE;
    if (this.#stopped.has(name)) {
      if (state !== "stopped" || pid !== null) return `${name} should be stopped`;
      return own.length > 0 ? `${name} is stopped, and ${own} live` : null;
    }
    if (kind === "ends") return state === "stopped" || state === "failed" ? `${name} should run` : null;
    if (after !== null && this.#stopped.has(after) && state === "starting") return null;
    if (state !== "running" || pid === null) return `${name} should run`;
    if (isGone(pid)) return `${name}: process ${pid} is gone`;
    if (!own.includes(pid)) return `${name}: not ${pid} holds its lock, but ${own}`;
    if (processes.environmentOf(pid, "KILLS_VERSION") !== `${version}`) return `${name} has an old section`;
    const started = processes.look(pid)?.started ?? 0;
    const strange = own.find((other) => (processes.look(other)?.started ?? started) < started);
    if (strange !== undefined) return `${name}: ${strange} is older than its leader`;
    const record = textOf(join(this.#folder, `test.${name}.state`));
    if (record === "" || JSON.parse(record).pid !== pid) return `${name}: its state file has ${record}`;
    const pidfile = textOf(join(this.#folder, `test.${name}.pid`));
    if (Number(pidfile) !== pid && !(pidfile === "" && this.#pidfilesGone.has(name))) {
      return `${name}: its pidfile has "${pidfile}"`;
    }
    return null;
  }

  /** Ends the server by SIGTERM: nothing is left. */
  async #stop(): Promise<void> {
    const { process: server } = this.#server;
    const stopped = server.stop();
    let cancel = () => {};
    const late = new Promise<never>((_, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`the server does not end in ${STOP_MS / 1000} s`)),
        STOP_MS,
      );
      cancel = () => clearTimeout(timer);
    });
    const { code, signal } = await Promise.race([stopped, late]).finally(cancel);
    this.#done.push("stopped");
    assert.equal(signal ?? code, 0, "the end of the server");
    const left = [...carriers(this.#folder).map((pid) => ({ pid, name: "?" })), ...holders(this.#folder)];
    assert.deepEqual(left.map(({ pid, name }) => `${name} ${pid}: ${textOf(`/proc/${pid}/cmdline`)}`), []);
    const orphans = [...this.#orphans].map((name) => `test.${name}.`);
    const files = readdirSync(this.#folder).filter((name) =>
      name.startsWith("test.") && name !== "test.ini" && !orphans.some((orphan) => name.startsWith(orphan)) &&
      // What a server was killed in the middle of writing.
      !/\.\d+$/.test(name)
    );
    assert.deepEqual(files, [], "files that are left");
    assert.doesNotMatch(this.output, /crashed|internal error|is not watched any more|by SIGKILL either/);
    this.#checkAll();
  }

  get output(): string {
    return this.#servers.map(({ output, process: { pid } }) => `--- server ${pid}\n${output}`).join("");
  }

  get story(): string {
    return this.#done.join("; ");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server[Symbol.asyncDispose]();
    for (const { pid } of holders(this.#folder)) this.#signal(pid, "SIGKILL");
    await Promise.all(this.#operators);
    this.#stranger.kill("SIGKILL");
  }
}

/** Processes that hold the lock of a job of this folder. */
function holders(folder: string): { pid: number; name: string }[] {
  const found: { pid: number; name: string }[] = [];
  for (const { pid, state } of MACHINE.processes.list()) {
    if (state === "Z") continue;
    try {
      const file = readlinkSync(`/proc/${pid}/fd/9`);
      if (file.startsWith(`${folder}/lock.`)) found.push({ pid, name: file.slice(folder.length + 6) });
    } catch {
      // It has no such descriptor, or has ended.
    }
  }
  return found;
}

function isLeader(pid: number): boolean {
  return MACHINE.processes.look(pid)?.session === pid;
}

/** An operator, on a connection of its own; what went wrong, if anything. */
async function ask(folder: string, action: string, names: string[]): Promise<string | null> {
  let client: ControlClient | null = null;
  try {
    client = await ControlClient.connect(join(folder, "test.ctl"), MACHINE.clock);
    await client.ask("job", { action, names }, 60_000);
    return null;
  } catch (error) {
    return errorText(error);
  } finally {
    client?.close();
  }
}

const FIRST = freshSeed();

for (const target of SLOW_TARGETS) {
  test(
    `${target.name}: rounds of kills (seed ${FIRST}): nothing runs twice, nothing is left, states are right`,
    async () => {
      const began = performance.now();
      const seconds = secondsFor(8);
      let longest = 0;
      let rounds = 0;
      do {
        const seed = FIRST + rounds;
        const at = performance.now();
        using folder = tempFolder();
        await using round = new Round(seed, folder.path, target);
        try {
          await round.play();
        } catch (error) {
          const text =
            `--seed=${seed} (round ${rounds} of ${FIRST}): ${errorText(error)}\ndone: ${round.story}\n` +
            `two at once: ${textOf(join(folder.path, "twice"))}\n` +
            `config:\n${textOf(join(folder.path, "test.ini"))}\nserver:\n${
              round.output.replace(/^.*d:floods\.output: .*\n/gm, "").slice(-4000)
            }`;
          throw new Error(text, { cause: error });
        }
        rounds++;
        longest = Math.max(longest, performance.now() - at);
      } while (performance.now() - began + longest < seconds * 1000);
      console.log(`${target.name}: ${rounds} rounds of kills from seed ${FIRST} on`);
    },
  );
}
