/** `ccserver ping ENDPOINT`: echo round trips, printed as `ping` prints them. */
import process from "node:process";
import { ClientError } from "../client/client.ts";
import { type Logger, printable } from "../log.ts";
import { numberArg, readArgs, usageError } from "./args.ts";
import { EXIT } from "./exit.ts";
import { connect } from "./send.ts";

export const PING_USAGE = "ccserver ping [-c COUNT] [-i SECONDS] [-W SECONDS] ENDPOINT";

export async function ping(args: string[], log: Logger): Promise<number> {
  const { values, positionals } = readArgs(args, {
    count: { type: "string", short: "c" },
    interval: { type: "string", short: "i" },
    timeout: { type: "string", short: "W" },
  }, PING_USAGE);
  if (positionals.length !== 1) throw usageError("ping needs one endpoint", PING_USAGE);
  const [endpoint] = positionals;
  const count = numberArg(values.count, "-c", Infinity, PING_USAGE);
  const intervalMs = numberArg(values.interval, "-i", 1, PING_USAGE) * 1000;
  const timeoutMs = numberArg(values.timeout, "-W", 5, PING_USAGE) * 1000;

  const client = connect(endpoint, log);
  const times: number[] = [];
  const begin = performance.now();
  let sent = 0;
  let stop = () => {};
  const interrupted = new Promise<void>((resolve) => stop = resolve);
  let running = true;
  process.on("SIGINT", () => {
    running = false;
    stop();
  });

  console.log(`PING ${endpoint}`);
  while (running && sent < count) {
    const seq = ++sent;
    const start = performance.now();
    const answer = client.query("echo.request", { target: endpoint }, { timeoutMs }).then(
      ({ type, body }) => {
        const ms = performance.now() - start;
        if (type !== "echo.response") throw new ClientError("timeout", `the answer is "${printable(type)}"`);
        times.push(ms);
        console.log(`echo from ${printable(String(body.hostname))}: seq=${seq} time=${ms.toFixed(3)} ms`);
      },
    ).catch((error: Error) => {
      // What ends with the program is told by the summary.
      if (!(error instanceof ClientError && error.code === "closed")) {
        console.log(`seq=${seq}: ${error.message}`);
      }
    });
    await Promise.race([answer, interrupted]);
    if (!running || sent >= count) break;
    await Promise.race([interrupted, sleep(intervalMs - (performance.now() - start))]);
  }
  await client.close(0);
  console.log(`\n--- ${endpoint} echo statistics ---\n${summary(sent, times, performance.now() - begin)}`);
  return times.length > 0 ? EXIT.ok : EXIT.failed;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, Math.max(0, ms));
    timer.unref?.();
  });
}

function summary(sent: number, times: number[], totalMs: number): string {
  const loss = sent === 0 ? 0 : (100 * (sent - times.length)) / sent;
  const first = `${sent} sent, ${times.length} received, ${Number(loss.toFixed(1))}% loss, ` +
    `time ${totalMs.toFixed(0)} ms`;
  if (times.length === 0) return first;
  const avg = times.reduce((sum, t) => sum + t, 0) / times.length;
  const dev = Math.sqrt(times.reduce((sum, t) => sum + (t - avg) ** 2, 0) / times.length);
  const figures = [Math.min(...times), avg, Math.max(...times), dev].map((ms) => ms.toFixed(3)).join("/");
  return `${first}\nrtt min/avg/max/mdev = ${figures} ms`;
}
