import process from "node:process";
import { main } from "./cli/main.ts";

process.exitCode = await main(process.argv.slice(2));
// What is still open (a query's timer, a signal's handler) does not keep the program.
process.exit();
