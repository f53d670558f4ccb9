/** The asking side of a server's control channel; `src/observe/control.ts` is the other, and shows the protocol. */
import { accessSync, constants } from "node:fs";
import net from "node:net";
import type { Clock } from "../contracts/environment.ts";
import { CCError, codeOf, errnoText, errorText } from "../errors.ts";
import { CONTROL_ANSWER_MAX_BYTES } from "../limits.ts";

/** What the server says is wrong, by its code; `unreachable`, `closed`, `timeout` and `bad-reply` are said here. */
export class ControlError extends CCError {
  override name = "ControlError";
}

/** How long connecting may take: a server that is busy takes it up when it can. */
const CONNECT_MAX_MS = 10_000;

/** A connection to a control channel. Requests are answered in order. */
export class ControlClient {
  readonly #socket: net.Socket;
  readonly #clock: Clock;
  #waiting: { id: number; resolve: (result: Answers) => void; reject: (error: Error) => void }[] = [];
  #text = "";
  #serial = 0;
  #over: ControlError | null = null;

  private constructor(socket: net.Socket, clock: Clock, path: string) {
    this.#socket = socket;
    this.#clock = clock;
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => this.#came(chunk));
    socket.on("error", () => {/* the close that follows tells */});
    socket.on(
      "close",
      () => this.#end(new ControlError("closed", `the server has closed the connection: ${path}`)),
    );
  }

  /**
   * Connects.
   *
   * @throws {ControlError} `unreachable`: nothing listens there; the system's code where we may not.
   */
  static async connect(path: string, clock: Clock): Promise<ControlClient> {
    mayConnect(path);
    const socket = net.connect({ path });
    await new Promise<void>((resolve, reject) => {
      const cancel = clock.after(CONNECT_MAX_MS, () => fail());
      const fail = (error?: Error) => {
        cancel();
        socket.destroy();
        // Runtimes differ in the code of this error, and what else it could be was looked at before.
        reject(new ControlError("unreachable", `nothing listens on ${path}`, { cause: error }));
      };
      socket.once("error", fail);
      socket.once("connect", () => {
        cancel();
        socket.off("error", fail);
        resolve();
      });
    });
    return new ControlClient(socket, clock, path);
  }

  /**
   * Asks.
   *
   * @returns What was answered: of verbs that handlers know, by their names.
   * @throws {ControlError}
   */
  ask(verb: string, fields: Readonly<Record<string, unknown>>, timeoutMs: number): Promise<Answers> {
    return new Promise((resolve, reject) => {
      if (this.#over !== null) return reject(this.#over);
      const id = ++this.#serial;
      const cancel = this.#clock.after(
        timeoutMs,
        () => this.#end(new ControlError("timeout", `no answer came within ${timeoutMs / 1000} s`)),
      );
      this.#waiting.push({
        id,
        resolve: (result) => (cancel(), resolve(result)),
        reject: (error) => (cancel(), reject(error)),
      });
      this.#socket.write(`${JSON.stringify({ ...fields, id, verb })}\n`);
    });
  }

  close(): void {
    this.#end(new ControlError("closed", "the connection was closed"));
  }

  #came(chunk: string): void {
    this.#text += chunk;
    for (let end = this.#text.indexOf("\n"); end >= 0; end = this.#text.indexOf("\n")) {
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      this.#answered(line);
    }
    if (this.#text.length > CONTROL_ANSWER_MAX_BYTES) {
      this.#end(new ControlError("bad-reply", "the answer is too long"));
    }
  }

  #answered(line: string): void {
    const answer = readAnswer(line);
    // An error without an id is about the connection.
    if (answer instanceof ControlError || answer.id === null) {
      return this.#end(answer instanceof ControlError ? answer : answer.error ?? UNREADABLE);
    }
    const waiting = this.#waiting.shift();
    if (waiting === undefined) return;
    if (waiting.id !== answer.id) waiting.reject(UNREADABLE);
    else if (answer.error !== null) waiting.reject(answer.error);
    else waiting.resolve(answer.result);
  }

  #end(error: ControlError): void {
    this.#over ??= error;
    this.#socket.destroy();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { reject } of waiting) reject(this.#over);
  }
}

/** An answer. */
export type Answers = Readonly<Record<string, unknown>>;

const UNREADABLE = new ControlError(
  "bad-reply",
  "the answer cannot be read: is that the control socket of a server?",
);

function readAnswer(
  line: string,
): { id: unknown; error: ControlError | null; result: Answers } | ControlError {
  try {
    const { id, error = null, result = {} } = JSON.parse(line);
    if (error !== null && (typeof error.code !== "string" || typeof error.message !== "string")) {
      return UNREADABLE;
    }
    if (typeof result !== "object" || result === null) return UNREADABLE;
    return { id, error: error === null ? null : new ControlError(error.code, error.message), result };
  } catch {
    return UNREADABLE;
  }
}

/** @throws {ControlError} There is none, or it is another user's. */
function mayConnect(path: string): void {
  try {
    accessSync(path, constants.W_OK);
  } catch (error) {
    const code = codeOf(error) ?? "system";
    if (code === "ENOENT") throw new ControlError("unreachable", `nothing listens on ${path}`);
    throw new ControlError(code, `cannot ask ${path}: ${errnoText(code) ?? errorText(error)}`);
  }
}
