/** What a soak's servers show of themselves: looked at every few seconds, told every minute, judged at the end. */
import { judgeDescriptors, judgeMemory, Minima, type Verdict } from "./judge.ts";
import { add, type Look, type Losses, type Server } from "./servers.ts";
import { table } from "./table.ts";
import type { Times } from "./times.ts";

const HEAD_EVERY_LINES = 20;
/** In the line of a minute: of a server, messages a second, MB, descriptors, lag, CPU. */
const COLUMNS = [["msg/s", 6], ["MB", 5], ["fds", 5], ["lag", 8], ["CPU", 6]] as const;
/** What a server does at first, at least so much and at least this share of the run, says nothing of later. */
const WARM_UP_SECONDS = 120;
const WARM_UP_SHARE = 0.2;

interface Watched {
  readonly server: Server;
  /** MB */
  readonly resident: Minima;
  readonly descriptors: Minima;
  first: Look | null;
  /** When the last line was told. */
  told: Look | null;
  last: Look | null;
  worstLagMs: number;
}

export class Watch {
  readonly #watched: readonly Watched[];
  #lines = 0;
  #told: { seconds: number; losses: Losses; ups: number } = { seconds: 0, losses: new Map(), ups: 0 };

  /** @param seconds How long the soak is to be. */
  constructor(servers: readonly Server[], seconds: number) {
    const span = Math.min(60, Math.max(1, seconds / 40));
    this.#watched = servers.map((server) => ({
      server,
      resident: new Minima(span),
      descriptors: new Minima(span),
      first: null,
      told: null,
      last: null,
      worstLagMs: 0,
    }));
  }

  /** @param seconds Since the beginning; null: before it, or behind the end. */
  async look(seconds: number | null): Promise<void> {
    for (const watched of this.#watched) {
      const look = await watched.server.look();
      if (look === null) continue;
      watched.last = look;
      if (seconds === null) continue;
      watched.first ??= look;
      watched.told ??= look;
      watched.worstLagMs = Math.max(watched.worstLagMs, look.lagMs);
      watched.resident.add(seconds, look.residentBytes / 1e6);
      // A client that has just come may be in one of both figures only: of several, the least is right.
      watched.descriptors.add(seconds, look.descriptors - look.peers);
    }
  }

  /** All servers live, their upstreams are up, and nothing waits for them. */
  get rests(): boolean {
    return this.#watched.every(({ server, last }) => server.runs && last?.waiting === 0);
  }

  /** What a server that still lives has lost: `SOCKET REASON`. */
  lossesOf(server: Server): Losses {
    return this.#watched.find((watched) => watched.server === server)!.last?.losses ?? new Map();
  }

  /** All that was lost until now, by reason. */
  get losses(): Losses {
    const losses: Losses = new Map();
    for (const { server, last } of this.#watched) {
      for (const from of [server.lost, last === null || !server.runs ? [] : last.losses]) {
        add(losses, [...from].map(([key, count]) => [key.split(" ")[1], count] as const));
      }
    }
    return losses;
  }

  /** How often links to upstreams have come up. */
  get ups(): number {
    return this.#watched.reduce((sum, { server }) => sum + server.ups, 0);
  }

  secondsSinceTold(seconds: number): number {
    return seconds - this.#told.seconds;
  }

  /** The line of a minute. */
  tell(seconds: number, echoes: Times): void {
    const row = (minute: string, echo: string, servers: string[], rest: string) =>
      console.log(`${minute.padStart(6)} | ${echo.padStart(15)} | ${servers.join(" | ")} | ${rest}`);
    if (this.#lines++ % HEAD_EVERY_LINES === 0) {
      const columns = COLUMNS.map(([name, width]) => name.padStart(width)).join("");
      const all = this.#watched;
      row("", "", all.map(({ server }) => server.name.padStart(columns.length)), "");
      row("minute", "echo p50/p99 ms", all.map(() => columns), "links up again; messages dropped");
    }
    const since = this.secondsSinceTold(seconds);
    const servers = this.#watched.map((watched) => {
      const text = cells(watched, since);
      watched.told = watched.last;
      return text;
    });
    const { losses, ups } = this;
    const lost = [...losses].map(([reason, count]) =>
      [reason, count - (this.#told.losses.get(reason) ?? 0)] as const
    ).filter(([, count]) => count > 0).map(([reason, count]) => `${reason} ${count}`);
    const echo = `${echoes.quantile(0.5).toFixed(1)} / ${echoes.quantile(0.99).toFixed(1)}`;
    row((seconds / 60).toFixed(1), echo, servers, `${ups - this.#told.ups}; ${lost.join(", ") || "none"}`);
    this.#told = { seconds, losses, ups };
  }

  /** @param stay Servers that were never restarted: the others are always young. */
  table(seconds: number, stay: readonly Server[], fault: (text: string) => void): string {
    const warmUp = Math.max(WARM_UP_SECONDS, seconds * WARM_UP_SHARE);
    const judged = (server: Server, verdict: Verdict) => {
      if (!stay.includes(server)) return "restarted";
      if (verdict.fault !== null) fault(verdict.fault);
      return verdict.text;
    };
    const rows = this.#watched.map(({ server, resident, descriptors, last, first, worstLagMs }) => {
      const { name, starts } = server;
      const rate = (of: (look: Look) => number) =>
        last === null || first === null ? 0 : (of(last) - of(first)) / seconds;
      return [
        name,
        starts,
        rate(({ messages }) => messages).toFixed(0),
        `${(100 * rate(({ cpuSeconds }) => cpuSeconds)).toFixed(0)} %`,
        `${worstLagMs.toFixed(0)} ms`,
        last === null ? "" : `${(last.residentBytes / 1e6).toFixed(0)} MB`,
        judged(server, judgeMemory(name, resident.after(warmUp), seconds / 3600)),
        judged(server, judgeDescriptors(name, descriptors.after(warmUp))),
      ];
    });
    return table(
      ["server", "starts", "messages/s", "CPU", "worst lag p99", "memory", "it grows by", "descriptors"],
      rows,
    );
  }
}

function cells({ last, told }: Watched, seconds: number): string {
  if (last === null || told === null) return "".padEnd(COLUMNS.reduce((sum, [, width]) => sum + width, 0));
  const texts = [
    ((last.messages - told.messages) / seconds).toFixed(0),
    (last.residentBytes / 1e6).toFixed(0),
    `${last.descriptors}`,
    `${last.lagMs.toFixed(0)} ms`,
    `${(100 * (last.cpuSeconds - told.cpuSeconds) / seconds).toFixed(0)} %`,
  ];
  return texts.map((text, i) => text.padStart(COLUMNS[i][1])).join("");
}
