/** Threads beside the main one: `node:worker_threads`, which all runtimes have, and which needs no file of its own here. */
import { Worker } from "node:worker_threads";
import type { Thread, ThreadEvents, ThreadProgram } from "../contracts/environment.ts";

/** What runs there: the program is text, as a binary has no files that a thread could be started from. */
const sourceOf = (program: ThreadProgram): string => `
const { parentPort } = require("node:worker_threads");
const work = (${program})(require("node:crypto"));
parentPort.on("message", (bytes) => {
  const result = work(bytes);
  parentPort.postMessage(result, [result.buffer]);
});`;

export function startThread(program: ThreadProgram, { result, failed }: ThreadEvents): Thread {
  const worker = new Worker(sourceOf(program), { eval: true });
  let over = false;
  let underWay = 0;
  const end = (error: unknown) => {
    if (over) return;
    over = true;
    void worker.terminate();
    failed(error);
  };
  worker.on("message", (bytes: Uint8Array) => {
    if (--underWay === 0) worker.unref();
    if (!over) result(bytes);
  });
  worker.on("error", end);
  worker.on("exit", (code) => end(new Error(`the thread ended with ${code}`)));
  worker.unref();
  return {
    post(bytes) {
      if (underWay++ === 0) worker.ref();
      worker.postMessage(bytes, [bytes.buffer as ArrayBuffer]);
    },
    end() {
      over = true;
      void worker.terminate();
    },
  };
}
