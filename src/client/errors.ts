/** What a client can fail with. */
import { CCError } from "../errors.ts";

/** Why something a client was asked for did not come about. */
export type ClientErrorCode =
  /** No connection in time, or the link broke before the reply came. */
  | "unreachable"
  /** Not in the time that it was given. */
  | "timeout"
  /** The server answered with an error; the message is its text. */
  | "refused"
  /** The caller's signal was aborted. */
  | "aborted"
  /** The client was closed. */
  | "closed"
  /** More queries wait for their reply than are kept. */
  | "too-many-queries"
  /** The reply cannot be read. */
  | "bad-reply";

/** Something a client was asked for did not come about; `code` names why. */
export class ClientError extends CCError {
  /** Which kind of error it is, in stacks. */
  override name = "ClientError";
  /** Why it did not come about. */
  declare readonly code: ClientErrorCode;
  /** An error with a code of this program. */
  constructor(code: ClientErrorCode, message: string) {
    super(code, message);
  }
}
