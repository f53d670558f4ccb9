/** All that a server tells about itself, and when: statistics line, infofile, heartbeat, metrics and health. */
import type { ServerConfig } from "../config/reader.ts";
import { controlSocketOf } from "../config/server_options.ts";
import type { Cancel, Clock } from "../contracts/environment.ts";
import { CCError, codeOf, errorText } from "../errors.ts";
import type { Logger } from "../log.ts";
import { type Observer, Server, type ServerParts } from "../server/server.ts";
import { expiryTexts } from "../server/state.ts";
import { VERSION } from "../version.ts";
import { Averages, BUCKET_SECONDS } from "./averages.ts";
import { ControlChannel } from "./control.ts";
import { Heartbeat } from "./heartbeat.ts";
import { type Answer, HttpListener, plain } from "./http.ts";
import { Infofile } from "./infofile.ts";
import { LagMeter } from "./lag.ts";
import { CONTENT_TYPES, type Format, formatFor, Metrics } from "./metrics.ts";
import { Slices } from "./slices.ts";
import { statisticsLine, values } from "./stats.ts";

/** A server that tells about itself as its config asks for. */
export function monitoredServer(config: ServerConfig, parts: Omit<ServerParts, "observe">): MonitoredServer {
  return new MonitoredServer(config, parts);
}

export class MonitoredServer extends Server {
  readonly #monitor: Monitor;

  constructor(config: ServerConfig, parts: Omit<ServerParts, "observe">) {
    let monitor!: Monitor;
    super(config, { ...parts, observe: (server) => monitor = new Monitor(server) });
    this.#monitor = monitor;
  }

  /** Where metrics and health are served, `http://127.0.0.1:9108`; null where they are not. */
  get httpUrl(): string | null {
    return this.#monitor.url;
  }
}

export class Monitor implements Observer {
  readonly #server: Server;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #began: number;
  readonly #slices: Slices;
  /** Metrics that are being made. */
  readonly #texts = new Map<Format, Promise<Uint8Array>>();
  readonly #averages: Averages | null;
  readonly #infofile: Infofile | null;
  readonly #lag: LagMeter;
  readonly #heartbeat: Heartbeat;
  readonly #metrics: Metrics;
  #http: HttpListener | null = null;
  #control: ControlChannel | null = null;
  #cancels: Cancel[] = [];
  #stopped = false;

