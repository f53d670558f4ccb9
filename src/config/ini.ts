/**
 * The ini dialect of the original: Python's ConfigParser, with line numbers.
 *
 * ```ini
 * [section]
 * key = value
 * other: value, continued
 *     on lines that start with white space
 * # comment
 * path = %(key)s/file      ; keys are case-insensitive, %% is a percent sign
 * ```
 *
 * A comment is a whole line: in the last line of the example, the semicolon belongs to the value.
 */
import { Diagnostics, didYouMean } from "./diagnostics.ts";

/** One option as it stands in the file. */
export interface Entry {
  /** In lower case. */
  key: string;
  /** As written; lines of a continued value are joined by newlines. Not yet expanded. */
  raw: string;
  line: number;
}

export interface Section {
  name: string;
  line: number;
  entries: Map<string, Entry>;
}

/** A parsed file. */
export interface Ini {
  file: string;
  sections: Map<string, Section>;
  /** `[DEFAULT]`: values for `%(name)s` in every section. */
  defaults: Map<string, Entry>;
}

/** Replacements that nest deeper are a loop. */
const DEPTH_MAX = 10;

/**
 * Parses a file. What is wrong goes to the diagnostics; the rest is still parsed.
 *
 * @param file How the file is called in diagnostics.
 */
export function parse(text: string, file: string, diagnostics: Diagnostics = new Diagnostics(file)): Ini {
  const ini: Ini = { file, sections: new Map(), defaults: new Map() };
  let entries: Map<string, Entry> | null = null;
  let sectionName = "";
  let entry: Entry | null = null;
  const lines = text.replace(/^\ufeff/, "").split(/\r\n|\n|\r/);
  for (let i = 0; i < lines.length; i++) {
    const line = i + 1;
    const content = lines[i].trim();
    if (content === "" || content[0] === "#" || content[0] === ";") continue;
    if (/^\s/.test(lines[i]) && entry !== null) {
      entry.raw += entry.raw === "" ? content : `\n${content}`;
      continue;
    }
    entry = null;
    if (content[0] === "[") {
      const header = /^\[([^\]]+)\]$/.exec(content);
      if (!header) {
        diagnostics.add(line, `"${content}" is not a section, expected [name]`);
        continue;
      }
      sectionName = header[1].trim();
      if (sectionName === "DEFAULT") {
        entries = ini.defaults;
        continue;
      }
      const twice = ini.sections.get(sectionName);
      if (twice) diagnostics.add(line, `section [${sectionName}] stands on line ${twice.line} already`);
      entries = new Map();
      if (!twice) ini.sections.set(sectionName, { name: sectionName, line, entries });
      continue;
    }
    const option = /^([^:=]*?)\s*[:=]\s*(.*)$/.exec(content);
    if (!option || option[1] === "") {
      diagnostics.add(line, `"${content}" is not an option, expected key = value`);
      continue;
    }
    if (entries === null) {
      diagnostics.add(line, `option "${option[1]}" stands before any [section]`);
      continue;
    }
    const key = option[1].toLowerCase();
    const twice = entries.get(key);
    entry = { key, raw: option[2], line };
    if (twice) {
      diagnostics.add(line, `option "${key}" stands in [${sectionName}] on line ${twice.line} already`);
    } else entries.set(key, entry);
  }
  return ini;
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
  let failed = false;
  const fail = (message: string) => {
    if (!failed) diagnostics.add(entry.line, message);
    failed = true;
    return "";
  };
  const replace = (raw: string, depth: number): string =>
    raw.replace(/%(?:%|\(([^)]*)\)(s?)|)/g, (found, name: string | undefined, s: string | undefined) => {
      if (found === "%%") return "%";
      if (name === undefined || s !== "s") {
        return fail(`"%" in the value of "${entry.key}" is not %(name)s; write %% for a percent sign`);
      }
      const key = name.toLowerCase();
      if (depth >= DEPTH_MAX) return fail(`%(${key})s in the value of "${entry.key}" refers to itself`);
      const from = section.entries.get(key) ?? ini.defaults.get(key);
      if (from !== undefined) return replace(from.raw, depth + 1);
      if (Object.hasOwn(builtins, key)) return builtins[key];
      const known = [...section.entries.keys(), ...ini.defaults.keys(), ...Object.keys(builtins)];
      return fail(`%(${key})s in the value of "${entry.key}" is not defined${didYouMean(key, known)}`);
    });
  const value = replace(entry.raw, 0);
  return failed ? undefined : value;
}

/**
 * A file with these sections and values. Values may have several lines; percent signs are doubled, so that parsing and
 * expanding gives the same values back.
 */
export function stringify(sections: Readonly<Record<string, Readonly<Record<string, string>>>>): string {
  const lines: string[] = [];
  for (const [name, entries] of Object.entries(sections)) {
    if (lines.length > 0) lines.push("");
    lines.push(`[${name}]`);
    for (const [key, value] of Object.entries(entries)) {
      lines.push(
        `${key} = ${value.replaceAll("%", "%%").split("\n").map((part) => part.trim()).join("\n    ")}`
          .trimEnd(),
      );
    }
  }
  return lines.join("\n") + "\n";
}
