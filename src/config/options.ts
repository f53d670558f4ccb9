/** What an option's value may be (valibot), and how a section is read against a table of options. */
import { resolve } from "node:path";
import * as v from "valibot";
import type { Host } from "../contracts/environment.ts";
import type { Option, Options, Schema, SchemaResult, Values } from "../contracts/schema.ts";
import { EndpointError, parseEndpoint } from "../endpoint.ts";
import { didYouMean } from "../text.ts";
import { Diagnostics } from "./diagnostics.ts";
import { type Entry, expand, type Ini, type Section } from "./ini.ts";

/** An option that has a default. */
export function option<T>(
  schema: Schema<T>,
  fallback: string,
  doc: string,
  example: string,
  unit?: string,
): Option<T> {
  return { schema, default: fallback, doc, example, unit };
}

/** An option that must be there. */
export function required<T>(schema: Schema<T>, doc: string, example: string): Option<T> {
  return { schema, default: undefined, doc, example };
}

/** An option that may be missing. */
export function optional<T>(
  schema: Schema<T>,
  doc: string,
  example: string,
  unit?: string,
): Option<T | null> {
  return { schema, default: null, doc, example, unit };
}

const TRUE = ["yes", "on", "true", "1"];
const FALSE = ["no", "off", "false", "0"];

/** Any text but none. */
export const text: Schema<string> = v.pipe(v.string(), v.nonEmpty("a value is expected"));

/** `yes`, `on`, `true`, `1`, or one of their opposites. */
export const boolean: Schema<boolean> = v.pipe(
  v.string(),
  v.toLowerCase(),
  v.picklist([...TRUE, ...FALSE], "expected yes or no"),
  v.transform((word) => TRUE.includes(word)),
);

/** A number, whole or not, within bounds. */
export function number(min: number, max = Number.MAX_SAFE_INTEGER): Schema<number> {
  return v.pipe(
    v.string(),
    v.regex(/^-?(\d+\.?\d*|\.\d+)$/, "expected a number"),
    v.transform(Number),
    v.minValue(min, `expected a number of at least ${min}`),
    v.maxValue(max, `expected a number of at most ${max}`),
  );
}

/** A whole number within bounds. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): Schema<number> {
  return v.pipe(
    v.string(),
    v.regex(/^-?\d+$/, "expected a whole number"),
    v.transform(Number),
    v.minValue(min, `expected a whole number of at least ${min}`),
    v.maxValue(max, `expected a whole number of at most ${max}`),
  );
}

/** One of these words. */
export function choice<const W extends readonly string[]>(...words: W): Schema<W[number]> {
  return v.pipe(v.string(), v.toLowerCase(), v.picklist(words, `expected ${words.join(", ")}`));
}

const UNITS: Record<string, number> = { "": 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 };

/** A size in bytes: `256 MB`, `1048576`, `64K`; units count by 1024. */
export function size(min = 0, max = Number.MAX_SAFE_INTEGER): Schema<number> {
  return v.pipe(
    v.string(),
    v.regex(/^\d+\s*([KMGT]i?B?|B)?$/i, "expected a size such as 64 KB, 256 MB or 1048576"),
    v.transform((word) => {
      const [, digits, unit] = /^(\d+)\s*([KMGT]?)/i.exec(word)!;
      return Number(digits) * UNITS[unit.toUpperCase()];
    }),
    v.minValue(min, `expected at least ${min} bytes`),
    v.maxValue(max, `expected at most ${max} bytes`),
  );
}

/** A path; `~` at its start is the home folder, and it is relative to the folder the program was started in. */
export const path: Schema<string> = v.pipe(v.string(), v.nonEmpty("a path is expected"));

/** The same, or `none` for no path, which is the empty text then. */
export const pathOrNone: Schema<string> = v.pipe(
  v.string(),
  v.nonEmpty("a path is expected, or none"),
  v.transform((word) => word.toLowerCase() === "none" ? "" : word),
);

/** Words separated by commas; each is read by `item`. */
export function list<T>(item: Schema<T>): Schema<T[]> {
  return v.pipe(
    v.string(),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const values: T[] = [];
      for (const word of dataset.value.split(",").map((part) => part.trim())) {
        if (word === "") continue;
        const result = check(item, word);
        if (result.issues !== undefined) {
          addIssue({ message: result.issues[0].message });
          return NEVER;
        }
        values.push(result.value);
      }
      return values;
    }),
  );
}

/** A ZeroMQ endpoint. */
export function endpoint(use: "bind" | "connect"): Schema<string> {
  return use === "bind" ? BIND : CONNECT;
}

const BIND = endpointFor("bind");
const CONNECT = endpointFor("connect");

function endpointFor(use: "bind" | "connect"): Schema<string> {
  return v.pipe(
    v.string(),
    v.nonEmpty("a value is expected"),
    v.rawCheck(({ dataset, addIssue }) => {
      if (!dataset.typed) return;
      try {
        parseEndpoint(dataset.value, use);
      } catch (error) {
        if (!(error instanceof EndpointError)) throw error;
        addIssue({ message: error.message });
      }
    }),
  );
}

/** A host and a TCP port, as `listen()` takes them: IPv6 without brackets, port 0 for a free one. */
export interface HostPort {
  /** A name or a bare IP address. */
  host: string;
  /** 0: the system chooses. */
  port: number;
}

