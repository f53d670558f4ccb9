import process from "node:process";
import { main } from "./cli/main.ts";
import { MACHINE } from "./runtime/machine.ts";

process.exitCode = await main(process.argv.slice(2), MACHINE);
// What is still open (a query's timer, a signal's handler) does not keep the program.
process.exit();
