/**
 * The ini dialect of the original: Python 2's ConfigParser, with line numbers.
 *
 * ```ini
 * [section]
 * key = value        ; a comment, behind white space and a semicolon
 * other: value, continued
 *     on lines that are indented deeper than their option
 * # comment
 * rem comment, in the first column
 * empty = ""
 * path = %(key)s/file
 * ```
 *
 * Keys are case-insensitive, `%%` is a percent sign.
 */
import { CONFIG_VALUE_MAX_CHARS, CONFIG_VALUE_MAX_REPLACEMENTS } from "../limits.ts";
import { counted, didYouMean } from "../text.ts";
import { Diagnostics } from "./diagnostics.ts";

/** One option as it stands in the file. */
export interface Entry {
  /** In lower case. */
  readonly key: string;
  /** As written; lines of a continued value are joined by newlines. Not yet expanded. */
  raw: string;
  readonly line: number;
}

export interface Section {
  readonly name: string;
  readonly line: number;
  readonly entries: Map<string, Entry>;
}

/** A parsed file. */
export interface Ini {
  readonly file: string;
  readonly sections: Map<string, Section>;
  /** `[DEFAULT]`: values for `%(name)s` in every section. */
  readonly defaults: Map<string, Entry>;
}

/** Replacements that nest deeper are a loop. */
const DEPTH_MAX = 10;

/**
 * Parses a file. What is wrong goes to the diagnostics; the rest is still parsed.
 *
 * @param file How the file is called in diagnostics.
 */
export function parse(text: string, file: string, diagnostics: Diagnostics = new Diagnostics(file)): Ini {
  const parser = new Parser(file, diagnostics);
  text.replace(/^\ufeff/, "").split(/\r\n|\n|\r/).forEach((line, i) => parser.take(line, i + 1));
  parser.end();
  return parser.ini;
}

class Parser {
  readonly ini: Ini;
  readonly #diagnostics: Diagnostics;
  #entries: Map<string, Entry> | null = null;
  #section = "";
  /** The option that lines may continue; null: none. */
  #entry: Entry | null = null;
  /** Characters of white space in front of it. */
  #indent = 0;
  #afterBlank = true;
  /** Lines indented as the option before them, by what they were taken for. */
  readonly #alike: Record<"option" | "continued", number[]> = { option: [], continued: [] };

  constructor(file: string, diagnostics: Diagnostics) {
    this.ini = { file, sections: new Map(), defaults: new Map() };
    this.#diagnostics = diagnostics;
  }

  take(text: string, line: number): void {
    const content = text.trim();
    if (content === "") {
      this.#afterBlank = true;
      return;
    }
    const indent = text.length - text.trimStart().length;
    if (content[0] === "#" || content[0] === ";" || (indent === 0 && /^rem(?:\s|$)/i.test(content))) return;
    const continues = this.#entry !== null && indent > 0 && this.#continues(content, indent, line);
    this.#afterBlank = false;
    if (continues) {
      this.#entry!.raw += this.#entry!.raw === "" ? content : `\n${content}`;
      return;
    }
    this.#entry = null;
    if (content[0] === "[") this.#takeSection(content, line);
    else this.#takeOption(content, indent, line);
  }

