/**
 * The contract between the server and its handlers, built in or of one's own. A module that an ini file names with
 * `handler = ./my_handler.ts` has a {@link HandlerModule} as its default export.
 */
import type { Logger } from "./log.ts";
import type { CCMessage } from "./message/message.ts";
import type { Clock } from "./socket/context.ts";
import type { DealerEvents, DealerOptions, DealerSocket, MessageSink } from "./socket/types.ts";

/** Takes the messages of the types that are routed to it. */
export interface Handler {
  /**
   * Takes one message. The view is used again for the next one: to hold on to it, say `message.keep()`. What is
   * thrown is logged and counted `crashed`; the other handlers still get the message.
   */
  handle(message: CCMessage): void;
  /**
   * Set once started by a handler that does nothing but forward each message unchanged: the server then gives the bytes
   * to this socket itself, and `handle` is called only for messages that another handler passes on.
   */
  readonly forwardsTo?: DealerSocket;
  /** Called before the server listens. What is thrown keeps it from starting. */
  start?(): void | Promise<void>;
  /** Called when the server has stopped listening; has up to `lingerMs` to send what it holds. */
  stop?(lingerMs: number): void | Promise<void>;
}

/** What a handler gets from its server. */
export interface HandlerContext<O = Readonly<Record<string, string>>> {
  /** `h:name`, as the ini file has it. */
  readonly name: string;
  /** The options of the section: checked values for built-in handlers, text for those of one's own. */
  readonly options: O;
  readonly log: Logger;
  /** This host's name, as it stands in messages. */
  readonly hostname: string;
  readonly clock: Clock;
  /**
   * Sends a message to a client: the bytes of its frames, the client's identity first, as `message.reply()` makes
   * them.
   *
   * @returns False when it was dropped; it is counted then.
   */
  toClient(buf: Uint8Array, start?: number, end?: number, owned?: boolean): boolean;
  /** Gives a message to another handler of this server. */
  forward(handler: string, message: CCMessage): void;
  /** Connects a DEALER. */
  dealer(
    endpoint: string,
    options: Partial<DealerOptions>,
    sink: MessageSink,
    events?: DealerEvents,
  ): DealerSocket;
  /** Tells how long the server at `endpoint` took to answer; `/metrics` shows the latest. */
  roundTrip(endpoint: string, seconds: number): void;
  /** Adds to a counter of the server's statistics. */
  count(name: string, by?: number): void;
}

/** Makes a handler. */
export type HandlerFactory<O> = (context: HandlerContext<O>) => Handler;

/** The default export of a module with a handler of one's own. */
export interface HandlerModule {
  create: HandlerFactory<Readonly<Record<string, string>>>;
}
