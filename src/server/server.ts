/** The server: one ROUTER, the handlers, and what happens between start and stop. */
import { hostname } from "node:os";
import { pathToFileURL } from "node:url";
import type { HandlerConfig, ServerConfig } from "../config/config.ts";
import type { ServerOptions } from "../config/schemas.ts";
import { socketOptions } from "../config/socket_options.ts";
import type { Handler, HandlerContext, HandlerFactory, HandlerModule } from "../handler.ts";
import { MESSAGE_MAX_FRAMES } from "../limits.ts";
import { type Logger, reason } from "../log.ts";
import type { CCMessage } from "../message/message.ts";
import { isLoopback, parseEndpoint } from "../socket/endpoint.ts";
import type { Context, TakenRelay } from "../socket/context.ts";
import type { Engine, RouterSocket } from "../socket/types.ts";
import { type Changes, compareConfigs, describeChanges } from "./changes.ts";
import { Dispatcher, type NamedHandler } from "./dispatch.ts";
import { Monitor } from "./monitor.ts";
import { RouteTable } from "./routes.ts";
import { dropsOf, type ServerState, type Upstream } from "./state.ts";
import { Statistics } from "./stats.ts";

/** What a server is made of, besides its config. */
export interface ServerParts {
  /** Makes the engine, which makes the sockets. */
  engine: () => Promise<Engine>;
  /** Clock, log and links; those of the engine. */
  context: Context;
  /** Factories of handlers by short name: the built-in ones, and those of an embedding program. */
  // deno-lint-ignore no-explicit-any -- each factory has options of its own type, checked by the config
  handlers: Readonly<Record<string, HandlerFactory<any>>>;
}

/** How long a reload waits at most for the upstreams of new handlers, and how often it looks. */
const UPSTREAM_WAIT_MS = 2000;
const UPSTREAM_LOOK_MS = 10;

/** The server could not start; the message is one line for the operator. */
export class StartError extends Error {
  override name = "StartError";
}

export class Server {
  #config: ServerConfig;
  readonly statistics: Statistics;
  readonly #parts: ServerParts;
  readonly #log: Logger;
  #routes: RouteTable;
  #handlers = new Map<string, NamedHandler>();
  readonly #dispatcher: Dispatcher;
  #relay: TakenRelay | null = null;
  #upstreams: Upstream[] = [];
  #pastDrops = 0;
  /** The reload under way, and the end of those before. */
  #reloading: Promise<unknown> = Promise.resolve();
  readonly #monitor: Monitor;
  #engine!: Engine;
  #router: RouterSocket | null = null;
  #endpoint: string | null = null;
  #stopping: Promise<void> | null = null;

