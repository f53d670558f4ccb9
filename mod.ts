/**
 * CC, Command & Control: a message proxy for server management on ZeroMQ, for use in a program.
 *
 * @example A server with a handler of one's own, and a client of it
 * ```ts
 * import { AnyBody, connect, defineHandler, readConfig, serve } from "@ccserver/ccserver";
 *
 * const greeter = defineHandler({
 *   name: "greeter",
 *   summary: "Answers greet.",
 *   roles: ["local", "remote"],
 *   options: {},
 *   create: () => ({
 *     plan: () => ({ open: AnyBody }),
 *     handle(message, { name }) {
 *       message.reply({ type: "greeting", fields: { text: `hello ${name}` } });
 *       return "ok";
 *     },
 *   }),
 * });
 * const config = readConfig(
 *   "[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\n[routes]\ngreet = h:g\n[h:g]\nhandler = greeter\n",
 *   "greeter.ini",
 *   { handlers: [greeter] },
 * );
 * const server = await serve(config);
 * const client = connect(server.endpoint!);
 * const { body } = await client.query({ type: "greet", fields: { name: "you" } });
 * console.log(body.text); // hello you
 * await client.close();
 * await server.stop();
 * ```
 *
 * @module
 */
import process from "node:process";
import { Client } from "./src/client/client.ts";
import type { InboxOptions } from "./src/client/inbox.ts";
import type { Wait } from "./src/client/turns.ts";
import type { ClientLike, ClientOptions, Received } from "./src/client/types.ts";
import { Diagnostics } from "./src/config/diagnostics.ts";
import { expand, parse } from "./src/config/ini.ts";
import { loadConfig as load } from "./src/config/load.ts";
import { Modules } from "./src/config/modules.ts";
import { type AnyHandlerDefinition, readConfig as read, type ServerConfig } from "./src/config/reader.ts";
import type { Environment } from "./src/contracts/environment.ts";
import type { Draft } from "./src/contracts/message.ts";
import type { Seal } from "./src/contracts/seal.ts";
import { HANDLERS_BY_NAME, UNBUILT_HANDLERS } from "./src/handlers/index.ts";
import { HANDLER_TOOLKIT } from "./src/handlers/toolkit.ts";
import { MESSAGE_MAX_BYTES, PEERS_MAX } from "./src/limits.ts";
import { Logger, type LogSink } from "./src/log.ts";
import type { Block } from "./src/memory/block.ts";
import { MonitoredServer } from "./src/observe/monitor.ts";
import { finish } from "./src/observe/slices.ts";
import { values } from "./src/observe/stats.ts";
import { MACHINE } from "./src/runtime/machine.ts";
import { openSeal } from "./src/commands/seal.ts";
import { IDENTITY } from "./src/seal/identity.ts";
import type { MakeSeal } from "./src/server/server.ts";
import type { Changes } from "./src/server/changes.ts";
import { SocketContext } from "./src/socket/context.ts";
import { Dealer as SocketDealer } from "./src/socket/dealer.ts";
import { Router as SocketRouter } from "./src/socket/router.ts";
import type {
  DealerEvents,
  DealerOptions,
  Drops,
  MessageSink,
  RouterOptions,
  SendResult,
  SocketOptions,
  Source,
} from "./src/socket/types.ts";

