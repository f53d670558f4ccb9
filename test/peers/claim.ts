/**
 * Claims pidfiles `DIR/0` … `DIR/ROUNDS-1`, one every few milliseconds from the given time on, and keeps what it gets;
 * prints the rounds that it got. Several of these at once show whether one gets each.
 *
 *     bun test/peers/claim.ts DIR ROUNDS START-MS
 */
import { join } from "node:path";
import process from "node:process";
import { claimPidfile } from "../../src/process/pidfile.ts";

const [folder, rounds, start] = process.argv.slice(2);
const got: number[] = [];
for (let i = 0; i < Number(rounds); i++) {
  // Busy, so that all claim in the same moment.
  while (Date.now() < Number(start) + 5 * i);
  try {
    claimPidfile(join(folder, `${i}`));
    got.push(i);
  } catch (error) {
    if (!/a server runs already/.test(String(error))) throw error;
  }
}
console.log(JSON.stringify(got));
// Those who lost look whether the winner lives: so all live to the end.
await new Promise((resolve) => process.stdin.once("end", resolve).resume());
