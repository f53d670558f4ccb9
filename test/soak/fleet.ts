/** A soak's servers, clients and network, what happens to them, and the account of it all. */
import process from "node:process";
import { errorText } from "../../src/errors.ts";
import type { Target } from "../helpers/env.ts";
import { Asker, badBytes, logMessage, Sender, sleep, someBytes, stranger } from "./clients.ts";
import { configOf, type Place, proxies } from "./config.ts";
import { type Account, judgeAccount, missing } from "./judge.ts";
import { Ledger } from "./ledger.ts";
import { Relay } from "./relay.ts";
import { UP } from "../helpers/losses.ts";
import { freePort, heldBytes, type Losses, Server } from "./servers.ts";
import { table } from "./table.ts";
import { Times } from "./times.ts";
import { Watch } from "./watch.ts";
import { Sink } from "./wire.ts";

export interface FleetOptions {
  readonly target: Target;
  readonly folder: string;
  readonly seconds: number;
  readonly random: () => number;
}

/** Clients that stay, on the path that is never cut and on the other. */
const WHOLE_CLIENTS = 4;
const CUT_CLIENTS = 2;
/** The least of a message on the path that is cut, so that bytes which were lost say how many messages at most. */
const CUT_LEAST_BYTES = 300;
/** What a server that is killed may have read and not passed on: a queue of 1 MiB, and a chunk of 2 MiB. */
const PROCESS_HOLDS_BYTES = 3 * 1024 * 1024;
/** It may have dropped so many since it was asked last. */
const KILL_SLACK = 200;
/** Messages that come while something breaks. */
const CUT_SLACK = 200;
const HOST_MAX_BYTES = 4 * 1024 * 1024;
/** Longer than that, and what is printed once a minute is no longer of that minute. */
const SAMPLE_MAX_MS = 5000;
const REST_MAX_MS = 90_000;
const ECHO_EVERY_MS = 50;
const FAULTS_MAX = 100;

