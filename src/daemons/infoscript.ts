/** Runs a command every so often, and sends what it writes as the file of a `pub.infofile`. */
import { Buffer } from "node:buffer";
import { promisify } from "node:util";
import * as v from "valibot";
import { boolean, choice, integer, number, option, optional, required, text } from "../config/options.ts";
import type { DaemonContext } from "../contracts/daemon.ts";
import type { Environment } from "../contracts/environment.ts";
import type { Schema, Values } from "../contracts/schema.ts";
import { errorText } from "../errors.ts";
import { BODY_MAX_BYTES, INFOSCRIPT_OUTPUT_MAX_BYTES } from "../limits.ts";
import { isType } from "../message/type.ts";
import { defineDaemon } from "./define.ts";

const TYPE = "pub.infofile";
/** The longest that a timer goes. */
const PERIOD_MAX_SECONDS = 2_000_000;

/** What may stand behind the type, and a dot. */
const typeSuffix: Schema<string> = v.pipe(
  v.string(),
  v.check(
    (suffix) => isType(`${TYPE}.${suffix}`),
    "expected names as a message type has them, such as df or disks.df",
  ),
);

const OPTIONS = {
  "info-script": required(text, "a line for /bin/sh; what it writes is sent", "df -k"),
  "info-name": required(text, "the name of the file", "df.txt"),
  "info-period": option(
    number(0.1, PERIOD_MAX_SECONDS),
    "300",
    "from one start of it to the next",
    "60",
    "s",
  ),
  "script-timeout": optional(
    number(0.1, PERIOD_MAX_SECONDS),
    "it is ended when it takes longer; without this: info-period",
    "30",
    "s",
  ),
  compression: option(choice("none", "gzip"), "none", "how the file is compressed", "gzip"),
  "compression-level": option(integer(0, 9), "0", "of gzip; 0: as gzip does", "9"),
  "msg-suffix": optional(typeSuffix, "behind the type: pub.infofile.SUFFIX", "df"),
  "use-blob": option(boolean, "yes", "the file is a frame of its own; no: base64 in the body", "no"),
};

/** A script that is ended has so long after SIGTERM. */
const END_MS = 2000;
/** What still holds its output open when all of it has been ended has so long to write. */
const OUTPUT_MS = 1000;
/** In the environment of all that a run starts. */
const MARK = "CC_INFOSCRIPT_RUN";
/** Beside what is in the body anyway. */
const BODY_ROOM_BYTES = 64 * 1024;

/** Loaded where it is wanted: it costs every start of the program 17 ms. */
async function compress(bytes: Uint8Array, level: number): Promise<Uint8Array> {
  const { gzip } = await import("node:zlib");
  return new Uint8Array(
    await promisify<Uint8Array, object, Buffer>(gzip)(bytes, level === 0 ? {} : { level }),
  );
}

export const infoscript = defineDaemon({
  name: "infoscript",
  summary: "Runs a command every so often, and sends what it writes as a file (`pub.infofile`).",
  options: OPTIONS,
  live: Object.keys(OPTIONS) as (keyof typeof OPTIONS)[],
  async run(context) {
    const { environment: { clock }, options, signal } = context;
    const periodMs = options["info-period"] * 1000;
    while (!signal.aborted) {
      const next = clock.now() + periodMs;
      await once(context, options);
      context.tellStatistics();
      // One that takes longer is not overtaken by the next.
      await pause(context, next - clock.now());
    }
  },
});

