/**
 * What a handler is: one definition, from which config check, registry, reference and roles are made, and an object with a
 * life of its own. Built-in handlers and those of one's own are the same kind of thing.
 *
 * ```
 *               start ok                 reload keeps it: reconfigure
 *   created ──────────────▶ running ◀──────────────┐
 *      │  start fails,         │  └────────────────┘
 *      │  or never runs        │ the server stops, or a reload ends it
 *      ▼                       ▼
 *   stopping: stop() ─────▶ ended: upstreams closed, timers cancelled
 * ```
 */
import type { Logger } from "../log.ts";
import type { Environment } from "./environment.ts";
import type { Draft, Message, Outcome, ReturnPath } from "./message.ts";
import type { Options, Schema, Values } from "./schema.ts";

/** Where a server stands; decides which handlers may run. */
export type Role = "insecure" | "local" | "remote";

/**
 * What a handler does with every message of a type. Plans are data: the dispatcher, `--routes` and the relay read them.
 *
 * `count` and `bytes` are added by runs, which costs nothing a message.
 */
export type Plan<B> =
  & {
    /** Counts each message. */
    readonly count?: readonly Counter[];
    /** Counts the bytes of each message, all frames. */
    readonly bytes?: readonly Counter[];
  }
  & (
    /** Bytes go there unchanged; the relay takes types whose plans all do. */
    | { readonly forward: Upstream }
    /** The same, of messages that the seal verifies; others are refused. Encrypted ones need the key: else `cannot-verify`. */
    | { readonly verify: Upstream }
    /** Another handler decides, `h:name`. Resolved when planned: filter before proxy is a forward. */
    | { readonly pass: string }
    /** `handle` gets it decrypted, verified, its body of this shape. */
    | OpenPlan<B>
    /** `handle` gets it as it came, its body unread and undefined. */
    | { readonly raw: true }
    /** Nobody gets it; why. `warn`: that is logged, once in a while. */
    | { readonly drop: string; readonly warn?: boolean }
  );

/** A plan to open messages of a type. */
export interface OpenPlan<B> {
  /** The shape of the bodies. */
  readonly open: Schema<B>;
  /** Bodies of more bytes are refused. Default 64 KiB; at most 16 MiB. */
  readonly maxBytes?: number;
  /** Bodies are read as they came, whoever signed them: they carry a proof of their own. What is encrypted is refused. */
  readonly unsealed?: boolean;
}

/**
 * A handler's life:
 *
 * 1. `create` of its definition makes it, without side effects.
 * 2. `start`, before the server listens.
 * 3. `plan`, once a type, and again after `replan()`.
 * 4. `handle`, for what its plans open.
 * 5. `reconfigure`, when a reload changes its options; false or missing: a new one is created, this one stopped.
 * 6. `stop`: no more messages come, what is under way should end soon; `signal` aborts when linger is over. Also called
 *    after a start that failed or never ran, and possibly more than once.
 *
 * The server bounds start (30 s), handle (`handler-timeout`) and stop (linger and 5 s) in time, logs what they throw, closes
 * the handler's upstreams and cancels its timers.
 */
export interface Handler<O = unknown, B = never> {
  /**
   * What is done with every message of this type. What it throws makes messages of the type count as crashed.
   *
   * TypeScript takes the type of bodies from here, where the parameter is named: `plan: (_type) => ({ open: AnyBody })`.
   */
  plan(type: string): Plan<B>;
  /**
   * One message. May be async: at most `inFlight` are under way, beyond that their senders wait; order is kept only while
   * it answers at once. (An async one is best declared `: Promise<Outcome>`, as TypeScript takes its `"ok"` for any string.)
   */
  handle?(message: Message, body: B): Outcome | PromiseLike<Outcome>;
  /** Before the server listens; aborts when it should stop instead. */
  start?(signal: AbortSignal): void | Promise<void>;
  /**
   * The server listens, so no other one has its addresses; after a reload: the handlers that it replaced have ended. What
   * must not be done by two servers at once begins here.
   */
  listening?(): void;
  /** Takes over other options, and other sections that it reads, while it runs; false: it cannot. */
  reconfigure?(options: O, sections: SectionsRead): boolean | Promise<boolean>;
  /** Why /readyz should say no; null when it should not. */
  unready?(): string | null;
  /**
   * Answers an operator who asks by the control channel: a value for JSON; undefined where the verb is not this handler's.
   *
   * @throws {CCError} What was asked for cannot be done; its code and message are the answer.
   */
  control?(verb: string, request: Readonly<Record<string, unknown>>): unknown;
  /**
   * Milliseconds that `stop` may take where that is more than linger: it has processes to end. Asked when it is to stop;
   * where it is more than 0, a server that stops ends this handler first, while all others still run.
   */
  stopMs?(): number;
  /** No more messages come; aborts when linger is over. */
  stop?(signal: AbortSignal): void | Promise<void>;
}

