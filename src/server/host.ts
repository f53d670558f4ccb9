/**
 * A handler in its server: its life, bounded in time, and every call of its code, guarded.
 *
 * ```
 *              start()                                 stop()
 *   created ────────────▶ starting ──────▶ running ────────────▶ stopping ──▶ ended
 *                            │ it throws, or takes too long         ▲
 *                            └──────────────────────────────────────┘
 *                 reconfigure(): running ──▶ running, with other options, or told that a new one is needed
 * ```
 *
 * When it has ended, nothing of the handler is left: what was under way is counted, its timers are cancelled, its upstreams
 * closed.
 */
import type { HandlerConfig } from "../config/reader.ts";
import type { Environment } from "../contracts/environment.ts";
import type {
  Handler,
  HandlerContext,
  Plan,
  ServerFacts,
  Upstream,
  UpstreamOptions,
} from "../contracts/handler.ts";
import type { Draft, Message, Outcome, ReturnPath } from "../contracts/message.ts";
import { CCError, errorStack, errorText } from "../errors.ts";
import {
  HANDLER_START_MAX_MS,
  HANDLER_STOP_EXTRA_MS,
  IN_FLIGHT_MAX_BYTES,
  IN_FLIGHT_MESSAGES,
  TYPES_TRACKED,
} from "../limits.ts";
import type { Logger } from "../log.ts";
import { MessageError } from "../message/errors.ts";
import { CCMessage, inside } from "../message/message.ts";
import type { Source } from "../socket/types.ts";
import type { OwnedMeter, Statistics } from "./counts.ts";
import type { Deliverer } from "./deliver.ts";
import { Guard, isPromise } from "./guard.ts";
import { type EndedEarly, InFlight } from "./in_flight.ts";
import { type Delivery, deliveryOf } from "./plans.ts";
import type { Post } from "./post.ts";
import { HandlerUpstream, type UpstreamParts } from "./upstream.ts";
import { isOutcome, PassError, type Verdict } from "./verdict.ts";
import { within } from "./within.ts";

/** What all hosts of a server share. */
export interface HostServices {
  readonly environment: Environment;
  readonly log: Logger;
  readonly statistics: Statistics;
  readonly post: Post;
  readonly deliverer: Deliverer;
  readonly handlerTimeoutMs: number;
  /** What handlers may know of the server. */
  readonly facts: ServerFacts;
  /** What an upstream needs of the server. */
  readonly upstreams: Pick<UpstreamParts, "engine" | "socketOptions" | "lingerMs" | "seal" | "router">;
  /** Gives a draft to the server's routes. */
  publish(draft: Draft): Outcome | Promise<Outcome>;
  /** Handlers that routes name for a type. */
  routedTo(type: string): readonly string[];
  /** Plans are asked for anew. */
  replan(): void;
}

/** Hosts by their names, of one config. */
export type Hosts = ReadonlyMap<string, Host>;

export class Host {
  readonly name: string;
  readonly log: Logger;
  #config: HandlerConfig;
  readonly #services: HostServices;
  readonly #guard: Guard;
  readonly #environment: Environment;
  readonly #meter: OwnedMeter;
  readonly #inFlight: InFlight;
  readonly #upstreams: HandlerUpstream[] = [];
  /** What is done with messages that are passed here, by type. */
  readonly #passed = new Map<string, Delivery>();
  /** The handlers of the config that this one runs with. */
  #peers: Hosts = new Map();
  #handler: Handler<unknown, unknown> | null = null;
  #state: "created" | "starting" | "running" | "stopping" | "ended" = "created";
  #ending: Promise<void> | null = null;
  #upstreamsClosed = false;