  constructor(server: Server) {
    const { environment, statistics, config: { options }, log } = server;
    const { clock } = environment;
    this.#server = server;
    this.#clock = clock;
    this.#log = log;
    this.#began = clock.now();
    this.#slices = new Slices(clock);
    this.#lag = new LagMeter(clock);
    this.#heartbeat = new Heartbeat(statistics, this.#lag);
    this.#metrics = new Metrics(statistics, this.#lag, environment);
    const level = options.infofile === null ? 0 : options["infofile-level"];
    this.#averages = level >= 3 ? new Averages() : null;
    this.#infofile = level === 0 ? null : new Infofile(options.infofile!, {
      config: () => server.config,
      environment,
      statistics,
      averages: this.#averages,
      slices: this.#slices,
      log,
      startedMs: clock.time(),
    });
  }

  /** Where HTTP is served; null where it is not. */
  get url(): string | null {
    return this.#http?.url ?? null;
  }

  /** Opens the control channel, and serves HTTP where the config asks for it: before the server listens. */
  async starting(): Promise<void> {
    await this.#openControl();
    await this.#listenHttp();
  }

  /** A default that has no room is only warned about: nobody has asked for it. */
  async #openControl(): Promise<void> {
    const { options } = this.#server.config;
    const path = controlSocketOf(options);
    if (path === null) return;
    const server = this.#server;
    const { environment: { host } } = server;
    try {
      this.#control = await ControlChannel.open(path, {
        environment: server.environment,
        verbs: {
          version: () => ({
            version: VERSION,
            runtime: host.runtime,
            pid: host.pid,
            uptimeSeconds: (this.#clock.now() - this.#began) / 1000,
          }),
        },
        answer: (verb, request) => server.control(verb, request),
        rests: (error) => {
          const why = error === null ? "no file descriptor is free" : errorText(error);
          this.#log.warnRarely(
            "observe",
            `control rests ${why}`,
            `${why}: the control channel lets nobody in for now`,
          );
        },
      });
      this.#log.debug("startup", `control channel: ${path}`);
    } catch (error) {
      const text = `control-socket: ${errorText(error)}`;
      // Who is there, and lives, is no matter of where.
      if (options["control-socket"] !== null || codeOf(error) === "EADDRINUSE") {
        throw new CCError(codeOf(error) ?? "system", text, { cause: error });
      }
      this.#log.warn(
        "startup",
        `${text}. There is no control channel, and "ccserver jobs" cannot ask this server`,
      );
    }
  }

  async #listenHttp(): Promise<void> {
    const { "http-listen": address, "http-hosts": names } = this.#server.config.options;
    if (address === null) return;
    this.#http = await HttpListener.listen(
      address,
      {
        environment: this.#server.environment,
        names: [this.#server.environment.host.name, address.host, ...names ?? []],
        respond: (path, accept) => this.#answer(path, accept),
        rests: (error) => {
          const why = error === null ? "no file descriptor is free" : errorText(error);
          this.#log.warnRarely("observe", `rests ${why}`, `${why}: no HTTP request is accepted for now`);
        },
      },
    );
    this.#log.info("startup", `metrics and health: HTTP on ${this.#http.url}`);
  }

  /** Writes the first infofile, and begins to tell. */
  async started(): Promise<void> {
    await this.#infofile?.open(this.#server.state.engine);
    if (!this.#stopped) this.#schedule();
  }

  /** Other periods, perhaps. */
  reloaded(): void {
    if (this.#stopped) return;
    this.#cancelAll();
    this.#schedule();
  }

  #schedule(): void {
    const { options } = this.#server.config;
    if (options.heartbeat > 0 || this.#http !== null) this.#lag.start();
    const averages = this.#averages;
    if (averages !== null) this.#every(BUCKET_SECONDS, () => this.#sample(averages));
    this.#every(options["stats-period"], () => this.#period());
    this.#every(options.heartbeat, () => this.#beat());
  }

  /** Does it every so often; not while it is still being done. */
  #every(seconds: number, f: () => void | Promise<void>): void {
    let done = true;
    const attempt = async () => {
      if (!done) return;
      done = false;
      await this.#attempt(f);
      done = true;
    };
    if (seconds > 0) this.#cancels.push(this.#clock.every(seconds * 1000, () => void attempt()));
  }

  /** Out of descriptors, say: the next time it may work. */
  async #attempt(f: () => void | Promise<void>): Promise<void> {
    try {
      await f();
    } catch (error) {
      this.#log.warnRarely("observe", errorText(error), `cannot tell how the server is: ${errorText(error)}`);
    }
  }

  #cancelAll(): void {
    for (const cancel of this.#cancels) cancel();
    this.#cancels = [];
    this.#lag.stop();
  }

  /** No more timers; HTTP still answers, until all has been stopped. */
  stopping(): void {
    this.#stopped = true;
    this.#cancelAll();
  }

  /** Tells for the last time. */
  async stopped(ran: boolean): Promise<void> {
    this.stopping();
    if (ran) {
      await this.#logStatistics();
      await this.#infofile?.close();
    }
    this.#http?.close();
    this.#http = null;
    await this.#control?.close();
    this.#control = null;
  }

  async #period(): Promise<void> {
    this.#infofile?.write();
    await this.#logStatistics();
  }

  async #logStatistics(): Promise<void> {
    const { statistics } = this.#server;
    if (statistics.level === 0) return;
    this.#log.info("stats", await this.#slices.run(() => statisticsLine(statistics)));
  }

  async #sample(averages: Averages): Promise<void> {
    const { statistics } = this.#server;
    await this.#slices.run(function* () {
      yield* averages.sample(yield* values(statistics));
    });
  }

  #beat(): void {
    const seconds = (this.#clock.now() - this.#began) / 1000;
    const { residentBytes } = this.#server.environment.host.usage();
    this.#log.info("heartbeat", this.#heartbeat.line(this.#server.state, seconds, residentBytes));
  }

  /** Whoever asks while a text is being made gets that: those who ask and leave make no work. */
  #metricsText(format: Format): Promise<Uint8Array> {
    const making = this.#texts.get(format);
    if (making !== undefined) return making;
    const text = this.#slices.run(() => this.#metrics.text(this.#server.state, format));
    const made = text.finally(() => this.#texts.delete(format));
    this.#texts.set(format, made);
    return made;
  }

  async #answer(path: string, accept: string): Promise<Answer> {
    switch (path) {
      case "/metrics": {
        const format = formatFor(accept);
        const body = await this.#metricsText(format);
        return { status: 200, contentType: CONTENT_TYPES[format], body };
      }
      case "/healthz":
        return plain(200, "ok");
      case "/readyz": {
        const { unready: reasons, expiries } = this.#server.state;
        const ready = reasons.length === 0;
        const { soon } = expiryTexts(expiries, this.#server.environment.clock.time());
        const warnings = soon.length === 0 ? {} : { warnings: soon };
        const body = `${JSON.stringify({ ready, reasons, ...warnings })}\n`;
        return { status: ready ? 200 : 503, contentType: "application/json", body };
      }
      default:
        return plain(404, "there is /metrics, /healthz and /readyz");
    }
  }
}
