/** What an option's value may be (valibot), and how a section is read against a table of options. */
import { homedir } from "node:os";
import { resolve } from "node:path";
import * as v from "valibot";
import { EndpointError, parseEndpoint } from "../socket/endpoint.ts";
import { type Diagnostics, didYouMean } from "./diagnostics.ts";
import { expand, type Ini, type Section } from "./ini.ts";

/** One option: how its text is read, what it is when it is missing, and what it does. */
export interface Option<T> {
  schema: v.GenericSchema<string, T>;
  /** As it would stand in the file; null where it may be missing, undefined where it is required. */
  default: string | null | undefined;
  unit?: string;
  /** For the configuration reference. */
  doc: string;
  /** A value that makes sense, other than the default. */
  example: string;
}

/** A table of options. */
// deno-lint-ignore no-explicit-any -- each option has a type of its own, which Values gives back
export type Options = Record<string, Option<any>>;

/** The values a table of options gives. */
export type Values<O extends Options> = { [K in keyof O]: O[K] extends Option<infer T> ? T : never };

/** An option that has a default. */
export function option<T>(
  schema: v.GenericSchema<string, T>,
  fallback: string,
  doc: string,
  example: string,
  unit?: string,
): Option<T> {
  return { schema, default: fallback, doc, example, unit };
}

/** An option that must be there. */
export function required<T>(schema: v.GenericSchema<string, T>, doc: string, example: string): Option<T> {
  return { schema, default: undefined, doc, example };
}

/** An option that may be missing. */
export function optional<T>(
  schema: v.GenericSchema<string, T>,
  doc: string,
  example: string,
  unit?: string,
): Option<T | null> {
  return { schema, default: null, doc, example, unit };
}

const TRUE = ["yes", "on", "true", "1"];
const FALSE = ["no", "off", "false", "0"];

export const text: v.GenericSchema<string, string> = v.pipe(v.string(), v.nonEmpty("a value is expected"));

export const boolean: v.GenericSchema<string, boolean> = v.pipe(
  v.string(),
  v.toLowerCase(),
  v.picklist([...TRUE, ...FALSE], "expected yes or no"),
  v.transform((word) => TRUE.includes(word)),
);

/** A number, whole or not, within bounds. */
export function number(min: number, max = Number.MAX_SAFE_INTEGER): v.GenericSchema<string, number> {
  return v.pipe(
    v.string(),
    v.regex(/^-?(\d+\.?\d*|\.\d+)$/, "expected a number"),
    v.transform(Number),
    v.minValue(min, `expected a number of at least ${min}`),
    v.maxValue(max, `expected a number of at most ${max}`),
  );
}

/** A whole number within bounds. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): v.GenericSchema<string, number> {
  return v.pipe(
    v.string(),
    v.regex(/^-?\d+$/, "expected a whole number"),
    v.transform(Number),
    v.minValue(min, `expected a whole number of at least ${min}`),
    v.maxValue(max, `expected a whole number of at most ${max}`),
  );
}

/** One of these words. */
export function choice<const W extends readonly string[]>(...words: W): v.GenericSchema<string, W[number]> {
  return v.pipe(v.string(), v.toLowerCase(), v.picklist(words, `expected ${words.join(", ")}`));
}

const UNITS: Record<string, number> = { "": 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 };

/** A size in bytes: `256 MB`, `1048576`, `64K`; units count by 1024. */
export function size(min = 0, max = Number.MAX_SAFE_INTEGER): v.GenericSchema<string, number> {
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
export const path: v.GenericSchema<string, string> = v.pipe(
  text,
  v.transform((word) => resolve(word.replace(/^~(?=\/|$)/, homedir()))),
);

/** Words separated by commas; each is read by `item`. */
export function list<T>(item: v.GenericSchema<string, T>): v.GenericSchema<string, T[]> {
  return v.pipe(
    v.string(),
    v.transform((line) => line.split(",").map((word) => word.trim()).filter((word) => word !== "")),
    v.array(item),
  );
}

/** A ZeroMQ endpoint. */
export function endpoint(use: "bind" | "connect"): v.GenericSchema<string, string> {
  return v.pipe(
    text,
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
  host: string;
  port: number;
}

/** `127.0.0.1:9108`, `[::1]:9108`; `*` or 0 lets the system choose a port, and `*` as host is every address. */
export const hostPort: v.GenericSchema<string, HostPort> = v.pipe(
  text,
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

/** The name of a handler's section. */
export const handlerName: v.GenericSchema<string, string> = v.pipe(
  v.string(),
  v.regex(/^h:\S+$/, "expected a handler such as h:name"),
);

/** Where the values of a section come from. */
export interface Reading {
  ini: Ini;
  builtins: Readonly<Record<string, string>>;
  diagnostics: Diagnostics;
}

/**
 * Reads a section against its table of options. What is wrong goes to the diagnostics, and the default stands in.
 *
 * @param also Keys that are known but read elsewhere.
 */
export function readSection<O extends Options>(
  reading: Reading,
  section: Section,
  options: O,
  also: readonly string[] = [],
): Values<O> {
  const { ini, builtins, diagnostics } = reading;
  const values: Record<string, unknown> = {};
  const keys = new Map(Object.keys(options).map((name) => [name.toLowerCase(), name]));
  for (const entry of section.entries.values()) {
    if (keys.has(entry.key) || also.includes(entry.key)) continue;
    const hint = didYouMean(entry.key, [...keys.keys(), ...also]);
    diagnostics.add(entry.line, `unknown option "${entry.key}" in [${section.name}]${hint}`);
  }
  for (const [name, { schema, default: fallback }] of Object.entries(options)) {
    const entry = section.entries.get(name.toLowerCase()) ?? ini.defaults.get(name.toLowerCase());
    values[name] = fallback === null || fallback === undefined ? null : v.parse(schema, fallback);
    if (entry === undefined) {
      if (fallback === undefined) {
        diagnostics.add(section.line, `[${section.name}] needs the option "${name}"`);
      }
      continue;
    }
    const value = expand(ini, section, entry, builtins, diagnostics);
    if (value === undefined) continue;
    const result = v.safeParse(schema, value);
    if (result.success) values[name] = result.output;
    else diagnostics.add(entry.line, `${name} = ${value}: ${result.issues[0].message}`);
  }
  return values as Values<O>;
}
