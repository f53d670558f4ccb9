/**
 * CC, Command & Control: a message proxy for server management on ZeroMQ, for use in a program.
 *
 * @example A server with a handler of one's own
 * ```ts
 * import { CCServer, readConfig } from "ccserver";
 *
 * const config = readConfig(
 *   `[ccserver]
 *   cc-socket = tcp://127.0.0.1:*
 *   cc-role = local
 *   [routes]
 *   greet = h:greeter
 *   [h:greeter]
 *   handler = greeter`.replaceAll("\n  ", "\n"),
 *   "greeter.ini",
 *   { handlers: ["greeter"] },
 * );
 * const server = new CCServer(config, {
 *   handlers: { greeter: () => ({ handle: (message) => console.log("got", message.type) }) },
 * });
 * console.log("listening on", await server.start());
 * ```
 *
 * @module
 */
import process from "node:process";
import type { ServerConfig } from "./src/config/config.ts";
import type { HandlerFactory } from "./src/handler.ts";
import { BUILTIN_HANDLERS } from "./src/handlers/registry.ts";
import { CCClient as Client, type ClientOptions } from "./src/client/client.ts";
import { Logger, type LogSink } from "./src/log.ts";
import { Server } from "./src/server/server.ts";
import { Dealer as NativeDealer } from "./src/socket/dealer.ts";
import { Router as NativeRouter } from "./src/socket/router.ts";
import { makeEngine, systemContext } from "./src/socket/system.ts";
import type { DealerEvents, DealerOptions, MessageSink, SocketOptions } from "./src/socket/types.ts";
import { MESSAGE_MAX_BYTES } from "./src/limits.ts";

export { ConfigError, type Diagnostic } from "./src/config/diagnostics.ts";
export { loadConfig, readConfig, type ReadOptions, type ServerConfig } from "./src/config/config.ts";
export { parse as parseIni, stringify as stringifyIni } from "./src/config/ini.ts";
export type { Handler, HandlerContext, HandlerFactory, HandlerModule } from "./src/handler.ts";
export { ClientError, type Reply, type SendOptions } from "./src/client/client.ts";
export { type Level, Logger, type LogOptions, type LogSink } from "./src/log.ts";
export { CCMessage, encodeMessage, MessageError } from "./src/message/message.ts";
export { EndpointError } from "./src/socket/endpoint.ts";
export type {
  DealerEvents,
  DealerOptions,
  Drops,
  MessageSink,
  SocketOptions,
  Source,
} from "./src/socket/types.ts";
export { decodeFrames, encodeFrames } from "./src/zmtp/frame.ts";
export { StartError } from "./src/server/server.ts";
export { VERSION } from "./src/version.ts";

/** What goes without saying. */
const SOCKET_DEFAULTS: SocketOptions = {
  hwm: 1000,
  receiveBufferBytes: 0,
  sendBufferBytes: 0,
  keepAlive: null,
  messageMaxBytes: MESSAGE_MAX_BYTES,
};

/** Where an embedding program's log lines go; nowhere when nothing is said. */
export interface Logging {
  /** A logger, or a function that takes finished lines. */
  log?: Logger | LogSink;
}

function loggerOf(log: Logging["log"]): Logger {
  return log instanceof Logger ? log : new Logger("cc", { sink: log ?? (() => {}), pid: process.pid });
}

/** A CC server. `start()` says where it listens; `stop()` sends what is queued and ends it. */
export class CCServer extends Server {
  constructor(
    config: ServerConfig,
    options: Logging & {
      /** Handlers of one's own, by the names given to `loadConfig`. */
      handlers?: Readonly<Record<string, HandlerFactory<Readonly<Record<string, string>>>>>;
    } = {},
  ) {
    const context = systemContext(loggerOf(options.log));
    super(config, {
      context,
      engine: () => makeEngine(config.options["zmq-engine"], context),
      handlers: { ...BUILTIN_HANDLERS, ...options.handlers },
    });
  }
}

/** A client of a CC server: `publish()`, `query()`. */
export class CCClient extends Client {
  constructor(endpoint: string, options: Omit<ClientOptions, "log"> & Logging = {}) {
    super(endpoint, { ...options, log: loggerOf(options.log) });
  }
}

/** A ZeroMQ ROUTER (ZMTP 3.1, NULL) on links of this machine. */
export class Router extends NativeRouter {
  constructor(sink: MessageSink, options: Partial<SocketOptions> & Logging = {}) {
    super(systemContext(loggerOf(options.log)), { ...SOCKET_DEFAULTS, ...options }, sink);
  }
}

/** A ZeroMQ DEALER (ZMTP 3.1, NULL) that is connected to one endpoint. */
export class Dealer extends NativeDealer {
  constructor(
    endpoint: string,
    sink: MessageSink,
    options: Partial<DealerOptions> & Logging & { events?: DealerEvents } = {},
  ) {
    super(
      systemContext(loggerOf(options.log)),
      endpoint,
      { ...SOCKET_DEFAULTS, ...options },
      sink,
      options.events,
    );
  }
}
