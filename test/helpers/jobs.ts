/** A server with jobs, in a process of its own, and a connection to its control channel. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import type { JobView } from "../../src/contracts/jobs.ts";
import { ControlClient } from "../../src/commands/control_client.ts";
import { MACHINE } from "../../src/runtime/machine.ts";
import type { Target } from "./env.ts";
import { until } from "./env.ts";
import { ServerProcess } from "./process.ts";

/** A config with jobs; `sections` are those of the daemons. */
export function jobsConfig(folder: string, daemons: string[], sections: string, server = ""): string {
  return `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
pidfile = ${folder}/%(job_name)s.pid
zmq_linger = 500
${server}
[routes]
log = h:log
echo = h:echo
[h:log]
handler = locallogger
[h:echo]
handler = echo
[h:job]
handler = cc.handler.jobmgr
daemons = ${daemons.join(", ")}
${sections}`;
}

export class JobServer {
  readonly folder: string;
  readonly process: ServerProcess;
  #client: ControlClient | null = null;

  private constructor(folder: string, process: ServerProcess) {
    this.folder = folder;
    this.process = process;
  }

  /** Starts one on `FOLDER/test.ini`, which it writes if a text is given. */
  static async start(folder: string, target: Target, text: string | null): Promise<JobServer> {
    const file = join(folder, "test.ini");
    if (text !== null) writeFileSync(file, text);
    const server = JobServer.spawn(folder, target);
    await server.listening();
    return server;
  }

  /** Starts one on the config that is there, and does not wait. */
  static spawn(folder: string, target: Target): JobServer {
    return new JobServer(folder, new ServerProcess(target, [join(folder, "test.ini")]));
  }

  async listening(): Promise<void> {
    await this.process.until(/listening on \S+,/);
  }

  get output(): string {
    return this.process.output;
  }

  async #asking(): Promise<ControlClient> {
    return this.#client ??= await ControlClient.connect(join(this.folder, "test.ctl"), MACHINE.clock);
  }

  async views(): Promise<JobView[]> {
    const answer = await (await this.#asking()).ask("jobs", {}, 20_000);
    return (answer["h:job"] as { jobs: JobView[] }).jobs;
  }

  async view(name: string): Promise<JobView> {
    return (await this.views()).find((job) => job.name === name)!;
  }

  async act(action: string, ...names: string[]): Promise<JobView[]> {
    const answer = await (await this.#asking()).ask("job", { action, names }, 60_000);
    return (answer["h:job"] as { jobs: JobView[] }).jobs;
  }

  /** Waits until a job is so; gives its view. */
  async until(name: string, is: (job: JobView) => boolean, timeoutMs = 15_000): Promise<JobView> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const view = await this.view(name);
      if (is(view)) return view;
      if (performance.now() > end) {
        throw new Error(`${name} is ${JSON.stringify(view)}; the server wrote:\n${this.output.slice(-3000)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Waits until it runs; gives its pid. */
  async running(name: string): Promise<number> {
    return (await this.until(name, ({ state }) => state === "running")).pid!;
  }

  async stop(signal: "SIGTERM" | "SIGINT" = "SIGTERM"): Promise<void> {
    this.#client?.close();
    const { code } = await this.process.stop(signal);
    if (code !== 0) throw new Error(`the server ended with ${code}:\n${this.output}`);
  }

  /** Ends it as a crash does. */
  async kill(): Promise<void> {
    this.#client?.close();
    process.kill(this.process.pid, "SIGKILL");
    await this.process.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client?.close();
    await this.process[Symbol.asyncDispose]();
    // What a test that failed has left of its jobs.
    for (const info of MACHINE.processes.list()) {
      const file = MACHINE.processes.environmentOf(info.pid, "CC_JOB_PIDFILE");
      if (file?.startsWith(`${this.folder}/`)) MACHINE.processes.signal(info.pid, "SIGKILL");
    }
  }
}

/** Processes that carry a job of this folder in their environment. */
export function carriers(folder: string): number[] {
  const found: number[] = [];
  for (const { pid, state } of MACHINE.processes.list()) {
    if (state === "Z") continue;
    if (MACHINE.processes.environmentOf(pid, "CC_JOB_PIDFILE")?.startsWith(`${folder}/`)) found.push(pid);
  }
  return found;
}

export function isGone(pid: number): boolean {
  const info = MACHINE.processes.look(pid);
  return info === null || info.state === "Z";
}

export async function untilGone(pid: number): Promise<void> {
  await until(`process ${pid} to end`, () => isGone(pid));
}

/** What is in a file; empty when it is not there. */
export function textOf(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}
