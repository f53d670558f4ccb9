/** Passes on the messages whose types are included and not excluded. */
import type { FilterOptions } from "../config/schemas.ts";
import type { HandlerFactory } from "../handler.ts";
import { TYPES_TRACKED } from "../limits.ts";

export const filter: HandlerFactory<FilterOptions> = ({ options, forward, count }) => {
  const to = options["forward-to"];
  const include = options.include.map(globToRegExp);
  const exclude = options.exclude.map(globToRegExp);
  const passes = (type: string) => include.some((g) => g.test(type)) && !exclude.some((g) => g.test(type));
  const known = new Map<string, boolean>();
  return {
    handle(message) {
      const { type } = message;
      let pass = known.get(type);
      if (pass === undefined) {
        pass = passes(type);
        if (known.size >= TYPES_TRACKED) known.clear();
        known.set(type, pass);
      }
      count("filter.count");
      count(pass ? "filter.count.ok" : "filter.count.dropped");
      if (pass) forward(to, message);
    },
  };
};

/** `*` stands for any text, `?` for any character; the rest for itself. */
export function globToRegExp(glob: string): RegExp {
  const pattern = glob.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*+/g, ".*").replace(/\?/g, ".");
  return new RegExp(`^${pattern}$`);
}
