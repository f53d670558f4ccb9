/** A blind copy of bytes in Bun, the limit of what its sockets can do: bun bun_relay.ts TO_PORT */
/// <reference types="bun-types" />
import process from "node:process";

interface Side {
  other: Bun.Socket<Side> | null;
  rest: Uint8Array[];
}

function forward(to: Bun.Socket<Side>, chunk: Uint8Array): boolean {
  const n = to.data.rest.length > 0 ? 0 : Math.max(0, to.write(chunk));
  if (n < chunk.length) to.data.rest.push(chunk.subarray(n));
  return n === chunk.length;
}

const socket: Bun.SocketHandler<Side> = {
  data(from, chunk) {
    if (from.data.other && !forward(from.data.other, chunk)) from.pause();
  },
  drain(to) {
    const { rest } = to.data;
    while (rest.length > 0) {
      const n = Math.max(0, to.write(rest[0]));
      if (n < rest[0].length) {
        rest[0] = rest[0].subarray(n);
        return;
      }
      rest.shift();
    }
    to.data.other?.resume();
  },
};
const port = Number(process.argv[2]);
const listener = Bun.listen<Side>({
  hostname: "127.0.0.1",
  port: 0,
  data: { other: null, rest: [] },
  socket: {
    ...socket,
    async open(client) {
      client.data = { other: null, rest: [] };
      client.setNoDelay(true);
      client.pause();
      const data: Side = { other: client, rest: [] };
      client.data.other = await Bun.connect<Side>({ hostname: "127.0.0.1", port, socket, data });
      client.data.other.setNoDelay(true);
      client.resume();
    },
  },
});
console.log(`tcp://127.0.0.1:${listener.port}`);
