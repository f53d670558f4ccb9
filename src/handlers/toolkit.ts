/** What a handler of one's own is written with, where it cannot import this package: in a file that the binary loads. */
import {
  boolean,
  choice,
  endpoint,
  handlerName,
  handlerNames,
  integer,
  list,
  number,
  option,
  optional,
  path,
  required,
  size,
  text,
} from "../config/options.ts";
import { defineDaemon } from "../daemons/define.ts";
import { MessageError } from "../message/errors.ts";
import { AnyBody } from "../message/schemas.ts";
import { defineHandler, EVERYWHERE } from "./define.ts";

/**
 * The toolkit: a module's default export may be a function, which gets this and returns a definition.
 *
 * @example
 * ```ts
 * import type { HandlerToolkit } from "@ccserver/ccserver";
 *
 * export default ({ defineHandler, option, text }: HandlerToolkit) => defineHandler({ … });
 * ```
 */
export interface HandlerToolkit {
  /** See `AnyBody`. */
  readonly AnyBody: typeof AnyBody;
  /** See `boolean`. */
  readonly boolean: typeof boolean;
  /** See `choice`. */
  readonly choice: typeof choice;
  /** See `defineDaemon`. */
  readonly defineDaemon: typeof defineDaemon;
  /** See `defineHandler`. */
  readonly defineHandler: typeof defineHandler;
  /** See `endpoint`. */
  readonly endpoint: typeof endpoint;
  /** See `EVERYWHERE`. */
  readonly EVERYWHERE: typeof EVERYWHERE;
  /** See `handlerName`. */
  readonly handlerName: typeof handlerName;
  /** See `handlerNames`. */
  readonly handlerNames: typeof handlerNames;
  /** See `integer`. */
  readonly integer: typeof integer;
  /** See `list`. */
  readonly list: typeof list;
  /** See `MessageError`. */
  readonly MessageError: typeof MessageError;
  /** See `number`. */
  readonly number: typeof number;
  /** See `option`. */
  readonly option: typeof option;
  /** See `optional`. */
  readonly optional: typeof optional;
  /** See `path`. */
  readonly path: typeof path;
  /** See `required`. */
  readonly required: typeof required;
  /** See `size`. */
  readonly size: typeof size;
  /** See `text`. */
  readonly text: typeof text;
}

/** The only one there is. */
export const HANDLER_TOOLKIT: HandlerToolkit = {
  AnyBody,
  boolean,
  choice,
  defineDaemon,
  defineHandler,
  endpoint,
  EVERYWHERE,
  handlerName,
  handlerNames,
  integer,
  list,
  MessageError,
  number,
  option,
  optional,
  path,
  required,
  size,
  text,
};
