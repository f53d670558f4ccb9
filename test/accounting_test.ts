/**
 * The referee: chains of one to four servers with different bounds, under a seed. Servers stop and start, reload, are killed,
 * their upstream pauses or breaks off, clients send what is past a bound or leave: order is kept, nothing comes twice, and
 * every message of a well-behaved client arrived or is counted, once. What a cut or a kill costs is no more than what is
 * unconfirmed and what had been taken by whoever was cut off or killed.
 *
 *     npm test -- accounting                        some seconds of fresh seeds on each runtime
 *     npm test -- accounting --on=bun --seed=17     that one seed
 *     npm test -- accounting --seconds=600          more of them
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { Collector, numbers } from "./helpers/collector.ts";
import {
  freshSeed,
  secondsFor,
  SEED,
  seeded,
  SLOW_TARGETS,
  type Target,
  tempFolder,
  until,
} from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { UP } from "./helpers/losses.ts";
import { message, RawPeer } from "./helpers/raw.ts";

type Random = () => number;

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as net.AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

/** What a server has told of its losses at the end of its life. */
function losses(output: string): { dropped: number; unread: number; unconfirmed: number } {
  const line = output.match(/CCServer\.stats: \{.*/g)?.at(-1) ?? "";
  const value = (name: string) => Number(new RegExp(`[{ ]${name}: (\\d+)`).exec(line)?.[1] ?? 0);
  return {
    dropped: UP.reduce((sum, reason) => sum + value(`drops\\.${reason}`), 0),
    unread: value("drops\\.unread"),
    unconfirmed: value("unconfirmed"),
  };
}

/** A server of the chain, started again and again at one place. */
class Place {
  readonly port: number;
  readonly lost = { dropped: 0, unread: 0, unconfirmed: 0 };
  readonly outputs: string[] = [];
  readonly #target: Target;
  readonly #file: string;
  readonly #config: (variant: number) => string;
  #variant = 0;
  #server: ServerProcess | null = null;

  constructor(target: Target, file: string, port: number, config: (variant: number) => string) {
    this.#target = target;
    this.#file = file;
    this.port = port;
    this.#config = config;
  }

  async start(): Promise<void> {
    writeFileSync(this.#file, this.#config(this.#variant));
    this.#server = new ServerProcess(this.#target, [this.#file]);
    await this.#server.until(/listening on \S+,/);
  }

  async up(): Promise<void> {
    await this.#server!.until(/ is up/);
  }

  reload(): void {
    writeFileSync(this.#file, this.#config(++this.#variant));
    process.kill(this.#server!.pid, "SIGHUP");
  }

  async stop(): Promise<void> {
    const server = this.#server!;
    this.#server = null;
    const { code } = await server.stop();
    assert.equal(code, 0, server.output);
    this.#ended(server);
  }

  /** SIGKILL; returns how many bytes were with it, or on their way to it. */
  async kill(): Promise<number> {
    const server = this.#server!;
    this.#server = null;
    // So that what is looked at stays as it is.
    process.kill(server.pid, "SIGSTOP");
    const bytes = heldBytes(this.port) + PROCESS_HOLDS_BYTES;
    process.kill(server.pid, "SIGKILL");
    await server.exited;
    this.#ended(server);
    return bytes;
  }

  #ended({ output }: ServerProcess): void {
    this.outputs.push(output);
    const lost = losses(output);
    for (const key of ["dropped", "unread", "unconfirmed"] as const) this.lost[key] += lost[key];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server?.[Symbol.asyncDispose]();
  }
}

/** A client that sends numbered messages, reconnects when its server ends, and never breaks a link off. */
class Client {
  /** Messages sent under each identity. */
  readonly sent = new Map<string, number>();
  readonly #name: string;
  readonly #port: number;
  readonly #random: Random;
  readonly #misbehaves: boolean;
  #ending = false;
  #pace = 1;
  readonly done: Promise<void>;

  constructor(name: string, port: number, random: Random, misbehaves: boolean) {
    this.#name = name;
    this.#port = port;
    this.#random = random;
    this.#misbehaves = misbehaves;
    this.done = this.#live();
  }

  end(): void {
    this.#ending = true;
  }

  async #live(): Promise<void> {
    for (let epoch = 0; !this.#ending; epoch++) {
      const identity = `${this.#name}e${epoch}`;
      try {
        const peer = await RawPeer.open(this.#port, "DEALER", identity);
        this.sent.set(identity, 0);
        await this.#send(peer, identity);
      } catch {
        // The server is not there: a little later it is.
        await sleep(20);
      }
    }
  }

  async #send(peer: RawPeer, identity: string): Promise<void> {
    const { socket } = peer;
    const over = new Promise<void>((resolve) =>
      socket.once("close", () => resolve()).once("end", () => resolve())
    );
    let n = 0;
    while (!this.#ending && !peer.closed) {
      const chunk: Buffer[] = [];
      for (let i = 0; i < 20; i++) chunk.push(this.#message(n++));
      this.sent.set(identity, n);
      if (!socket.write(Buffer.concat(chunk))) {
        await Promise.race([new Promise<void>((resolve) => socket.once("drain", () => resolve())), over]);
      }
      await sleep(this.#pace);
    }
    // All that was written still goes out, then FIN.
    socket.end();
    await Promise.race([over, sleep(10_000)]);
  }

  #message(n: number): Buffer {
    const random = this.#random();
    const size = Math.floor((random < 0.8 ? 300 : random < 0.98 ? 8000 : 60_000) * this.#random());
    const body = `{"n":${n},"x":"${"x".repeat(size)}"}`;
    const bad = this.#misbehaves ? this.#random() : 1;
    if (bad < 0.02) {
      return message(...Array.from({ length: 32 }, (_, i) => `hop${i}`), "", "pub.n", body, "", "");
    }
    // Around the least of all bounds, with what is added on the way.
    if (bad < 0.04) {
      return message(
        "",
        "pub.n",
        `{"n":${n},"x":"${"y".repeat(65_400 + Math.floor(this.#random() * 90))}"}`,
        "",
      );
    }
    return message("", "pub.n", body, "");
  }
}

/** Where numbers do not rise, with those around. */
function wrong(found: number[]): string {
  const at = found.findIndex((n, i) => i > 0 && n <= found[i - 1]);
  return `… ${found.slice(Math.max(0, at - 3), at + 3).join(" ")} …`;
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** What a server may have read and not passed on: a queue of 1 MiB, and a chunk of 2 MiB. */
const PROCESS_HOLDS_BYTES = 3 * 1024 * 1024;
/** Of so many bytes of many messages each takes more: four of five have up to 300, the others thousands. */
const MESSAGE_LEAST_BYTES = 400;
/** Messages that a killed server may have dropped since its last statistics line, or a client had not handed over. */
const KILL_SLACK = 200;

/** Bytes that the system has taken for whoever listens there: not read yet, or still on their way. */
function heldBytes(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  let bytes = 0;
  for (
    const [, local, remote, sending, unread] of readFileSync("/proc/net/tcp", "utf8").matchAll(
      /\d: \w+:(\w+) \w+:(\w+) 01 (\w+):(\w+)/g,
    )
  ) {
    if (local === hex) bytes += parseInt(unread, 16);
    if (remote === hex) bytes += parseInt(sending, 16);
  }
  return bytes;
}

async function episode(target: Target, seed: number): Promise<string> {
  const random = seeded(seed);
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)];
  using folder = tempFolder();
  using collector = new Collector();
  const endpoint = await collector.listen();
  const cuts = random() < 0.4;
  const hops = 1 + Math.floor(random() * 4);
  const places: Place[] = [];
  /** Messages that broken links may have taken beyond what is counted. */
  let unread = 0;
  try {
    let next = endpoint;
    for (let i = hops - 1; i >= 0; i--) {
      const port = await freePort();
      const remote = next;
      const hwm = pick([10, 100, 1000]);
      // Bounds rise and fall along the chain: what one sends, the next may find too large.
      const most = 64 * 1024 + Math.floor(random() * 3) * 1024;
      places.unshift(
        new Place(target, join(folder.path, `s${i}.ini`), port, (variant) =>
          `[ccserver]
cc-socket = tcp://127.0.0.1:${port}
cc-role = local
cc-stats = 1
stats-period = 0.2
zmq_linger = 15000
zmq_maxmsgsize = ${most}
heartbeat = ${1000 + variant}
[routes]
pub = h:up
[h:up]
handler = proxy
remote-cc = ${remote}
zmq_linger = 15000
zmq_hwm = ${hwm + variant}
ping = ${variant % 2 === 1 ? "yes" : "no"}
`),
      );
      next = `tcp://127.0.0.1:${port}`;
    }
    for (const place of [...places].reverse()) await place.start();
    for (const place of places) await place.up();
    const clients = Array.from(
      { length: 1 + Math.floor(random() * 3) },
      (_, i) => new Client(`c${i}`, places[0].port, random, i === 0 && random() < 0.5),
    );
    const told: string[] = [];
    for (let i = 0; i < 4; i++) {
      await sleep(100 + 200 * random());
      const what = random();
      const at = Math.floor(random() * hops);
      if (what < 0.35) {
        told.push(`restart ${at}`);
        await places[at].stop();
        await places[at].start();
      } else if (what < 0.55) {
        told.push(`reload ${at}`);
        places[at].reload();
      } else if (what < 0.8 || !cuts) {
        told.push("pause");
        const { open } = collector;
        for (const { socket } of open) socket.pause();
        await sleep(300 * random());
        for (const { socket } of open) socket.resume();
      } else if (what < 0.9) {
        told.push("cut");
        for (const { socket } of collector.open) {
          socket.pause();
          await sleep(50);
          const bytes = heldBytes(Number(/\d+$/.exec(endpoint)![0])) + socket.readableLength + 64 * 1024;
          unread += Math.ceil(bytes / MESSAGE_LEAST_BYTES);
          socket.resetAndDestroy();
        }
      } else {
        told.push(`kill ${at}`);
        unread += Math.ceil(await places[at].kill() / MESSAGE_LEAST_BYTES) + KILL_SLACK;
        await places[at].start();
      }
    }
    for (const client of clients) client.end();
    await Promise.all(clients.map(({ done }) => done));
    for (const place of places) await place.stop();
    let before = -1;
    await until(
      "rest",
      () => {
        const still = collector.count === before;
        before = collector.count;
        return still;
      },
      10_000,
      100,
    );

    const sent = clients.reduce(
      (sum, client) => sum + [...client.sent.values()].reduce((a, b) => a + b, 0),
      0,
    );
    let arrived = 0;
    for (const client of clients) {
      for (const [identity, count] of client.sent) {
        const found = numbers(collector.bodies.get(identity));
        arrived += found.length;
        assert.ok(
          found.every((n, i) => i === 0 || n > found[i - 1]),
          `${identity}: in order, none twice: ${told.join(", ")}: ${wrong(found)}`,
        );
        assert.ok(found.length === 0 || found.at(-1)! < count);
      }
    }
    const sum = (key: "dropped" | "unread" | "unconfirmed") =>
      places.reduce((all, { lost }) => all + lost[key], 0);
    const missing = sent - arrived - sum("dropped") - sum("unread");
    const most = sum("unconfirmed") + unread;
    const account =
      `${hops} servers, ${told.join(", ")}: ${sent} sent, ${arrived} arrived, ${sum("dropped")} dropped, ` +
      `${sum("unread")} unread, ${missing} missing, at most ${most} unconfirmed`;
    const isCut = told.some((what) => /^(cut|kill)/.test(what));
    assert.ok(isCut ? missing >= 0 && missing <= most : missing === 0, account);
    return account;
  } catch (error) {
    for (const { outputs } of places) console.log(outputs.join("\n---\n"));
    throw error;
  } finally {
    for (const place of places) await place[Symbol.asyncDispose]();
  }
}

for (const target of SLOW_TARGETS) {
  test(`${target.name}: in chains of servers that stop, reload, pause and break off, every message is accounted for`, async () => {
    let seed = freshSeed();
    const until = performance.now() + secondsFor(10) * 1000;
    let episodes = 0;
    do {
      try {
        const account = await episode(target, seed);
        if (SEED !== null) console.log(account);
      } catch (error) {
        console.log(`accounting: seed ${seed} on ${target.name}`);
        throw error;
      }
      episodes++;
      seed++;
    } while (performance.now() < until && SEED === null);
    console.log(`${target.name}: ${episodes} chains accounted for, seeds up to ${seed - 1}`);
  });
}
