/** `ccserver --routes TYPE`: where messages of a type would go. */
import { isType } from "../message/type.ts";
import type { ServerConfig } from "../config/reader.ts";
import type { Environment } from "../contracts/environment.ts";
import { RouteTable } from "../server/routes.ts";
import type { Configs } from "./config.ts";
import { configOperand, defineCommand } from "./define.ts";
import { EXIT, UsageError } from "./exit.ts";
import { subjectOf } from "./seal.ts";

export const routes = (configs: () => Configs) =>
  defineCommand({
    names: ["routes", "--routes"],
    summary: "which handlers a message type reaches, in order",
    operands: "TYPE CONFIG.ini",
    examples: ["--routes pub.infofile local.ini", "--routes log.info --signer host1 centre.ini"],
    flags: {
      signer: {
        kind: "text",
        value: "NAME",
        doc: "also: may it be sent by the signer with this certificate of the key store, or this common name",
      },
    },
    async run({ signer }, [type, ...rest], { environment, print }) {
      if (type === undefined) throw new UsageError("a message type is needed");
      if (!isType(type)) {
        throw new UsageError(`"${type}" is not a message type, expected dotted names such as pub.infofile`);
      }
      const config = await configs().readOrExit(configOperand(rest));
      if (signer !== undefined && !await tellAllowed(type, signer, config, environment, print)) {
        return EXIT.failed;
      }
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

/** Says which lines let a signer send a type; false: none does. */
async function tellAllowed(
  type: string,
  signer: string,
  config: ServerConfig,
  environment: Environment,
  print: (text: string) => void,
): Promise<boolean> {
  const { allow, options } = config;
  if (options["cms-verify-ca"] === null) {
    print(`without cms-verify-ca nobody has to sign: "${signer}" may send ${type}\n`);
    return true;
  }
  if (allow === null) {
    print(`without [cms-allow] every signer under ${options["cms-verify-ca"].join(", ")} may send ${type}\n`);
    return true;
  }
  const { rulesFor } = await import("../seal/allow.ts");
  const rules = rulesFor(allow, await subjectOf(signer, config, environment), type);
  for (const { signer: rule, types } of rules) {
    print(`"${signer}" may send ${type}, by the line "${rule} = ${types.join(", ")}" of [cms-allow]\n`);
  }
  if (rules.length === 0) print(`"${signer}" may not send ${type}: no line of [cms-allow] lets it\n`);
  return rules.length > 0;
}
