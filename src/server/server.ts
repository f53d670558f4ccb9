/**
 * The server: one ROUTER, the handlers, and what happens between start and stop.
 *
 * ```
 *          start()               it listens              stop()
 *   new ────────────▶ starting ─────────────▶ running ────────────▶ stopping ──▶ stopped
 *                        │  it fails, or stop() comes first            ▲
 *                        └─────────────────────────────────────────────┘
 *                                    reload(): running ──▶ running
 * ```
 */
import { optionAdvice } from "../config/advice.ts";
import { ConfigError } from "../config/diagnostics.ts";
import { linkValues } from "../config/socket_options.ts";
import { factsOf, type ServerConfig } from "../config/reader.ts";
import type { Environment } from "../contracts/environment.ts";
import type { Draft, Outcome } from "../contracts/message.ts";
import type { Seal } from "../contracts/seal.ts";
import { CCError, codeOf, errorText } from "../errors.ts";
import {
  DESCRIPTORS_KEPT,
  DESCRIPTORS_PER_HANDLER,
  IDENTITY_FRAME_MAX_BYTES,
  MEMORY_SHARE,
  MESSAGE_MAX_FRAMES,
  PEERS_MAX,
} from "../limits.ts";
import type { Logger } from "../log.ts";
import type { RelayTable } from "../relay/table.ts";
import { SocketContext } from "../socket/context.ts";
import { makeEngine } from "../socket/engine.ts";
import type { DropReason, Engine, RouterSocket, SocketOptions } from "../socket/types.ts";
import type { Changes } from "./changes.ts";
import { Statistics } from "./counts.ts";
import { Deliverer } from "./deliver.ts";
import { Dispatcher } from "./dispatch.ts";
import { StartError } from "./errors.ts";
import { endAll, type Generation, neededHandlers } from "./generation.ts";
import { isPromise } from "./guard.ts";
import { Host, type HostServices, lifeError } from "./host.ts";
import { Post } from "./post.ts";
import { Reload } from "./reload.ts";
import { RouteTable } from "./routes.ts";
import { dropsOf, expiryTexts, type Losses, lossesOf, type ServerState, upstreamsOf } from "./state.ts";
import { SealSlot } from "./seal_slot.ts";
import { isOutcome, type Verdict } from "./verdict.ts";

/**
 * Parts of linger by which a stopping server tells its clients that it ends, takes nothing more from them, and opens nothing
 * more: answers under way go out before the first, what clients had sent by then is taken before the second and opened
 * before the third, and what handlers have queued has the rest.
 */
const ANSWERS_SHARE = 0.5;
const DRAIN_SHARE = 0.75;
const OPENED_SHARE = 0.85;
/** How often memory and counters that nobody uses are given back. */
const UPKEEP_MS = 30_000;
/** How often a stopping server looks whether all has been handled. */
const SETTLED_LOOK_MS = 5;

/** @param before The one that is used until then; null: none. */
export type MakeSeal = (config: ServerConfig, before: Seal | null) => Promise<Seal>;

/** What a server is made of, besides its config. */
export interface ServerParts {
  readonly environment: Environment;
  readonly log: Logger;
  /** A seal, or what makes the one that a config asks for: at the start, and anew at each reload. @throws {CCError} */
  readonly seal: Seal | MakeSeal;
  /** Tells about the server; made once, before the server starts. */
  readonly observe?: (server: Server) => Observer;
}

/** Tells about a server while it lives. */
export interface Observer {
  /** Before the server listens. @throws {Error} The server does not start. */
  starting(): Promise<void>;
  /** The server listens. @throws {Error} It is stopped again. */
  started(): Promise<void>;
  /** It runs on another config. */
  reloaded(): void;
  stopping(): void;
  /** All has been stopped, also after a start that failed: `ran` tells which. */
  stopped(ran: boolean): Promise<void>;
}

