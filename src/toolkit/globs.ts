/** Patterns with `*` and `?`, matched in time that grows with the text: what a peer sends meets them. */

/** Does a text match? */
export type Matcher = (text: string) => boolean;

/** `*` stands for any text, `?` for any character; the rest for itself. */
export function glob(pattern: string): Matcher {
  const pieces = pattern.split(/\*+/);
  if (pieces.length === 1) return (text) => text.length === pattern.length && fits(pattern, text, 0);
  const [first] = pieces;
  const last = pieces[pieces.length - 1];
  const between = pieces.slice(1, -1);
  return (text) => {
    const end = text.length - last.length;
    if (first.length > end || !fits(first, text, 0) || !fits(last, text, end)) return false;
    // The leftmost place of each piece leaves the most for those behind it: none is tried twice.
    let at = first.length;
    for (const piece of between) {
      while (at + piece.length <= end && !fits(piece, text, at)) at++;
      if (at + piece.length > end) return false;
      at += piece.length;
    }
    return true;
  };
}

/** Does one of the included patterns match, and none of the excluded? */
export function globs(include: readonly string[], exclude: readonly string[]): Matcher {
  const wanted = include.map(glob);
  const unwanted = exclude.map(glob);
  return (text) => wanted.some((matches) => matches(text)) && !unwanted.some((matches) => matches(text));
}

/** Does a piece without `*` match the text at this place? */
function fits(piece: string, text: string, at: number): boolean {
  for (let i = 0; i < piece.length; i++) {
    if (piece[i] !== "?" && piece[i] !== text[at + i]) return false;
  }
  return true;
}
