/**
 * Errors carry a stable code that programs compare, logs show and `docs/errors.md` explains; the message is for people.
 */

/** The base of every error of this program. */
export class CCError extends Error {
  /** Which kind of error it is, in stacks. */
  override name = "CCError";
  /** Stable: lower case words for our own, the system's name (`EADDRINUSE`) for its errors. */
  readonly code: string;

  /** An error with a stable code. */
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** An unknown thrown value as one line of text. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The same with its stack, where it has one: for what nobody expected. */
export function errorStack(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}

/** The code of an error of ours or of the system's; undefined where there is none. */
export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : undefined;
}

/**
 * An error of the operating system, from whatever a runtime throws.
 *
 * @param what What failed: `cannot listen on tcp://127.0.0.1:1`.
 */
export function systemError(error: unknown, what: string): CCError {
  const code = systemCode(error);
  return new CCError(code ?? "system", `${what}: ${errnoText(code) ?? errorText(error)}`, { cause: error });
}

/** What a system's code means, in words; undefined where it is not known. */
export function errnoText(code: string | undefined): string | undefined {
  return code === undefined ? undefined : TEXTS[code];
}

function systemCode(error: unknown): string | undefined {
  const name = (error as { name?: unknown } | null)?.name;
  const code = codeOf(error) ?? DENO_NAMES[String(name)] ?? /\(os error (\d+)\)/.exec(errorText(error))?.[1];
  return code === undefined ? undefined : ERRNO[code] ?? code;
}

/** Deno names its errors by class. */
const DENO_NAMES: Record<string, string> = {
  AddrInUse: "EADDRINUSE",
  AddrNotAvailable: "EADDRNOTAVAIL",
  ConnectionRefused: "ECONNREFUSED",
  ConnectionReset: "ECONNRESET",
  ConnectionAborted: "ECONNABORTED",
  BrokenPipe: "EPIPE",
  NotFound: "ENOENT",
  PermissionDenied: "EACCES",
  TimedOut: "ETIMEDOUT",
  HostUnreachable: "EHOSTUNREACH",
  NetworkUnreachable: "ENETUNREACH",
};

/** Linux error numbers, where an error carries nothing else. */
const ERRNO: Record<string, string> = {
  "2": "ENOENT",
  "13": "EACCES",
  "20": "ENOTDIR",
  "21": "EISDIR",
  "24": "EMFILE",
  "28": "ENOSPC",
  "30": "EROFS",
  "98": "EADDRINUSE",
  "99": "EADDRNOTAVAIL",
  "104": "ECONNRESET",
  "111": "ECONNREFUSED",
};

const TEXTS: Record<string, string> = {
  EACCES: "permission denied",
  EADDRINUSE: "the address is in use",
  EADDRNOTAVAIL: "the address is not one of this host",
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset by peer",
  EEXIST: "something is there already",
  EHOSTUNREACH: "no route to host",
  EISDIR: "it is a folder",
  EMFILE: "too many open files",
  ENETUNREACH: "network unreachable",
  ENOENT: "no such file or folder",
  ENOSPC: "no space left on the disk",
  ENOTDIR: "its folder is a file",
  EPIPE: "connection closed by peer",
  EROFS: "the disk is read-only",
  ETIMEDOUT: "connection timed out",
};