/** All there is to know of a handler. */
export interface HandlerDefinition<O extends Options = Options, B = never> {
  /** `infowriter`; the ini file may say `cc.handler.infowriter` too. */
  readonly name: string;
  /** One sentence for the reference. */
  readonly summary: string;
  /** Where it may run; `insecure` servers run all. */
  readonly roles: readonly Role[];
  /**
   * One whose schema is `handlerName` is an edge of the graph of handlers, whatever it is called. Missing: every option is
   * taken, as text.
   */
  readonly options?: O;
  /** Sections of others that it reads: as text, or by a table of options. */
  readonly sections?: readonly (SectionPrefix | SectionReader)[];
  /** What is wrong with its options and the sections that it reads by a table, as a whole; `name` is its own: `h:name`. */
  check?(
    options: Values<O>,
    sections: SectionsRead,
    server: ServerFacts,
    name: string,
  ): readonly Finding[];
  /** A config has at most one of it. */
  readonly single?: boolean;
  /** It runs even where no route leads to it. */
  readonly runsAlone?: boolean;
  /** Messages under way at once; default 100, and never more than 64 MiB of them. */
  readonly inFlight?: number;
  /** Messages may be under way for as long as its options say: `handler-timeout` does not apply. */
  readonly keepsMessages?: boolean;
  /** Makes one, for a section; without side effects: those are for `start`. */
  create(context: HandlerContext<Values<O>>): Handler<Values<O>, B>;
}

/** What names of sections begin with that a handler may read: daemons, tasks, plugins. */
export type SectionPrefix = "d:" | "t:" | "p:";

/** How sections of others are read: checked with the whole config, so that what is wrong is told with file and line. */
export interface SectionReader {
  /** What the names of the sections begin with. */
  readonly prefix: SectionPrefix;
  /**
   * The table for a section, given the text of its own options: one of them may decide which others there are.
   *
   * @param module Where its option `module` is a path: the default export of that file; else undefined.
   */
  options(text: Readonly<Record<string, string>>, module: unknown): Options;
  /**
   * Options that it takes from `[ccserver]` where neither it nor `[DEFAULT]` sets them: the text as it stands there, with
   * the names of this section in it.
   */
  readonly inherits?: readonly string[];
}

/** A section that was read by a {@link SectionReader}. */
export interface SectionRead {
  /** `d:name` */
  readonly name: string;
  /** By the names of its table. */
  readonly values: Readonly<Record<string, unknown>>;
  /** Options that the section itself sets, or `[DEFAULT]`. */
  readonly set: ReadonlySet<string>;
  /** Its options and those of `[DEFAULT]` as text, expanded. */
  readonly text: Readonly<Record<string, string>>;
  /** The file that its option `module` names; null: it names none. */
  readonly modulePath: string | null;
  /** That file's default export. */
  readonly module: unknown;
}

/** By their names. */
export type SectionsRead = ReadonlyMap<string, SectionRead>;

/** What is wrong with a config. */
export interface Finding {
  /** The section it is about: `d:name`. */
  readonly section: string;
  /** The option; null: the section as a whole. */
  readonly option: string | null;
  /** For people: a sentence without a full stop. */
  readonly message: string;
  /** It is only told: the config may be meant so. Missing: an error. */
  readonly severity?: "warning";
}

/** What a handler may know of its server. */
export interface ServerFacts {
  /** Its `job_name`. */
  readonly jobName: string;
  /** The config file, as it was named; for an absolute path, in `folder`. */
  readonly configFile: string;
  /** Where the server listens, by its config. */
  readonly socket: string;
  /** An absolute path; null where there is none. */
  readonly pidfile: string | null;
  /** Its `cms-` options that are set, as text. */
  readonly cms: Readonly<Record<string, string>>;
  /** Can programs write to NOTIFY_SOCKET here? Not every runtime receives datagrams. */
  readonly receivesDatagrams: boolean;
}

