/** Config files: read from disk, with the handlers that they name. */
import type { Environment } from "../contracts/environment.ts";
import { CCError, codeOf, errnoText, errorText } from "../errors.ts";
import { CONFIG_MAX_BYTES } from "../limits.ts";
import { ConfigError } from "./diagnostics.ts";
import type { Modules } from "./modules.ts";
import {
  type LoadedModule,
  ParsedConfig,
  type ReadOptions,
  readParsed,
  readServerSection,
  type ServerConfig,
} from "./reader.ts";

/** What a config is loaded with. */
export interface LoadOptions extends Omit<ReadOptions, "host" | "modules"> {
  /** Handlers that are files are not loaded: nobody is to run them. Their options are taken as they stand. */
  readonly withoutHandlers?: boolean;
  readonly environment: Environment;
  readonly modules: Modules;
}

/**
 * Reads and checks a config file.
 *
 * @throws {ConfigError} With everything that is wrong, each with file and line.
 */
export async function loadConfig(file: string, options: LoadOptions): Promise<ServerConfig> {
  const { environment, modules: loader, withoutHandlers = false, ...reads } = options;
  const { host } = environment;
  const parsed = new ParsedConfig(await readText(file, environment), file);
  const modules = new Map<string, LoadedModule>();
  const { handlers, others } = parsed.modules(host);
  for (const path of others) modules.set(path, await loader.load(path));
  for (const path of handlers) modules.set(path, withoutHandlers ? UNLOADED : await loader.load(path));
  return readParsed(parsed, { ...reads, host, modules });
}

/**
 * What `[ccserver]` of a file says, whatever is wrong with the rest; null where that cannot be told.
 *
 * @throws {ConfigError} The file cannot be read.
 */
export async function loadServerSection(
  file: string,
  environment: Environment,
): Promise<ReturnType<typeof readServerSection>> {
  return readServerSection(new ParsedConfig(await readText(file, environment), file), environment.host);
}

/** Stands for a handler that nobody runs. */
const UNLOADED: LoadedModule = {
  value: undefined,
  handler: {
    name: "unloaded",
    summary: "",
    roles: ["insecure", "local", "remote"],
    create() {
      throw new Error("this config was read without the code of its handlers");
    },
  },
};

async function readText(file: string, { files }: Environment): Promise<string> {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await files.read(file, CONFIG_MAX_BYTES));
  } catch (error) {
    throw new ConfigError([{ file, line: 1, message: `cannot read the config: ${whyUnreadable(error)}` }]);
  }
}

function whyUnreadable(error: unknown): string {
  const code = codeOf(error);
  if (code === "ENOENT") return "no such file";
  if (error instanceof TypeError) return "it is not text in UTF-8";
  if (error instanceof CCError && code === "too-large") {
    return `it has more than ${CONFIG_MAX_BYTES} bytes: that is no config`;
  }
  return errnoText(code) ?? errorText(error);
}
