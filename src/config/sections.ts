/** Sections of others, `[d:…]`, that a handler's definition has read by a table of options: each once, whoever asks. */
import type { HandlerDefinition, SectionRead, SectionReader } from "../contracts/handler.ts";
import { errorText } from "../errors.ts";
import { Diagnostics } from "./diagnostics.ts";
import { type Entry, expand, type Section } from "./ini.ts";
import { type Reading, readSection } from "./options.ts";
import type { LoadedModule } from "./reader.ts";

/** Names of such sections: letters, a colon, and no blanks. */
const READABLE = /^[dpt]:\S+$/;
/** Options that the original puts into sections of jobs, or reads there. */
const ALSO = ["job_name", "service_name", "use_skylog", "class"];

/** Can a section of this name be read by a table? */
export function isReadable(name: string): boolean {
  return READABLE.test(name);
}

/** Calls code of a handler's definition: what it throws is told at the handler's section. */
export function ask<T>(
  diagnostics: Diagnostics,
  { name, line }: Section,
  what: string,
  f: () => T,
): T | undefined {
  try {
    return f();
  } catch (error) {
    diagnostics.add(line, `the handler of [${name}] crashed in ${what}: ${errorText(error)}`);
    return undefined;
  }
}

/** A section that was read. */
export interface SectionByTable {
  readonly read: SectionRead;
  /** What it takes from `[ccserver]`, by key. */
  readonly inherited: ReadonlyMap<string, Entry>;
  /** Was nothing wrong in it? */
  readonly right: boolean;
}

/** The file that an option `module` names, and what was loaded of it; null: it is the name of something built in. */
type ModuleOf = (value: string) => { readonly path: string; readonly loaded: LoadedModule } | null;

/** Those of one config. */
export class SectionsByTable {
  readonly #reading: Reading;
  readonly #moduleOf: ModuleOf;
  readonly #known = new Map<string, SectionByTable>();

  constructor(reading: Reading, moduleOf: ModuleOf) {
    this.#reading = reading;
    this.#moduleOf = moduleOf;
  }

  /** Those that a definition asks for; `handler` is its own section. */
  of(handler: Section, { sections = [] }: Pick<HandlerDefinition, "sections">): SectionByTable[] {
    const readers = sections.filter((reads) => typeof reads !== "string");
    return [...this.#reading.ini.sections.values()].flatMap((section) => {
      const reader = readers.find(({ prefix }) => section.name.startsWith(prefix));
      if (reader === undefined || !isReadable(section.name)) return [];
      const known = this.#known.get(section.name) ?? this.#read(section, reader, handler);
      this.#known.set(section.name, known);
      return known;
    });
  }

  /** Where an option stands that a section takes from `[ccserver]`. */
  lineOf(name: string, key: string): Entry | undefined {
    return this.#known.get(name)?.inherited.get(key);
  }

  #read(section: Section, reader: SectionReader, handler: Section): SectionByTable {
    const { ini, builtins, diagnostics } = this.#reading;
    const { name } = section;
    const reading: Reading = {
      ...this.#reading,
      builtins: { ...builtins, job_name: `${builtins.job_name}.${name}`, service_name: name },
    };
    const before = diagnostics.errors;
    const text = textOf(reading, section);
    const file = section.entries.has("module") ? this.#moduleOf(text.module) : null;
    if (file !== null && "error" in file.loaded) {
      diagnostics.add(section.entries.get("module")!.line, `[${name}]: ${file.loaded.error}`);
    }
    const module = file !== null && "value" in file.loaded ? file.loaded.value : undefined;
    const about = { name, text, modulePath: file?.path ?? null, module };
    const options = ask(diagnostics, handler, "options", () => reader.options(text, module));
    if (options === undefined) {
      return { read: { ...about, values: {}, set: new Set() }, inherited: new Map(), right: false };
    }
    const isSet = (key: string) => section.entries.has(key) || ini.defaults.has(key);
    const inherited = new Map<string, Entry>();
    for (const option of reader.inherits ?? []) {
      const key = option.toLowerCase();
      const entry = ini.sections.get("ccserver")?.entries.get(key);
      if (entry !== undefined && !isSet(key)) inherited.set(key, entry);
    }
    const values = readSection(reading, section, options, ALSO, inherited);
    const set = new Set(Object.keys(options).filter((option) => isSet(option.toLowerCase())));
    return { read: { ...about, values, set }, inherited, right: diagnostics.errors === before };
  }
}

/**
 * The text of a section's options, and of `[DEFAULT]`'s. What cannot be expanded is told when the section is read: until then
 * it stands there as it is written, where it is the section's own.
 */
function textOf({ ini, builtins }: Reading, section: Section): Record<string, string> {
  const silent = new Diagnostics(ini.file);
  const text: Record<string, string> = {};
  for (const [key, entry] of [...ini.defaults, ...section.entries]) {
    const value = expand(ini, section, entry, builtins, silent);
    if (value !== undefined) text[key] = value;
    else if (section.entries.has(key)) text[key] = entry.raw;
  }
  return text;
}
