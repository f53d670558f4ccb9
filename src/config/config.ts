/** A server's config: read, checked as a whole, and told wrong as a whole. */
import { readFileSync } from "node:fs";
import { basename, dirname, isAbsolute, resolve } from "node:path";
import * as v from "valibot";
import { isType } from "../message/type.ts";
import { reason } from "../log.ts";
import { ConfigError, Diagnostics, didYouMean } from "./diagnostics.ts";
import { unwritableFiles } from "./files.ts";
import { type Entry, expand, type Ini, parse, type Section } from "./ini.ts";
import { handlerName, list, type Reading, readSection } from "./options.ts";
import { HANDLERS, type Role, SERVER_OPTIONS, type ServerOptions } from "./schemas.ts";

/** A handler's section. */
export interface HandlerConfig {
  /** `h:name` */
  name: string;
  /** Short name of a handler, or the absolute path of a module. */
  handler: string;
  kind: "named" | "module";
  /** Checked values for a built-in one; the text of each option for others. */
  options: Readonly<Record<string, unknown>>;
  line: number;
}

/** One line of `[routes]`. */
export interface RouteConfig {
  /** `*`, or a message type that the route is for, with all below it. */
  type: string;
  /** `h:name`, in order. */
  handlers: readonly string[];
  line: number;
}

/** What a config file says, checked. */
export interface ServerConfig {
  /** As it was named, for messages. */
  file: string;
  jobName: string;
  serviceName: string;
  options: ServerOptions;
  routes: readonly RouteConfig[];
  /** Every `[h:…]` section. */
  handlers: ReadonlyMap<string, HandlerConfig>;
  /** Where the options of `[ccserver]` stand; under its own name, the section. */
  lines: ReadonlyMap<string, number>;
}

/** `FILE:LINE` of an option of `[ccserver]`, or of the section that lacks it: for messages. */
export function placeOf(config: ServerConfig, option: keyof ServerOptions): string {
  return `${config.file}:${config.lines.get(option.toLowerCase()) ?? config.lines.get("ccserver")}`;
}

/** What an embedding program adds to the config. */
export interface ReadOptions {
  /** Short names of handlers of its own: `handler = NAME` takes them; their options are read as text. */
  handlers?: readonly string[];
  /** Also finds which of `logfile`, `pidfile` and `infofile` cannot be written on this host. */
  files?: boolean;
}

const SERVICE_NAME = "ccserver";
/** Sections of parts that read them themselves. */
const OTHER_SECTIONS = /^[dpt]:/;

/**
 * Reads and checks a config file.
 *
 * @throws {ConfigError} With everything that is wrong, each with file and line.
 *
 * @example
 * ```ts
 * const config = loadConfig("local.ini");
 * console.log(config.options["cc-socket"]);
 * ```
 */
export function loadConfig(file: string, reads: ReadOptions = {}): ServerConfig {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(file));
  } catch (error) {
    const code = (error as { code?: string }).code;
    const why = code === "ENOENT"
      ? "no such file"
      : code === "EISDIR"
      ? "it is a folder"
      : code === "EACCES"
      ? "permission denied"
      : error instanceof TypeError
      ? "it is not text in UTF-8"
      : reason(error);
    throw new ConfigError([{ file, line: 1, message: `cannot read the config: ${why}` }]);
  }
  return readConfig(text, file, reads);
}

/**
 * Checks the text of a config file.
 *
 * @param file Its name: for messages, for the job's name, and for paths of handler modules.
 * @throws {ConfigError}
 */
export function readConfig(text: string, file: string, reads: ReadOptions = {}): ServerConfig {
  const diagnostics = new Diagnostics(file);
  const ini = parse(text, file, diagnostics);
  const builtins = { job_name: basename(file).replace(/\.ini$/, ""), service_name: SERVICE_NAME };
  const server = ini.sections.get("ccserver");
  if (server === undefined) {
    diagnostics.add(1, "the section [ccserver] is missing");
    diagnostics.check();
    throw new Error("unreachable: the check above throws");
  }
  const jobName = server.entries.get("job_name")?.raw ?? builtins.job_name;
  const reading: Reading = { ini, builtins: { ...builtins, job_name: jobName }, diagnostics };
  checkSectionNames(ini, diagnostics);
  const options = readSection(reading, server, SERVER_OPTIONS);
  checkUnbuilt(server, options, diagnostics);
  const handlers = new Map<string, HandlerConfig>();
  for (const section of ini.sections.values()) {
    if (!section.name.startsWith("h:")) continue;
    const handler = readHandler(reading, section, options["cc-role"], reads.handlers ?? []);
    if (handler !== null) handlers.set(section.name, handler);
  }
  const routes = readRoutes(reading, ini.sections.get("routes"), server.line);
  checkForwarding(ini, handlers, diagnostics);
  if (reads.files) {
    for (const { option, message } of unwritableFiles(options)) {
      diagnostics.add((server.entries.get(option) ?? ini.defaults.get(option) ?? server).line, message, true);
    }
  }
  diagnostics.check();
  const lines = new Map([["ccserver", server.line]]);
  for (const { key, line } of [...ini.defaults.values(), ...server.entries.values()]) lines.set(key, line);
  return { file, jobName, serviceName: SERVICE_NAME, options, routes, handlers, lines };
}

function checkSectionNames(ini: Ini, diagnostics: Diagnostics): void {
  for (const { name, line } of ini.sections.values()) {
    if (name === "ccserver" || name === "routes" || /^h:\S+$/.test(name) || OTHER_SECTIONS.test(name)) {
      continue;
    }
    diagnostics.add(line, `unknown section [${name}]${didYouMean(name, ["ccserver", "routes"])}`);
  }
}

