/** `ccserver --routes TYPE`: where messages of a type would go. */
import { isType } from "../message/type.ts";
import { RouteTable } from "../server/routes.ts";
import type { Configs } from "./config.ts";
import { configOperand, defineCommand } from "./define.ts";
import { EXIT, UsageError } from "./exit.ts";

export const routes = (configs: () => Configs) =>
  defineCommand({
    names: ["--routes"],
    summary: "which handlers a message type reaches, in order",
    operands: "TYPE CONFIG.ini",
    examples: ["--routes pub.infofile local.ini"],
    flags: {},
    async run(_flags, [type, ...rest], { print }) {
      if (type === undefined) throw new UsageError("a message type is needed");
      if (!isType(type)) {
        throw new UsageError(`"${type}" is not a message type, expected dotted names such as pub.infofile`);
      }
      const config = await configs().readOrExit(configOperand(rest));
      const matches = new RouteTable(config.routes).match(type);
      if (matches.length === 0) {
        print(`${type} reaches no handler: it would be dropped\n`);
        return EXIT.failed;
      }
      for (const { route, handler } of matches) {
        print(
          `${handler} (${config.handlers.get(handler)?.definition.name ?? "?"}), by the route "${route}"\n`,
        );
      }
      return EXIT.ok;
    },
  });
