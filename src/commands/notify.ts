/** `ccserver notify`: a job that is a shell script, say, tells its server how it is, as sd_notify(3) does. */
import process from "node:process";
import { NOTICE_MAX_BYTES } from "../limits.ts";
import { utf8 } from "../text.ts";
import { defineCommand } from "./define.ts";
import { EXIT, Exit, UsageError } from "./exit.ts";

/** The server reads a mailbox once a second at least. */
const FULL_MAX_MS = 1500;
const FULL_LOOK_MS = 50;

export const notify = defineCommand({
  names: ["notify"],
  summary: "in a job: tell jobmgr that it is ready, that it lives, how it is",
  operands: "[VARIABLE=VALUE …]",
  examples: ["notify --ready", 'notify WATCHDOG=1 "STATUS=41 of 70 files"'],
  flags: {
    ready: { kind: "flag", doc: "the same as READY=1" },
    status: { kind: "text", value: "TEXT", doc: "the same as STATUS=TEXT" },
  },
  async run({ ready, status }, operands, { environment: { clock, files } }) {
    const lines = [
      ...(ready ? ["READY=1"] : []),
      ...(status === undefined ? [] : [`STATUS=${status}`]),
      ...operands,
    ];
    if (lines.length === 0) throw new UsageError("notify needs something to say: --ready, say");
    const wrong = lines.find((line) => !/^[A-Z_][A-Z0-9_]*=[^\n]*$/.test(line));
    if (wrong !== undefined) {
      throw new UsageError(`expected VARIABLE=VALUE, in capitals and one line, not "${wrong}"`);
    }
    const text = `${lines.join("\n")}\n`;
    if (utf8(text).length > NOTICE_MAX_BYTES) throw new UsageError(`more than ${NOTICE_MAX_BYTES} bytes`);
    const to = process.env.CC_NOTIFY ?? process.env.NOTIFY_SOCKET ?? "";
    if (to === "") {
      throw new Exit(
        EXIT.failed,
        "ccserver: nobody listens: neither CC_NOTIFY nor NOTIFY_SOCKET is set. jobmgr sets them for daemons with notify " +
          "or watchdog-ping",
      );
    }
    // It may be full for a moment.
    for (const until = clock.now() + FULL_MAX_MS;;) {
      if (await files.postTo(to, text)) return EXIT.ok;
      if (clock.now() >= until) break;
      await new Promise<void>((resolve) => void clock.after(FULL_LOOK_MS, resolve));
    }
    throw new Exit(EXIT.unavailable, `ccserver: nobody listens at ${to}, or it is full`);
  },
});
