/** What is wrong with a config file: collected, then told at once. */

/** One finding, with the line it is about. */
export interface Diagnostic {
  file: string;
  line: number;
  message: string;
  /** Not the config is wrong, but what it finds on this host: at another time it may be right. */
  ofHost?: boolean;
}

/** A config file with errors; nothing was started. Its message has one line a finding: `FILE:LINE: …`. */
export class ConfigError extends Error {
  override name = "ConfigError";
  readonly diagnostics: readonly Diagnostic[];
  constructor(diagnostics: readonly Diagnostic[]) {
    super(diagnostics.map(formatDiagnostic).join("\n"));
    this.diagnostics = diagnostics;
  }
}

/** `conf.ini:12: unknown option …` */
export function formatDiagnostic({ file, line, message }: Diagnostic): string {
  return `${file}:${line}: ${message}`;
}

/** Collects findings. */
export class Diagnostics {
  readonly found: Diagnostic[] = [];
  readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  add(line: number, message: string, ofHost = false): void {
    this.found.push({ file: this.file, line, message, ofHost });
  }

  /** @throws {ConfigError} When there is anything; in the order of the lines. */
  check(): void {
    if (this.found.length > 0) throw new ConfigError([...this.found].sort((a, b) => a.line - b.line));
  }
}

/** ` Did you mean "x"?` for the known word that is nearest, or nothing when none is near. */
export function didYouMean(word: string, known: Iterable<string>): string {
  let best = "";
  let least = Math.min(3, Math.ceil(word.length / 3)) + 1;
  for (const candidate of known) {
    const d = distance(word.toLowerCase(), candidate.toLowerCase(), least);
    if (d < least) {
      least = d;
      best = candidate;
    }
  }
  return best === "" ? "" : `. Did you mean "${best}"?`;
}

/** Edits from one word to the other, a swap of neighbours counted as one; `atLeast` where it is that or more. */
function distance(a: string, b: string, atLeast: number): number {
  if (Math.abs(a.length - b.length) >= atLeast) return atLeast;
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(row[j - 1] + 1, last[j] + 1, last[j - 1] + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        row[j] = Math.min(row[j], before[j - 2] + 1);
      }
    }
    before = last;
    last = row;
  }
  return last[b.length];
}
