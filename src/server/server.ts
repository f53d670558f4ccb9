/** The server: one ROUTER, the handlers, and what happens between start and stop. */
import { hostname } from "node:os";
import { pathToFileURL } from "node:url";
import type { HandlerConfig, ServerConfig } from "../config/config.ts";
import { socketOptions } from "../config/socket_options.ts";
import type { Handler, HandlerContext, HandlerFactory, HandlerModule } from "../handler.ts";
import { MESSAGE_MAX_FRAMES } from "../limits.ts";
import { type Logger, reason } from "../log.ts";
import type { CCMessage } from "../message/message.ts";
import { isLoopback, parseEndpoint } from "../socket/endpoint.ts";
import type { Context, TakenRelay } from "../socket/context.ts";
import type { Engine, RouterSocket } from "../socket/types.ts";
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

/** The server could not start; the message is one line for the operator. */
export class StartError extends Error {
  override name = "StartError";
}

export class Server {
  readonly config: ServerConfig;
  readonly statistics: Statistics;
  readonly #parts: ServerParts;
  readonly #log: Logger;
  readonly #routes: RouteTable;
  readonly #handlers = new Map<string, NamedHandler>();
  readonly #dispatcher: Dispatcher;
  #relay: TakenRelay | null = null;
  readonly #upstreams: Upstream[] = [];
  readonly #monitor: Monitor;
  #engine!: Engine;
  #router: RouterSocket | null = null;
  #endpoint: string | null = null;
  #stopping: Promise<void> | null = null;

  constructor(config: ServerConfig, parts: ServerParts) {
    this.config = config;
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
      log: this.#log,
      state: () => this.#state(),
    });
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
      for (const name of this.#needed()) {
        this.#handlers.set(name, { name, handler: await this.#create(name) });
      }
      for (const { name, handler } of this.#handlers.values()) {
        try {
          await handler.start?.();
        } catch (error) {
          throw new StartError(`${name}: ${reason(error)}`);
        }
      }
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

  /** Stops listening, sends what is queued within linger, and ends all connections. */
  stop(): Promise<void> {
    this.#stopping ??= this.#tearDown(this.config.options.zmq_linger).then(async () => {
      await this.#monitor.finish();
      this.#monitor.close();
      this.#log.info("shutdown", "stopped");
    });
    return this.#stopping;
  }

  async #tearDown(lingerMs: number): Promise<void> {
    const { clock } = this.#parts.context;
    const until = clock.now() + lingerMs;
    this.#monitor.stop();
    this.#router?.stopReceiving();
    // Those that pass messages on first: what they still hold goes to the others.
    const handlers = [...this.#handlers.values()];
    const depths = new Set(handlers.map(({ name }) => this.#depth(name)));
    for (const depth of [...depths].sort((a, b) => b - a)) {
      const rest = Math.max(0, until - clock.now());
      const level = handlers.filter(({ name }) => this.#depth(name) === depth);
      await Promise.all(level.map((named) => this.#stopHandler(named, rest)));
    }
    await this.#router?.close(Math.max(0, until - clock.now()));
    this.#dispatcher.relay = null;
    if (this.#relay !== null) this.#parts.context.returnRelay(this.#relay);
    this.#relay = null;
  }

  async #stopHandler({ name, handler }: NamedHandler, lingerMs: number): Promise<void> {
    try {
      await handler.stop?.(lingerMs);
    } catch (error) {
      this.#log.error("shutdown", `${name} failed to stop: ${reason(error)}`);
    }
  }

  /** How many handlers stand behind this one, by `forward-to`; the config has no circles. */
  #depth(name: string): number {
    const next = this.config.handlers.get(name)?.options["forward-to"];
    return typeof next === "string" ? 1 + this.#depth(next) : 0;
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
    if (options.zmq_nthreads > 1) warn("zmq_nthreads: this version serves everything in one thread");
  }

  /** Handlers that routes name, and those that they forward to. */
  #needed(): Set<string> {
    const needed = this.#routes.handlers;
    for (const name of needed) {
      // A set that grows is walked to its end.
      const next = this.config.handlers.get(name)?.options["forward-to"];
      if (typeof next === "string") needed.add(next);
    }
    return needed;
  }

  async #create(name: string): Promise<Handler> {
    const config = this.config.handlers.get(name);
    const context = this.#contextOf(name, config?.options ?? {});
    try {
      if (config === undefined) throw new Error("there is no such section");
      if (config.kind === "named") return this.#parts.handlers[config.handler](context);
      return (await loadHandlerModule(config)).create(context);
    } catch (error) {
      throw new StartError(`${name}: ${reason(error)}`);
    }
  }

  #contextOf(name: string, options: Readonly<Record<string, unknown>>): HandlerContext {
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
        this.#upstreams.push({ handler: name, endpoint, dealer, roundTripSeconds: null });
        return dealer;
      },
      roundTrip: (endpoint, seconds) => {
        for (const upstream of this.#upstreams) {
          if (upstream.handler === name && upstream.endpoint === endpoint) {
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
    };
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