  constructor(config: ServerConfig, parts: ServerParts) {
    this.#config = config;
    this.#parts = parts;
    this.#log = parts.context.log.child("CCServer");
    this.#routes = new RouteTable(config.routes);
    this.statistics = new Statistics(config.options["cc-stats"]);
    this.#dispatcher = new Dispatcher(
      (type) => this.#resolve(type),
      this.statistics,
      () => parts.context.clock.now(),
      this.#log,
    );
    this.#monitor = new Monitor({
      config,
      statistics: this.statistics,
      clock: parts.context.clock,
      context: parts.context,
      log: this.#log,
      state: () => this.#state(),
    });
  }

  /** What the server runs on; {@link reload} gives it another. */
  get config(): ServerConfig {
    return this.#config;
  }

  /** Where the server listens, with the port the system chose; null before {@link start}. */
  get endpoint(): string | null {
    return this.#endpoint;
  }

  /** Where metrics and health are served, `http://127.0.0.1:9108`; null where they are not. */
  get httpUrl(): string | null {
    return this.#monitor.url;
  }

  /** Messages dropped by all sockets since the start. */
  get drops(): number {
    return dropsOf(this.#state());
  }

  /**
   * Starts the handlers, then listens. When anything fails, all that was started is stopped again.
   *
   * @returns Where it listens.
   * @throws {StartError}
   */
  async start(): Promise<string> {
    const { options } = this.config;
    this.#warnings();
    try {
      this.#engine = await this.#parts.engine();
      const own = socketOptions(options);
      this.#relay = this.#parts.context.takeRelay({
        messageMaxBytes: own.messageMaxBytes,
        messageMaxFrames: MESSAGE_MAX_FRAMES,
      });
      this.#dispatcher.relay = this.#relay?.relay ?? null;
      this.#router = this.#engine.router(own, this.#dispatcher);
      for (const name of needed(this.#routes, this.config)) {
        this.#handlers.set(name, { name, handler: await this.#create(name, this.config) });
      }
      await startAll(this.#handlers.values());
      await this.#monitor.listen();
      this.#endpoint = await this.#router.bind(options["cc-socket"]);
      await this.#monitor.start();
    } catch (error) {
      await this.#tearDown(0);
      this.#monitor.close();
      throw error instanceof StartError ? error : new StartError(reason(error));
    }
    const http = this.httpUrl === null ? "" : `, HTTP on ${this.httpUrl}`;
    this.#log.info(
      "startup",
      `listening on ${this.#endpoint}, role ${options["cc-role"]}, engine ${this.#engine.description}${http}`,
    );
    return this.#endpoint;
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
    const before = this.config;
    const changes = compareConfigs(before, next);
    const kept = Object.fromEntries(
      changes.restart.map((name) => [name, before.options[name as keyof ServerOptions]]),
    );
    const config: ServerConfig = { ...next, options: { ...next.options, ...kept } };
    const routes = new RouteTable(config.routes);
    const handlers = new Map<string, NamedHandler>();
    const fresh: NamedHandler[] = [];
    try {
      for (const name of needed(routes, config)) {
        const running = changes.handlers.changed.includes(name) ? undefined : this.#handlers.get(name);
        const named = running ?? { name, handler: await this.#create(name, config) };
        if (running === undefined) fresh.push(named);
        handlers.set(name, named);
      }
      await startAll(fresh);
    } catch (error) {
      await this.#end(fresh, config, 0);
      throw error instanceof StartError ? error : new StartError(reason(error));
    }
    await this.#waitForUpstreams(fresh);
    if (this.#stopping !== null) {
      await this.#end(fresh, config, 0);
      return changes;
    }
    const ended = [...this.#handlers.values()].filter((named) => handlers.get(named.name) !== named);
    this.#config = config;
    this.#routes = routes;
    this.#handlers = handlers;
    this.#dispatcher.forget();
    this.#monitor.retime(config.options);
    this.#tell(changes, next);
    // Replies to what was sent before still come for a while.
    await this.#wait(ended.length > 0 ? config.options.zmq_linger : 0);
    await this.#end(ended, before, config.options.zmq_linger);
    return changes;
  }

  #tell(changes: Changes, next: ServerConfig): void {
    const lines = describeChanges(changes);
    for (const line of lines) this.#log.info("reload", line);
    for (const name of changes.restart) {
      const key = name as keyof ServerOptions;
      this.#log.warn(
        "reload",
        `${name}: ${JSON.stringify(next.options[key])} needs a restart; it stays ${
          JSON.stringify(this.config.options[key])
        }`,
      );
    }
    if (lines.length === 0 && changes.restart.length === 0) this.#log.info("reload", "nothing has changed");
  }

  /** A new upstream is given a moment to connect: until then only zmq_hwm messages would wait for it. */
  async #waitForUpstreams(fresh: readonly NamedHandler[]): Promise<void> {
    const handlers = new Set(fresh.map(({ handler }) => handler));
    const { clock } = this.#parts.context;
    const until = clock.now() + UPSTREAM_WAIT_MS;
    const connecting = () =>
      this.#upstreams.some(({ owner, dealer }) => handlers.has(owner()!) && !dealer.up);
    while (connecting() && clock.now() < until && this.#stopping === null) await this.#wait(UPSTREAM_LOOK_MS);
  }

  #wait(ms: number): Promise<void> {
    return ms <= 0
      ? Promise.resolve()
      : new Promise((resolve) => void this.#parts.context.clock.after(ms, resolve));
  }

  /** Stops listening, sends what is queued within linger, and ends all connections. */
  stop(): Promise<void> {
    this.#stopping ??= this.#reloading.then(() => this.#tearDown(this.config.options.zmq_linger)).then(
      async () => {
        await this.#monitor.finish();
        this.#monitor.close();
        this.#log.info("shutdown", "stopped");
      },
    );
    return this.#stopping;
  }

  async #tearDown(lingerMs: number): Promise<void> {
    const { clock } = this.#parts.context;
    const until = clock.now() + lingerMs;
    this.#monitor.stop();
    this.#router?.stopReceiving();
    await this.#end([...this.#handlers.values()], this.config, lingerMs);
    await this.#router?.close(Math.max(0, until - clock.now()));
    this.#dispatcher.relay = null;
    if (this.#relay !== null) this.#parts.context.returnRelay(this.#relay);
    this.#relay = null;
  }

  /** Stops handlers of this config within linger: those that pass messages on first, what they hold goes to the others. */
  async #end(handlers: readonly NamedHandler[], config: ServerConfig, lingerMs: number): Promise<void> {
    const { clock } = this.#parts.context;
    const until = clock.now() + lingerMs;
    const depths = new Set(handlers.map(({ name }) => depthOf(name, config)));
    for (const depth of [...depths].sort((a, b) => b - a)) {
      const rest = Math.max(0, until - clock.now());
      const level = handlers.filter(({ name }) => depthOf(name, config) === depth);
      await Promise.all(level.map((named) => this.#stopHandler(named, rest)));
    }
    const ended = new Set(handlers.map(({ handler }) => handler));
    for (const { owner, dealer } of this.#upstreams) {
      if (ended.has(owner()!)) this.#pastDrops += dealer.drops.total;
    }
    this.#upstreams = this.#upstreams.filter(({ owner }) => !ended.has(owner()!));
  }

  async #stopHandler({ name, handler }: NamedHandler, lingerMs: number): Promise<void> {
    try {
      await handler.stop?.(lingerMs);
    } catch (error) {
      this.#log.error("shutdown", `${name} failed to stop: ${reason(error)}`);
    }
  }

  #warnings(): void {
    const { options } = this.config;
    const warn = (text: string) => this.#log.warn("startup", text);
    if (options["cc-role"] === "insecure") {
      warn("cc-role is insecure: every handler may run. Say local or remote");
    }
    if (options["cc-role"] === "local" && !isLoopback(parseEndpoint(options["cc-socket"], "bind"))) {
      warn(`cc-role is local, but ${options["cc-socket"]} can be reached from other hosts`);
    }
    if (options["cc-stats"] === 0) warn("cc-stats is 0: nothing is counted");
    if (options.zmq_nthreads > 1) {
      warn(
        `zmq_nthreads is ${options.zmq_nthreads}, but one thread serves everything: more would bring little and cost order ` +
          "(docs/decisions/0009-one-thread.md). For more, run a second server on another port",
      );
    }
  }

  async #create(name: string, { handlers }: ServerConfig): Promise<Handler> {
    const config = handlers.get(name);
    let made: Handler | null = null;
    const context = this.#contextOf(name, config?.options ?? {}, () => made);
    try {
      if (config === undefined) throw new Error("there is no such section");
      made = config.kind === "named"
        ? this.#parts.handlers[config.handler](context)
        : (await loadHandlerModule(config)).create(context);
      return made;
    } catch (error) {
      throw new StartError(`${name}: ${reason(error)}`);
    }
  }

  #contextOf(
    name: string,
    options: Readonly<Record<string, unknown>>,
    owner: () => Handler | null,
  ): HandlerContext {
    const { context } = this.#parts;
    const own = socketOptions(this.config.options);
    return {
      name,
      options: options as Readonly<Record<string, string>>,
      log: context.log.child(name),
      hostname: HOSTNAME,
      clock: context.clock,
      toClient: (buf, start = 0, end = buf.length, owned = false) =>
        this.#router!.send(buf, start, end, owned),
      forward: (to, message) => this.#forward(to, message),
      dealer: (endpoint, some, sink, events) => {
        const dealer = this.#engine.dealer(endpoint, { ...own, ...some }, sink, events);
        this.#upstreams.push({ handler: name, owner, endpoint, dealer, roundTripSeconds: null });
        return dealer;
      },
      roundTrip: (endpoint, seconds) => {
        for (const upstream of this.#upstreams) {
          if (upstream.owner() === owner() && upstream.endpoint === endpoint) {
            upstream.roundTripSeconds = seconds;
          }
        }
      },
      count: (counter, by = 1) => this.statistics.count(counter, by),
    };
  }

  #forward(to: string, message: CCMessage): void {
    const named = this.#handlers.get(to);
    if (named === undefined) throw new Error(`no handler ${to}`);
    if (!this.#dispatcher.call(named, message)) this.statistics.count(`${to.slice(2)}.crashed`, 1);
  }

  #resolve(type: string): NamedHandler[] {
    return this.#routes.match(type).map(({ handler }) => this.#handlers.get(handler)!);
  }

  #state(): ServerState {
    return {
      endpoint: this.#endpoint,
      stopping: this.#stopping !== null,
      engine: this.#engine?.description ?? "",
      peers: this.#router?.peers ?? 0,
      drops: this.#router?.drops ?? null,
      upstreams: this.#upstreams,
      pastDrops: this.#pastDrops,
    };
  }
}

