/**
 * The control channel: a Unix socket by which an operator of this machine asks a server, and has its handlers do something.
 * JSON, a line a request and a line an answer, in order:
 *
 * ```
 *   {"id": 1, "verb": "version"}        ▶
 *                                       ◀  {"id": 1, "result": {"version": "0.1.0", …}}
 *   {"id": 2, "verb": "job", …}         ▶  what handlers answer, by their names
 *                                       ◀  {"id": 2, "error": {"code": "unknown-job", "message": "…"}}
 * ```
 */
import type { Cancel, Clock, Environment } from "../contracts/environment.ts";
import type { Link, LinkEvents, LinkOptions, Listener } from "../contracts/links.ts";
import { CCError, codeOf, errorText } from "../errors.ts";
import {
  CONTROL_ACCEPTS_MAX,
  CONTROL_ACCEPTS_MS,
  CONTROL_ANSWER_MAX_BYTES,
  CONTROL_ANSWER_MAX_MS,
  CONTROL_CONNECTIONS_MAX,
  CONTROL_CROWDED_MS,
  CONTROL_IDLE_MS,
  CONTROL_LINE_MAX_BYTES,
  CONTROL_LINGER_MS,
  UNIX_PATH_MAX_BYTES,
} from "../limits.ts";
import { Door } from "../socket/door.ts";
import { printable, utf8 } from "../text.ts";

/** A request, as it came. */
export type ControlRequest = Readonly<Record<string, unknown>>;

/** What the channel is opened with. */
export interface ControlParts {
  readonly environment: Environment;
  /** The server's own verbs. */
  readonly verbs: Readonly<Record<string, () => unknown>>;
  /** All others: what handlers answer, by their names; none when no handler knows the verb. */
  answer(verb: string, request: ControlRequest): Promise<Readonly<Record<string, unknown>>>;
  /** Nobody is let in for a while, and why; null: no file descriptor is free. */
  rests(error: unknown): void;
}

/** Verbs that handlers of this program answer, where there are such: for whoever asks for another. */
const HANDLER_VERBS = ["jobs", "job"];

/** For its owner alone. */
const LINK_OPTIONS: LinkOptions = { keepAlive: null, receiveBufferBytes: 0, sendBufferBytes: 0, mode: 0o600 };

export class ControlChannel {
  readonly path: string;
  readonly #parts: ControlParts;
  readonly #door: Door;
  readonly #connections = new Set<ControlConnection>();
  /** Those that are told that there is no room. */
  readonly #refused = new Set<ControlConnection>();
  #listener: Listener | null = null;
  #closed = false;
  /** Those who came since then. */
  #came = 0;
  #cameSince = -Infinity;