  constructor(config: HandlerConfig, services: HostServices) {
    const { name, definition } = config;
    this.name = name;
    this.#config = config;
    this.#services = services;
    this.log = services.log.child(name);
    this.#guard = new Guard(this.log);
    this.#environment = this.#guard.environment(services.environment);
    this.#meter = services.statistics.meter(name);
    this.#inFlight = new InFlight(services.environment.clock, {
      messages: definition.inFlight ?? IN_FLIGHT_MESSAGES,
      bytes: IN_FLIGHT_MAX_BYTES,
      timeoutMs: definition.keepsMessages ? Infinity : services.handlerTimeoutMs,
    });
  }

  get config(): HandlerConfig {
    return this.#config;
  }

  get upstreams(): readonly HandlerUpstream[] {
    return this.#upstreams;
  }

  /** Messages under way. */
  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Has it answered all it was given? One that keeps messages gives them back when it is stopped. */
  get settled(): boolean {
    return this.#inFlight.size === 0 || this.#config.definition.keepsMessages === true;
  }

  /** Why the server is not ready, as far as this handler goes; null where it is. */
  unready(): string | null {
    if (this.#state !== "running") return `${this.name} is ${this.#state}`;
    try {
      const why = this.#handler?.unready?.() ?? null;
      return why === null ? null : `${this.name}: ${why}`;
    } catch (error) {
      this.#guard.failed("unready", error);
      return `${this.name} crashed in unready`;
    }
  }

  /** The handlers that it can pass messages to from now on. */
  join(hosts: Hosts): void {
    this.#peers = hosts;
    this.#passed.clear();
  }

  find(name: string): Host | undefined {
    return this.#peers.get(name);
  }

  /** Plans are asked for anew. */
  forgetPlans(): void {
    this.#passed.clear();
  }

  /** @throws {Error} The handler cannot be made. */
  create(): void {
    const handler: unknown = this.#config.definition.create(this.#context());
    if (typeof (handler as Partial<Handler> | null)?.plan !== "function") {
      throw new Error('what its "create" returns has no function "plan"');
    }
    this.#handler = handler as Handler<unknown, unknown>;
  }

  /** @throws {Error} It threw, or took too long. */
  async start(aborted: AbortSignal): Promise<void> {
    const { clock } = this.#services.environment;
    this.#state = "starting";
    const started = this.#handler!.start?.(aborted);
    if (isPromise(started)) {
      const done = await within(clock, HANDLER_START_MAX_MS, Promise.resolve(started), aborted);
      if (!done && !aborted.aborted) {
        throw new CCError("start-timeout", `start took longer than ${HANDLER_START_MAX_MS / 1000} s`);
      }
    }
    if (this.#ending === null) this.#state = "running";
  }

  /** The server listens, and what this handler replaces has ended. */
  listening(): void {
    if (this.#state === "running") this.#guard.call("listening", () => this.#handler?.listening?.());
  }

  /** Can it take other options while it runs? */
  get reconfigurable(): boolean {
    return this.#state === "running" && this.#handler?.reconfigure !== undefined;
  }

  /** Takes over other options while it runs; false when that needs a new handler. */
  async reconfigure(config: HandlerConfig, aborted: AbortSignal): Promise<boolean> {
    const { clock } = this.#services.environment;
    const handler = this.#handler;
    if (handler?.reconfigure === undefined || config.definition !== this.#config.definition) return false;
    try {
      const taken = Promise.resolve(handler.reconfigure(config.options, config.sectionsRead));
      let result: unknown = false;
      const done = await within(
        clock,
        HANDLER_START_MAX_MS,
        taken.then((value) => {
          result = value;
        }),
        aborted,
      );
      if (!done && !aborted.aborted) {
        this.log.warn(
          "reconfigure",
          `took longer than ${HANDLER_START_MAX_MS / 1000} s, and is not waited for`,
        );
      }
      if (result === true) this.#config = config;
      return result === true;
    } catch (error) {
      this.#guard.failed("reconfigure", error);
      return false;
    }
  }

  /**
   * Asks it for what an operator wants; undefined where the verb is not this handler's.
   *
   * @throws What the handler throws; what is no answer to the operator is logged too.
   */
  async control(verb: string, request: Readonly<Record<string, unknown>>): Promise<unknown> {
    try {
      return await this.#handler?.control?.(verb, request);
    } catch (error) {
      if (!(error instanceof CCError)) this.#guard.failed("control", error, ` on ${verb}`);
      throw error;
    }
  }

  /** Can an operator ask it? */
  get answers(): boolean {
    return this.#state === "running" || this.#state === "stopping";
  }

  /** Does it take messages? */
  get running(): boolean {
    return this.#state === "running";
  }

  /** @throws What the handler throws. */
  plan(type: string): Plan<unknown> {
    const plan: unknown = this.#handler!.plan(type);
    if (typeof plan !== "object" || plan === null) throw new Error("expected a plan, an object");
    return plan as Plan<unknown>;
  }

  /** A plan could not be made: messages of the type crash until plans are asked for anew. */
  planFailed(type: string, error: unknown): void {
    this.#guard.failed("plan", error, ` on the type "${type}"`);
  }

  /** Gives it one message; `source` is paused while too many are under way. */
  handle(message: CCMessage, body: unknown, source: Source | null): Verdict | Promise<Verdict> {
    // It was being opened, or waited for another, when the handler was stopped.
    if (this.#state !== "running") return this.#endedEarly(message.type, "closed");
    const handler = this.#handler;
    if (handler?.handle === undefined) {
      return this.failedOn(
        message,
        message.type,
        new Error('its plan opens messages, but it has no function "handle"'),
      );
    }
    let outcome: unknown;
    try {
      outcome = handler.handle(message, body);
    } catch (error) {
      return this.failedOn(message, message.type, error);
    }
    if (isOutcome(outcome)) return outcome;
    if (isPromise(outcome)) return this.#handleLater(message, outcome, source);
    return this.failedOn(
      message,
      message.type,
      new Error(`it returned ${String(outcome)}, expected ok, dropped or retry`),
    );
  }

  /** The handler answers later: its message is kept, and counts as under way. */
  #handleLater(message: CCMessage, outcome: PromiseLike<unknown>, source: Source | null): Promise<Verdict> {
    const { type, size } = message;
    inside.keep(message);
    inside.enter(message);
    return new Promise((resolve) => {
      let settled = false;
      const settle = (verdict: Verdict) => {
        if (settled) return;
        settled = true;
        inside.leave(message);
        resolve(verdict);
      };
      const done = this.#inFlight.add(size, (why) => settle(this.#endedEarly(type, why)));
      // A thenable may throw.
      Promise.resolve(outcome).then((value) => {
        done();
        settle(
          isOutcome(value) ? value : this.failedOn(
            message,
            type,
            new Error(`it resolved to ${String(value)}, expected ok, dropped or retry`),
          ),
        );
      }, (error) => {
        done();
        // What comes too late has been told.
        if (!settled) settle(this.failedOn(message, type, error));
      });
      if (source !== null && this.#inFlight.full) this.#inFlight.pause(source);
    });
  }

  #endedEarly(type: string, why: EndedEarly): Verdict {
    const seconds = this.#services.handlerTimeoutMs / 1000;
    const text = why === "late"
      ? `no answer on a message "${type}" within ${seconds} s (handler-timeout)`
      : `stopped before it had answered on a message "${type}"`;
    this.log.warnRarely("handle", `${why} ${type}`, text);
    return why === "late" ? "crashed" : "retry";
  }

  /** It threw on a message, or its promise was rejected. */
  failedOn(message: CCMessage, type: string, error: unknown): Verdict {
    if (error instanceof PassError) return error.verdict;
    if (error instanceof MessageError) {
      if (!this.#services.deliverer.refuse(message, error)) return "refused";
      this.log.warnRarely(
        "handle",
        `${error.code} ${type}`,
        `refusing a message "${type}": ${error.message} (${error.code})`,
      );
      return "refused";
    }
    this.log.warnRarely("handle", `crashed ${type}`, `crashed on a message "${type}": ${errorStack(error)}`);
    return "crashed";
  }

  /** Takes a message from another handler: its plan decides. */
  async #take(message: CCMessage, from: Host): Promise<Outcome> {
    while (this.#inFlight.full) await this.#inFlight.room();
    const verdict = await this.#services.deliverer.deliver(
      message,
      this.#deliveryOf(message.type),
      from.name,
    );
    return outcomeOf(verdict, this.name);
  }

  #deliveryOf(type: string): Delivery {
    let delivery = this.#passed.get(type);
    if (delivery === undefined) {
      delivery = deliveryOf(type, [this]);
      if (this.#passed.size >= TYPES_TRACKED) this.#passed.clear();
      this.#passed.set(type, delivery);
    }
    return delivery;
  }

  /**
   * Ends it: what is under way has `lingerMs`, or what the handler's `stopMs` asks for where that is more, then the handler
   * is told that time is over. Never throws.
   */
  end(lingerMs: number): Promise<void> {
    return this.#ending ??= this.#end(lingerMs);
  }

  async #end(lingerMs: number): Promise<void> {
    const { clock } = this.#services.environment;
    const until = clock.now() + lingerMs;
    this.#state = "stopping";
    for (const upstream of this.#upstreams) upstream.stopPinging();
    await this.#stop(Math.max(lingerMs, this.#stopMs()));
    this.#inFlight.close();
    this.#upstreamsClosed = true;
    await Promise.all(this.#upstreams.map((upstream) => upstream.close(Math.max(0, until - clock.now()))));
    this.#guard.close();
    this.#meter.close();
    this.#state = "ended";
  }

  /** Does it ask for a time of its own to stop? It ends while all others still run, when the server stops. */
  get endsFirst(): boolean {
    return this.#stopMs() > 0;
  }

  /** What the handler asks for; 0 where that is nothing, or no time. */
  #stopMs(): number {
    try {
      const ms: unknown = this.#handler?.stopMs?.() ?? 0;
      if (typeof ms === "number" && Number.isFinite(ms)) return ms;
      throw new Error(`it returned ${String(ms)}, expected milliseconds`);
    } catch (error) {
      this.#guard.failed("stopMs", error);
      return 0;
    }
  }

  async #stop(lingerMs: number): Promise<void> {
    const { clock } = this.#services.environment;
    const over = new AbortController();
    const stopped = async () => {
      try {
        await this.#handler?.stop?.(over.signal);
      } catch (error) {
        this.#guard.failed("stop", error);
      }
    };
    const done = Promise.all([stopped(), this.#inFlight.empty()]).then(() => {});
    if (await within(clock, lingerMs, done)) return;
    over.abort();
    if (this.#handler?.stop === undefined) return;
    if (await within(clock, HANDLER_STOP_EXTRA_MS, done)) return;
    const seconds = ((lingerMs + HANDLER_STOP_EXTRA_MS) / 1000).toFixed(1);
    this.log.warn("stop", `its stop has not come to an end within ${seconds} s, and is not waited for`);
  }

  /** All that the handler can reach. */
  #context(): HandlerContext<Readonly<Record<string, unknown>>> {
    const { facts, post, publish, routedTo, replan } = this.#services;
    return {
      name: this.name,
      options: this.#config.options,
      sections: this.#config.sections,
      sectionsRead: this.#config.sectionsRead,
      server: facts,
      log: this.log,
      meter: this.#meter,
      environment: this.#environment,
      connect: (endpoint, options) => this.#connect(endpoint, options ?? {}),
      publish: (draft) => publish(draft),
      send: (to: ReturnPath, what: Draft | Message) => post.toClient(to, what),
      pass: (message, handler) => this.#pass(message, handler),
      isRouted: (type) => routedTo(type).includes(this.name),
      replan: () => replan(),
    };
  }

  #connect(endpoint: string, options: UpstreamOptions): Upstream {
    if (this.#state === "created") {
      throw new Error("connect() is for start() and later: create() has no side effects");
    }
    if (this.#upstreamsClosed) throw new Error("the handler has ended: it cannot connect any more");
    const { environment, post, statistics, upstreams } = this.#services;
    const upstream = new HandlerUpstream(endpoint, options, {
      ...upstreams,
      environment,
      log: this.log,
      guard: this.#guard,
      post,
      statistics,
      unrouted: this.#meter.counter("dropped_routes"),
    });
    this.#upstreams.push(upstream);
    return upstream;
  }

  #pass(message: Message, handler: string): Outcome | Promise<Outcome> {
    const next = this.find(handler);
    if (next === undefined) {
      return Promise.reject(new Error(`there is no handler ${handler} here to pass a message to`));
    }
    if (!(message instanceof CCMessage)) {
      return Promise.reject(new TypeError("only a message that came in can be passed on"));
    }
    return next.#take(message, this);
  }
}

/** What became of a passed message, as handlers are told. */
function outcomeOf(verdict: Verdict, name: string): Outcome {
  if (isOutcome(verdict)) return verdict;
  if (verdict === "duplicate") return "ok";
  throw new PassError(verdict, name);
}

/** An error of a handler's life, for the operator. */
export function lifeError(host: Host, error: unknown): string {
  return `${host.name}: ${errorText(error)}`;
}
