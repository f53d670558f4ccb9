/**
 * A light client: asks for an echo every other millisecond, one at a time, and times the answers. On each line of its
 * input it prints the times since the line before: `{"echoes":N,"p50":MS,"p99":MS,"longest":MS}`.
 *
 *     node dist/peers/witness.js PORT
 */
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { message, RawPeer } from "../helpers/raw.ts";

const EVERY_MS = 2;

const peer = await RawPeer.open(Number(process.argv[2]), "DEALER", "witness");
let times: number[] = [];
createInterface({ input: process.stdin }).on("line", () => {
  const sorted = times.sort((a, b) => a - b);
  times = [];
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  console.log(JSON.stringify({ echoes: sorted.length, p50: at(0.5), p99: at(0.99), longest: sorted.at(-1) }));
}).on("close", () => process.exit());

for (let n = 0;; n++) {
  const began = performance.now();
  peer.write(message("", "echo.request", `{"req":"echo.request","target":"${n}"}`, ""));
  let frames = peer.take();
  while (frames === null) {
    // Who asked for it sees that it is gone.
    if (peer.closed) process.exit();
    await once(peer.socket, "data");
    frames = peer.take();
  }
  times.push(performance.now() - began);
  const [, type, body] = frames;
  if (type.toString() !== "echo.response" || JSON.parse(body.toString()).orig_target !== String(n)) {
    throw new Error(`an answer to something else: ${type} ${body}`);
  }
  await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
}
