/** All that a server tells about itself, and when: statistics line, infofile, heartbeat, metrics and health. */
import process from "node:process";
import type { ServerConfig } from "../config/config.ts";
import type { ServerOptions } from "../config/schemas.ts";
import type { Logger } from "../log.ts";
import type { Clock, Context } from "../socket/context.ts";
import { isLoopback } from "../socket/endpoint.ts";
import { Averages, BUCKET_SECONDS } from "./averages.ts";
import { unreadyReasons } from "./health.ts";
import { Heartbeat } from "./heartbeat.ts";
import { type Answer, HttpListener, plain } from "./http.ts";
import { Infofile } from "./infofile.ts";
import { LagMeter } from "./lag.ts";
import { CONTENT_TYPES, formatFor, Metrics } from "./metrics.ts";
import type { ServerState } from "./state.ts";
import type { Statistics } from "./stats.ts";

/** What a monitor looks at. */
export interface MonitorParts {
  config: ServerConfig;
  statistics: Statistics;
  clock: Clock;
  /** Its memory is given back when it is not needed. */
  context: Context;
  log: Logger;
  state: () => ServerState;
}

export class Monitor {
  readonly #parts: MonitorParts;
  readonly #began: number;
  readonly #averages: Averages | null;
  readonly #infofile: Infofile | null;
  readonly #lag: LagMeter;
  readonly #heartbeat: Heartbeat;
  readonly #metrics: Metrics;
  #http: HttpListener | null = null;
  #cancels: (() => void)[] = [];
  #stopped = false;

  constructor(parts: MonitorParts) {
    const { clock, config: { options }, statistics } = parts;
    this.#parts = parts;
    this.#began = clock.now();
    this.#lag = new LagMeter(clock);
    this.#heartbeat = new Heartbeat(statistics, this.#lag);
    this.#metrics = new Metrics(statistics, this.#lag, clock.now);
    const level = options.infofile === null ? 0 : options["infofile-level"];
    this.#averages = level >= 3 ? new Averages() : null;
    this.#infofile = level === 0
      ? null
      : new Infofile(options.infofile!, { ...parts, averages: this.#averages, startedMs: Date.now() });
  }

  /** Where HTTP is served; null where it is not. */
  get url(): string | null {
    return this.#http?.url ?? null;
  }

  /**
   * Serves HTTP, where the config asks for it: from before the server listens, so that it can say so.
   *
   * @throws {Error} It cannot listen there.
   */
  async listen(): Promise<void> {
    const address = this.#parts.config.options["http-listen"];
    if (address === null) return;
    if (!isLoopback({ transport: "tcp", ...address })) {
      this.#parts.log.warn(
        "startup",
        `http-listen is on ${address.host}: other hosts can read message types and endpoints there`,
      );
    }
    this.#http = await HttpListener.listen(address, (path, accept) => this.#answer(path, accept));
  }

  /**
   * The server listens: writes the first infofile, and begins to tell.
   *
   * @throws {Error} The infofile cannot be written.
   */
  async start(): Promise<void> {
    const { options } = this.#parts.config;
    await this.#infofile?.open(this.#parts.state().engine);
    if (this.#stopped) return;
    if (options.heartbeat > 0 || this.#http !== null) this.#lag.start();
    this.#schedule(options);
  }

  /** Other periods, after a reload. */
  retime(options: ServerOptions): void {
    if (this.#stopped) return;
    this.#cancelAll();
    if (options.heartbeat > 0) this.#lag.start();
    this.#schedule(options);
  }

  #schedule(options: ServerOptions): void {
    if (this.#averages !== null) this.#every(BUCKET_SECONDS, () => this.#sample());
    this.#every(options["stats-period"], () => this.#period());
    this.#every(options.heartbeat, () => this.#beat());
  }

  #cancelAll(): void {
    for (const cancel of this.#cancels) cancel();
    this.#cancels = [];
  }

  /** No more timers; HTTP still answers, until {@link close}. */
  stop(): void {
    this.#stopped = true;
    this.#cancelAll();
    this.#lag.stop();
  }

  /** The server has stopped: tells for the last time. */
  async finish(): Promise<void> {
    this.#logStatistics();
    await this.#infofile?.close();
  }

  close(): void {
    this.#http?.close();
    this.#http = null;
  }

  #period(): void {
    this.#logStatistics();
    // What a load left behind is not kept while none comes.
    this.#parts.context.trim();
    this.#infofile?.write();
  }

  #logStatistics(): void {
    const { log, statistics } = this.#parts;
    if (statistics.level > 0) log.info("stats", statistics.line());
  }

  #sample(): void {
    this.#averages?.sample(this.#parts.statistics.values());
  }

  #beat(): void {
    const { clock, log, state } = this.#parts;
    const seconds = (clock.now() - this.#began) / 1000;
    log.info("heartbeat", this.#heartbeat.line(state(), seconds, process.memoryUsage().rss));
  }

  #answer(path: string, accept: string): Answer {
    const state = this.#parts.state();
    switch (path) {
      case "/metrics": {
        const format = formatFor(accept);
        return {
          status: 200,
          contentType: CONTENT_TYPES[format],
          body: this.#metrics.text(state, format),
        };
      }
      case "/healthz":
        return plain(200, "ok");
      case "/readyz": {
        const reasons = unreadyReasons(state);
        return {
          status: reasons.length === 0 ? 200 : 503,
          contentType: "application/json",
          body: `${JSON.stringify({ ready: reasons.length === 0, reasons })}\n`,
        };
      }
      default:
        return plain(404, "there is /metrics, /healthz and /readyz");
    }
  }

  #every(seconds: number, f: () => void): void {
    if (seconds <= 0) return;
    const index = this.#cancels.length;
    const again = () => {
      this.#cancels[index] = this.#parts.clock.after(seconds * 1000, () => {
        f();
        again();
      });
    };
    again();
  }
}
