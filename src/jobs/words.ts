/** A command line as a list of words, split as a POSIX shell would, and nothing expanded. */
import { CCError } from "../errors.ts";

const BLANK = /[ \t\r\n]/;
/** What a backslash takes its meaning from inside double quotes. */
const ESCAPED = /[$`"\\\n]/;

/**
 * Splits at blanks; `'…'` is taken as it stands, `"…"` and `\` as a shell does. `$`, `*`, `~` and all else mean themselves.
 *
 * @throws {CCError} `bad-value`: a quote that is not closed, or a backslash at the end.
 */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  for (let at = 0; at < text.length; at++) {
    const c = text[at];
    if (BLANK.test(c)) {
      if (word !== null) words.push(word);
      word = null;
    } else if (c === "'") {
      const end = text.indexOf("'", at + 1);
      if (end < 0) throw new CCError("bad-value", "a quote ' is not closed");
      word = (word ?? "") + text.slice(at + 1, end);
      at = end;
    } else if (c === '"') {
      const quoted = readQuoted(text, at + 1);
      word = (word ?? "") + quoted.text;
      at = quoted.end;
    } else if (c === "\\") {
      if (++at === text.length) throw new CCError("bad-value", "a backslash stands at the end");
      word = (word ?? "") + text[at];
    } else {
      word = (word ?? "") + c;
    }
  }
  if (word !== null) words.push(word);
  return words;
}

/** What stands between double quotes, and where the closing one is. */
function readQuoted(text: string, from: number): { text: string; end: number } {
  let word = "";
  for (let at = from; at < text.length; at++) {
    const c = text[at];
    if (c === '"') return { text: word, end: at };
    if (c === "\\" && at + 1 < text.length && ESCAPED.test(text[at + 1])) word += text[++at];
    else word += c;
  }
  throw new CCError("bad-value", 'a quote " is not closed');
}