export { ClientError, type ClientErrorCode } from "./src/client/errors.ts";
export type { InboxOptions } from "./src/client/inbox.ts";
export type { Wait } from "./src/client/turns.ts";
export type { ClientLike, ClientOptions, Received } from "./src/client/types.ts";
export { ConfigError, type Diagnostic } from "./src/config/diagnostics.ts";
export { stringify as stringifyIni } from "./src/config/ini.ts";
export {
  boolean,
  choice,
  endpoint,
  handlerName,
  handlerNames,
  type HostPort,
  integer,
  list,
  number,
  option,
  optional,
  path,
  required,
  size,
  text,
} from "./src/config/options.ts";
export type {
  AllowConfig,
  AnyHandlerDefinition,
  HandlerConfig,
  RouteConfig,
  ServerConfig,
} from "./src/config/reader.ts";
export type { ServerOptions } from "./src/config/server_options.ts";
export type { ZmqValues } from "./src/config/socket_options.ts";
export type { DaemonContext, DaemonDefinition } from "./src/contracts/daemon.ts";
export type * from "./src/contracts/environment.ts";
export type * from "./src/contracts/handler.ts";
export type * from "./src/contracts/links.ts";
export type * from "./src/contracts/message.ts";
export type * from "./src/contracts/schema.ts";
export type * from "./src/contracts/seal.ts";
export { defineDaemon } from "./src/daemons/define.ts";
export { EndpointError } from "./src/endpoint.ts";
export { CCError } from "./src/errors.ts";
export { defineHandler, EVERYWHERE } from "./src/handlers/define.ts";
export type { HandlerToolkit } from "./src/handlers/toolkit.ts";
export {
  type Level,
  type LogClock,
  type LogFormat,
  Logger,
  type LogOptions,
  type LogSink,
  type RareText,
} from "./src/log.ts";
export type { Arena, ArenaMemory } from "./src/memory/arena.ts";
export type { Block, BlockHome } from "./src/memory/block.ts";
export type { Vectors } from "./src/memory/vectors.ts";
export { MessageError, type MessageErrorCode } from "./src/message/errors.ts";
export { AnyBody } from "./src/message/schemas.ts";
export type { Changes, Difference } from "./src/server/changes.ts";
export { StartError } from "./src/server/errors.ts";
export type { Takeover } from "./src/socket/claims.ts";
export type {
  DealerEvents,
  DealerOptions,
  DropReason,
  Drops,
  MessageSink,
  RouterOptions,
  SendResult,
  SocketOptions,
  Source,
} from "./src/socket/types.ts";
export { VERSION } from "./src/version.ts";
export { decodeFrames, encodeFrames } from "./src/zmtp/frame.ts";
export type { MinVersion } from "./src/zmtp/handshake.ts";

/** What a config is read with, besides its text. */
export interface ReadOptions {
  /** Handlers of one's own, beside the built-in ones: `handler = NAME` takes them by the names in their definitions. */
  handlers?: readonly AnyHandlerDefinition[];
}

/** Where an embedding program's log lines go; nowhere when nothing is said. */
export interface Logging {
  /** A logger, or a function that takes finished lines. */
  log?: Logger | LogSink;
}

/** What a server runs with. */
export interface ServeOptions extends Logging {
  /** Default: this machine. */
  environment?: Environment;
  /** Default: what the config's `cms-` options ask for. */
  seal?: Seal;
}

/** What goes without saying. */
const SOCKET_DEFAULTS: SocketOptions = {
  hwm: 1000,
  receiveBufferBytes: 0,
  sendBufferBytes: 0,
  keepAlive: null,
  messageMaxBytes: MESSAGE_MAX_BYTES,
};
const ROUTER_DEFAULTS: Omit<RouterOptions, keyof SocketOptions> = {
  identityTakeover: "probe",
  maxClients: PEERS_MAX,
  messageTimeoutMs: 60_000,
  memoryBudgetBytes: Infinity,
};

/** Modules that configs name are loaded once in a program. */
const MODULES = new Modules(MACHINE, HANDLER_TOOLKIT);

function loggerOf(log: Logging["log"]): Logger {
  return log instanceof Logger ? log : new Logger("cc", { sink: log ?? (() => {}), pid: process.pid });
}

function definitionsWith(handlers: readonly AnyHandlerDefinition[] = []): Map<string, AnyHandlerDefinition> {
  return new Map([
    ...HANDLERS_BY_NAME,
    ...handlers.map((definition) => [definition.name, definition] as const),
  ]);
}

/**
 * Checks the text of a config file. Handlers that are files of their own need {@link loadConfig}.
 *
 * @param file Its name: for messages and for the job's name.
 * @throws {ConfigError} With everything that is wrong, each with file and line.
 */