/** Handlers that routes name, and those that they forward to. */
function needed(routes: RouteTable, { handlers }: ServerConfig): Set<string> {
  const names = routes.handlers;
  for (const name of names) {
    // A set that grows is walked to its end.
    const next = handlers.get(name)?.options["forward-to"];
    if (typeof next === "string") names.add(next);
  }
  return names;
}

/** How many handlers stand behind this one, by `forward-to`; the config has no circles. */
function depthOf(name: string, config: ServerConfig): number {
  const next = config.handlers.get(name)?.options["forward-to"];
  return typeof next === "string" ? 1 + depthOf(next, config) : 0;
}

async function startAll(handlers: Iterable<NamedHandler>): Promise<void> {
  for (const { name, handler } of handlers) {
    try {
      await handler.start?.();
    } catch (error) {
      throw new StartError(`${name}: ${reason(error)}`);
    }
  }
}

/** This host's name, as it stands in messages. */
export const HOSTNAME: string = hostname();

/**
 * Loads a module with a handler of one's own.
 *
 * @throws {Error} It cannot be loaded, or is no handler; the message names the file.
 */
export async function loadHandlerModule(config: HandlerConfig): Promise<HandlerModule> {
  let loaded: { default?: Partial<HandlerModule> };
  try {
    loaded = await import(pathToFileURL(config.handler).href);
  } catch (error) {
    throw new Error(`cannot load ${config.handler}: ${reason(error)}`);
  }
  const create = loaded.default?.create;
  if (typeof create !== "function") {
    throw new Error(`${config.handler} is no handler: its default export has no function "create"`);
  }
  return { create };
}
