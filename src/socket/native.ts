/** The engine of this project: ZMTP in TypeScript, on every runtime. */
import type { Context } from "./context.ts";
import { Dealer } from "./dealer.ts";
import { Router } from "./router.ts";
import type { Engine } from "./types.ts";

/** Sockets that share a context. */
export function nativeEngine(context: Context): Engine {
  return {
    name: "native",
    description: "native (ZMTP 3.1)",
    router: (options, sink) => new Router(context, options, sink),
    dealer: (endpoint, options, sink, events) => new Dealer(context, endpoint, options, sink, events),
  };
}