export function readConfig(text: string, file: string, options: ReadOptions = {}): ServerConfig {
  return read(text, file, {
    host: MACHINE.host,
    definitions: definitionsWith(options.handlers),
    unbuilt: UNBUILT_HANDLERS,
  });
}

/**
 * Reads and checks a config file, and loads the handlers that it names as files.
 *
 * @throws {ConfigError} With everything that is wrong, each with file and line.
 *
 * @example
 * ```ts
 * const config = await loadConfig("local.ini");
 * console.log(config.options["cc-socket"]);
 * ```
 */
export function loadConfig(file: string, options: ReadOptions = {}): Promise<ServerConfig> {
  return load(file, {
    environment: MACHINE,
    modules: MODULES,
    definitions: definitionsWith(options.handlers),
    unbuilt: UNBUILT_HANDLERS,
  });
}

/**
 * The sections of an ini file in the dialect of configs, every `%(name)s` replaced.
 *
 * @param known Values for `%(name)s` where neither the section nor `[DEFAULT]` has one.
 * @throws {ConfigError} With everything that is wrong, each with its line.
 *
 * @example
 * ```ts
 * parseIni("[s]\na = 1 ; one\nb = %(a)s2\n"); // { s: { a: "1", b: "12" } }
 * ```
 */
export function parseIni(
  text: string,
  known: Readonly<Record<string, string>> = {},
): Record<string, Record<string, string>> {
  const diagnostics = new Diagnostics("ini");
  const ini = parse(text, "ini", diagnostics);
  const found: Record<string, Record<string, string>> = {};
  for (const [name, section] of ini.sections) {
    const values: Record<string, string> = found[name] = {};
    for (const [key, entry] of [...ini.defaults, ...section.entries]) {
      const value = expand(ini, section, entry, known, diagnostics);
      if (value !== undefined) values[key] = value;
    }
  }
  diagnostics.check();
  return found;
}

/** A CC server. `start()` says where it listens; `stop()` sends what is queued and ends it. */
export class CCServer implements AsyncDisposable {
  readonly #server: MonitoredServer;

  /** A server that runs on a config; it does nothing before {@link start}. */
  constructor(config: ServerConfig, options: ServeOptions = {}) {
    const { environment = MACHINE } = options;
    const log = loggerOf(options.log);
    const make: MakeSeal = (config, before) => openSeal(config, environment, log, before);
    const { seal = make } = options;
    this.#server = new MonitoredServer(config, { environment, seal, log });
  }

  /** What the server runs on; {@link reload} gives it another. */
  get config(): ServerConfig {
    return this.#server.config;
  }

  /** Where the server listens, with the port the system chose; null before {@link start}. */
  get endpoint(): string | null {
    return this.#server.endpoint;
  }

  /** Where metrics and health are served, `http://127.0.0.1:9108`; null where they are not. */
  get httpUrl(): string | null {
    return this.#server.httpUrl;
  }

  /** Messages dropped by all sockets since the start. */
  get drops(): number {
    return this.#server.drops;
  }

  /** Why the server is not ready, as /readyz tells it; empty when it is. */
  get unready(): readonly string[] {
    return this.#server.state.unready;
  }

