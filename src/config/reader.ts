/**
 * A server's config: read, checked as a whole, and told wrong as a whole. Which handlers there are, and what their options
 * may be, it is given as definitions; it knows none itself.
 */
import { basename, dirname, isAbsolute, resolve } from "node:path";
import type { Host } from "../contracts/environment.ts";
import type {
  HandlerDefinition,
  Role,
  SectionPrefix,
  SectionsRead,
  ServerFacts,
} from "../contracts/handler.ts";
import type { Options } from "../contracts/schema.ts";
import { isType } from "../message/type.ts";
import { leadsTo, parseEndpoint } from "../endpoint.ts";
import { didYouMean } from "../text.ts";
import { circlesOf } from "./circles.ts";
import { type Diagnostic, Diagnostics } from "./diagnostics.ts";
import { type Entry, expand, type Ini, parse, type Section } from "./ini.ts";
import { ask, isReadable, SectionsByTable } from "./sections.ts";
import { endpoint, handlerName, handlerNames, type Reading, readSection } from "./options.ts";
import { SERVER_OPTIONS, type ServerOptions } from "./server_options.ts";

/** A definition, whatever the types of its options and bodies. */
// deno-lint-ignore no-explicit-any -- each definition has options and bodies of its own types; the reader checks the values
export type AnyHandlerDefinition = HandlerDefinition<any, any>;

/** A handler's section. */
export interface HandlerConfig {
  /** `h:name` */
  readonly name: string;
  /** What the handler is. */
  readonly definition: AnyHandlerDefinition;
  /** The file that the definition came from; null for a built-in one, or one of an embedding program. */
  readonly module: string | null;
  /** Checked values; the text of each option where the definition has no table. */
  readonly options: Readonly<Record<string, unknown>>;
  /** The sections that the definition asks for as text, by name. */
  readonly sections: ReadonlyMap<string, Readonly<Record<string, string>>>;
  /** Those that it asks for by a table of options. */
  readonly sectionsRead: SectionsRead;
  /** Handlers that its options name. */
  readonly edges: readonly string[];
  /** Where it stands. */
  readonly line: number;
}

/** One line of `[routes]`. */
export interface RouteConfig {
  /** `*`, or a message type that the route is for, with all below it. */
  readonly type: string;
  /** `h:name`, in order. */
  readonly handlers: readonly string[];
  /** Where it stands. */
  readonly line: number;
}

/** What a config file says, checked. */
export interface ServerConfig {
  /** As it was named, for messages. */
  readonly file: string;
  /** The name of this server. */
  readonly jobName: string;
  /** What kind of program it is: `ccserver`. */
  readonly serviceName: string;
  /** The values of `[ccserver]`. */
  readonly options: ServerOptions;
  /** The lines of `[routes]`, in order. */
  readonly routes: readonly RouteConfig[];
  /** The lines of `[cms-allow]`, in order; null: there is no such section. */
  readonly allow: readonly AllowConfig[] | null;
  /** Every `[h:…]` section. */
  readonly handlers: ReadonlyMap<string, HandlerConfig>;
  /** Where the options of `[ccserver]` stand; under its own name, the section. */
  readonly lines: ReadonlyMap<string, number>;
  /** What is not wrong, but perhaps not meant. */
  readonly warnings: readonly Diagnostic[];
}

/** One line of `[cms-allow]`. */
export interface AllowConfig {
  /** Who signed: a glob for the common name, `ATTRIBUTE/GLOB` of the subject, or SHA-256 of the certificate. In lower case. */
  readonly signer: string;
  /** Globs of message types. */
  readonly types: readonly string[];
  /** Where it stands. */
  readonly line: number;
}

/** `FILE:LINE` of an option of `[ccserver]`, or of the section that lacks it: for messages. */
export function placeOf(config: Pick<ServerConfig, "file" | "lines">, option: keyof ServerOptions): string {
  return `${config.file}:${config.lines.get(option.toLowerCase()) ?? config.lines.get("ccserver")}`;
}

/** What handlers may know of a server with this config. */
export function factsOf(
  { file, jobName, options }: Pick<ServerConfig, "file" | "jobName" | "options">,
  { receivesDatagrams }: Pick<Host, "receivesDatagrams">,
): ServerFacts {
  const cms = CMS_OPTIONS.flatMap((option) => {
    const value = options[option];
    return value === null ? [] : [[option, Array.isArray(value) ? value.join(", ") : value]];
  });
  return {
    jobName,
    configFile: file,
    socket: options["cc-socket"],
    pidfile: options.pidfile,
    cms: Object.fromEntries(cms),
    receivesDatagrams,
  };
}

