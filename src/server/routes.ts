/** Which handlers a message type reaches, in which order. */
import type { RouteConfig } from "../config/reader.ts";
import { prefixesOf } from "../message/type.ts";

/** A step on a type's way: the route that matched, and a handler of it. */
export interface Match {
  route: string;
  handler: string;
}

/**
 * The routes of a server. Every handler of every prefix of a type gets the message: `*`, then `a`, then `a.b`, to the
 * full type; within one route in the order they are written.
 */
export class RouteTable {
  readonly #routes = new Map<string, readonly string[]>();

  constructor(routes: readonly RouteConfig[]) {
    for (const { type, handlers } of routes) this.#routes.set(type, handlers);
  }

  /** All steps of a type's way; empty when no route matches. */
  match(type: string): Match[] {
    return prefixesOf(type).flatMap((route) =>
      (this.#routes.get(route) ?? []).map((handler) => ({ route, handler }))
    );
  }

  /** Handlers that any route names. */
  get handlers(): Set<string> {
    return new Set([...this.#routes.values()].flat());
  }
}
