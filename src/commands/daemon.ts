/** `ccserver -d`: starts the server in the background, and waits until it listens or has said why it does not. */
import { placeOf } from "../config/reader.ts";
import { errorText } from "../errors.ts";
import { startDetached } from "../process/detach.ts";
import { pidfileOf } from "./control.ts";
import type { Configs } from "./config.ts";
import { configOperand, defineCommand, LOG_FLAGS } from "./define.ts";
import { EXIT, Exit } from "./exit.ts";

export const daemon = (configs: () => Configs) =>
  defineCommand({
    names: ["start", "-d", "--daemon"],
    summary: "run a server in the background; returns when it listens",
    operands: "CONFIG.ini",
    examples: ["-d local.ini"],
    flags: LOG_FLAGS,
    async run({ verbose, quiet }, operands, { environment, tell }) {
      const file = configOperand(operands);
      const config = await configs().readOrExit(file, true);
      pidfileOf(config, "-r, -s and -k find a server in the background by it");
      if (config.options.logfile === null) {
        tell(`${placeOf(config, "logfile")}: [ccserver] has no option "logfile": nothing is logged`);
      }
      const { self } = environment.processes;
      const flags = quiet ? ["-q"] : Array<string>(verbose).fill("-v");
      const started = await start([...self, "--detached", ...flags, "--", file]);
      if (started.code !== EXIT.ok) throw new Exit(started.code, started.message);
      return EXIT.ok;
    },
  });

async function start(command: readonly string[]): Promise<{ code: number; message: string }> {
  try {
    const started = await startDetached(command);
    return started.outcome ?? {
      code: EXIT.unavailable,
      message:
        `ccserver: the server ended before it listened, ${started.ended}: start it without -d to see why`,
    };
  } catch (error) {
    return { code: EXIT.unavailable, message: `ccserver: cannot start ${command[0]}: ${errorText(error)}` };
  }
}
