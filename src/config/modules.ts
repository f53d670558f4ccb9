/** Handlers and daemons of one's own: files that a config names. Each is loaded once; that it has changed since is told, not acted on. */
import { basename, dirname, extname, resolve } from "node:path";
import type { Environment } from "../contracts/environment.ts";
import type { Role } from "../contracts/handler.ts";
import { errorText } from "../errors.ts";
import { MODULE_FILES_MAX, MODULE_MAX_BYTES } from "../limits.ts";
import type { AnyHandlerDefinition, LoadedModule } from "./reader.ts";

const EVERY_ROLE: readonly Role[] = ["insecure", "local", "remote"];
/** What may be left out behind an import, where a runtime adds it. */
const SUFFIXES = ["", ".ts", ".js", ".mjs", ".mts", "/index.ts", "/index.js"];
const IMPORT = /\b(?:from|import|require)\s{0,9}\(?\s{0,9}(["'])(\.{0,2}\/[^"'\n]{1,4096})\1/g;

/** A module that was loaded, and the files that it is made of, as they were then. */
interface Loaded {
  readonly result: LoadedModule;
  /** Digests by path. */
  readonly files: ReadonlyMap<string, string>;
}

/** Something that has changed since it was loaded. */
export interface ChangedModule {
  /** The module that a config names. */
  readonly module: string;
  /** The file that has changed: itself, or one that it imports. */
  readonly file: string;
}

export class Modules {
  readonly #environment: Environment;
  readonly #toolkit: unknown;
  readonly #loaded = new Map<string, Promise<Loaded>>();

  /** @param toolkit What a module gets whose default export is a function. */
  constructor(environment: Environment, toolkit: unknown) {
    this.#environment = environment;
    this.#toolkit = toolkit;
  }

  /** What is in a file; one that was loaded before is the same one. */
  async load(path: string): Promise<LoadedModule> {
    let loading = this.#loaded.get(path);
    if (loading === undefined) {
      loading = this.#load(path);
      this.#loaded.set(path, loading);
    }
    const { result } = await loading;
    // What failed may be mended by the next time, as far as the runtime forgets it.
    if ("error" in result) this.#loaded.delete(path);
    return result;
  }

  /** Modules of these paths that are not any more what was loaded: importing anew would mix old files with new ones. */
  async changed(paths: Iterable<string>): Promise<ChangedModule[]> {
    const changed: ChangedModule[] = [];
    for (const path of paths) {
      const loaded = await this.#loaded.get(path);
      if (loaded === undefined) continue;
      const now = await this.#files(path);
      const file = [...loaded.files].find(([name, digest]) => now.get(name) !== digest)?.[0];
      if (file !== undefined) changed.push({ module: path, file });
    }
    return changed;
  }

  async #load(path: string): Promise<Loaded> {
    const files = await this.#files(path);
    try {
      const value = await this.#value(path);
      return { result: { value, handler: handlerOf(value, path) }, files };
    } catch (error) {
      return { result: { error: `cannot load ${path}: ${errorText(error)}` }, files };
    }
  }

  /** Its default export: itself, or what it makes of the toolkit. */
  async #value(path: string): Promise<unknown> {
    const found: unknown = (await this.#environment.processes.load(path)).default;
    return typeof found === "function" ? found(this.#toolkit) : found;
  }

  /** The files that a module is made of, by what their text imports; digests of those that can be read. */
  async #files(path: string): Promise<Map<string, string>> {
    // 5 MiB of memory, which a server without handlers of one's own does not need.
    const { createHash } = await import("node:crypto");
    const files = new Map<string, string>();
    const todo = [path];
    for (let next = todo.pop(); next !== undefined && files.size < MODULE_FILES_MAX; next = todo.pop()) {
      if (files.has(next)) continue;
      const text = await this.#read(next);
      if (text === null) continue;
      files.set(next, createHash("sha256").update(text).digest("hex"));
      for (const [, , specifier] of text.matchAll(IMPORT)) {
        const target = resolve(dirname(next), specifier);
        for (const suffix of SUFFIXES) todo.push(target + suffix);
      }
    }
    return files;
  }

  async #read(path: string): Promise<string | null> {
    try {
      return new TextDecoder().decode(await this.#environment.files.read(path, MODULE_MAX_BYTES));
    } catch {
      return null; // no such file: another suffix, or what the import itself will tell
    }
  }
}

function handlerOf(value: unknown, path: string): AnyHandlerDefinition | null {
  const definition = value as Partial<AnyHandlerDefinition> | null | undefined;
  if (typeof definition?.create !== "function") return null;
  return {
    ...definition,
    name: definition.name ?? basename(path, extname(path)),
    summary: definition.summary ?? "",
    roles: definition.roles ?? EVERY_ROLE,
    create: definition.create,
  };
}