export class Fleet {
  readonly #options: FleetOptions;
  readonly #random: () => number;
  readonly #whole = new Ledger();
  readonly #cut = new Ledger();
  readonly #left = new Ledger();
  readonly #logs = new Ledger();
  readonly #echoes = new Ledger();
  readonly #slowEchoes = new Ledger();
  readonly #sinks: Record<"whole" | "cut" | "left", Sink>;
  readonly #relay: Relay;
  readonly #host: Server;
  readonly #collector: Server;
  readonly #stopped: Server;
  readonly #killed: Server;
  readonly #watch: Watch;
  readonly #faults: string[] = [];
  readonly #happened = new Map<string, number>();
  readonly #times = new Times();
  readonly #recentTimes = new Times();
  readonly #guests = new Set<Promise<void>>();
  #relayPort = 0;
  /** Of the path that is cut: what cuts and kills may have taken. */
  #allowed = 0;
  /** Of clients that broke off. */
  #broken = 0;
  #begin = 0;
  #ending = false;
  readonly #waiting = new Set<() => void>();
  #wrong = 0;
  #cpuBegin = process.cpuUsage();

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#random = options.random;
    const sink = (ledger: Ledger) => new Sink((client, n) => ledger.arrive(client, n));
    this.#sinks = { whole: sink(this.#whole), cut: sink(this.#cut), left: sink(this.#left) };
    this.#relay = new Relay(() => this.#collector.port);
    const { target, folder } = options;
    const server = (name: string, options: string, sections: (place: Place) => string) =>
      new Server({
        name,
        target,
        folder,
        config: (place) => configOf(place, options, sections(place)),
        line: (text) => this.#line(name, text),
      });
    const { whole, cut, left } = this.#sinks;
    this.#stopped = server("stopped", "cc-role = remote", (place) => proxies(place, { whole: whole.port }));
    this.#killed = server("killed", "cc-role = remote", (place) => proxies(place, { cut: cut.port }));
    this.#collector = server(
      "collector",
      "cc-role = remote",
      (place) => proxies(place, { whole: this.#stopped.port, cut: this.#killed.port, left: left.port }),
    );
    this.#host = server("host", `cc-role = local\nzmq_maxmsgsize = ${HOST_MAX_BYTES}`, (place) => {
      const { port } = this.#collector;
      return `echo = h:echo
log = h:log
${proxies(place, { whole: port, cut: this.#relayPort, left: port })}[h:echo]
handler = echo
[h:log]
handler = locallogger
`;
    });
    this.#watch = new Watch(this.#servers, options.seconds);
  }

  get #servers(): Server[] {
    return [this.#host, this.#collector, this.#stopped, this.#killed];
  }

  get #seconds(): number {
    return (performance.now() - this.#begin) / 1000;
  }

  async start(): Promise<void> {
    for (const sink of Object.values(this.#sinks)) {
      sink.port = await freePort();
      await sink.listen();
    }
    await this.#stopped.start();
    await this.#killed.start();
    await this.#collector.start();
    this.#relayPort = await this.#relay.listen();
    await this.#host.start();
    await this.#untilRest();
  }

  /** Until its time is over, or {@link end}. */
  async run(): Promise<void> {
    this.#begin = performance.now();
    const loops = [
      ...Array.from({ length: WHOLE_CLIENTS }, () => this.#steady(this.#whole, "whole", 0)),
      ...Array.from({ length: CUT_CLIENTS }, () => this.#steady(this.#cut, "cut", CUT_LEAST_BYTES)),
      this.#churn(),
      this.#ask(),
      this.#log(),
      this.#sample(),
      this.#events(),
    ].map((loop) => loop.catch((error) => this.#fault(errorText(error))));
    await this.#pause(this.#options.seconds * 1000);
    this.end();
    await Promise.all(loops);
    await Promise.all(this.#guests);
  }

  end(): void {
    this.#ending = true;
    for (const wake of this.#waiting) wake();
  }

  /** Everything that was started, at once. */
  kill(): void {
    for (const server of this.#servers) server.end();
    for (const sink of Object.values(this.#sinks)) sink.close();
    this.#relay.close();
  }

  #fault(text: string): void {
    if (this.#faults.length === FAULTS_MAX) return;
    this.#faults.push(text);
    console.log(`FAULT in minute ${(this.#seconds / 60).toFixed(1)}: ${text}`);
  }

  #line(name: string, text: string): void {
    const found = / soak (\d+)-(\d+) /.exec(text);
    if (found !== null) return this.#logs.arrive(Number(found[1]), Number(found[2]));
    if (/ (ERROR|CRITICAL) |crashed|internal error/.test(text)) this.#fault(`${name} says: ${text}`);
  }

  /** Waits, but not beyond the end. Nothing of it stays behind, as would with a promise that ends a day later. */
  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, this.#ending ? 0 : ms);
      this.#waiting.add(wake);
    });
  }

  #between(least: number, most: number): number {
    return least + (most - least) * this.#random();
  }

  #tell(what: string): void {
    this.#happened.set(what, (this.#happened.get(what) ?? 0) + 1);
  }

  /** A client that stays. */
  async #steady(ledger: Ledger, type: string, leastBytes: number): Promise<void> {
    const sender = await Sender.open(this.#host.port, ledger, type);
    while (!this.#ending) {
      await sender.send(1 + Math.floor(20 * this.#random()), () => leastBytes + someBytes(this.#random));
      await this.#pause(this.#between(10, 50));
    }
    await sender.leave();
  }

  /** Clients that come, say something and leave. */
  async #churn(): Promise<void> {
    while (!this.#ending) {
      this.#guest(this.#visit());
      await this.#pause(this.#between(20, 150));
    }
  }

  #guest(visit: Promise<void>): void {
    const guest = visit.catch((error) => this.#fault(errorText(error))).finally(() =>
      this.#guests.delete(guest)
    );
    this.#guests.add(guest);
  }

  async #visit(): Promise<void> {
    const count = 1 + Math.floor(20 * this.#random());
    const size = () => Math.floor(500 * this.#random());
    if (this.#random() < 0.7) {
      const sender = await Sender.open(this.#host.port, this.#whole, "whole");
      await sender.send(count, size);
      await sender.leave();
      return;
    }
    const sender = await Sender.open(this.#host.port, this.#left, "left");
    await sender.send(count, size);
    if (this.#random() < 0.3) await sender.write(badBytes(this.#random));
    await sleep(this.#between(0, 20));
    this.#broken += sender.count;
    sender.reset();
  }

  /** The light client, whose echoes are timed. */
  async #ask(): Promise<void> {
    const asker = await Asker.open(this.#host.port, this.#echoes);
    while (!this.#ending) {
      const ms = await asker.ask();
      this.#times.add(ms);
      this.#recentTimes.add(ms);
      await this.#pause(ECHO_EVERY_MS);
    }
    asker.close();
  }

  async #log(): Promise<void> {
    const sender = await Sender.open(this.#host.port, this.#logs, "log");
    while (!this.#ending) {
      for (let i = Math.floor(4 * this.#random()); i > 0; i--) {
        await sender.write(logMessage(sender.number, this.#logs.next(sender.number)));
      }
      await this.#pause(100);
    }
    await sender.leave();
  }

  async #flood(): Promise<void> {
    const sender = await Sender.open(this.#host.port, this.#whole, "whole");
    for (let i = 0; i < 100 && !this.#ending; i++) await sender.send(100, () => 100);
    await sender.leave();
  }

  async #blobs(): Promise<void> {
    const sender = await Sender.open(this.#host.port, this.#whole, "whole");
    for (let i = 0; i < 5; i++) {
      await sender.send(1, () => 100, Math.floor(this.#between(100_000, 2_000_000)));
    }
    // The host does not take it, and counts it.
    await sender.send(1, () => 100, HOST_MAX_BYTES + 1000);
    await sender.send(5, () => 100);
    await sender.leave();
  }

  /** A client that asks for much and reads little. */
  async #slowReader(): Promise<void> {
    const asker = await Asker.open(this.#host.port, this.#slowEchoes);
    const { socket } = asker.peer;
    socket.pause();
    const end = performance.now() + this.#between(2000, 10_000);
    while (performance.now() < end && !this.#ending && !asker.peer.closed) {
      if (socket.writableLength === 0) asker.write(200, 4000);
      await this.#pause(this.#between(100, 400));
      // So much as comes at once.
      socket.once("data", () => socket.pause());
      socket.resume();
    }
    asker.close();
  }

  /** What was with a link or a program that broke, and no more than had not arrived by then. */
  #allow(bytes: number, messages = 0): void {
    const most = this.#allowed + Math.ceil(bytes / CUT_LEAST_BYTES) + messages;
    this.#allowed = Math.min(most, this.#cut.sent - this.#cut.arrived + CUT_SLACK);
  }

  /** What happens to the fleet: every kind in turn, in an order of the seed's. */
  async #events(): Promise<void> {
    const deck: Record<string, () => Promise<void> | void> = {
      flood: () => this.#guest(this.#flood()),
      "large blobs": () => this.#guest(this.#blobs()),
      "slow reader": () => this.#guest(this.#slowReader()),
      "bad bytes": async () => {
        for (let i = 0; i < 3; i++) this.#guest(stranger(this.#host.port, badBytes(this.#random)));
        await stranger(this.#collector.port, badBytes(this.#random));
      },
      "link reset": () => this.#allow(this.#relay.cut()),
      "link ended": () => this.#relay.finish(),
      "link stalled": async () => {
        this.#relay.stall();
        await this.#pause(this.#between(200, 3000));
        this.#relay.go();
      },
      "link stalled and reset": async () => {
        this.#relay.stall();
        await this.#pause(this.#between(200, 1500));
        this.#allow(this.#relay.cut());
      },
      "sink rests": async () => {
        this.#sinks.whole.rest();
        await this.#pause(this.#between(200, 2000));
        this.#sinks.whole.go();
      },
      "sink restarts": async () => {
        const sink = this.#sinks.cut;
        this.#allow(heldBytes([{ from: null, to: sink.port }]) + sink.unreadBytes + 64 * 1024);
        sink.close();
        await this.#pause(this.#between(100, 1500));
        await sink.listen();
      },
      "clean stop": async () => {
        const fault = await this.#stopped.stop();
        if (fault !== null) this.#fault(fault);
        await this.#pause(this.#between(0, 300));
        await this.#stopped.start();
      },
      "clean stop of the other": async () => {
        const fault = await this.#killed.stop();
        if (fault !== null) this.#fault(fault);
        await this.#killed.start();
      },
      "kill -9": async () => {
        await this.#killed.kill(() => {
          const links = [{ from: null, to: this.#killed.port }, { from: null, to: this.#sinks.cut.port }];
          this.#allow(heldBytes(links) + PROCESS_HOLDS_BYTES, KILL_SLACK);
        });
        await this.#pause(this.#between(0, 1000));
        await this.#killed.start();
      },
      reload: () => this.#host.reload(true),
      "reload of the collector": () => this.#collector.reload(true),
      "reload of the stopped": () => this.#stopped.reload(true),
      "reload, unchanged": () => {
        this.#host.reload(false);
        this.#collector.reload(false);
      },
    };
    const names = Object.keys(deck);
    const most = Math.max(200, Math.min(5000, 1000 * this.#options.seconds / names.length / 1.5));
    while (!this.#ending) {
      for (let i = names.length - 1; i > 0; i--) {
        const j = Math.floor(this.#random() * (i + 1));
        [names[i], names[j]] = [names[j], names[i]];
      }
      for (const name of names) {
        await this.#pause(this.#between(0.3 * most, most));
        if (this.#ending) return;
        await deck[name]();
        this.#tell(name);
      }
    }
  }

  async #sample(): Promise<void> {
    const every = Math.min(SAMPLE_MAX_MS, this.#options.seconds * 25);
    const tellSeconds = Math.min(60, this.#options.seconds / 2) - every / 2000;
    while (!this.#ending) {
      await this.#pause(every);
      if (this.#ending) return;
      await this.#look(this.#seconds);
      if (this.#watch.secondsSinceTold(this.#seconds) < tellSeconds) continue;
      this.#watch.tell(this.#seconds, this.#recentTimes);
      this.#recentTimes.clear();
    }
  }

  /** @param seconds See {@link Watch.look}. */
  async #look(seconds: number | null): Promise<void> {
    await this.#watch.look(seconds);
    for (const server of this.#servers) {
      if (server.crashed === null) continue;
      this.#fault(server.crashed);
      server.crashed = null;
      this.end();
    }
    const now = performance.now();
    let wrong = 0;
    for (const ledger of [this.#whole, this.#cut, this.#left, this.#logs, this.#echoes, this.#slowEchoes]) {
      ledger.sweep(now);
      wrong += ledger.twice + ledger.late + ledger.strange;
    }
    // The table says which; when it was is known only now.
    if (wrong > this.#wrong) this.#fault(`${wrong - this.#wrong} messages came twice, late or from nowhere`);
    this.#wrong = wrong;
  }

  /** Waits until nothing is under way any more. */
  async #untilRest(): Promise<void> {
    const end = performance.now() + REST_MAX_MS;
    let before = "";
    for (;;) {
      await this.#look(null);
      const now = `${this.#whole.arrived} ${this.#cut.arrived} ${this.#left.arrived} ${this.#logs.arrived}`;
      if (this.#watch.rests && now === before) return;
      before = now;
      if (performance.now() > end) return this.#fault(`no rest within ${REST_MAX_MS / 1000} s`);
      await sleep(500);
    }
  }

  /** Lets all come to rest, stops the servers and prints the table; returns whether all was well. */
  async settle(): Promise<boolean> {
    const minutes = this.#seconds / 60;
    const cpu = process.cpuUsage(this.#cpuBegin);
    if (this.#sinks.cut.closed) await this.#sinks.cut.listen();
    for (const server of this.#servers) if (!server.runs && server.crashed === null) await server.start();
    await this.#untilRest();
    const { losses, ups } = this.#watch;
    const host = this.#watch.lossesOf(this.#host);
    const collector = this.#watch.lossesOf(this.#collector);
    for (const server of this.#servers) {
      if (!server.runs) continue;
      const fault = await server.stop();
      if (fault !== null) this.#fault(fault);
    }
    const accounts = this.#accounts(host, collector);
    const unconfirmed: Record<string, number> = {
      whole: this.#unconfirmed("whole", [host, collector], this.#stopped),
      cut: this.#unconfirmed("cut", [host, collector], this.#killed),
      left: this.#unconfirmed("left", [host, collector], null),
    };
    for (const account of accounts) this.#faults.push(...judgeAccount(account));
    console.log(`\n${minutes.toFixed(1)} minutes: ${this.#happenedText()}; ${ups} links came up`);
    console.log(this.#accountTable(accounts, unconfirmed, losses));
    const stay = [this.#host, this.#collector];
    console.log(this.#watch.table(60 * minutes, stay, (fault) => this.#faults.push(fault)));
    console.log(
      `echo of a light client: p50 ${this.#times.quantile(0.5).toFixed(1)} ms, ` +
        `p99 ${this.#times.quantile(0.99).toFixed(1)} ms; the soak itself: ` +
        `${((cpu.user + cpu.system) / 1e4 / 60 / minutes).toFixed(0)} % CPU, ` +
        `${(process.memoryUsage().rss / 1e6).toFixed(0)} MB`,
    );
    for (const fault of this.#faults) console.log(`FAILED: ${fault.split("\n")[0]}`);
    if (this.#faults.length === 0) console.log("all is well");
    return this.#faults.length === 0;
  }

  #happenedText(): string {
    return [...this.#happened].sort(([a], [b]) => a < b ? -1 : 1).map(([what, count]) => `${count} × ${what}`)
      .join(", ");
  }

  /** Of these, what is a handler's of that name, or the listening socket's. */
  #dropped(losses: Losses, socket: string, reasons: readonly string[]): number {
    return reasons.reduce((sum, reason) => sum + (losses.get(`${socket} ${reason}`) ?? 0), 0);
  }

  #accounts(host: Losses, collector: Losses): Account[] {
    const dropped = (path: string) =>
      this.#dropped(host, `h:${path}`, UP) + this.#dropped(collector, `h:${path}`, UP);
    const books = ({ sent, arrived, twice, late, strange }: Ledger) => ({
      sent,
      arrived,
      twice,
      late,
      strange,
    });
    const both = [...UP, "unread"];
    return [
      {
        name: "whole",
        ...books(this.#whole),
        dropped: dropped("whole") + this.#dropped(host, "router", ["oversized"]) +
          this.#dropped(this.#stopped.lost, "all", both),
        allowed: 0,
      },
      {
        name: "cut",
        ...books(this.#cut),
        dropped: dropped("cut") + this.#dropped(collector, "router", ["unread"]) +
          this.#dropped(this.#killed.lost, "all", both),
        allowed: this.#unconfirmed("cut", [host, collector], this.#killed) + this.#allowed,
      },
      {
        name: "left",
        ...books(this.#left),
        dropped: dropped("left"),
        allowed: this.#broken,
      },
      { name: "log lines", ...books(this.#logs), dropped: 0, allowed: 0 },
      {
        name: "echoes",
        ...books(this.#echoes),
        dropped: 0,
        allowed: 0,
      },
      {
        name: "echoes of slow readers",
        ...books(this.#slowEchoes),
        dropped: 0,
        allowed: this.#slowEchoes.sent,
      },
    ];
  }

  /** @param last Of the path, beside the host and the collector. */
  #unconfirmed(path: string, losses: readonly Losses[], last: Server | null): number {
    const own = losses.reduce((sum, from) => sum + this.#dropped(from, `h:${path}`, ["unconfirmed"]), 0);
    return own + (last === null ? 0 : this.#dropped(last.lost, "all", ["unconfirmed"]));
  }

  #accountTable(
    accounts: readonly Account[],
    unconfirmed: Readonly<Record<string, number>>,
    losses: Losses,
  ): string {
    const rows = accounts.map((account) => {
      const { name, sent, arrived, dropped, allowed, twice, late } = account;
      return [name, sent, arrived, dropped, missing(account), unconfirmed[name] ?? "", allowed, twice, late];
    });
    const reasons = [...losses].filter(([, count]) => count > 0).sort(([a], [b]) => a < b ? -1 : 1)
      .map(([reason, count]) => `${reason} ${count}`);
    return `${
      table(
        ["path", "sent", "arrived", "dropped", "missing", "unconfirmed", "may miss", "twice", "out of order"],
        rows,
      )
    }\nby reason, replies too: ${reasons.join(", ") || "nothing"}\n`;
  }
}
