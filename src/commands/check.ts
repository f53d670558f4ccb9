/** `ccserver --check`: what is wrong with a config, without running it. */
import { formatDiagnostic } from "../config/diagnostics.ts";
import { type Configs, exitOf } from "./config.ts";
import { configOperand, defineCommand } from "./define.ts";
import { EXIT } from "./exit.ts";
import { openSeal } from "./seal.ts";

export const check = (configs: () => Configs) =>
  defineCommand({
    names: ["check", "--check"],
    summary: "check a config and say all that is wrong with it",
    operands: "CONFIG.ini",
    examples: ["--check local.ini"],
    flags: {},
    async run(_flags, operands, { environment, print }) {
      const config = await configs().readOrExit(configOperand(operands), true);
      for (const warning of config.warnings) print(`${formatDiagnostic(warning)}\n`);
      const warn = (_where: string, text: string) => print(`${config.file}: warning: ${text}\n`);
      // Looks at keys alone: what a server keeps is its own.
      const options = { ...config.options, "cms-time-window": 0 };
      await openSeal({ ...config, options }, environment, { warn, warnRarely: () => {} }).catch((error) => {
        throw exitOf(error);
      });
      print(`${config.file}: ok, ${config.routes.length} routes, ${config.handlers.size} handlers\n`);
      return EXIT.ok;
    },
  });
