/** `ccserver notify`: a job that is a shell script, say, tells its server how it is, as sd_notify(3) does. */
import process from "node:process";
import { NOTICE_MAX_BYTES } from "../limits.ts";
import { utf8 } from "../text.ts";
import { defineCommand } from "./define.ts";
import { EXIT, Exit, UsageError } from "./exit.ts";

export const notify = defineCommand({
  names: ["notify"],
  summary: "in a job: tell jobmgr that it is ready, that it lives, how it is",
  operands: "[VARIABLE=VALUE …]",
  examples: ["notify --ready", 'notify WATCHDOG=1 "STATUS=41 of 70 files"'],
  flags: {
    ready: { kind: "flag", doc: "the same as READY=1" },
    status: { kind: "text", value: "TEXT", doc: "the same as STATUS=TEXT" },
  },
  async run({ ready, status }, operands, { environment: { files } }) {
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
    if (await files.postTo(to, text)) return EXIT.ok;
    throw new Exit(EXIT.unavailable, `ccserver: nobody listens at ${to}`);
  },
});