/** Options about signatures, which a server's daemons are given too. */
const CMS_OPTIONS = [
  "cms-keystore",
  "cms-sign",
  "cms-verify-ca",
  "cms-encrypt",
  "cms-decrypt",
  "cms-profile",
] as const;

/** What was loaded from a file, or why nothing was. */
export type LoadedModule =
  | {
    /** Its default export, or what that has made of the toolkit. */
    readonly value: unknown;
    /** The handler that this is; null: it is none. */
    readonly handler: AnyHandlerDefinition | null;
  }
  | { readonly error: string };

/** What a config is read with. */
export interface ReadOptions {
  readonly host: Pick<Host, "home" | "folder" | "name" | "receivesDatagrams">;
  /** Handlers by their names. */
  readonly definitions: ReadonlyMap<string, AnyHandlerDefinition>;
  /** Handlers that the original has and this version does not, with the role they are for. */
  readonly unbuilt?: ReadonlyMap<string, Role>;
  /** Files that the config names, by absolute path. */
  readonly modules?: ReadonlyMap<string, LoadedModule>;
  /** Finds what is wrong with the values on this host. */
  readonly findings?: (options: ServerOptions) => readonly { option: string; message: string }[];
}

const SERVICE_NAME = "ccserver";
const ALLOW_SECTION = "cms-allow";
const HANDLER_SECTION = /^h:\S+$/;
/** Sections of parts that read them themselves. */
const OTHER_SECTION = /^[dpt]:/;
/** A config file, parsed but not yet checked: what modules it needs is known. */
export class ParsedConfig {
  readonly file: string;
  readonly ini: Ini;
  readonly diagnostics: Diagnostics;

  /** @param file Its name: for messages, for the job's name, and for paths of handler modules. */
  constructor(text: string, file: string) {
    this.file = file;
    this.diagnostics = new Diagnostics(file);
    this.ini = parse(text, file, this.diagnostics);
  }

  /** Absolute paths of the files that handlers are to be loaded from, and of those that are for other sections. */
  modules(host: ReadOptions["host"]): { handlers: string[]; others: string[] } {
    // What cannot be expanded is told when the section is read.
    const silent = new Diagnostics(this.file);
    const builtins = this.builtins(host);
    const pathsOf = (entryOf: (section: Section) => Entry | undefined) => {
      const paths = [...this.ini.sections.values()].flatMap((section) => {
        const entry = entryOf(section);
        const value = entry && expand(this.ini, section, entry, builtins, silent);
        const path = value === undefined ? null : modulePath(value, this.file, host);
        return path === null ? [] : [path];
      });
      return [...new Set(paths)];
    };
    return {
      handlers: pathsOf(handlerEntry),
      others: pathsOf(({ name, entries }) => OTHER_SECTION.test(name) ? entries.get("module") : undefined),
    };
  }

  /** Values for `%(name)s` where the file has none. */
  builtins(host: ReadOptions["host"]): Record<string, string> {
    const { file } = this;
    const server = this.ini.sections.get("ccserver");
    const entry = server?.entries.get("job_name");
    const builtins = {
      service_name: SERVICE_NAME,
      host_name: host.name,
      config_dir: dirname(file) === "." && !file.startsWith("./") ? "" : dirname(file),
      config_file: file,
      job_name: basename(file).replace(/\.ini$/, ""),
    };
    // What cannot be expanded is told when the section is read.
    const own = server && entry && expand(this.ini, server, entry, builtins, new Diagnostics(file));
    return { ...builtins, job_name: own ?? builtins.job_name };
  }
}

