/** `ccserver ping ENDPOINT`: echo round trips, printed as `ping` prints them. */
import { ClientError } from "../client/errors.ts";
import type { Clock } from "../contracts/environment.ts";
import { printable } from "../text.ts";
import { defineCommand, numberFlag } from "./define.ts";
import { EXIT, UsageError } from "./exit.ts";
import { CONFIG_FLAG, connect } from "./send.ts";

export const ping = defineCommand({
  names: ["ping"],
  summary: "ask for echoes, as ping does",
  operands: "ENDPOINT",
  examples: ["ping tcp://127.0.0.1:10000", "ping -c 3 -i 0.2 tcp://127.0.0.1:10000"],
  flags: {
    count: { short: "c", kind: "text", value: "COUNT", doc: "stop after so many" },
    interval: {
      short: "i",
      kind: "text",
      value: "SECONDS",
      doc: "between two of them; 1 when it is not said",
    },
    timeout: {
      short: "W",
      kind: "text",
      value: "SECONDS",
      doc: "wait so long for an answer; 5 when it is not said",
    },
    config: CONFIG_FLAG,
  },
  async run(flags, operands, program) {
    const [endpoint] = operands;
    if (operands.length !== 1) throw new UsageError("ping needs one endpoint");
    const { environment: { clock, processes }, print } = program;
    const count = numberFlag(flags.count, "-c", Infinity);
    const intervalMs = numberFlag(flags.interval, "-i", 1) * 1000;
    const timeoutMs = numberFlag(flags.timeout, "-W", 5) * 1000;

    const client = await connect(endpoint, program, flags.config);
    const times: number[] = [];
    const begin = clock.now();
    let sent = 0;
    let stop = () => {};
    const interrupted = new Promise<void>((resolve) => stop = resolve);
    let running = true;
    processes.onSignal("SIGINT", () => {
      running = false;
      stop();
    });

    print(`PING ${endpoint}\n`);
    while (running && sent < count) {
      const seq = ++sent;
      const start = clock.now();
      const answer = client.query({ type: "echo.request", fields: { target: endpoint } }, { timeoutMs }).then(
        ({ type, body }) => {
          const ms = clock.now() - start;
          if (type !== "echo.response") {
            throw new ClientError("bad-reply", `the answer is "${printable(type)}"`);
          }
          times.push(ms);
          print(`echo from ${printable(String(body.hostname))}: seq=${seq} time=${ms.toFixed(3)} ms\n`);
        },
      ).catch((error: Error) => {
        // What ends with the program is told by the summary.
        if (!(error instanceof ClientError && error.code === "closed")) {
          print(`seq=${seq}: ${error.message}\n`);
        }
      });
      await Promise.race([answer, interrupted]);
      if (!running || sent >= count) break;
      await Promise.race([interrupted, sleep(clock, intervalMs - (clock.now() - start))]);
    }
    await client.close(0);
    print(`\n--- ${endpoint} echo statistics ---\n${summary(sent, times, clock.now() - begin)}\n`);
    return times.length > 0 ? EXIT.ok : EXIT.failed;
  },
});

function sleep(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => void clock.after(Math.max(0, ms), resolve));
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
