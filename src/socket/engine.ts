/** The engines by name: ours, ZMTP in TypeScript on every runtime, and libzmq where its addon runs. */
import type { SocketContext } from "./context.ts";
import { Dealer } from "./dealer.ts";
import { libzmqEngine } from "./libzmq.ts";
import { Router } from "./router.ts";
import type { Engine } from "./types.ts";

/**
 * The engine of this name, for sockets that share a context.
 *
 * @throws {CCError} `no-libzmq`: it does not run here.
 */
export async function makeEngine(name: Engine["name"], context: SocketContext): Promise<Engine> {
  return name === "native"
    ? nativeEngine(context)
    : libzmqEngine(context, await context.environment.links.loadLibzmq());
}

export function nativeEngine(context: SocketContext): Engine {
  return {
    name: "native",
    description: "native (ZMTP 3.1)",
    router: (options, sink) => new Router(context, options, sink),
    dealer: (endpoint, options, sink, events) => new Dealer(context, endpoint, options, sink, events),
  };
}
