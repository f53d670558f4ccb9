/** A server process that tells about itself quickly: what the tests of statistics, infofile and metrics start. */
import assert from "node:assert/strict";
import { TARGET, type Target } from "./env.ts";
import { ServerProcess } from "./process.ts";

/** Routes and handlers that most of them use. */
export const SINK = "[routes]\n* = h:sink\n[h:sink]\nhandler = disposer\n";

/** Starts a server with these options of [ccserver], and these sections. */
export function watched(options: string[], sections = SINK, target: Target = TARGET): Promise<ServerProcess> {
  return ServerProcess.start(
    `[ccserver]\ncc-socket = tcp://127.0.0.1:*\ncc-role = local\n${options.join("\n")}\n${sections}`,
    target,
  );
}

/** Where a server serves HTTP. */
export function httpUrl(server: ServerProcess): string {
  const found = /HTTP on (http:\S+)/.exec(server.output);
  assert.ok(found, server.output);
  return found[1];
}

/** A server's /metrics: each sample by its name and labels. */
export async function metrics(server: ServerProcess): Promise<Map<string, number>> {
  const text = await (await fetch(`${httpUrl(server)}/metrics`)).text();
  return new Map(
    text.split("\n").filter((line) => line !== "" && !line.startsWith("#"))
      .map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]),
  );
}

/** Waits until a server's metrics are as wanted. */
export async function untilMetrics(
  server: ServerProcess,
  wanted: (samples: Map<string, number>) => boolean,
  timeoutMs = 20_000,
): Promise<Map<string, number>> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const samples = await metrics(server);
    if (wanted(samples)) return samples;
    if (performance.now() > end) {
      throw new Error(`waited ${timeoutMs / 1000} s for metrics:\n${[...samples].join("\n")}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
