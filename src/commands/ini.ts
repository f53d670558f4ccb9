/** `ccserver --ini`: an example config to edit. */
import { defineCommand } from "./define.ts";
import { EXAMPLE_CONFIG } from "./example_config.ts";
import { EXIT } from "./exit.ts";

export const ini = defineCommand({
  names: ["ini", "--ini"],
  summary: "print an example config",
  operands: "",
  examples: ["--ini > my.ini"],
  flags: {},
  run(_flags, _operands, { print }) {
    print(EXAMPLE_CONFIG);
    return Promise.resolve(EXIT.ok);
  },
});