  /** Python 2 takes every indented line for one that continues; a file that is indented as a whole should work too. */
  #continues(content: string, indent: number, line: number): boolean {
    if (this.#afterBlank && sectionName(content) !== null) return false;
    if (indent > this.#indent) return true;
    const option = readsAsOption(content);
    this.#alike[option ? "option" : "continued"].push(line);
    return !option;
  }

  #takeSection(content: string, line: number): void {
    const name = sectionName(content);
    if (name === null) {
      this.#diagnostics.add(line, `"${content}" is not a section, expected [name]`);
      return;
    }
    this.#section = name;
    if (name === "DEFAULT") {
      this.#entries = this.ini.defaults;
      return;
    }
    const twice = this.ini.sections.get(name);
    if (twice) this.#diagnostics.add(line, `section [${name}] stands on line ${twice.line} already`);
    this.#entries = new Map();
    if (!twice) this.ini.sections.set(name, { name, line, entries: this.#entries });
  }

  #takeOption(content: string, indent: number, line: number): void {
    const at = content.search(/[:=]/);
    if (at <= 0) {
      this.#diagnostics.add(line, `"${content}" is not an option, expected key = value`);
      return;
    }
    const key = content.slice(0, at).trim().toLowerCase();
    if (this.#entries === null) {
      this.#diagnostics.add(line, `option "${key}" stands before any [section]`);
      return;
    }
    const entry = { key, raw: withoutComment(content.slice(at + 1)), line };
    this.#entry = entry;
    this.#indent = indent;
    const twice = this.#entries.get(key);
    if (twice) {
      this.#diagnostics.add(
        line,
        `option "${key}" stands in [${this.#section}] on line ${twice.line} already`,
      );
    } else {
      this.#entries.set(key, entry);
    }
  }

  end(): void {
    const { option, continued } = this.#alike;
    if (option.length > 0) {
      this.#diagnostics.add(
        option[0],
        `${linesText(option)}: indented as the option before, and read as an option of its own; ` +
          "the original would take it for a part of that option's value",
        { severity: "warning" },
      );
    }
    if (continued.length > 0) {
      this.#diagnostics.add(
        continued[0],
        `${linesText(continued)}: indented as the option before, and read as a part of its value; ` +
          "indent it deeper to say so",
        { severity: "warning" },
      );
    }
  }
}

/** The name in `[name]`; null for anything else. */
function sectionName(content: string): string | null {
  const end = content.indexOf("]");
  return content[0] === "[" && end > 1 && end === content.length - 1 ? content.slice(1, end).trim() : null;
}

/** Does a line read `name = …`? With a colon it may be `d:two`. */
function readsAsOption(content: string): boolean {
  const at = content.search(/[:=]/);
  return at > 0 && content[at] === "=";
}

/** A value as it stands behind `=`: the first semicolon begins a comment where white space stands in front of it. */
function withoutComment(text: string): string {
  const semicolon = text.indexOf(";");
  const cut = semicolon > 0 && /\s/.test(text[semicolon - 1]) ? text.slice(0, semicolon) : text;
  const value = cut.trim();
  return value === '""' ? "" : value;
}

/** `line 3`, `lines 3 to 7 and 9` */
function linesText(lines: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const line of lines) {
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === line - 1) last[1] = line;
    else ranges.push([line, line]);
  }
  const texts = ranges.map(([from, to]) => from === to ? String(from) : `${from} to ${to}`);
  const shown = texts.length > 5
    ? [...texts.slice(0, 5), `${counted(texts.length - 5, "place")} more`]
    : texts;
  const list = shown.length === 1 ? shown[0] : `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}`;
  return `${lines.length === 1 ? "line" : "lines"} ${list}`;
}

/**
 * The value of an entry with every `%(name)s` replaced: from the same section, then `[DEFAULT]`, then `builtins`.
 *
 * @returns Undefined when it cannot be expanded; the reason goes to the diagnostics.
 */
export function expand(
  ini: Ini,
  section: Section,
  entry: Entry,
  builtins: Readonly<Record<string, string>>,
  diagnostics: Diagnostics,
): string | undefined {
  try {
    return new Expansion(ini, section, entry, builtins).replace(entry.raw, 0);
  } catch (error) {
    if (!(error instanceof Unexpandable)) throw error;
    diagnostics.add(entry.line, error.message);
    return undefined;
  }
}

class Unexpandable extends Error {}

class Expansion {
  readonly #ini: Ini;
  readonly #section: Section;
  readonly #key: string;
  readonly #builtins: Readonly<Record<string, string>>;
  #replacements = 0;

