/**
 * A reload: from one config to another, whole or not at all.
 *
 * ```
 *   prepare: new handlers are made and started, their upstreams given a moment        fails: they end, nothing has changed
 *   (the server takes the new generation)
 *   endOthers: handlers that are not in it end, those that pass messages on first, on the handlers of their own config
 * ```
 */
import type { HandlerConfig, ServerConfig } from "../config/reader.ts";
import type { ServerOptions } from "../config/server_options.ts";
import type { Clock } from "../contracts/environment.ts";
import type { Logger } from "../log.ts";
import { type Changes, compareConfigs, describeChanges, sameHandler, withoutRestarts } from "./changes.ts";
import { endAll, type Generation, neededHandlers } from "./generation.ts";
import type { Host } from "./host.ts";
import { RouteTable } from "./routes.ts";
import { within } from "./within.ts";

/** How long a reload waits at most for the upstreams of new handlers, and how often it looks. */
const UPSTREAM_WAIT_MS = 2000;
const UPSTREAM_LOOK_MS = 10;

/** What a reload needs of its server. */
export interface ReloadParts {
  readonly clock: Clock;
  readonly log: Logger;
  /** Aborts when the server stops. */
  readonly stopped: AbortSignal;
  /** @throws {StartError} */
  makeHost(name: string, config: ServerConfig): Host;
  /** @throws {StartError} */
  startHost(host: Host): Promise<void>;
}

/** Those that act by themselves, on processes say, come last: what fails before them has changed nothing there. */
function actingLast(hosts: ReadonlyMap<string, Host>): (readonly [string, Host])[] {
  const acts = ([, { config }]: readonly [string, Host]) => config.definition.runsAlone === true;
  return [...[...hosts].filter((entry) => !acts(entry)), ...[...hosts].filter(acts)];
}

export class Reload {
  readonly changes: Changes;
  /** Handlers that the new config does not have, or has otherwise. */
  ended: readonly Host[] = [];
  readonly #before: Generation;
  readonly #next: ServerConfig;
  /** The next one, without what needs a restart. */
  readonly config: ServerConfig;
  readonly #parts: ReloadParts;

  constructor(before: Generation, next: ServerConfig, parts: ReloadParts) {
    this.#before = before;
    this.#next = next;
    this.#parts = parts;
    this.changes = compareConfigs(before.config, next);
    this.config = withoutRestarts(before.config, next, this.changes);
  }

  /**
   * Makes the new generation, its handlers running.
   *
   * @returns Null when the server stops meanwhile.
   * @throws {StartError} Nothing has changed.
   */
  async prepare(): Promise<Generation | null> {
    const { stopped, makeHost, startHost } = this.#parts;
    const config = this.config;
    const hosts = new Map<string, Host>();
    const fresh: Host[] = [];
    try {
      for (const name of neededHandlers(config)) {
        const kept = this.#kept(name);
        const host = kept ?? makeHost(name, config);
        if (kept === null) fresh.push(host);
        hosts.set(name, host);
      }
      for (const host of fresh) {
        host.join(hosts);
        await startHost(host);
      }
      await this.#waitForUpstreams(fresh);
      if (!stopped.aborted) await this.#reconfigure(hosts, fresh);
    } catch (error) {
      await this.#end(fresh, 0);
      throw error;
    }
    if (stopped.aborted) {
      await this.#end(fresh, 0);
      return null;
    }
    this.ended = [...this.#before.hosts.values()].filter((host) => hosts.get(host.name) !== host);
    return { config, routes: new RouteTable(config.routes), hosts };
  }

  /** The handler of this name that runs, if it can stay: unchanged, or able to change. Sections as text are for `create`. */
  #kept(name: string): Host | null {
    const running = this.#before.hosts.get(name);
    const section = this.config.handlers.get(name);
    if (running === undefined || section === undefined) return null;
    return sameHandler(running.config, section) ||
        running.config.definition === section.definition && running.reconfigurable &&
          JSON.stringify([...running.config.sections]) === JSON.stringify([...section.sections])
      ? running
      : null;
  }

  /** Handlers that can take other options while they run do: the last step, taken back when it fails. */
  async #reconfigure(hosts: Map<string, Host>, fresh: Host[]): Promise<void> {
    const reconfigured: (readonly [Host, HandlerConfig])[] = [];
    try {
      for (const [name, host] of actingLast(hosts)) {
        const [before, section] = [host.config, this.config.handlers.get(name)!];
        if (fresh.includes(host) || sameHandler(before, section)) continue;
        if (await host.reconfigure(section, this.#parts.stopped)) reconfigured.push([host, before]);
        else await this.#replace(name, hosts, fresh);
      }
    } catch (error) {
      for (const [host, before] of reconfigured) await host.reconfigure(before, this.#parts.stopped);
      throw error;
    }
  }

  /** It would not take its new options: another one does. */
  async #replace(name: string, hosts: Map<string, Host>, fresh: Host[]): Promise<void> {
    const host = this.#parts.makeHost(name, this.config);
    fresh.push(host);
    hosts.set(name, host);
    host.join(hosts);
    await this.#parts.startHost(host);
    await this.#waitForUpstreams([host]);
  }

  /** A new upstream is given a moment to connect: until then only zmq_hwm messages would wait for it. */
  async #waitForUpstreams(fresh: readonly Host[]): Promise<void> {
    const { clock, stopped } = this.#parts;
    const until = clock.now() + UPSTREAM_WAIT_MS;
    const connecting = () => fresh.some((host) => host.upstreams.some(({ up }) => !up));
    while (connecting() && clock.now() < until && !stopped.aborted) {
      await new Promise<void>((resolve) => void clock.after(UPSTREAM_LOOK_MS, resolve));
    }
  }

  /** Logs what has changed. */
  tell(keysRead: boolean): void {
    const { log } = this.#parts;
    const lines = describeChanges(this.changes);
    for (const line of lines) log.info("reload", line);
    for (const { file, line, message } of this.#next.warnings) {
      log.warn("reload", `${file}:${line}: ${message}`);
    }
    for (const name of this.changes.restart) {
      const key = name as keyof ServerOptions;
      const [next, stays] = [this.#next, this.config].map(({ options }) =>
        options[key] === null ? "its default" : JSON.stringify(options[key])
      );
      log.warn("reload", `${name}: ${next} needs a restart; it stays ${stays}`);
    }
    if (lines.length > 0 || this.changes.restart.length > 0) return;
    const keys = "no option has changed; keys, certificates and CRLs have been read again";
    log.info("reload", keysRead ? keys : "nothing has changed");
  }

  /** Ends what is not in the new generation. */
  async endOthers(): Promise<void> {
    if (this.ended.length === 0) return;
    const { zmq_linger } = this.config.options;
    // Replies to what was sent before still come for a while; a server that stops does not wait for them.
    const { clock, stopped } = this.#parts;
    await within(clock, zmq_linger, new Promise(() => {}), stopped);
    await this.#end(this.ended, zmq_linger);
  }

  #end(hosts: readonly Host[], lingerMs: number): Promise<void> {
    return endAll(hosts, lingerMs, this.#parts.clock.now);
  }
}
