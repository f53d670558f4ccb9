/** The servers of a soak: processes whose output is looked at as it comes and not kept. */
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import process from "node:process";
import { ROOT, type Target, until } from "../helpers/env.ts";
import { UP } from "../helpers/losses.ts";
import type { Place } from "./config.ts";

/** Of the output, for who looks into a failure. */
const TAIL_CHARS = 8000;

export type Losses = Map<string, number>;

export function add(to: Losses, from: Iterable<readonly [string, number]>): void {
  for (const [reason, count] of from) to.set(reason, (to.get(reason) ?? 0) + count);
}

/** Above these the system takes ports for clients, whose one may then stand in the way of a server that starts again. */
const CLIENT_PORTS = Number(/^\d+/.exec(readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8"))![0]);
const PORTS_BELOW = 8000;

/** A port that stays free while nobody listens there. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = Math.max(1024, CLIENT_PORTS - 1 - Math.floor(PORTS_BELOW * Math.random()));
    const server = net.createServer();
    const free = await new Promise<boolean>((resolve) =>
      server.once("error", () => resolve(false)).listen(port, "127.0.0.1", () => resolve(true))
    );
    server.close();
    if (free) return port;
  }
}

/** What a server says of itself at a moment. */
export interface Look {
  readonly messages: number;
  readonly peers: number;
  readonly cpuSeconds: number;
  readonly lagMs: number;
  readonly residentBytes: number;
  readonly descriptors: number;
  /** Messages that wait for an upstream; null: one is down. */
  readonly waiting: number | null;
  /** `SOCKET REASON`, and `HANDLER unconfirmed` */
  readonly losses: Losses;
}

export interface ServerSetup {
  readonly name: string;
  readonly target: Target;
  readonly folder: string;
  readonly config: (place: Place) => string;
  /** Each line of its output. */
  readonly line: (text: string) => void;
}

/** One server, started again and again at one place. */
export class Server {
  readonly name: string;
  port = 0;
  /** What the lives that are over have lost: `SOCKET REASON`. */
  readonly lost: Losses = new Map();
  /** How often an upstream of it was up. */
  ups = 0;
  starts = 0;
  tail = "";
  /** Its processor time in lives that are over. */
  #cpuBefore = 0;
  #messagesBefore = 0;
  #last: Look | null = null;
  #httpPort = 0;
  #variant = 0;
  readonly #setup: ServerSetup;
  readonly #file: string;
  #child: ChildProcess | null = null;
  #exited: Promise<string> = Promise.resolve("");
  #expected = false;
  /** Ended by itself; null: it lives, or was told to end. */
  crashed: string | null = null;
  #rest = "";
  #statistics = "";

  constructor(setup: ServerSetup) {
    this.#setup = setup;
    this.name = setup.name;
    this.#file = join(setup.folder, `${setup.name}.ini`);
  }

  get runs(): boolean {
    return this.#child !== null;
  }

  get pid(): number {
    return this.#child!.pid!;
  }

  async start(): Promise<void> {
    this.port ||= await freePort();
    this.#httpPort ||= await freePort();
    this.#write();
    const { command } = this.#setup.target;
    // In a session of its own: a Ctrl-C in the terminal is for the soak, which then ends its servers.
    const child = spawn(command[0], [...command.slice(1), this.#file], {
      cwd: ROOT,
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    this.#child = child;
    this.#expected = false;
    this.#statistics = "";
    this.starts++;
    let listens = false;
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding("utf8");
      stream.on("data", (text: string) => {
        listens ||= /listening on \S+,/.test(text);
        this.#lines(text);
      });
    }
    this.#exited = new Promise((resolve) =>
      child.on("close", (code, signal) => {
        if (!this.#expected) {
          this.crashed = `${this.name} ended by itself: ${signal ?? code}\n${this.tail}`;
          this.#over(null);
        }
        this.#child = null;
        resolve(signal ?? String(code));
      })
    );
    await until(
      () => `${this.name} to listen:\n${this.tail}`,
      () => listens || this.crashed !== null,
      30_000,
    );
  }

  #write(): void {
    const { config } = this.#setup;
    const text = config({ port: this.port, httpPort: this.#httpPort, variant: this.#variant });
    writeFileSync(this.#file, text);
  }

  #lines(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) {
      if (line.includes("CCServer.stats: {")) this.#statistics = line;
      if (line.includes(" is up")) this.ups++;
      if (!line.includes(" soak ")) this.tail = `${this.tail}${line}\n`.slice(-TAIL_CHARS);
      this.#setup.line(line);
    }
  }

  /** @param changed Its config is another one. */
  reload(changed: boolean): void {
    if (changed) this.#variant++;
    this.#write();
    process.kill(this.pid, "SIGHUP");
  }

  /** A clean stop; returns what was wrong with it. */
  async stop(): Promise<string | null> {
    this.#over(await this.look());
    this.#expected = true;
    process.kill(this.pid, "SIGTERM");
    const end = await this.#exited;
    for (const [, reason, count] of this.#statistics.matchAll(/[{ ](?:drops\.)?([a-z-]+): (\d+)/g)) {
      if (reason === "unconfirmed" || reason === "unread" || UP.includes(reason)) {
        add(this.lost, [[`all ${reason}`, Number(count)]]);
      }
    }
    return end === "0" ? null : `${this.name} ended with ${end} when it was told to stop:\n${this.tail}`;
  }

  /** SIGKILL. @param stopped Called while it stands still, before it ends. */
  async kill(stopped: () => void): Promise<void> {
    const look = await this.look();
    this.#over(look);
    if (look !== null) {
      for (const [key, count] of look.losses) add(this.lost, [[`all ${key.split(" ")[1]}`, count]]);
    }
    this.#expected = true;
    process.kill(this.pid, "SIGSTOP");
    stopped();
    process.kill(this.pid, "SIGKILL");
    await this.#exited;
  }

  #over(look: Look | null): void {
    const last = look ?? this.#last;
    if (last !== null) {
      this.#cpuBefore = last.cpuSeconds;
      this.#messagesBefore = last.messages;
    }
    this.#last = null;
  }

  /** Null: it does not answer now. */
  async look(): Promise<Look | null> {
    const child = this.#child;
    if (child === null) return null;
    try {
      const answer = await fetch(`http://127.0.0.1:${this.#httpPort}/metrics`, {
        signal: AbortSignal.timeout(5000),
        headers: { connection: "close" },
      });
      const text = await answer.text();
      const descriptors = readdirSync(`/proc/${child.pid}/fd`).length;
      const one = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1] ?? 0);
      const sum = (name: string) =>
        [...text.matchAll(new RegExp(`^${name}\\{[^}]*\\} (\\S+)$`, "gm"))].reduce(
          (all, [, n]) => all + Number(n),
          0,
        );
      const losses: Losses = new Map();
      for (
        const [, socket, reason, count] of text.matchAll(
          /^cc_drops_total\{socket="([^"]*)",reason="([^"]*)"\} (\d+)$/gm,
        )
      ) {
        add(losses, [[`${socket} ${reason}`, Number(count)]]);
      }
      for (const [, handler, count] of text.matchAll(/^cc_unconfirmed_total\{handler="([^"]*)"\} (\d+)$/gm)) {
        add(losses, [[`${handler} unconfirmed`, Number(count)]]);
      }
      const look: Look = {
        messages: this.#messagesBefore + sum("cc_messages_total"),
        peers: one("cc_peers"),
        cpuSeconds: this.#cpuBefore + one("process_cpu_seconds_total"),
        lagMs: 1000 * one('cc_event_loop_lag_seconds\\{quantile="0.99"\\}'),
        residentBytes: one("process_resident_memory_bytes"),
        descriptors,
        waiting: /^cc_upstream_up\{[^}]*\} 0$/m.test(text) ? null : sum("cc_upstream_queued_messages"),
        losses,
      };
      if (child === this.#child) this.#last = look;
      return look;
    } catch {
      return null;
    }
  }

  /** Ends it at once, whatever it does. */
  end(): void {
    this.#expected = true;
    this.#child?.kill("SIGKILL");
  }
}

/** A link, by its ports. */
export interface Ends {
  readonly from: number | null;
  readonly to: number;
}

/** Bytes of such links that the system has taken and nobody has read; without `from`, of all that lead to that port. */
export function heldBytes(links: readonly Ends[]): number {
  let bytes = 0;
  for (
    const [, local, remote, sending, unread] of readFileSync("/proc/net/tcp", "utf8").matchAll(
      /\d: \w+:(\w+) \w+:(\w+) \w\w (\w+):(\w+)/g,
    )
  ) {
    const [own, other] = [parseInt(local, 16), parseInt(remote, 16)];
    for (const { from, to } of links) {
      if (own === to && (from === null || other === from)) bytes += parseInt(unread, 16);
      if (other === to && (from === null || own === from)) bytes += parseInt(sending, 16);
    }
  }
  return bytes;
}