/** The absolute path of a handler or daemon that is a file; null for a name. */
export function modulePath(value: string, file: string, host: ReadOptions["host"]): string | null {
  if (!/^\.{0,2}\//.test(value) && !/\.[mc]?[jt]s$/.test(value)) return null;
  return isAbsolute(value) ? value : resolve(host.folder, dirname(file), value);
}

function handlerEntry(section: Section): Entry | undefined {
  if (!HANDLER_SECTION.test(section.name)) return undefined;
  return section.entries.get("handler") ?? section.entries.get("plugin");
}

/**
 * Checks the text of a config file.
 *
 * @param file Its name: for messages, for the job's name, and for paths of handler modules.
 * @throws {ConfigError} With everything that is wrong, each with file and line.
 */
export function readConfig(text: string, file: string, reads: ReadOptions): ServerConfig {
  return readParsed(new ParsedConfig(text, file), reads);
}

/**
 * Checks a parsed config file.
 *
 * @throws {ConfigError} With everything that is wrong, each with file and line.
 */
export function readParsed(parsed: ParsedConfig, reads: ReadOptions): ServerConfig {
  return new Reader(parsed, reads).read();
}

/**
 * What `[ccserver]` alone says, whatever is wrong with the rest: enough to find a server that runs. Options that are wrong
 * have their defaults, and their lines are `wrong`.
 *
 * @returns Null where there is no such section.
 */
export function readServerSection(
  parsed: ParsedConfig,
  host: ReadOptions["host"],
): Pick<ServerConfig, "file" | "options" | "lines"> & { readonly wrong: readonly number[] } | null {
  const { ini, file } = parsed;
  const server = ini.sections.get("ccserver");
  if (server === undefined) return null;
  const diagnostics = new Diagnostics(file);
  const builtins = parsed.builtins(host);
  const options = readSection({ ini, builtins, host, diagnostics }, server, SERVER_OPTIONS);
  return { file, options, lines: linesOf(ini, server), wrong: diagnostics.found.map(({ line }) => line) };
}

function linesOf({ defaults }: Ini, server: Section): Map<string, number> {
  const lines = new Map([["ccserver", server.line]]);
  for (const { key, line } of [...defaults.values(), ...server.entries.values()]) lines.set(key, line);
  return lines;
}

class Reader {
  readonly #parsed: ParsedConfig;
  readonly #ini: Ini;
  readonly #diagnostics: Diagnostics;
  readonly #reads: ReadOptions;
  readonly #reading: Reading;
  readonly #others: SectionsByTable;

  constructor(parsed: ParsedConfig, reads: ReadOptions) {
    this.#parsed = parsed;
    this.#ini = parsed.ini;
    this.#diagnostics = parsed.diagnostics;
    this.#reads = reads;
    this.#reading = {
      ini: parsed.ini,
      builtins: parsed.builtins(reads.host),
      host: reads.host,
      diagnostics: parsed.diagnostics,
    };
    this.#others = new SectionsByTable(this.#reading, (value) => {
      const path = modulePath(value, parsed.file, reads.host);
      if (path === null) return null;
      return { path, loaded: reads.modules?.get(path) ?? { error: `${path} was not loaded` } };
    });
  }

  read(): ServerConfig {
    const ini = this.#ini;
    const diagnostics = this.#diagnostics;
    const { file } = this.#parsed;
    const server = ini.sections.get("ccserver");
    if (server === undefined) {
      diagnostics.add(1, "the section [ccserver] is missing");
      diagnostics.check();
      throw new Error("unreachable: the check above throws");
    }
    const options = readSection(this.#reading, server, SERVER_OPTIONS);
    this.#checkSeal(server, options);
    const handlers = new Map<string, HandlerConfig>();
    for (const section of ini.sections.values()) {
      if (!HANDLER_SECTION.test(section.name)) continue;
      const handler = this.#readHandler(section, options);
      if (handler !== null) handlers.set(section.name, handler);
    }
    this.#checkSingle(handlers);
    this.#checkSections(handlers);
    const allow = this.#readAllow(ini.sections.get(ALLOW_SECTION), options);
    const routes = this.#readRoutes(ini.sections.get("routes"), server.line);
    this.#checkEdges(handlers);
    this.#checkAlone(handlers, routes);
    for (const { option, message } of this.#reads.findings?.(options) ?? []) {
      const { line } = server.entries.get(option) ?? ini.defaults.get(option) ?? server;
      diagnostics.add(line, message, { environmental: true });
    }
    // Those that are wrong in themselves are told first.
    diagnostics.check();
    this.#checkSelf(options["cc-socket"], handlers);
    diagnostics.check();
    return {
      file,
      jobName: this.#reading.builtins.job_name,
      serviceName: SERVICE_NAME,
      options,
      routes,
      allow,
      handlers,
      lines: linesOf(ini, server),
      warnings: diagnostics.sorted,
    };
  }

  #checkSingle(handlers: ReadonlyMap<string, HandlerConfig>): void {
    const first = new Map<AnyHandlerDefinition, string>();
    for (const { name, definition, line } of handlers.values()) {
      const other = first.get(definition);
      if (other === undefined) first.set(definition, name);
      else if (definition.single) {
        const what = `a config has one handler ${definition.name} at most`;
        this.#diagnostics.add(line, `[${name}]: ${what}, and [${other}] is it`);
      }
    }
  }

  /** Whatever nobody reads is told: a section that seems to work, and does not, is worse than none. */
  #checkSections(handlers: ReadonlyMap<string, HandlerConfig>): void {
    const asked = [...handlers.values()].flatMap(({ definition }) => definition.sections ?? []);
    const byTable = new Set(asked.map((reads) => typeof reads === "string" ? null : reads.prefix));
    const read = new Set(asked.map((reads) => typeof reads === "string" ? reads : reads.prefix));
    for (const { name, line } of this.#ini.sections.values()) {
      if (name === "ccserver" || name === "routes" || name === ALLOW_SECTION || HANDLER_SECTION.test(name)) {
        continue;
      }
      if (!OTHER_SECTION.test(name)) {
        this.#diagnostics.add(
          line,
          `unknown section [${name}]${didYouMean(name, ["ccserver", "routes", ALLOW_SECTION])}`,
        );
      } else if (!read.has(name.slice(0, 2) as SectionPrefix)) {
        this.#diagnostics.add(
          line,
          `nobody reads [${name}]: no handler here reads sections ${name.slice(0, 2)}…`,
        );
      } else if (byTable.has(name.slice(0, 2) as SectionPrefix) && !isReadable(name)) {
        this.#diagnostics.add(
          line,
          `[${name}]: expected a name such as [${name.slice(0, 2)}name], without blanks`,
        );
      }
    }
  }

  #readAllow(section: Section | undefined, options: ServerOptions): AllowConfig[] | null {
    if (section === undefined) return null;
    if (options["cms-verify-ca"] === null) {
      this.#diagnostics.add(section.line, '[cms-allow] needs "cms-verify-ca": who signed must be known');
    }
    return [...section.entries.values()].flatMap((entry) => {
      const value = this.#expand(section, entry);
      if (value === undefined) return [];
      const types = value.split(/[\s,]+/).filter((word) => word !== "");
      const wrong = types.find((type) => !/^[\w.*?-]+$/.test(type));
      if (types.length === 0) {
        this.#diagnostics.add(entry.line, `"${entry.key}" in [cms-allow] names no message type`);
      }
      if (wrong !== undefined) {
        this.#diagnostics.add(
          entry.line,
          /^[0-9a-f]{2}$/i.test(entry.key) && /^([0-9a-f]{2}:)+[0-9a-f]{2}$/i.test(wrong)
            ? "a fingerprint in [cms-allow] is 64 hexadecimal digits, without colons"
            : `"${wrong}" in [cms-allow] is no message type, and no pattern of one`,
        );
      }
      return [{ signer: entry.key, types, line: entry.line }];
    });
  }

  /** Options about signatures that need others. */
  #checkSeal(server: Section, options: ServerOptions): void {
    const add = (key: keyof ServerOptions, message: string, severity?: "warning") =>
      this.#diagnostics.add(server.entries.get(key)?.line ?? server.line, message, severity && { severity });
    const { "cms-sign": sign, "cms-verify-ca": verify, "cms-profile": profile } = options;
    if (options["cms-encrypt"] !== null && sign === null) {
      add("cms-encrypt", '"cms-encrypt" needs "cms-sign": what is encrypted is signed first');
    }
    if (options["cms-decrypt"] !== null && verify === null) {
      add("cms-decrypt", '"cms-decrypt" needs "cms-verify-ca": what is encrypted is signed too');
    }
    for (const key of ["cms-time-window", "cms-hostname"] as const) {
      const value = options[key];
      if (value === 0 || value === "off" || verify !== null) continue;
      add(
        key,
        `"${key}" needs "cms-verify-ca": who says the ${
          key === "cms-time-window" ? "time" : "host"
        } must be known`,
      );
    }
    if (profile === null && (sign ?? verify) !== null) {
      add(
        sign === null ? "cms-verify-ca" : "cms-sign",
        "there is no cms-profile, so it is modern: an original (0.8) cannot read what this server signs, and is refused; " +
          "cms-profile = legacy can do both",
        "warning",
      );
    }
  }

  #readHandler(section: Section, server: ServerOptions): HandlerConfig | null {
    const diagnostics = this.#diagnostics;
    const before = diagnostics.errors;
    const role = server["cc-role"];
    const entry = handlerEntry(section);
    if (entry === undefined) {
      diagnostics.add(section.line, `[${section.name}] needs the option "handler"`);
      return null;
    }
    const value = this.#expand(section, entry);
    if (value === undefined) return null;
    const module = modulePath(value, this.#parsed.file, this.#reads.host);
    const definition = module === null
      ? this.#named(section, entry, value, role)
      : this.#loaded(section, entry, module);
    if (definition === null) return null;
    this.#checkRole(section, entry, value, role, definition.roles);
    const { name, line } = section;
    const options = definition.options === undefined
      ? this.#rawOptions(section)
      : readSection(this.#reading, section, definition.options as Options, ["handler", "plugin"]);
    const edges = this.#edgesOf(section, options as Record<string, unknown>, definition);
    const sections = this.#sectionsFor(definition);
    const right = diagnostics.errors === before;
    const others = this.#others.of(section, definition);
    const sectionsRead = new Map(others.map(({ read }) => [read.name, read]));
    const handler = { name, definition, module, options, sections, sectionsRead, edges, line };
    if (right && others.every((other) => other.right)) this.#checkWhole(section, handler, server);
    return handler;
  }

  /** What the definition itself finds wrong. */
  #checkWhole(
    section: Section,
    { definition, options, sectionsRead }: HandlerConfig,
    server: ServerOptions,
  ): void {
    const { file } = this.#parsed;
    const facts = factsOf(
      { file, jobName: this.#reading.builtins.job_name, options: server },
      this.#reads.host,
    );
    const check = () => definition.check?.(options, sectionsRead, facts, section.name) ?? [];
    for (
      const { section: name, option, message, severity } of ask(this.#diagnostics, section, "check", check) ??
        []
    ) {
      const key = option?.toLowerCase() ?? "";
      const about = this.#ini.sections.get(name) ?? section;
      const { line } = about.entries.get(key) ?? this.#ini.defaults.get(key) ??
        this.#others.lineOf(name, key) ?? about;
      this.#diagnostics.add(line, message, { severity });
    }
  }

  #checkRole(section: Section, entry: Entry, value: string, role: Role, roles: readonly Role[]): void {
    if (role === "insecure" || roles.includes(role)) return;
    const allowed = roles.filter((r) => r !== "insecure").join(" or ");
    this.#diagnostics.add(
      entry.line,
      `handler "${value}" in [${section.name}] needs cc-role = ${allowed}, it is ${role}`,
    );
  }

  #named(section: Section, entry: Entry, value: string, role: Role): AnyHandlerDefinition | null {
    const { definitions, unbuilt = new Map<string, Role>() } = this.#reads;
    const short = value.replace(/^cc\.handler\./, "");
    const definition = definitions.get(value) ?? definitions.get(short);
    if (definition !== undefined) return definition;
    const missing = unbuilt.get(short);
    if (missing === undefined) {
      const hint = didYouMean(short, [...definitions.keys(), ...unbuilt.keys()]);
      this.#diagnostics.add(entry.line, `unknown handler "${value}" in [${section.name}]${hint}`);
    } else if (role !== "insecure" && role !== missing) {
      this.#checkRole(section, entry, value, role, [missing]);
    } else {
      this.#diagnostics.add(
        entry.line,
        `handler "${value}" in [${section.name}] is not part of this version`,
      );
    }
    return null;
  }

  #loaded(section: Section, entry: Entry, path: string): AnyHandlerDefinition | null {
    const loaded = this.#reads.modules?.get(path) ?? { error: `${path} was not loaded` };
    if ("handler" in loaded && loaded.handler !== null) return loaded.handler;
    const why = "error" in loaded
      ? loaded.error
      : `cannot load ${path}: its default export is no handler: there is no function "create"`;
    this.#diagnostics.add(entry.line, `[${section.name}]: ${why}`);
    return null;
  }

  #rawOptions(section: Section): Record<string, string> {
    const options: Record<string, string> = {};
    for (const entry of section.entries.values()) {
      if (entry.key === "handler" || entry.key === "plugin") continue;
      const value = this.#expand(section, entry);
      if (value !== undefined) options[entry.key] = value;
    }
    return options;
  }

  #sectionsFor({ sections = [] }: AnyHandlerDefinition): Map<string, Record<string, string>> {
    const found = new Map<string, Record<string, string>>();
    for (const section of this.#ini.sections.values()) {
      if (sections.some((reads) => typeof reads === "string" && section.name.startsWith(reads))) {
        found.set(section.name, this.#rawOptions(section));
      }
    }
    return found;
  }

  /** Handlers that the options name: by their schemas, or, where there are none, by what the text is. */
  #edgesOf(section: Section, values: Record<string, unknown>, definition: AnyHandlerDefinition): string[] {
    const edges: string[] = [];
    for (const [name, value] of Object.entries(values)) {
      const schema: unknown = definition.options?.[name]?.schema;
      const named = definition.options === undefined
        ? typeof value === "string" && this.#ini.sections.has(value) && HANDLER_SECTION.test(value)
        : schema === handlerName || schema === handlerNames;
      if (!named || value === null) continue;
      for (const target of Array.isArray(value) ? value as string[] : [value as string]) {
        const entry = section.entries.get(name.toLowerCase()) ?? this.#ini.defaults.get(name.toLowerCase());
        this.#checkHandlerExists(target, entry?.line ?? section.line, `${name} in [${section.name}]`);
        edges.push(target);
      }
    }
    return edges;
  }

  #readRoutes(section: Section | undefined, serverLine: number): RouteConfig[] {
    const diagnostics = this.#diagnostics;
    if (section === undefined) {
      diagnostics.add(serverLine, "the section [routes] is missing: no message would reach a handler");
      return [];
    }
    const routes: RouteConfig[] = [];
    for (const entry of section.entries.values()) {
      const value = this.#expand(section, entry);
      if (value === undefined) continue;
      if (entry.key !== "*" && !isType(entry.key)) {
        diagnostics.add(entry.line, `"${entry.key}" is not a message type, expected dotted names or *`);
        continue;
      }
      const handlers = value.split(",").map((word) => word.trim()).filter((word) => word !== "");
      const wrong = handlers.find((name) => !HANDLER_SECTION.test(name));
      if (wrong !== undefined) {
        diagnostics.add(entry.line, `route "${entry.key}" = ${value}: expected a handler such as h:name`);
        continue;
      }
      if (handlers.length === 0) diagnostics.add(entry.line, `route "${entry.key}" names no handler`);
      for (const name of handlers) this.#checkHandlerExists(name, entry.line, `route "${entry.key}"`);
      routes.push({ type: entry.key, handlers, line: entry.line });
    }
    return routes;
  }

  #checkHandlerExists(name: string, line: number, what: string): void {
    if (this.#ini.sections.has(name)) return;
    const known = [...this.#ini.sections.keys()].filter((key) => key.startsWith("h:"));
    this.#diagnostics.add(
      line,
      `${what} names ${name}, but there is no section [${name}]${didYouMean(name, known)}`,
    );
  }

  /** What handlers name must not come back to where it started. */
  #checkEdges(handlers: ReadonlyMap<string, HandlerConfig>): void {
    for (const circle of circlesOf([...handlers.keys()], (name) => handlers.get(name)!.edges)) {
      const { line } = handlers.get(circle[0])!;
      this.#diagnostics.add(line, `handlers name each other in a circle: ${circle.join(" -> ")}`);
    }
  }

  /** A handler that runs without a route may be meant to have one. */
  #checkAlone(handlers: ReadonlyMap<string, HandlerConfig>, routes: readonly RouteConfig[]): void {
    const reached = new Set(routes.flatMap(({ handlers }) => handlers));
    // A set that grows is walked to its end.
    for (const name of reached) for (const next of handlers.get(name)?.edges ?? []) reached.add(next);
    for (const { name, definition, line } of handlers.values()) {
      if (definition.runsAlone !== true || reached.has(name)) continue;
      this.#diagnostics.add(line, `[${name}] is named by no route: it runs all the same`, {
        severity: "warning",
      });
    }
  }

  /** A server that forwards to itself forwards the same message again and again. */
  #checkSelf(socket: string, handlers: ReadonlyMap<string, HandlerConfig>): void {
    const own = parseEndpoint(socket, "bind");
    for (const { name, definition, options, line } of handlers.values()) {
      for (const [option, value] of Object.entries(options)) {
        if (definition.options?.[option]?.schema !== endpoint("connect") || typeof value !== "string") {
          continue;
        }
        if (!leadsTo(parseEndpoint(value, "connect"), own, this.#reads.host.name)) continue;
        const entry = this.#ini.sections.get(name)?.entries.get(option);
        this.#diagnostics.add(
          entry?.line ?? line,
          `${option} in [${name}] is this server itself: a message would go round in a circle`,
        );
      }
    }
  }

  #expand(section: Section, entry: Entry): string | undefined {
    return expand(this.#ini, section, entry, this.#reading.builtins, this.#diagnostics);
  }
}
