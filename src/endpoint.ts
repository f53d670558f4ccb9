/** Endpoints as ZeroMQ writes them: `tcp://HOST:PORT`, `ipc://PATH`. */
import type { Address } from "./contracts/links.ts";
import { CCError } from "./errors.ts";
import { UNIX_PATH_MAX_BYTES } from "./limits.ts";

/** An endpoint that cannot be used; the message says what was expected. */
export class EndpointError extends CCError {
  /** Which kind of error it is, in stacks. */
  override name = "EndpointError";
  /** What is wrong with it, for people. */
  constructor(message: string) {
    super("bad-endpoint", message);
  }
}

/**
 * Reads an endpoint.
 *
 * @param use Binding takes `*` as host (all IPv4 addresses) and `*` or 0 as port (the system chooses).
 * @throws {EndpointError}
 */
export function parseEndpoint(text: string, use: "bind" | "connect"): Address {
  if (text.startsWith("ipc://")) return ipc(text, text.slice(6));
  if (!text.startsWith("tcp://")) {
    const scheme = /^[a-z+]+:\/\//.exec(text)?.[0];
    throw new EndpointError(
      `"${text}" is not an endpoint: expected tcp://HOST:PORT or ipc://PATH` +
        (scheme ? `, the transport "${scheme}" is not supported` : ""),
    );
  }
  const match = /^tcp:\/\/(?:\[([0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|([^:/\[\]\s]+)):(\*|\d+)$/.exec(text);
  if (!match) {
    throw new EndpointError(`"${text}" is not an endpoint: expected tcp://HOST:PORT, IPv6 in brackets`);
  }
  const [, bracketed, plain, portText] = match;
  let host = bracketed ?? plain;
  const port = portText === "*" ? 0 : Number(portText);
  if (port > 65535) throw new EndpointError(`"${text}": port ${portText} is above 65535`);
  if (use === "connect") {
    if (host === "*") throw new EndpointError(`"${text}": cannot connect to *, a host is needed`);
    if (port === 0) throw new EndpointError(`"${text}": cannot connect to port ${portText}`);
  }
  if (host === "*") host = "0.0.0.0";
  return { transport: "tcp", host, port };
}

function ipc(text: string, path: string): Address {
  if (path === "") throw new EndpointError(`"${text}": expected ipc://PATH`);
  if (path.startsWith("@")) throw new EndpointError(`"${text}": abstract sockets are not supported`);
  if (path.includes("\0")) throw new EndpointError(`"${text}": a path has no zero byte`);
  if (new TextEncoder().encode(path).length > UNIX_PATH_MAX_BYTES) {
    throw new EndpointError(`"${text}": the path is longer than ${UNIX_PATH_MAX_BYTES} bytes`);
  }
  return { transport: "ipc", path };
}

/** Is this address only reachable from its own host? */
export function isLoopback(address: Address): boolean {
  if (address.transport === "ipc") return true;
  const { host } = address;
  return host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** Where one connects to reach what listens on `own`, on its own host: any address becomes the loopback of its family. */
export function reachable(own: string): string {
  const address = parseEndpoint(own, "bind");
  if (address.transport === "ipc") return endpointText(address);
  const { host } = address;
  return endpointText({ ...address, host: host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host });
}

/** Does who connects to `address` reach what listens on `own`, on the host of this name? */
export function leadsTo(address: Address, own: Address, hostName: string): boolean {
  if (address.transport === "ipc" || own.transport === "ipc") {
    return address.transport === "ipc" && own.transport === "ipc" && address.path === own.path;
  }
  if (address.port !== own.port) return false;
  if (own.host === "0.0.0.0" || own.host === "::") {
    return isLoopback(address) || address.host === hostName || address.host === own.host;
  }
  const ip = (host: string) => host === "localhost" ? "127.0.0.1" : host;
  return ip(address.host) === ip(own.host);
}

/** An endpoint as ZeroMQ writes it: `tcp://127.0.0.1:4242`, `tcp://[::1]:4242`, `ipc:///run/cc.sock`. */
export function endpointText(address: Address): string {
  if (address.transport === "ipc") return `ipc://${address.path}`;
  return `tcp://${hostPortText(address.host, address.port)}`;
}

/** `127.0.0.1:4242`, `[::1]:4242` */
export function hostPortText(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}
