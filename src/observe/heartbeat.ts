/** The heartbeat: one line that says how the server is. */
import type { Statistics } from "../server/counts.ts";
import { dropsOf, type ServerState } from "../server/state.ts";
import { type LagMeter, type LagSnapshot, NO_LAG } from "./lag.ts";

export class Heartbeat {
  readonly #statistics: Statistics;
  readonly #lag: LagMeter;
  #count = 0;
  #bytes = 0;
  #since: LagSnapshot = NO_LAG;

  constructor(statistics: Statistics, lag: LagMeter) {
    this.#statistics = statistics;
    this.#lag = lag;
  }

  /** The next line; counts and lag are those since the last one. */
  line(state: ServerState, upSeconds: number, residentBytes: number): string {
    const up = state.upstreams.filter(({ upstream }) => upstream.up).length;
    const lag = (share: number) => `${this.#lag.quantileMs(share, this.#since).toFixed(1)} ms`;
    const line = [
      `up ${duration(upSeconds)}`,
      this.#traffic(),
      `${state.peers} peers`,
      `${up} of ${state.upstreams.length} upstreams up`,
      `${dropsOf(state)} messages dropped`,
      `event loop lag p50 ${lag(0.5)} p99 ${lag(0.99)}`,
      `${(residentBytes / 2 ** 20).toFixed(1)} MiB resident`,
    ].join(", ");
    this.#since = this.#lag.snapshot();
    return line;
  }

  #traffic(): string {
    if (this.#statistics.level === 0) return "messages are not counted";
    const { count, bytes } = this.#statistics.total();
    const text = `${count - this.#count} messages and ${bytes - this.#bytes} bytes since the last line`;
    this.#count = count;
    this.#bytes = bytes;
    return text;
  }
}

/** `3 d 4 h`, `5 h 7 min`, `12 min 3 s`, `9 s` */
export function duration(seconds: number): string {
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [Math.floor(seconds) % 60, "s"],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).map(([n, unit]) => `${n} ${unit}`).join(" ");
}
