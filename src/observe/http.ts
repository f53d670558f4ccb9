/**
 * HTTP for metrics and health: GET and HEAD, one request a connection. `node:http` reads and writes; connections are
 * accepted and bounded here, because its own bounds do not hold on every runtime.
 */
import type { Server as HttpParser, ServerResponse } from "node:http";
import net from "node:net";
import type { HostPort } from "../config/options.ts";
import type { Clock } from "../contracts/environment.ts";
import { hostPortText } from "../endpoint.ts";
import { errorText, systemError } from "../errors.ts";
import { utf8 } from "../text.ts";
import { HTTP_CONNECTION_MAX_MS, HTTP_CONNECTIONS_MAX, HTTP_HEAD_MAX_BYTES } from "../limits.ts";

/** An answer to a request. */
export interface Answer {
  status: number;
  contentType: string;
  body: string | Uint8Array;
}

/** @param accept The request's Accept header; empty where there is none. */
export type Responder = (path: string, accept: string) => Answer | Promise<Answer>;

/** A plain answer of one line. */
export function plain(status: number, text: string): Answer {
  return { status, contentType: "text/plain; charset=utf-8", body: `${text}\n` };
}

export class HttpListener {
  /** `http://127.0.0.1:9108`, with the port the system chose. */
  readonly url: string;
  readonly #server: net.Server;
  readonly #sockets: Set<net.Socket>;

  private constructor(url: string, server: net.Server, sockets: Set<net.Socket>) {
    this.url = url;
    this.#server = server;
    this.#sockets = sockets;
  }

  /** @throws {Error} It cannot listen there; the message is one line for the operator. */
  static async listen({ host, port }: HostPort, clock: Clock, respond: Responder): Promise<HttpListener> {
    const parser = await makeParser(respond);
    const sockets = new Set<net.Socket>();
    // A client may have sent all it will when the answer is yet to come.
    const server = net.createServer(
      { allowHalfOpen: true },
      (socket) => accept(socket, sockets, parser, clock),
    );
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
    const bound = (server.address() as net.AddressInfo).port;
    return new HttpListener(`http://${hostPortText(host, bound)}`, server, sockets);
  }

  /** Stops listening and ends all connections. */
  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

function accept(socket: net.Socket, sockets: Set<net.Socket>, parser: HttpParser, clock: Clock): void {
  socket.on("error", () => {});
  if (sockets.size >= HTTP_CONNECTIONS_MAX) {
    socket.destroy();
    return;
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
async function makeParser(respond: Responder): Promise<HttpParser> {
  const { createServer } = await import("node:http");
  return createServer({ maxHeaderSize: HTTP_HEAD_MAX_BYTES }, async (request, response) => {
    const { method = "", url = "/", headers } = request;
    if (method !== "GET" && method !== "HEAD") {
      response.setHeader("allow", "GET, HEAD");
      send(response, plain(405, "only GET and HEAD are answered"), true);
      return;
    }
    send(response, await answerOf(respond, url, headers.accept ?? ""), method === "GET");
  });
}

/** Whoever looks at a server must not be able to end it, whatever is wrong with what it tells. */
async function answerOf(respond: Responder, url: string, accept: string): Promise<Answer> {
  try {
    return await respond(url.split("?")[0], accept);
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