/** All that a handler can reach of its server and of the world. */
export interface HandlerContext<O> {
  /** `h:name`, as the ini file has it. */
  readonly name: string;
  /** As its section gives them. */
  readonly options: O;
  /** The sections that its definition asks for, by name, as text. */
  readonly sections: ReadonlyMap<string, Readonly<Record<string, string>>>;
  /** Those that it asks for by a table of options. */
  readonly sectionsRead: SectionsRead;
  /** Of its server. */
  readonly server: ServerFacts;
  /** Writes lines under its name. */
  readonly log: Logger;
  /** For what it counts and measures. */
  readonly meter: Meter;
  /** Its timers and events are this handler's: what they throw is logged under its name, and they end with it. */
  readonly environment: Environment;
  /**
   * Connects to another CC server; from `start` on. Replies that have a route go to their clients by themselves.
   *
   * @throws {EndpointError}
   */
  connect(endpoint: string, options?: UpstreamOptions): Upstream;
  /** Gives a message of ours to this server's own routes. */
  publish(draft: Draft): Outcome | Promise<Outcome>;
  /** Sends along a way that was kept: a draft, sealed here, or a message with its own seal untouched. */
  send(to: ReturnPath, what: Draft | Message): Outcome | Promise<Outcome>;
  /** Gives a message to another handler; settles when that is done, or, where it is forwarded, when there is room upstream. */
  pass(message: Message, handler: string): Outcome | Promise<Outcome>;
  /** Does a route name this handler for messages of this type, as the routes are now? */
  isRouted(type: string): boolean;
  /** Plans have changed (an upstream went down): they are asked for anew. */
  replan(): void;
}

/** A connection to another CC server. */
export interface Upstream {
  /** Where it is. */
  readonly endpoint: string;
  /** Is the server there? */
  readonly up: boolean;
  /** Messages that wait for it. */
  readonly queued: number;
  /** Settles when the message is queued and there is room for another; `retry` when it was dropped, and counted. */
  send(what: Draft | Message): Outcome | Promise<Outcome>;
  /**
   * Takes other options, all of them, and keeps the link and what waits for it, so that no message overtakes. Kernel buffers
   * and keep-alive are the next link's.
   */
  reconfigure(options: UpstreamOptions): void;
}

/** How an upstream is connected to. What is missing is as for the server's own socket. */
export interface UpstreamOptions {
  /** Messages that may wait. */
  readonly highWaterMark?: number;
  /** An upstream that takes nothing for so long, its queue full, counts as down. */
  readonly stallMs?: number;
  /** How long closing waits for what is queued. */
  readonly lingerMs?: number;
  /** The longest wait before it is connected anew; missing: 10 s. */
  readonly reconnectMaxMs?: number;
  /** For so long from the start on nobody is told that it is not there yet. */
  readonly awaitedMs?: number;
  /** Kernel buffers; 0 is the system's size. */
  readonly receiveBufferBytes?: number;
  /** See {@link receiveBufferBytes}. */
  readonly sendBufferBytes?: number;
  /** TCP keep-alive; null is off. */
  readonly keepAlive?: {
    readonly idleSeconds: number;
    readonly intervalSeconds: number;
    readonly count: number;
  } | null;
  /** An `echo.request` every so often; late answers are warned about, the round trip is a gauge. 0: none. */
  readonly pingMs?: number;
  /** The server is there, or is not any more; why. */
  onChange?(up: boolean, why: string): void;
  /** A message without a route: for us. It is over when this returns. */
  onMessage?(message: Message): void;
}

/** Counts something. */
export interface Counter {
  /** One more, or `by` more. */
  add(by?: number): void;
}

/** What a handler counts and measures, for the statistics line and /metrics. */
export interface Meter {
  /** The counter of this name and these labels; the same one each time. */
  counter(name: string, labels?: Readonly<Record<string, string>>): Counter;
  /** A figure that is read when somebody asks; null: there is none now. */
  gauge(name: string, read: () => number | null, labels?: Readonly<Record<string, string>>): void;
}
