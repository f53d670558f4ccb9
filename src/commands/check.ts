/** `ccserver check`: what is wrong with a config, without running it. */
import { adviceOn } from "../config/advice.ts";
import { formatDiagnostic } from "../config/diagnostics.ts";
import { type Configs, exitOf } from "./config.ts";
import { configOperand, defineCommand } from "./define.ts";
import { EXIT } from "./exit.ts";
import { openSeal } from "./seal.ts";
import { counted } from "../text.ts";

export const check = (configs: () => Configs) =>
  defineCommand({
    names: ["check", "--check"],
    summary: "check a config and say all that is wrong with it",
    operands: "CONFIG.ini",
    examples: ["check local.ini", "check --strict local.ini && ccserver reload local.ini"],
    flags: { strict: { kind: "flag", doc: "warnings are errors: exit code 78" } },
    async run({ strict }, operands, { environment, print }) {
      const config = await configs().readOrExit(configOperand(operands), true);
      const warnings = [...config.warnings, ...adviceOn(config)].sort((a, b) => a.line - b.line);
      for (const warning of warnings) print(`${formatDiagnostic(warning)}\n`);
      let warned = warnings.length;
      const warn = (_where: string, text: string) => {
        warned++;
        print(`${config.file}: warning: ${text}\n`);
      };
      // Looks at keys alone: what a server keeps is its own.
      const options = { ...config.options, "cms-time-window": 0 };
      await openSeal({ ...config, options }, environment, { warn, warnRarely: () => {} }).catch((error) => {
        throw exitOf(error);
      });
      if (strict && warned > 0) {
        print(`${config.file}: ${counted(warned, "warning")}, and --strict takes none\n`);
        return EXIT.config;
      }
      print(`${config.file}: ok, ${config.routes.length} routes, ${config.handlers.size} handlers\n`);
      return EXIT.ok;
    },
  });