async function once(
  context: DaemonContext<Values<typeof OPTIONS>>,
  options: Values<typeof OPTIONS>,
): Promise<void> {
  const { environment, log, signal } = context;
  const timeoutMs = (options["script-timeout"] ?? options["info-period"]) * 1000;
  const { output, why } = await runScript(context, options["info-script"], timeoutMs);
  if (signal.aborted) return;
  context.count("infoscript.count");
  context.count("infoscript.bytes.read", output.length);
  if (why !== null) {
    context.count("infoscript.fails");
    log.error("run", `${why}: ${new TextDecoder().decode(output.subarray(0, 2000))}`);
    return;
  }
  const bytes = options.compression === "none"
    ? output
    : await compress(output, options["compression-level"]);
  const blob = options["use-blob"];
  const data = blob ? "" : base64(bytes);
  if (data.length > BODY_MAX_BYTES - BODY_ROOM_BYTES) {
    context.count("infoscript.fails");
    log.error(
      "run",
      `its output is too long for a body, ${data.length} bytes in base64: use-blob = yes has room for it`,
    );
    return;
  }
  try {
    await context.publish({
      type: options["msg-suffix"] === null ? TYPE : `${TYPE}.${options["msg-suffix"]}`,
      fields: {
        filename: options["info-name"].replaceAll("\\", "/"),
        mtime: environment.clock.time() / 1000,
        comp: options.compression,
        mode: "b",
        data,
      },
      ...(blob ? { blob: bytes } : {}),
    });
  } catch (error) {
    if (signal.aborted) return;
    context.count("infoscript.fails");
    log.error("run", `its output was not sent: ${errorText(error)}`);
    return;
  }
  context.count("infoscript.bytes.sent", bytes.length);
}

/** As MIME has it: a newline after each 76 characters, and at the end. */
function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64").replace(/.{1,76}/g, "$&\n");
}

/** Runs it in a group of its own; nothing of it is left when this returns. */
async function runScript(
  { log, environment: { processes, clock, host, random }, signal }: DaemonContext<unknown>,
  script: string,
  timeoutMs: number,
): Promise<{ output: Uint8Array; why: string | null }> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  let ended: string | null = null;
  let cancelKill = () => {};
  const end = (why: string) => {
    if (ended !== null || child.pid === null) return;
    ended = why;
    const group = -child.pid;
    processes.signal(group, "SIGTERM");
    cancelKill = clock.after(END_MS, () => void processes.signal(group, "SIGKILL"));
  };
  const mark = `${host.pid}.${random()}`;
  const child = processes.spawn(["/bin/sh", "-c", `exec 2>&1\n${script}`], {
    env: { ...processes.env, [MARK]: mark },
    output(chunk) {
      bytes += chunk.length;
      if (bytes <= INFOSCRIPT_OUTPUT_MAX_BYTES) parts.push(new Uint8Array(chunk));
      else end(`it writes more than ${INFOSCRIPT_OUTPUT_MAX_BYTES / 2 ** 20} MiB, and was ended`);
    },
  });
  const cancelTimeout = clock.after(
    timeoutMs,
    () => end(`it took more than ${timeoutMs / 1000} s, and was ended`),
  );
  const aborted = () => end("it was ended");
  if (signal.aborted) aborted();
  signal.addEventListener("abort", aborted);
  const exit = await child.exited;
  cancelTimeout();
  cancelKill();
  signal.removeEventListener("abort", aborted);
  // What it started and left would hold its output open.
  if (child.pid !== null) processes.signal(-child.pid, "SIGKILL");
  for (const pid of leftBy(processes, mark)) {
    log.warnRarely(
      "run",
      "left",
      `process ${pid} was left by the script, in a session of its own: it was ended`,
    );
    processes.signal(pid, "SIGKILL");
  }
  const cancelOutput = clock.after(OUTPUT_MS, () => child.closeOutput());
  await child.outputEnded;
  cancelOutput();
  const why = ended ??
    (exit.error !== null
      ? `it cannot be started: ${exit.error}`
      : exit.signal !== null
      ? `it was ended by ${exit.signal}`
      : exit.code === 0
      ? null
      : `exit code ${exit.code}`);
  const output = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    output.set(part, at);
    at += part.length;
  }
  return { output, why };
}

/** Processes that carry the mark of a run in their environment. */
function leftBy(processes: Environment["processes"], mark: string): number[] {
  return [...processes.list()].filter(({ pid, state }) =>
    state !== "Z" && processes.environmentOf(pid, MARK) === mark
  ).map(({ pid }) => pid);
}

async function pause(
  { environment: { clock }, signal }: DaemonContext<unknown>,
  ms: number,
): Promise<void> {
  if (ms <= 0 || signal.aborted) return;
  await new Promise<void>((resolve) => {
    const cancel = clock.after(ms, () => {
      signal.removeEventListener("abort", now);
      resolve();
    });
    const now = () => {
      cancel();
      resolve();
    };
    signal.addEventListener("abort", now, { once: true });
  });
}