  /** All counters that are not zero, by the names of the statistics line. */
  get statistics(): ReadonlyMap<string, number> {
    return finish(values(this.#server.statistics));
  }

  /**
   * Starts the handlers, then listens. When anything fails, or {@link stop} comes first, all that was started is stopped
   * again. A server starts once.
   *
   * @returns Where it listens.
   * @throws {StartError}
   * @throws {ConfigError} A key, certificate or CRL of its config cannot be used.
   */
  start(): Promise<string> {
    return this.#server.start();
  }

  /**
   * Takes over another config. Handlers that it does not change keep their connections and all they hold; those it ends
   * send what they have queued.
   *
   * @returns What has changed, and what needs a restart.
   * @throws {StartError} A handler of the new config cannot be started: then nothing has changed.
   */
  reload(next: ServerConfig): Promise<Changes> {
    return this.#server.reload(next);
  }

  /** Stops listening, sends what is queued within linger, and ends all connections. */
  stop(): Promise<void> {
    return this.#server.stop();
  }

  /** The same as {@link stop}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#server.stop();
  }
}

/**
 * Starts a server; it listens when this resolves.
 *
 * @param config What a config file says, or the name of one.
 * @throws {ConfigError} The file is wrong.
 * @throws {StartError} The server cannot start; nothing is left of it.
 */
export async function serve(
  config: ServerConfig | string,
  options: ServeOptions & ReadOptions = {},
): Promise<CCServer> {
  const read = typeof config === "string" ? await loadConfig(config, options) : config;
  const server = new CCServer(read, options);
  await server.start();
  return server;
}

/**
 * The seal that the `cms-` options of a config ask for: a client that is given it signs, encrypts and verifies as a server
 * with that config does.
 *
 * @throws {ConfigError} A key, certificate or CRL cannot be used.
 */
export function loadSeal(
  config: ServerConfig,
  { environment = MACHINE, log }: Pick<ServeOptions, "environment" | "log"> = {},
): Promise<Seal> {
  return openSeal(config, environment, loggerOf(log), null, true);
}

/** What a client is made with: an identity, bounds, and where its log lines go. */
export type ConnectOptions = Omit<ClientOptions, "log"> & Logging;

/** A client of a CC server. It connects in the background, and again whenever the link breaks. */
export class CCClient implements ClientLike {
  readonly #client: Client;

  /**
   * A client of the server at an endpoint.
   *
   * @throws {EndpointError} It is no endpoint to connect to.
   * @throws {CCError} `bad-name`
   */
  constructor(endpoint: string, options: ConnectOptions = {}) {
    const { environment = MACHINE, seal = IDENTITY, log, ...rest } = options;
    this.#client = new Client(endpoint, { ...rest, environment, seal, log: loggerOf(log) });
  }

  /** Where the server is. */
  get endpoint(): string {
    return this.#client.endpoint;
  }

  /** Is the server there? */
  get up(): boolean {
    return this.#client.up;
  }

  /** Messages lost on this side, by reason; replies that came too late (`late`) and messages nobody asked for (`unasked`) too. */
  get drops(): ReadonlyMap<string, number> {
    return this.#client.drops;
  }

  /**
   * Waits until the server is there.
   *
   * @throws {ClientError} `unreachable`: not in time; `aborted`, `closed`.
   */
  ready(options?: Wait): Promise<void> {
    return this.#client.ready(options);
  }

  /**
   * Sends a message that expects no reply. Resolves when it is queued and there is room for another: while the server is
   * slow, or away and the queue full, not before that is over.
   *
   * @throws {ClientError} `timeout`: it was not queued in time; `aborted`, `closed`.
   * @throws {MessageError} `bad-draft`
   */
  publish(draft: Draft, options?: Wait): Promise<void> {
    return this.#client.publish(draft, options);
  }

  /**
   * Sends a message and waits for its reply, by default for 5 s. It waits for room as {@link publish} does.
   *
   * @throws {ClientError} `timeout`, `refused` (an error came, with its text), `unreachable` (the link broke meanwhile),
   *   `bad-reply`, `too-many-queries`, `aborted`, `closed`.
   * @throws {MessageError} `bad-draft`
   */
  query(draft: Draft, options?: Wait): Promise<Received> {
    return this.#client.query(draft, options);
  }

  /** What answers no query; at most `highWaterMark` wait, then the server does. Messages come from this call on. */
  messages(options?: InboxOptions): AsyncIterableIterator<Received> {
    return this.#client.messages(options);
  }

  /** Waits up to `lingerMs` for what is queued, then ends the connection. Queries under way fail. Default 500 ms. */
  close(lingerMs?: number): Promise<void> {
    return this.#client.close(lingerMs);
  }

  /** The same as {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#client.close();
  }
}

/**
 * A client of the server at an endpoint.
 *
 * @throws {EndpointError} It is no endpoint to connect to.
 * @throws {CCError} `bad-name`
 *
 * @example
 * ```ts
 * const client = connect("tcp://127.0.0.1:10000");
 * try {
 *   await client.publish({ type: "log.info", fields: { log_level: "INFO", log_msg: "hello", log_time: Date.now() / 1000 } });
 *   const { body } = await client.query({ type: "echo.request", fields: { target: "me" } });
 *   console.log(body.hostname);
 * } finally {
 *   await client.close();
 * }
 * ```
 */
export function connect(endpoint: string, options: ConnectOptions = {}): CCClient {
  return new CCClient(endpoint, options);
}

/** A ZeroMQ ROUTER (ZMTP 3.1, NULL): many peers, each known by its identity. A message is the bytes of its frames. */
export class Router {
  readonly #router: SocketRouter;

  /** A ROUTER that gives what comes to `sink`, from {@link bind} on. */
  constructor(sink: MessageSink, options: Partial<RouterOptions> & Logging = {}) {
    const context = new SocketContext(MACHINE, loggerOf(options.log));
    this.#router = new SocketRouter(
      context,
      { ...SOCKET_DEFAULTS, ...ROUTER_DEFAULTS, ...options },
      sink,
    );
  }

  /** Peers whose handshake is done. */
  get peers(): number {
    return this.#router.peers;
  }

  /** Messages dropped since it was made. */
  get drops(): Drops {
    return this.#router.drops;
  }

  /**
   * Listens on an endpoint; returns it with the port the system chose.
   *
   * @throws {EndpointError}
   * @throws {CCError} With the system's code.
   */
  bind(endpoint: string): Promise<string> {
    return this.#router.bind(endpoint);
  }

  /**
   * Sends `buf[start, end)`, whose first frame is the identity of the peer it goes to.
   *
   * @param block The block that it lies in alone, and that may be retained; null: the bytes are borrowed until this returns.
   * @returns False when it was dropped; it is counted then.
   */
  send(buf: Uint8Array, start: number, end: number, block: Block | null): boolean {
    return this.#router.send(buf, start, end, block);
  }

  /** Waits up to `lingerMs` for what is queued, then ends everything. */
  close(lingerMs: number): Promise<void> {
    return this.#router.close(lingerMs);
  }
}

/** A ZeroMQ DEALER (ZMTP 3.1, NULL) that is connected to one endpoint. A message is the bytes of its frames. */
export class Dealer {
  readonly #dealer: SocketDealer;

  /**
   * A DEALER that connects at once, and again whenever the link breaks.
   *
   * @throws {EndpointError}
   */
  constructor(
    endpoint: string,
    sink: MessageSink,
    options: Partial<DealerOptions> & Logging & { events?: DealerEvents } = {},
  ) {
    const context = new SocketContext(MACHINE, loggerOf(options.log));
    this.#dealer = new SocketDealer(
      context,
      endpoint,
      { ...SOCKET_DEFAULTS, ...options },
      sink,
      options.events,
    );
  }

  /** Is the peer there, its handshake done? */
  get up(): boolean {
    return this.#dealer.up;
  }

  /** Messages that wait. */
  get queued(): number {
    return this.#dealer.queued;
  }

  /** Messages dropped since it was made. */
  get drops(): Drops {
    return this.#dealer.drops;
  }

  /**
   * Sends `identityFrame`, then `buf[start, end)`.
   *
   * @param block As for {@link Router.send}.
   */
  send(
    identityFrame: Uint8Array,
    buf: Uint8Array,
    start: number,
    end: number,
    block: Block | null,
  ): SendResult {
    return this.#dealer.send(identityFrame, buf, start, end, block);
  }

  /** Pauses a source until the queue has drained or the peer is gone. */
  pause(source: Source): void {
    this.#dealer.pause(source);
  }

  /** Waits up to `lingerMs` for what is queued, then ends the connection. */
  close(lingerMs: number): Promise<void> {
    return this.#dealer.close(lingerMs);
  }
}
