/** Our server with a router that was slowed down on purpose: what the benchmark gate must notice. */
import process from "node:process";
import { main } from "../../src/cli/main.ts";
import { MACHINE } from "../../src/runtime/machine.ts";
import { Dispatcher } from "../../src/server/dispatch.ts";

/** Turns of an idle loop a message: a few hundred nanoseconds. */
const TURNS = 2000;
let spun = 0;

// Runs are not taken, and each message waits.
Dispatcher.prototype.run = (_source, _buf, at) => at;
const { message } = Dispatcher.prototype;
Dispatcher.prototype.message = function (...args) {
  for (let i = 0; i < TURNS; i++) spun = (spun + i) | 0;
  message.apply(this, args);
};

process.exitCode = await main(process.argv.slice(2), MACHINE);
process.exit();