  constructor(ini: Ini, section: Section, entry: Entry, builtins: Readonly<Record<string, string>>) {
    this.#ini = ini;
    this.#section = section;
    this.#key = entry.key;
    this.#builtins = builtins;
  }

  replace(raw: string, depth: number): string {
    let text = "";
    let at = 0;
    for (let percent = raw.indexOf("%"); percent >= 0; percent = raw.indexOf("%", at)) {
      text += raw.slice(at, percent);
      if (raw[percent + 1] === "%") {
        text += "%";
        at = percent + 2;
      } else {
        const close = raw[percent + 1] === "(" ? raw.indexOf(")", percent) : -1;
        if (close < 0 || raw[close + 1] !== "s") {
          throw this.#error('"%"', "is not %(name)s; write %% for a percent sign");
        }
        text += this.#value(raw.slice(percent + 2, close).toLowerCase(), depth);
        at = close + 2;
      }
      if (text.length > CONFIG_VALUE_MAX_CHARS) throw this.#tooLong();
    }
    text += raw.slice(at);
    if (text.length > CONFIG_VALUE_MAX_CHARS) throw this.#tooLong();
    return text;
  }

  #value(key: string, depth: number): string {
    if (depth >= DEPTH_MAX) throw this.#error(`%(${key})s`, "refers to itself");
    if (++this.#replacements > CONFIG_VALUE_MAX_REPLACEMENTS) throw this.#tooLong();
    const from = this.#section.entries.get(key) ?? this.#ini.defaults.get(key);
    if (from !== undefined) return this.replace(from.raw, depth + 1);
    if (Object.hasOwn(this.#builtins, key)) return this.#builtins[key];
    const known = [
      ...this.#section.entries.keys(),
      ...this.#ini.defaults.keys(),
      ...Object.keys(this.#builtins),
    ];
    throw this.#error(`%(${key})s`, `is not defined${didYouMean(key, known)}`);
  }

  #error(what: string, why: string): Unexpandable {
    return new Unexpandable(`${what} in the value of "${this.#key}" ${why}`);
  }

  #tooLong(): Unexpandable {
    return new Unexpandable(
      `the value of "${this.#key}" has more than ${CONFIG_VALUE_MAX_CHARS} characters, or ` +
        `${CONFIG_VALUE_MAX_REPLACEMENTS} replacements, with all %(name)s replaced`,
    );
  }
}

/**
 * A file with these sections and values, so that parsing and expanding gives them back. Percent signs are doubled, lines of
 * a value are trimmed.
 *
 * @throws {RangeError} The dialect has no way to write a value, such as one with a semicolon behind white space.
 */
export function stringify(sections: Readonly<Record<string, Readonly<Record<string, string>>>>): string {
  const lines: string[] = [];
  for (const [name, entries] of Object.entries(sections)) {
    if (lines.length > 0) lines.push("");
    lines.push(`[${name}]`);
    for (const [key, value] of Object.entries(entries)) {
      lines.push(
        `${key} = ${trimmedLines(value).replaceAll("%", "%%").replaceAll("\n", "\n    ")}`.trimEnd(),
      );
    }
  }
  const text = lines.join("\n") + "\n";
  checkWritten(text, sections);
  return text;
}

function trimmedLines(value: string): string {
  return value.split("\n").map((part) => part.trim()).join("\n");
}

function checkWritten(
  text: string,
  sections: Readonly<Record<string, Readonly<Record<string, string>>>>,
): void {
  const diagnostics = new Diagnostics("stringify");
  const ini = parse(text, "stringify", diagnostics);
  for (const [name, entries] of Object.entries(sections)) {
    const section = ini.sections.get(name);
    for (const [key, value] of Object.entries(entries)) {
      const entry = section?.entries.get(key.toLowerCase());
      const read = section && entry && expand(ini, section, entry, {}, diagnostics);
      if (read !== trimmedLines(value)) {
        throw new RangeError(`"${key}" in [${name}]: an ini file has no way to write this value`);
      }
    }
  }
}
