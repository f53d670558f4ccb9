/**
 * A libzmq peer in a process of its own, led by lines of JSON: `{id, op, …}` in, `{id, result | error}` out. Tests on
 * every runtime drive real libzmq sockets with it, on Bun too, where the addon does not load.
 */
import { Buffer } from "node:buffer";
import process from "node:process";
import { createInterface } from "node:readline";
import * as zmq from "zeromq";

type Socket = zmq.Dealer | zmq.Router | zmq.Request | zmq.Reply | zmq.Push;

interface Command {
  id: number;
  op: string;
  s: number;
  type: "Dealer" | "Router" | "Request" | "Reply" | "Push";
  options: Record<string, unknown>;
  endpoint: string;
  frames: string[];
  timeoutMs: number;
  count: number;
  clients: number;
  size: number;
  msgType: string;
}

const sockets = new Map<number, Socket>();
let serial = 0;

async function receive(socket: Socket, timeoutMs: number): Promise<string[]> {
  const receiving = socket as zmq.Dealer;
  receiving.receiveTimeout = timeoutMs;
  return (await receiving.receive()).map((frame) => frame.toString("base64"));
}

/** Sends numbered messages: `[""] [type] [{"n": client * 2^32 + i …}] [""]`, as fast as the peer takes them. */
async function blast(
  socket: zmq.Dealer,
  { count, size, msgType, clients: client }: Command,
): Promise<number> {
  const body = Buffer.alloc(size, 0x61);
  for (let i = 0; i < count; i++) {
    const numbered = Buffer.from(body);
    numbered.writeUInt32BE(client, 0);
    numbered.writeUInt32BE(i, 4);
    await socket.send(["", msgType, numbered, ""]);
  }
  return count;
}

/** Receives `count` numbered messages on a ROUTER; says how many came, and how many out of order or twice. */
async function collect(socket: zmq.Router, { count, clients, timeoutMs }: Command) {
  const next = new Array<number>(clients).fill(0);
  let received = 0;
  let wrong = 0;
  socket.receiveTimeout = timeoutMs;
  try {
    while (received < count) {
      const frames = await socket.receive();
      const body = frames[frames.length - 2];
      const client = body.readUInt32BE(0);
      const n = body.readUInt32BE(4);
      if (n !== next[client]) wrong++;
      next[client] = n + 1;
      received++;
    }
  } catch {
    // The time is up: what came is told.
  }
  return { received, wrong, next };
}

const OPS: Record<string, (command: Command) => unknown> = {
  open({ type, options }) {
    sockets.set(++serial, new zmq[type]({ linger: 0, ...options }) as Socket);
    return serial;
  },
  connect: ({ s, endpoint }) => sockets.get(s)!.connect(endpoint),
  async bind({ s, endpoint }) {
    const socket = sockets.get(s)!;
    await socket.bind(endpoint);
    return socket.lastEndpoint;
  },
  send: ({ s, frames }) =>
    (sockets.get(s) as zmq.Dealer).send(frames.map((frame) => Buffer.from(frame, "base64"))),
  receive: ({ s, timeoutMs }) => receive(sockets.get(s)!, timeoutMs),
  close: ({ s }) => sockets.get(s)!.close(),
  version: () => zmq.version,
  blast: (command) => blast(sockets.get(command.s) as zmq.Dealer, command),
  collect: (command) => collect(sockets.get(command.s) as zmq.Router, command),
};

createInterface({ input: process.stdin }).on("line", async (line) => {
  const command = JSON.parse(line) as Command;
  let answer: object;
  try {
    answer = { id: command.id, result: (await OPS[command.op](command)) ?? null };
  } catch (error) {
    answer = { id: command.id, error: (error as Error).message };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}).on("close", () => process.exit());
