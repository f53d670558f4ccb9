/** Message types: dotted names such as `pub.infofile`. */
import { TYPE_MAX_BYTES, TYPE_MAX_PARTS } from "../limits.ts";

const TYPE = /^[a-zA-Z0-9_-]+(?:\.[a-zA-Z0-9_-]+)*$/;

/** Is this a message type: dotted parts of letters, digits, `_` and `-`, within the bounds? */
export function isType(text: string): boolean {
  return text.length <= TYPE_MAX_BYTES && TYPE.test(text) && text.split(".").length <= TYPE_MAX_PARTS;
}

/** What a type matches, in the order its handlers are called: `*`, then `a`, `a.b`, to the full type. */
export function prefixesOf(type: string): string[] {
  const prefixes = ["*"];
  for (let dot = type.indexOf("."); dot >= 0; dot = type.indexOf(".", dot + 1)) {
    prefixes.push(type.slice(0, dot));
  }
  prefixes.push(type);
  return prefixes;
}