/** What the original knows and this version cannot do yet must not seem to work. */
function checkUnbuilt(server: Section, options: ServerOptions, diagnostics: Diagnostics): void {
  for (const key of ["cms-sign", "cms-verify-ca", "cms-encrypt", "cms-decrypt"] as const) {
    if (options[key] === null) continue;
    const line = server.entries.get(key)?.line ?? server.line;
    diagnostics.add(
      line,
      `"${key}": this version neither signs nor checks messages, and will not start as if it did`,
    );
  }
}

function readHandler(
  reading: Reading,
  section: Section,
  role: Role,
  own: readonly string[],
): HandlerConfig | null {
  const { ini, builtins, diagnostics } = reading;
  const entry = section.entries.get("handler") ?? section.entries.get("plugin");
  if (entry === undefined) {
    diagnostics.add(section.line, `[${section.name}] needs the option "handler"`);
    return null;
  }
  const value = expand(ini, section, entry, builtins, diagnostics);
  if (value === undefined) return null;
  const { name, line } = section;
  if (/^\.{0,2}\//.test(value) || /\.[mc]?[jt]s$/.test(value)) {
    return {
      name,
      handler: isAbsolute(value) ? value : resolve(dirname(ini.file), value),
      kind: "module",
      options: rawOptions(reading, section),
      line,
    };
  }
  if (own.includes(value)) {
    return { name, handler: value, kind: "named", options: rawOptions(reading, section), line };
  }
  const short = value.replace(/^cc\.handler\./, "");
  const spec = Object.hasOwn(HANDLERS, short) ? HANDLERS[short] : undefined;
  if (spec === undefined) {
    diagnostics.add(
      entry.line,
      `unknown handler "${value}" in [${name}]${didYouMean(short, [...Object.keys(HANDLERS), ...own])}`,
    );
    return null;
  }
  if (!spec.roles.includes(role)) {
    const allowed = spec.roles.filter((r) => r !== "insecure").join(" or ");
    diagnostics.add(entry.line, `handler "${value}" in [${name}] needs cc-role = ${allowed}, it is ${role}`);
  } else if (spec.missing) {
    diagnostics.add(entry.line, `handler "${value}" in [${name}] is not part of this version`);
  }
  if (spec.missing) return null;
  const options = readSection(reading, section, spec.options, ["handler", "plugin"]);
  return { name, handler: short, kind: "named", options, line };
}

function rawOptions(reading: Reading, section: Section): Record<string, string> {
  const options: Record<string, string> = {};
  for (const entry of section.entries.values()) {
    if (entry.key === "handler" || entry.key === "plugin") continue;
    const value = expand(reading.ini, section, entry, reading.builtins, reading.diagnostics);
    if (value !== undefined) options[entry.key] = value;
  }
  return options;
}

function readRoutes(reading: Reading, section: Section | undefined, serverLine: number): RouteConfig[] {
  const { ini, builtins, diagnostics } = reading;
  if (section === undefined) {
    diagnostics.add(serverLine, "the section [routes] is missing: no message would reach a handler");
    return [];
  }
  const routes: RouteConfig[] = [];
  for (const entry of section.entries.values()) {
    const value = expand(ini, section, entry, builtins, diagnostics);
    if (value === undefined) continue;
    if (entry.key !== "*" && !isType(entry.key)) {
      diagnostics.add(entry.line, `"${entry.key}" is not a message type, expected dotted names or *`);
      continue;
    }
    const result = v.safeParse(list(handlerName), value);
    if (!result.success) {
      diagnostics.add(entry.line, `route "${entry.key}" = ${value}: ${result.issues[0].message}`);
      continue;
    }
    if (result.output.length === 0) diagnostics.add(entry.line, `route "${entry.key}" names no handler`);
    for (const name of result.output) {
      checkHandlerExists(ini, name, entry, `route "${entry.key}"`, diagnostics);
    }
    routes.push({ type: entry.key, handlers: result.output, line: entry.line });
  }
  return routes;
}

function checkHandlerExists(
  ini: Ini,
  name: string,
  entry: Entry,
  what: string,
  diagnostics: Diagnostics,
): void {
  if (ini.sections.has(name)) return;
  const known = [...ini.sections.keys()].filter((key) => key.startsWith("h:"));
  diagnostics.add(
    entry.line,
    `${what} names ${name}, but there is no section [${name}]${didYouMean(name, known)}`,
  );
}

/** `forward-to` must name a handler and must not come back to where it started. */
function checkForwarding(
  ini: Ini,
  handlers: ReadonlyMap<string, HandlerConfig>,
  diagnostics: Diagnostics,
): void {
  const told = new Set<string>();
  for (const start of handlers.values()) {
    const seen = [start.name];
    const entry = ini.sections.get(start.name)?.entries.get("forward-to");
    let at: HandlerConfig | undefined = start;
    while (at !== undefined) {
      const next: unknown = at.options["forward-to"];
      if (typeof next !== "string") break;
      if (at === start && entry) {
        checkHandlerExists(ini, next, entry, `forward-to in [${start.name}]`, diagnostics);
      }
      if (next === start.name) {
        const round = [...seen].sort().join();
        if (told.has(round)) break;
        told.add(round);
        diagnostics.add(entry?.line ?? start.line, `forward-to goes round: ${[...seen, next].join(" -> ")}`);
        break;
      }
      if (seen.includes(next)) break;
      seen.push(next);
      at = handlers.get(next);
    }
  }
}