export class Server {
  readonly statistics: Statistics;
  readonly environment: Environment;
  /** Its sockets', whose memory is given back when it is not needed. */
  readonly context: SocketContext;
  readonly log: Logger;
  readonly #seal: SealSlot;
  readonly #makeSeal: MakeSeal;
  readonly #post: Post;
  readonly #deliverer: Deliverer;
  readonly #dispatcher: Dispatcher;
  readonly #observer: Observer | null;
  readonly #socketOptions: SocketOptions;
  #generation: Generation;
  #table: RelayTable | null = null;
  /** Handlers that a reload is ending. */
  #leaving: readonly Host[] = [];
  readonly #pastDrops = new Map<string, Map<DropReason, number>>();
  readonly #pastUnconfirmed = new Map<string, number>();
  /** Aborts when the server should stop, in the middle of its start too. */
  readonly #stop = new AbortController();
  #starting: Promise<string> | null = null;
  #stopping: Promise<void> | null = null;
  /** The reload under way, and the end of those before. */
  #reloading: Promise<unknown> = Promise.resolve();
  #engine: Engine | null = null;
  #router: RouterSocket | null = null;
  #endpoint: string | null = null;
  #cancelUpkeep: () => void = () => {};

  constructor(config: ServerConfig, { environment, log, seal, observe }: ServerParts) {
    const { options } = config;
    this.environment = environment;
    this.log = log.child("CCServer");
    this.context = new SocketContext(environment, this.log);
    this.statistics = new Statistics(options["cc-stats"]);
    if (typeof seal === "function") {
      this.#seal = new SealSlot(null);
      this.#makeSeal = seal;
    } else {
      this.#seal = new SealSlot(seal);
      this.#makeSeal = async (_config, before) => {
        if (before !== null) await seal.reload();
        return seal;
      };
    }
    this.#post = new Post(environment, this.#seal, this.statistics, this.log);
    this.#deliverer = new Deliverer(this.#seal, this.statistics, this.log, environment.clock);
    this.#generation = { config, routes: new RouteTable(config.routes), hosts: new Map() };
    this.#dispatcher = new Dispatcher({
      resolve: (type) => this.#resolve(type),
      statistics: this.statistics,
      deliverer: this.#deliverer,
      post: this.#post,
      clock: environment.clock,
      log: this.log,
    });
    this.#socketOptions = {
      ...linkValues(options),
      hwm: options.zmq_hwm,
      messageMaxBytes: options.zmq_maxmsgsize,
      minVersion: options["zmtp-min-version"],
    };
    this.statistics.route(config.routes.map(({ type }) => type));
    this.statistics.losses = () => lossesOf(this.#losses);
    this.#observer = observe?.(this) ?? null;
  }

  /** What the server runs on; {@link reload} gives it another. */
  get config(): ServerConfig {
    return this.#generation.config;
  }

  /** Where the server listens, with the port the system chose; null before {@link start}. */
  get endpoint(): string | null {
    return this.#endpoint;
  }

  /** Messages dropped by all sockets since the start. */
  get drops(): number {
    return dropsOf(this.#losses);
  }

  get #losses(): Losses {
    const hosts = [...this.#generation.hosts.values(), ...this.#leaving];
    return {
      drops: this.#router?.drops ?? null,
      upstreams: upstreamsOf(hosts),
      pastDrops: this.#pastDrops,
      unconfirmed: this.#unconfirmed(hosts),
    };
  }

  /** What it shows of itself. */
  get state(): ServerState {
    const stopping = this.#stop.signal.aborted;
    const hosts = [...this.#generation.hosts.values()];
    const unready = hosts.flatMap((host) => host.unready() ?? []);
    const expiries = this.#seal.now?.expiries ?? [];
    unready.push(...expiryTexts(expiries, this.environment.clock.time()).expired);
    if (stopping) unready.unshift("the server is stopping");
    else if (this.#endpoint === null) unready.unshift("the server does not listen yet");
    else if (this.#router?.rests) {
      unready.unshift("no client is accepted for now: no file descriptor is free");
    }
    return {
      ...this.#losses,
      endpoint: this.#endpoint,
      stopping,
      engine: this.#engine?.description ?? "",
      peers: this.#router?.peers ?? 0,
      peersMax: this.#router?.peersMax ?? null,
      closed: this.#router?.closed ?? new Map(),
      unready,
      expiries,
    };
  }

  /**
   * Starts the handlers, then listens. When anything fails, or {@link stop} comes first, all that was started is stopped
   * again. A server starts once.
   *
   * @returns Where it listens.
   * @throws {StartError}
   */
  start(): Promise<string> {
    if (this.#starting !== null) throw new Error("A server starts once: make another one");
    return this.#starting = this.#start();
  }

  async #start(): Promise<string> {
    try {
      this.#warnings();
      await this.#startParts();
    } catch (error) {
      // What stop() does is done here; it waits for it.
      await this.#tearDown(0);
      await this.#observer?.stopped(false);
      this.log.tellHeld();
      throw error instanceof StartError || error instanceof ConfigError
        ? error
        : new StartError(codeOf(error) ?? "start-failed", errorText(error));
    }
    const endpoint = this.#endpoint!;
    const { options } = this.config;
    this.log.info(
      "startup",
      `listening on ${endpoint}, role ${options["cc-role"]}, engine ${this.#engine!.description}`,
    );
    return endpoint;
  }

  async #startParts(): Promise<void> {
    const { config } = this;
    const { options } = config;
    const { signal } = this.#stop;
    const unlessStopped = () => {
      if (signal.aborted) throw new StartError("stopped", "the server was stopped while it started");
    };
    unlessStopped();
    this.#seal.use(await this.#makeSeal(config, null));
    this.#engine = await makeEngine(options["zmq-engine"], this.context);
    unlessStopped();
    this.#table = this.context.relayTable({
      // A relayed message gets an identity in front: those at the bounds are looked at one by one.
      messageMaxBytes: this.#socketOptions.messageMaxBytes - IDENTITY_FRAME_MAX_BYTES,
      messageMaxFrames: MESSAGE_MAX_FRAMES - 1,
    });
    this.#dispatcher.table = this.#table;
    const memoryBudgetBytes = options["memory-budget"] ?? this.environment.host.memoryBytes * MEMORY_SHARE;
    this.context.upstreams.budgetBytes = memoryBudgetBytes;
    this.#router = this.#engine.router(
      {
        ...this.#socketOptions,
        identityTakeover: options["identity-takeover"],
        maxClients: this.#maxClients(config),
        messageTimeoutMs: options["message-timeout"] * 1000,
        memoryBudgetBytes,
      },
      this.#dispatcher,
    );
    this.#post.router = this.#router;
    const hosts = new Map<string, Host>();
    this.#generation = { ...this.#generation, hosts };
    for (const name of neededHandlers(config)) hosts.set(name, this.#makeHost(name, config));
    for (const host of hosts.values()) host.join(hosts);
    for (const host of hosts.values()) {
      await startHost(host, signal);
      unlessStopped();
    }
    await this.#observer?.starting();
    unlessStopped();
    this.#endpoint = await this.#router.bind(options["cc-socket"]);
    this.#cancelUpkeep = this.environment.clock.every(UPKEEP_MS, () => this.#upkeep());
    unlessStopped();
    await this.#observer?.started();
    unlessStopped();
    for (const host of hosts.values()) host.listening();
  }

  /**
   * Takes over another config. Handlers that it does not change keep their connections and all they hold; those it
   * ends send what they have queued. What needs a restart stays as it is, and the log says so.
   *
   * @throws {StartError} A handler of the new config cannot be started: then nothing has changed.
   */
  reload(next: ServerConfig): Promise<Changes> {
    const reloaded = this.#reloading.then(() => this.#reload(next));
    this.#reloading = reloaded.catch(() => {/* the caller is told */});
    return reloaded;
  }

  async #reload(next: ServerConfig): Promise<Changes> {
    if (this.#endpoint === null) {
      throw new StartError("not-running", "the server does not run: there is nothing to reload");
    }
    const reload = new Reload(this.#generation, next, {
      clock: this.environment.clock,
      log: this.log,
      stopped: this.#stop.signal,
      makeHost: (name, config) => this.#makeHost(name, config),
      startHost: (host) => startHost(host, this.#stop.signal),
    });
    const before = this.#generation.hosts;
    // What is wrong with keys leaves all as it is.
    const seal = await this.#makeSeal(reload.config, this.#seal.now);
    const generation = await reload.prepare();
    if (generation === null) return reload.changes;
    this.#seal.use(seal);
    this.#generation = generation;
    this.statistics.route(generation.config.routes.map(({ type }) => type));
    for (const host of generation.hosts.values()) host.join(generation.hosts);
    this.#dispatcher.invalidate();
    this.#observer?.reloaded();
    reload.tell(seal.expiries !== undefined);
    this.#leaving = reload.ended;
    await reload.endOthers();
    for (const host of generation.hosts.values()) if (before.get(host.name) !== host) host.listening();
    this.#leaving = [];
    this.#rememberDrops(reload.ended);
    return reload.changes;
  }

  /**
   * Asks the handlers that run, or are stopping, for what an operator wants.
   *
   * @returns What they answer, by their names: those that know the verb.
   * @throws What one of them throws: a {@link CCError}, where it cannot do what was asked for. `stopped`: the server is
   * stopping, and not all are there any more.
   */
  async control(
    verb: string,
    request: Readonly<Record<string, unknown>>,
  ): Promise<Record<string, unknown>> {
    const all = [...this.#generation.hosts.values()];
    const hosts = all.filter((host) => host.answers);
    // Those that have ended would be missing, as if there had never been any.
    if (this.#stop.signal.aborted && hosts.length < all.length) {
      throw new CCError("stopped", "the server is stopping");
    }
    const answers = await Promise.all(
      hosts.map(async (host) => [host.name, await host.control(verb, request)] as const),
    );
    return Object.fromEntries(answers.filter(([, answer]) => answer !== undefined));
  }

  #unconfirmed(hosts: readonly Host[]): Map<string, number> {
    const sums = new Map(this.#pastUnconfirmed);
    for (const { handler, upstream } of upstreamsOf(hosts)) {
      sums.set(handler, (sums.get(handler) ?? 0) + upstream.dealer.unconfirmed);
    }
    return sums;
  }

  /** A handler's drops stay known when it has ended. */
  #rememberDrops(hosts: readonly Host[]): void {
    for (const { handler, upstream } of upstreamsOf(hosts)) {
      const past = this.#pastDrops.get(handler) ?? new Map<DropReason, number>();
      this.#pastDrops.set(handler, past);
      const { unconfirmed } = upstream.dealer;
      this.#pastUnconfirmed.set(handler, (this.#pastUnconfirmed.get(handler) ?? 0) + unconfirmed);
      for (const [reason, count] of upstream.dealer.drops.byReason) {
        past.set(reason, (past.get(reason) ?? 0) + count);
      }
    }
  }

  /** Stops listening, sends what is queued within linger, and ends all connections. */
  stop(): Promise<void> {
    return this.#stopping ??= this.#stopAll();
  }

  async #stopAll(): Promise<void> {
    this.#stop.abort();
    const started = await this.#starting?.then(() => true, () => false) ?? false;
    await this.#reloading;
    if (!started) return;
    this.#observer?.stopping();
    await this.#tearDown(this.config.options.zmq_linger);
    await this.#observer?.stopped(true);
    this.log.tellHeld();
    this.log.info("shutdown", "stopped");
  }

  async #tearDown(lingerMs: number): Promise<void> {
    const { clock } = this.environment;
    const hosts = [...this.#generation.hosts.values()];
    // Processes that end say so, to this server: linger begins when they have.
    await Promise.all(hosts.filter((host) => host.endsFirst).map((host) => host.end(lingerMs)));
    const until = clock.now() + lingerMs;
    const left = (share: number) => Math.max(0, until - clock.now() - (1 - share) * lingerMs);
    this.#cancelUpkeep();
    this.#router?.stopListening();
    await this.#settled(hosts, left(ANSWERS_SHARE));
    await this.#router?.drain(left(DRAIN_SHARE));
    await this.#opened(left(OPENED_SHARE));
    await endAll(hosts, left(1), clock.now);
    await this.#router?.close(left(1));
    // They are counted in this turn.
    if (this.#deliverer.giveUp()) await new Promise<void>((resolve) => clock.nextTurn(resolve));
    this.#dispatcher.table = null;
    this.#table?.close();
    this.#table = null;
    await this.#seal.close();
  }

  /** As many as there are descriptors for. */
  #maxClients({ options, handlers }: ServerConfig): number {
    const { descriptorsMax } = this.environment.host;
    const kept = DESCRIPTORS_KEPT + DESCRIPTORS_PER_HANDLER * handlers.size;
    const possible = descriptorsMax === null ? PEERS_MAX : Math.max(1, descriptorsMax - kept);
    const asked = options["max-clients"];
    if (asked !== null && asked > possible) {
      this.log.warn(
        "startup",
        `max-clients is ${asked}, but of ${descriptorsMax} descriptors (ulimit -n) only ${possible} are left for clients`,
      );
    }
    return Math.min(asked ?? PEERS_MAX, possible);
  }

  /** What a load left behind is not kept while none comes, nor what made-up types left for those that are sent. */
  #upkeep(): void {
    this.context.trim();
    if (this.statistics.expireTypes(this.environment.clock.now())) this.#dispatcher.invalidate();
  }

  /** Waits until what had come has been handled, at most `ms`. */
  async #settled(hosts: readonly Host[], ms: number): Promise<void> {
    const { clock } = this.environment;
    const until = clock.now() + ms;
    const settled = () =>
      (this.#router?.idle ?? true) && this.#deliverer.idle && hosts.every((host) => host.settled);
    while (!settled() && clock.now() < until) {
      await new Promise<void>((resolve) => void clock.after(SETTLED_LOOK_MS, resolve));
    }
  }

  /** Waits until what had come has been given to its handlers, at most `ms`. */
  async #opened(ms: number): Promise<void> {
    const { clock } = this.environment;
    const until = clock.now() + ms;
    while (!this.#deliverer.idle && clock.now() < until) {
      await new Promise<void>((resolve) => void clock.after(SETTLED_LOOK_MS, resolve));
    }
  }

  #warnings(): void {
    const { options, warnings } = this.config;
    const warn = (text: string) => this.log.warn("startup", text);
    for (const { file, line, message } of warnings) warn(`${file}:${line}: ${message}`);
    for (const [, text] of optionAdvice(options)) warn(text);
  }

  /** @throws {StartError} */
  #makeHost(name: string, config: ServerConfig): Host {
    const section = config.handlers.get(name);
    if (section === undefined) throw new StartError("handler-failed", `${name}: there is no such section`);
    const host = new Host(section, this.#services(config));
    try {
      host.create();
      return host;
    } catch (error) {
      throw new StartError("handler-failed", lifeError(host, error));
    }
  }

  #services(config: ServerConfig): HostServices {
    const { options } = config;
    return {
      environment: this.environment,
      log: this.log,
      statistics: this.statistics,
      post: this.#post,
      deliverer: this.#deliverer,
      handlerTimeoutMs: options["handler-timeout"] * 1000,
      facts: factsOf(config, this.environment.host),
      upstreams: {
        engine: this.#engine!,
        socketOptions: this.#socketOptions,
        lingerMs: options.zmq_linger,
        seal: this.#seal,
        router: this.#router!,
      },
      publish: (draft) => this.#publish(draft),
      routedTo: (type) => this.#generation.routes.match(type).map(({ handler }) => handler),
      replan: () => this.#replan(),
    };
  }

  #publish(draft: Draft): Outcome | Promise<Outcome> {
    const verdict = this.#post.encode(
      draft,
      (bytes, plain) => this.#dispatcher.publish(draft.type, bytes, plain),
    );
    return isPromise(verdict) ? Promise.resolve(verdict).then(toOutcome) : toOutcome(verdict);
  }

  #replan(): void {
    for (const host of this.#generation.hosts.values()) host.forgetPlans();
    this.#dispatcher.invalidate();
  }

  #resolve(type: string): Host[] {
    const { routes, hosts } = this.#generation;
    return routes.match(type).map(({ handler }) => hosts.get(handler)!);
  }
}

/** A message that was refused or lost by a handler of ours is not published again. */
function toOutcome(verdict: Verdict): Outcome {
  if (verdict === "duplicate") return "ok";
  return isOutcome(verdict) ? verdict : "dropped";
}

/** @throws {StartError} */
async function startHost(host: Host, signal: AbortSignal): Promise<void> {
  try {
    await host.start(signal);
  } catch (error) {
    throw new StartError("handler-failed", lifeError(host, error));
  }
}
