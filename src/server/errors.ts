/** What a server fails with. */
import { CCError } from "../errors.ts";

/** The server could not start; the message is one line for the operator. */
export class StartError extends CCError {
  /** Which kind of error it is, in stacks. */
  override name = "StartError";
}
