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
await Promise.all([forward(front, back), forward(back, front)]);
