/** The npm package zeromq, as its manual shows a proxy: node npm_zeromq.mjs TO_PORT */
import process from "node:process";
import * as zmq from "zeromq";

const front = new zmq.Router();
const back = new zmq.Dealer();
await front.bind("tcp://127.0.0.1:*");
back.connect(`tcp://127.0.0.1:${process.argv[2]}`);
console.log(front.lastEndpoint);

const forward = async (from, to) => {
  for await (const message of from) await to.send(message);
};

/** Deno tells the addon once that a socket is ready, then never again (denoland/deno#36317): it is asked in a loop. */
const asked = async (operation) => {
  for (;;) {
    try {
      return await operation();
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
};
const forwardAsking = async (from, to) => {
  from.receiveTimeout = 0;
  to.sendTimeout = 0;
  for (;;) {
    const message = await asked(() => from.receive());
    await asked(() => to.send(message));
  }
};

const way = process.versions.deno ? forwardAsking : forward;
await Promise.all([way(front, back), way(back, front)]);
