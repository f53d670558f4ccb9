/** The built-in handlers by their short names. */
import type { HandlerFactory } from "../handler.ts";
import { delay } from "./delay.ts";
import { disposer } from "./disposer.ts";
import { echo } from "./echo.ts";
import { filter } from "./filter.ts";
import { locallogger } from "./locallogger.ts";
import { proxy } from "./proxy.ts";

/** The config has checked a handler's options by the time its factory gets them. */
// deno-lint-ignore no-explicit-any -- each factory has options of its own type
export const BUILTIN_HANDLERS: Readonly<Record<string, HandlerFactory<any>>> = {
  delay,
  disposer,
  echo,
  filter,
  locallogger,
  proxy,
};
