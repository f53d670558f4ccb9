/** Sockets of this machine: the runtime's links, the real clock, and the engine that an option names. */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import runtime from "#runtime";
import type { Logger } from "../log.ts";
import { Context, SYSTEM_CLOCK } from "./context.ts";
import { libzmqEngine } from "./libzmq.ts";
import { nativeEngine } from "./native.ts";
import type { Engine } from "./types.ts";

/** A context on this machine. */
export function systemContext(log: Logger): Context {
  return new Context({ transport: runtime, clock: SYSTEM_CLOCK, random, resolve, log });
}

/**
 * The engine of this name.
 *
 * @throws {Error} With a sentence for the operator, where it does not run.
 */
export async function makeEngine(name: Engine["name"], context: Context): Promise<Engine> {
  return name === "native" ? nativeEngine(context) : libzmqEngine(context, await runtime.loadLibzmq());
}

/** Not to be guessed: a client's identity is what its replies are addressed by. */
function random(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] / 0x1_0000_0000;
}

async function resolve(host: string): Promise<string[]> {
  if (isIP(host.split("%")[0])) return [host];
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch (error) {
    const { code } = error as { code?: string };
    throw new Error(`the name "${host}" cannot be resolved${code ? ` (${code})` : ""}`);
  }
}
