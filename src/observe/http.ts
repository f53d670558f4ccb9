/**
 * HTTP for metrics and health: GET and HEAD, one request a connection. `node:http` reads and writes; connections are
 * accepted and bounded here, because its own bounds do not hold on every runtime.
 */
import type { Server as HttpParser, ServerResponse } from "node:http";
import net from "node:net";
import type { HostPort } from "../config/options.ts";
import type { Clock, Environment } from "../contracts/environment.ts";
import { hostPortText } from "../endpoint.ts";
import { Door } from "../socket/door.ts";
import { errorText, systemError } from "../errors.ts";
import { printable, utf8 } from "../text.ts";
import { HTTP_CONNECTION_MAX_MS, HTTP_CONNECTIONS_MAX, HTTP_HEAD_MAX_BYTES } from "../limits.ts";

/** An answer to a request. */
export interface Answer {
  status: number;
  contentType: string;
  body: string | Uint8Array;
}

/** @param accept The request's Accept header; empty where there is none. */
export type Responder = (path: string, accept: string) => Answer | Promise<Answer>;

/** What HTTP is served with. */
export interface HttpOptions {
  readonly environment: Environment;
  /** Names that this host is asked for by, besides its addresses and `localhost`; `*` is any. */
  readonly names: readonly string[];
  readonly respond: Responder;
  /** Nobody is answered for a while; null: no file descriptor is free. */
  rests(error: unknown): void;
}

/** A plain answer of one line. */
export function plain(status: number, text: string): Answer {
  return { status, contentType: "text/plain; charset=utf-8", body: `${text}\n` };
}

export class HttpListener {
  /** `http://127.0.0.1:9108`, with the port the system chose. */
  readonly url: string;
  readonly #server: net.Server;
  readonly #sockets: Set<net.Socket>;
  readonly #door: Door;

  private constructor(url: string, server: net.Server, sockets: Set<net.Socket>, door: Door) {
    this.url = url;
    this.#server = server;
    this.#sockets = sockets;
    this.#door = door;
  }

  /** @throws {Error} It cannot listen there; the message is one line for the operator. */
  static async listen(
    { host, port }: HostPort,
    { environment: { clock, host: machine }, names, respond, rests }: HttpOptions,
  ): Promise<HttpListener> {
    const answering = new WeakSet<net.Socket>();
    const parser = await makeParser(respond, (name) => isKnown(name, names), answering);
    const sockets = new Set<net.Socket>();
    // A client may have sent all it will when the answer is yet to come.
    const server = net.createServer(
      { allowHalfOpen: true },
      (socket) => accept(socket, { sockets, answering, parser, clock }),
    );
    await listenAt(server, host, port);
    const bound = (server.address() as net.AddressInfo).port;
    const door = new Door({
      clock,
      host: machine,
      shut() {
        server.close();
        return Promise.resolve(1);
      },
      open: () => listenAt(server, host, bound),
      rests,
    });
    return new HttpListener(`http://${hostPortText(host, bound)}`, server, sockets, door);
  }

  /** Stops listening and ends all connections. */
  close(): void {
    // One that is just being opened again is closed then.
    void this.#door.close().then(() => this.#server.close());
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

async function listenAt(server: net.Server, host: string, port: number): Promise<void> {
  server.removeAllListeners("error").removeAllListeners("listening");
  await new Promise<void>((resolve, reject) => {
    server.once(
      "error",
      (error) => reject(systemError(error, `cannot listen for HTTP on ${hostPortText(host, port)}`)),
    );
    server.listen({ host, port }, resolve);
  });
  server.removeAllListeners("error");
  // A failed accept (out of descriptors, say) does not end the server.
  server.on("error", () => {});
}

interface Acceptor {
  /** By their age. */
  readonly sockets: Set<net.Socket>;
  /** Those whose request has come. */
  readonly answering: WeakSet<net.Socket>;
  readonly parser: HttpParser;
  readonly clock: Clock;
}

function accept(socket: net.Socket, { sockets, answering, parser, clock }: Acceptor): void {
  socket.on("error", () => {});
  if (sockets.size >= HTTP_CONNECTIONS_MAX) {
    // Whoever has said nothing for longest makes room: a probe must come through.
    const idle = [...sockets].find((other) => !answering.has(other));
    if (idle === undefined) return void socket.destroy();
    sockets.delete(idle);
    idle.destroy();
  }
  sockets.add(socket);
  // From first to last: neither a head that comes slowly nor an answer that is not read holds it longer.
  const cancel = clock.after(HTTP_CONNECTION_MAX_MS, () => socket.destroy());
  socket.once("close", () => {
    cancel();
    sockets.delete(socket);
  });
  parser.emit("connection", socket);
}

/** Loaded only where it is wanted: it costs start-up time. */
async function makeParser(
  respond: Responder,
  known: (name: string) => boolean,
  answering: WeakSet<net.Socket>,
): Promise<HttpParser> {
  const { createServer } = await import("node:http");
  return createServer({ maxHeaderSize: HTTP_HEAD_MAX_BYTES }, async (request, response) => {
    const { method = "", url = "/", headers } = request;
    answering.add(request.socket);
    const withBody = method !== "HEAD";
    if (withBody && method !== "GET") {
      response.setHeader("allow", "GET, HEAD");
      send(response, plain(405, "only GET and HEAD are answered"), true);
      return;
    }
    const target = targetOf(url, headers.host);
    const answer = target === null
      ? plain(400, "the request's target is not a path")
      : target.name !== null && !known(target.name)
      ? plain(421, `no host "${printable(target.name, 255)}" is served here: http-hosts names others`)
      : await answerOf(respond, target.path, headers.accept ?? "");
    send(response, answer, withBody);
  });
}

/** What is asked for, and of which host; null where that cannot be told. A proxy's target has both. */
function targetOf(url: string, host: string | undefined): { path: string; name: string | null } | null {
  const absolute = /^https?:\/\/([^/?#]*)([^?#]*)/i.exec(url);
  if (absolute === null && !url.startsWith("/")) return null;
  const authority = absolute === null ? host : absolute[1];
  const path = absolute === null ? url.split(/[?#]/)[0] : absolute[2] || "/";
  return { path, name: authority ? hostNameOf(authority) : null };
}

/** `web1` of `web1:9108`, `::1` of `[::1]:9108` */
function hostNameOf(authority: string): string {
  const [, bracketed, plain] = /^(?:\[([^\]]*)\]|([^:]*))/.exec(authority)!;
  return (bracketed ?? plain).toLowerCase().replace(/\.$/, "");
}

/** A page that a browser was led to by its own name must not read what is served here. An IP address is nobody's page. */
function isKnown(name: string, names: readonly string[]): boolean {
  return net.isIP(name) !== 0 || name === "localhost" ||
    names.some((known) => known === "*" || known.toLowerCase() === name);
}

/** Whoever looks at a server must not be able to end it, whatever is wrong with what it tells. */
async function answerOf(respond: Responder, path: string, accept: string): Promise<Answer> {
  try {
    return await respond(path, accept);
  } catch (error) {
    return plain(500, `this could not be answered: ${errorText(error)}`);
  }
}

function send(response: ServerResponse, { status, contentType, body }: Answer, withBody: boolean): void {
  const bytes = typeof body === "string" ? utf8(body) : body;
  response.writeHead(status, {
    "content-type": contentType,
    "content-length": bytes.length,
    "cache-control": "no-store",
    connection: "close",
  });
  response.end(withBody ? bytes : undefined);
}
