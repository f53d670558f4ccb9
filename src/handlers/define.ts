/** How a handler is written: as a definition whose types follow from its table of options. */
import type { HandlerDefinition, Role } from "../contracts/handler.ts";
import type { Options } from "../contracts/schema.ts";

/** For handlers that may run in every role. */
export const EVERYWHERE: readonly Role[] = ["insecure", "local", "remote"];

/**
 * Gives a definition back as it is; TypeScript then knows the types of its options and bodies.
 *
 * @example
 * ```ts
 * export default defineHandler({
 *   name: "greeter",
 *   summary: "Answers greet.",
 *   roles: ["local", "remote"],
 *   options: {},
 *   create: () => ({
 *     plan: () => ({ open: AnyBody }),
 *     handle(message, body) {
 *       message.reply({ type: "greeting", fields: { text: `hello ${body.name}` } });
 *       return "ok";
 *     },
 *   }),
 * });
 * ```
 */
export function defineHandler<O extends Options, B = never>(
  definition: HandlerDefinition<O, B>,
): HandlerDefinition<O, B> {
  return definition;
}
