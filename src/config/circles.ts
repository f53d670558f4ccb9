/** Names that lead back to where they started: handlers that pass messages on, daemons that wait for each other. */

/**
 * Finds the circles of a graph, each once, the first name again at its end.
 *
 * @param next Where a name leads; what is not among `names` leads nowhere.
 */
export function circlesOf(
  names: readonly string[],
  next: (name: string) => readonly string[],
): string[][] {
  const circles: string[][] = [];
  const known = new Set(names);
  const done = new Set<string>();
  // A set keeps its order: the way from the first to where we are.
  const way = new Set<string>();
  const visit = (name: string): void => {
    if (way.has(name)) {
      const all = [...way];
      circles.push([...all.slice(all.indexOf(name)), name]);
      return;
    }
    if (done.has(name) || !known.has(name)) return;
    way.add(name);
    for (const other of next(name)) visit(other);
    way.delete(name);
    done.add(name);
  };
  for (const name of names) visit(name);
  return circles;
}
