/** The built-in handlers, a line each. */
import type { AnyHandlerDefinition } from "../config/reader.ts";
import type { Role } from "../contracts/handler.ts";
import { delay } from "./delay.ts";
import { disposer } from "./disposer.ts";
import { echo } from "./echo.ts";
import { filter } from "./filter.ts";
import { jobmgr } from "./jobmgr.ts";
import { locallogger } from "./locallogger.ts";
import { processHandler } from "./process_handler.ts";
import { proxy } from "./proxy.ts";

export const HANDLERS: readonly AnyHandlerDefinition[] = [
  delay,
  disposer,
  echo,
  filter,
  jobmgr,
  locallogger,
  processHandler,
  proxy,
];

/** The same by their names. */
export const HANDLERS_BY_NAME: ReadonlyMap<string, AnyHandlerDefinition> = new Map(
  HANDLERS.map((definition) => [definition.name, definition]),
);

/** Handlers of the original that are not part of this version, with the role they are for. */
export const UNBUILT_HANDLERS: ReadonlyMap<string, Role> = new Map([
  ["infowriter", "remote"],
  ["tailwriter", "remote"],
  ["taskrouter", "remote"],
  ["database", "remote"],
  ["dbhandler", "remote"],
]);
