/** Processes of a test: the server, and libzmq peers. Each is ended by the test that started it. */
import { Buffer } from "node:buffer";
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { ROOT, TARGET, type Target, tempFolder, until } from "./env.ts";

/** A server in a process of its own. */
export class ServerProcess {
  readonly child: ChildProcess;
  /** What it wrote on stderr and stdout so far. */
  output = "";
  readonly exited: Promise<{ code: number | null; signal: string | null }>;
  #done = false;

  constructor(target: Target, args: string[], env: Record<string, string> = {}, cwd = ROOT) {
    this.child = spawn(target.command[0], [...target.command.slice(1), ...args], {
      cwd,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding("utf8");
      stream.on("data", (chunk: string) => this.output += chunk);
    }
    this.exited = new Promise((resolve) =>
      this.child.on("close", (code, signal) => {
        this.#done = true;
        resolve({ code, signal });
      })
    );
  }

  /** Starts a server on an ini text; resolves when it listens. */
  static async start(ini: string, target: Target = TARGET, args: string[] = []): Promise<ServerProcess> {
    using folder = tempFolder();
    const file = join(folder.path, "test.ini");
    writeFileSync(file, ini);
    const server = new ServerProcess(target, [...args, file]);
    await server.until(/listening on \S+,/);
    return server;
  }

  get pid(): number {
    return this.child.pid!;
  }

  get endpoint(): string {
    return /listening on (\S+),/.exec(this.output)![1];
  }

  get port(): number {
    return Number(/:(\d+)$/.exec(this.endpoint)![1]);
  }

  /** Waits for a line of its output. */
  async until(pattern: RegExp, timeoutMs = 15_000): Promise<RegExpExecArray> {
    return await until(() => `${pattern} in:\n${this.output}`, () => {
      const found = pattern.exec(this.output);
      if (!found && this.#done) throw new Error(`the server ended before ${pattern}:\n${this.output}`);
      return found;
    }, timeoutMs);
  }

  /** Resident memory in bytes. */
  get residentBytes(): number {
    const [, kib] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${this.pid}/status`, "utf8"))!;
    return Number(kib) * 1024;
  }

  async stop(
    signal: "SIGTERM" | "SIGINT" = "SIGTERM",
  ): Promise<{ code: number | null; signal: string | null }> {
    // Not child.kill(): Deno then reports this signal as the end, however the process ended.
    if (!this.#done) process.kill(this.pid, signal);
    return await this.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#done) this.child.kill("SIGKILL");
    await this.exited;
  }
}

/** Runs the server's command to its end. */
export async function run(
  args: string[],
  target: Target = TARGET,
): Promise<{ code: number | null; output: string }> {
  await using command = new ServerProcess(target, args);
  const { code } = await command.exited;
  return { code, output: command.output };
}

/** libzmq in a process of its own. */
export class Libzmq {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();
  #serial = 0;

  constructor() {
    this.#child = spawn("node", ["dist/peers/libzmq.js"], { cwd: ROOT, stdio: ["pipe", "pipe", "inherit"] });
    this.#child.on("close", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("the libzmq process has ended"));
      this.#waiting.clear();
    });
    createInterface({ input: this.#child.stdout! }).on("line", (line) => {
      const { id, result, error } = JSON.parse(line);
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) waiting?.resolve(result);
      else waiting?.reject(new Error(error));
    });
  }

  async #call<T>(op: string, args: object = {}): Promise<T> {
    const id = ++this.#serial;
    return await new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#child.stdin!.write(JSON.stringify({ id, op, ...args }) + "\n");
    });
  }

  /** A socket that is connected, or bound when `endpoint` ends with `*`. */
  async open(
    type: "Dealer" | "Router" | "Request" | "Reply" | "Push",
    endpoint: string,
    options: object = {},
  ): Promise<LibzmqSocket> {
    const s = await this.#call<number>("open", { type, options });
    const bind = endpoint.endsWith("*") || endpoint.startsWith("bind:");
    const at = endpoint.replace(/^bind:/, "");
    const bound = await this.#call<string | null>(bind ? "bind" : "connect", { s, endpoint: at });
    return new LibzmqSocket((op, args) => this.#call(op, { s, ...args }), bound ?? at);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#child.on("close", resolve));
    this.#child.kill("SIGKILL");
    await closed;
  }
}

type Call = <T>(op: string, args?: object) => Promise<T>;

/** A socket of a libzmq process. */
export class LibzmqSocket {
  readonly endpoint: string;
  readonly #call: Call;

  constructor(call: Call, endpoint: string) {
    this.#call = call;
    this.endpoint = endpoint;
  }

  async send(frames: (Uint8Array | string)[]): Promise<void> {
    await this.#call("send", { frames: frames.map((frame) => Buffer.from(frame).toString("base64")) });
  }

  async receive(timeoutMs = 10_000): Promise<Uint8Array[]> {
    const frames = await this.#call<string[]>("receive", { timeoutMs });
    return frames.map((frame) => new Uint8Array(Buffer.from(frame, "base64")));
  }

  /** Sends `count` numbered messages as client `client`. */
  blast(client: number, count: number, size: number, msgType: string): Promise<number> {
    return this.#call("blast", { clients: client, count, size, msgType });
  }

  /** Receives `count` of them from `clients` clients: how many came, how many out of order. */
  collect(
    count: number,
    clients: number,
    timeoutMs: number,
  ): Promise<{ received: number; wrong: number; next: number[] }> {
    return this.#call("collect", { count, clients, timeoutMs });
  }

  close(): Promise<void> {
    return this.#call("close");
  }
}