/** `127.0.0.1:9108`, `[::1]:9108`; `*` or 0 lets the system choose a port, and `*` as host is every address. */
export const hostPort: Schema<HostPort> = v.pipe(
  v.string(),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    try {
      const address = parseEndpoint(`tcp://${dataset.value}`, "bind");
      if (address.transport === "tcp") return { host: address.host, port: address.port };
    } catch (error) {
      if (!(error instanceof EndpointError)) throw error;
    }
    addIssue({ message: "expected HOST:PORT such as 127.0.0.1:9108 or [::1]:9108" });
    return NEVER;
  }),
);

/** The name of a handler's section: an option with this schema is an edge of the graph of handlers. */
export const handlerName: Schema<string> = v.pipe(
  v.string(),
  v.regex(/^h:\S+$/, "expected a handler such as h:name"),
);

/** Several of them, each an edge. */
export const handlerNames: Schema<string[]> = list(handlerName);

/** Where the values of a section come from. */
export interface Reading {
  readonly ini: Ini;
  readonly builtins: Readonly<Record<string, string>>;
  readonly host: Pick<Host, "home" | "folder">;
  readonly diagnostics: Diagnostics;
}

/**
 * Reads a section against its table of options. What is wrong goes to the diagnostics, and the default stands in.
 *
 * @param also Keys that are known but read elsewhere.
 * @param inherited Entries of another section, by key: they stand in where neither the section nor `[DEFAULT]` has one.
 */
export function readSection<O extends Options>(
  reading: Reading,
  section: Section,
  options: O,
  also: readonly string[] = [],
  inherited: ReadonlyMap<string, Entry> = new Map(),
): Values<O> {
  const { ini, diagnostics } = reading;
  const values: Record<string, unknown> = {};
  const keys = new Map(Object.keys(options).map((name) => [name.toLowerCase(), name]));
  for (const entry of section.entries.values()) {
    if (keys.has(entry.key) || also.includes(entry.key)) continue;
    const hint = didYouMean(entry.key, [...keys.keys(), ...also]);
    diagnostics.add(entry.line, `unknown option "${entry.key}" in [${section.name}]${hint}`);
  }
  for (const [name, { schema, default: fallback }] of Object.entries(options)) {
    const key = name.toLowerCase();
    const own = section.entries.get(key) ?? ini.defaults.get(key);
    const entry = own ?? inherited.get(key);
    values[name] = typeof fallback === "string" ? defaultOf(reading, name, schema, fallback) : null;
    if (entry === undefined) {
      if (fallback === undefined) {
        diagnostics.add(section.line, `[${section.name}] needs the option "${name}"`);
      }
      continue;
    }
    const told = new Diagnostics(ini.file);
    const value = valueOf({ ...reading, diagnostics: told }, section, name, schema, entry);
    if (value !== undefined) values[name] = value.value;
    // The line is another section's: whose option it is would not be clear.
    const what = own === undefined ? `[${section.name}] takes "${key}" from here: ` : "";
    for (const { line, message } of told.found) diagnostics.add(line, what + message);
  }
  return values as Values<O>;
}

/**
 * The values of a table's options, given as texts by their names in lower case; of one that is not there, its default.
 *
 * @returns What is wrong with any of them, each a sentence.
 */
export function readTexts(
  options: Options,
  texts: Readonly<Record<string, unknown>>,
  host: Reading["host"],
): { readonly values: Readonly<Record<string, unknown>>; readonly wrong: readonly string[] } {
  const values: Record<string, unknown> = {};
  const wrong: string[] = [];
  for (const [name, { schema, default: fallback }] of Object.entries(options)) {
    const text = texts[name.toLowerCase()] ?? fallback;
    if (text === null) values[name] = null;
    if (text === undefined) wrong.push(`the option "${name}" is missing`);
    if (typeof text !== "string") continue;
    const result = check(schema, text);
    if (result.issues === undefined) values[name] = resolved({ host }, schema, result.value);
    else wrong.push(`${name} = ${text}: ${result.issues[0].message}`);
  }
  return { values, wrong };
}

/** The value of an entry; undefined when it is wrong: that goes to the diagnostics. */
function valueOf<T>(
  reading: Reading,
  section: Section,
  name: string,
  schema: Schema<T>,
  entry: Entry,
): { readonly value: T } | undefined {
  const { ini, builtins, diagnostics } = reading;
  const text = expand(ini, section, entry, builtins, diagnostics);
  if (text === undefined) return undefined;
  const result = check(schema, text);
  if (result.issues === undefined) return { value: resolved(reading, schema, result.value) };
  diagnostics.add(entry.line, `${name} = ${text}: ${result.issues[0].message}`);
  return undefined;
}

/** @throws {TypeError} The definition is wrong: its default is none that its schema takes. */
function defaultOf<T>(reading: Reading, name: string, schema: Schema<T>, fallback: string): T {
  const result = check(schema, fallback);
  if (result.issues === undefined) return resolved(reading, schema, result.value);
  throw new TypeError(`The default of option "${name}" is wrong: ${result.issues[0].message}`);
}

/** @throws {TypeError} The schema is asynchronous. */
function check<T>(schema: Schema<T>, text: string): SchemaResult<T> {
  const result = schema["~standard"].validate(text);
  if (result instanceof Promise) throw new TypeError("An option's schema must not be asynchronous");
  return result;
}

/** Paths are absolute from here on. */
function resolved<T>({ host }: Pick<Reading, "host">, schema: Schema<T>, value: T): T {
  if ((schema as unknown) !== path && (schema as unknown) !== pathOrNone || value === "") return value;
  return resolve(host.folder, (value as string).replace(/^~(?=\/|$)/, host.home)) as T;
}