  private constructor(path: string, parts: ControlParts) {
    const { clock, host } = parts.environment;
    this.path = path;
    this.#parts = parts;
    this.#door = new Door({
      clock,
      host,
      shut: async () => {
        await this.#listener?.close();
        this.#listener = null;
        return 1;
      },
      open: () => this.#listen(),
      rests: parts.rests,
    });
  }

  /**
   * Listens at a path. The socket of a server that is gone is taken over, that of one that lives never.
   *
   * @throws {CCError} With the system's code; the message is one line for the operator.
   */
  static async open(path: string, parts: ControlParts): Promise<ControlChannel> {
    if (utf8(path).length > UNIX_PATH_MAX_BYTES) {
      throw new CCError(
        "ENAMETOOLONG",
        `${path} is longer than ${UNIX_PATH_MAX_BYTES} bytes: that is no Unix socket`,
      );
    }
    const channel = new ControlChannel(path, parts);
    try {
      await channel.#listen();
      return channel;
    } catch (error) {
      await channel.close();
      throw error;
    }
  }

  async #listen(): Promise<void> {
    const listener = await this.#parts.environment.links.listen(
      { transport: "ipc", path: this.path },
      LINK_OPTIONS,
      (link) => this.#accept(link),
    );
    this.#listener = listener;
    if (this.#closed) await this.#unlisten();
  }

  async #unlisten(): Promise<void> {
    const listener = this.#listener;
    this.#listener = null;
    await listener?.close();
  }

  #accept(link: Link): LinkEvents {
    const full = this.#connections.size >= CONTROL_CONNECTIONS_MAX;
    const among = full ? this.#refused : this.#connections;
    const connection = new ControlConnection(link, {
      clock: this.#parts.environment.clock,
      answer: (line) => answerTo(line, this.#parts),
      gone: () => among.delete(connection),
    });
    this.#count();
    if (this.#closed || among.size >= CONTROL_CONNECTIONS_MAX || !this.#door.look()) connection.abandon();
    else {
      among.add(connection);
      if (full) connection.refuse(new CCError("busy", `${CONTROL_CONNECTIONS_MAX} others ask already`));
      else connection.start();
    }
    return connection;
  }

  /**
   * A loop that connects and closes is a thousand times as quick as people are. Bun accepts as long as there is one, and does
   * nothing else.
   */
  #count(): void {
    const now = this.#parts.environment.clock.now();
    if (now - this.#cameSince >= CONTROL_ACCEPTS_MS) {
      this.#cameSince = now;
      this.#came = 0;
    }
    if (++this.#came < CONTROL_ACCEPTS_MAX) return;
    this.#cameSince = -Infinity;
    this.#door.rest(new CCError("busy", `${CONTROL_ACCEPTS_MAX} have connected within a moment`));
  }

  /** Listens no more, removes the socket's file, and ends all connections; answers that are due have a moment. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const connection of this.#refused) connection.abandon();
    const over = Promise.all([...this.#connections].map((connection) => connection.finish()));
    await this.#unlisten();
    await over;
    await this.#door.close();
  }
}

/** What a connection needs of its channel. */
interface ConnectionParts {
  readonly clock: Clock;
  /** Never rejected. */
  answer(line: Uint8Array): Promise<Uint8Array>;
  gone(): void;
}

/** How often one who sends no more is looked for while its answer is not there yet. */
const LOOK_MS = 1000;
/** What it is looked for with: JSON may begin with blanks. */
const BLANK = utf8(" ");

/**
 * One who asks. It is read while it is answered, or its end would not be seen: so far that what waits has some bound, and
 * one who goes beyond that is ended when its turn does not come.
 */
class ControlConnection implements LinkEvents {
  readonly #link: Link;
  readonly #parts: ConnectionParts;
  readonly #lines = new Lines();
  /** A request is being answered, until that is written. */
  #answering = false;
  /** An answer is in flight. */
  #writing = false;
  /** A blank is in flight, and the answer that waits for it. */
  #looking = false;
  #due: Uint8Array | null = null;
  /** More waits than is read. */
  #crowded = false;
  /** What is being answered is the last: the channel closes. */
  #finishing = false;
  #over: () => void = () => {};
  /** What is being written is the last. */
  #last = false;
  #ended = false;
  #gone = false;
  #cancel: Cancel = () => {};
  #cancelCrowded: Cancel = () => {};

  constructor(link: Link, parts: ConnectionParts) {
    this.#link = link;
    this.#parts = parts;
  }

  /** Waits for the first request. */
  start(): void {
    this.#within(CONTROL_IDLE_MS);
  }

  /** Tells why this is the end, and reads on for a moment: a reset would take that with it. */
  refuse(error: CCError): void {
    this.#last = this.#answering = true;
    this.#lines.clear();
    this.#uncrowd();
    this.#parts.clock.soon(() => {
      if (!this.#gone) {
        this.#write(encoded({ id: null, error: { code: error.code, message: error.message } }));
      }
    });
  }

  /** Ends it when the request that is being answered has its answer, or a moment has passed. */
  finish(): Promise<void> {
    if (!this.#answering) this.abandon();
    if (this.#gone) return Promise.resolve();
    this.#finishing = true;
    const cancel = this.#parts.clock.after(CONTROL_LINGER_MS, () => this.abandon());
    return new Promise<void>((resolve) => this.#over = resolve).then(cancel);
  }

  /** Ends it without a word. */
  abandon(): void {
    if (this.#gone) return;
    this.#forget();
    // A driver may not expect the end while it hands over a link.
    this.#parts.clock.soon(() => {
      this.#link.end();
      this.#link.destroy();
    });
  }

  data(chunk: Uint8Array, start: number, end: number): void {
    if (this.#last || this.#gone) return;
    this.#lines.add(chunk, start, end);
    this.#next();
    if (this.#answering && !this.#last && this.#lines.size > CONTROL_LINE_MAX_BYTES) this.#crowd();
  }

  readTarget(): null {
    return null;
  }

  commitRead(): void {}

  ended(): void {
    this.#ended = true;
    if (!this.#answering) this.#last ? this.abandon() : this.#next();
    else if (!this.#writing && !this.#last) this.#lookLater();
  }

  closed(): void {
    this.#forget();
  }

  written(): void {
    if (this.#gone) return;
    if (this.#looking) {
      this.#looking = false;
      const due = this.#due;
      this.#due = null;
      if (due === null) this.#lookLater();
      else this.#write(due);
      return;
    }
    this.#writing = false;
    if (this.#finishing) return this.abandon();
    if (this.#last) {
      this.#answering = false;
      if (this.#ended) return this.abandon();
      this.#link.end();
      this.#within(CONTROL_LINGER_MS);
      return;
    }
    this.#within(CONTROL_IDLE_MS);
    // One request a turn: those of others, and messages, come in between.
    this.#parts.clock.nextTurn(() => {
      if (this.#gone || this.#last) return;
      this.#answering = false;
      this.#next();
    });
  }

  /** Takes the next request, where one has come whole. */
  #next(): void {
    if (this.#answering || this.#last || this.#gone) return;
    const line = this.#lines.next(this.#ended);
    if (line === "too-long") {
      this.refuse(new CCError("too-large", `a request has at most ${CONTROL_LINE_MAX_BYTES} bytes`));
      return;
    }
    if (line === null) {
      if (this.#ended) this.abandon();
      else this.#uncrowd();
      return;
    }
    this.#answering = true;
    this.#cancel();
    if (this.#ended) this.#lookLater();
    void this.#parts.answer(line).then((answer) => {
      if (!this.#gone && !this.#last) this.#write(answer);
    });
    if (this.#lines.size > CONTROL_LINE_MAX_BYTES) this.#crowd();
    else this.#uncrowd();
  }

  #write(bytes: Uint8Array): void {
    this.#answering = true;
    this.#within(CONTROL_IDLE_MS);
    if (this.#looking) {
      this.#due = bytes;
      return;
    }
    this.#writing = true;
    if (this.#link.write(bytes, 0, bytes.length)) this.written();
  }

  /** Who has sent its last may have gone: only writing tells. */
  #lookLater(): void {
    this.#cancel();
    this.#cancel = this.#parts.clock.after(LOOK_MS, () => {
      this.#looking = true;
      if (this.#link.write(BLANK, 0, BLANK.length)) this.written();
    });
  }

  /** Enough waits. On a link that is not read the end is not seen: that is for a moment only. */
  #crowd(): void {
    if (!this.#crowded) this.#link.pause();
    this.#crowded = true;
    this.#cancelCrowded();
    this.#cancelCrowded = this.#parts.clock.after(CONTROL_CROWDED_MS, () => {
      if (this.#writing) return this.abandon();
      this.refuse(
        new CCError(
          "too-large",
          `more than ${CONTROL_LINE_MAX_BYTES} bytes wait for the answer to a request`,
        ),
      );
    });
  }

  #uncrowd(): void {
    if (!this.#crowded) return;
    this.#crowded = false;
    this.#cancelCrowded();
    this.#link.resume();
  }

  /** It ends when nothing has happened by then. */
  #within(ms: number): void {
    this.#cancel();
    this.#cancel = this.#parts.clock.after(ms, () => this.abandon());
  }

  #forget(): void {
    this.#gone = true;
    this.#due = null;
    this.#cancel();
    this.#cancelCrowded();
    this.#lines.clear();
    this.#parts.gone();
    this.#over();
  }
}

const NOTHING = new Uint8Array(0);
const NEWLINE = 0x0a;

/** Bytes as lines: at most one that is not whole, and what came with the one that is being answered. */
class Lines {
  #bytes = NOTHING;
  #start = 0;
  #end = 0;
  /** Up to there is no newline. */
  #seen = 0;

  add(chunk: Uint8Array, start: number, end: number): void {
    const size = this.#end - this.#start;
    const needed = size + end - start;
    const grown = needed > this.#bytes.length ? new Uint8Array(2 * needed) : this.#bytes;
    if (this.#start > 0 || grown !== this.#bytes) grown.set(this.#bytes.subarray(this.#start, this.#end));
    grown.set(chunk.subarray(start, end), size);
    this.#seen -= this.#start;
    this.#bytes = grown;
    this.#start = 0;
    this.#end = needed;
  }

  /** Bytes that wait. */
  get size(): number {
    return this.#end - this.#start;
  }

  /**
   * The next line, borrowed until {@link add}; null where none is whole.
   *
   * @param ended No more comes: what is left is a line too.
   */
  next(ended: boolean): Uint8Array | "too-long" | null {
    const found = this.#bytes.subarray(0, this.#end).indexOf(NEWLINE, this.#seen);
    const end = found < 0 ? this.#end : found;
    if (end - this.#start > CONTROL_LINE_MAX_BYTES) return "too-long";
    if (found < 0 && ended && this.size > 0) {
      const line = this.#bytes.subarray(this.#start, end);
      this.clear();
      return line;
    }
    if (found < 0) {
      this.#seen = this.#end;
      // One who has asked much, and waits, holds nothing.
      if (this.#start === this.#end) this.clear();
      return null;
    }
    const line = this.#bytes.subarray(this.#start, found);
    this.#start = this.#seen = found + 1;
    return line;
  }

  clear(): void {
    this.#bytes = NOTHING;
    this.#start = this.#end = this.#seen = 0;
  }
}

/** The answer to a request, whatever is wrong with it. */
async function answerTo(line: Uint8Array, parts: ControlParts): Promise<Uint8Array> {
  let id: unknown = null;
  try {
    const request = readRequest(line);
    if (typeof request.id === "number" || typeof request.id === "string") ({ id } = request);
    const answer = encoded({ id, result: await resultOf(request, parts) });
    if (answer.length <= CONTROL_ANSWER_MAX_BYTES) return answer;
    throw new CCError("too-large", `the answer has more than ${CONTROL_ANSWER_MAX_BYTES} bytes`);
  } catch (error) {
    const told = { code: codeOf(error) ?? "failed", message: printable(errorText(error)) };
    return encoded({ id, error: error instanceof UnknownVerb ? { ...told, verbs: error.verbs } : told });
  }
}

/** @throws {CCError} */
function readRequest(line: Uint8Array): ControlRequest {
  let request: unknown;
  try {
    request = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(line));
  } catch {
    throw new CCError("bad-request", "a request is one line of JSON");
  }
  if (typeof request === "object" && request !== null) return request as ControlRequest;
  throw noRequest();
}

function noRequest(): CCError {
  return new CCError("bad-request", 'a request is an object such as {"id": 1, "verb": "version"}');
}

/** @throws {CCError} */
async function resultOf(
  request: ControlRequest,
  { environment: { clock }, verbs, answer }: ControlParts,
): Promise<unknown> {
  const { verb } = request;
  if (typeof verb !== "string") throw noRequest();
  if (Object.hasOwn(verbs, verb)) return verbs[verb]();
  let cancel: Cancel = () => {};
  const late = new Promise<never>((_, reject) => {
    cancel = clock.after(
      CONTROL_ANSWER_MAX_MS,
      () =>
        reject(new CCError("timeout", `it is not done after ${CONTROL_ANSWER_MAX_MS / 1000} s, and goes on`)),
    );
  });
  try {
    const result = await Promise.race([answer(verb, request), late]);
    if (Object.keys(result).length === 0) {
      throw new UnknownVerb(verb, [...Object.keys(verbs), ...HANDLER_VERBS]);
    }
    return result;
  } finally {
    cancel();
  }
}

/** Nobody here knows the verb. */
class UnknownVerb extends CCError {
  readonly verbs: readonly string[];

  constructor(verb: string, verbs: readonly string[]) {
    const known = verbs.join(", ");
    super("unknown-verb", `no handler of this server knows "${printable(verb, 64)}"; there may be ${known}`);
    this.verbs = verbs;
  }
}

function encoded(answer: unknown): Uint8Array {
  return utf8(`${JSON.stringify(answer)}\n`);
}
