/** What `npm pack` makes, installed in another project, on this runtime; and every example of the docs in it, as it stands. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { BIN, ROOT, RUNTIME, skipFor, until } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";

/** How a program is run here, and the command that the package brings. */
const PROGRAMS =
  { bun: [join(BIN, "bun")], deno: [join(BIN, "deno"), "run", "-A", "--quiet"], node: ["node"] }[RUNTIME];
const DOCS = ["README.md", "docs/library.md", "docs/handlers.md"];

const project = mkdtempSync(join(tmpdir(), "cc-package-"));
process.on("exit", () => rmSync(project, { recursive: true, force: true }));
const inProject = (name: string) => join(project, name);

/** Runs a command in the project; its output, and an error when it fails. */
function must(command: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: project, encoding: "utf8" });
  assert.equal(status, 0, `${command} ${args.join(" ")}:\n${error?.message ?? ""}${stdout}${stderr}`);
  return stdout;
}

let packed: readonly string[] = [];

test(`${RUNTIME}: npm pack makes a package without tests, and it can be installed`, () => {
  // The tests' runner has built it; the script that npm would run is that very command.
  const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  assert.equal(manifest.scripts.prepack, "bun build.ts --npm");
  const { status, stdout, stderr } = spawnSync(
    "npm",
    ["pack", "--json", "--ignore-scripts", "--pack-destination", project],
    { cwd: ROOT, encoding: "utf8" },
  );
  assert.equal(status, 0, stderr);
  const [{ filename, files }] = JSON.parse(stdout);
  packed = files.map(({ path }: { path: string }) => path);
  for (
    const name of [
      "LICENSE",
      "README.md",
      "CHANGELOG.md",
      "docs/library.md",
      "docs/handlers.md",
      "docs/errors.md",
    ]
  ) assert.ok(packed.includes(name), name);
  assert.deepEqual(packed.filter((name) => /test|bench|\.wasm$|^src\/|node_modules/.test(name)), []);
  for (const runtime of ["bun", "deno", "node"]) {
    assert.ok(
      packed.includes(`dist/npm/mod.${runtime}.js`) && packed.includes(`dist/npm/main.${runtime}.js`),
    );
  }
  writeFileSync(inProject("package.json"), '{ "name": "try", "version": "1.0.0", "type": "module" }\n');
  must(
    "npm",
    "install",
    "--no-audit",
    "--no-fund",
    "--prefer-offline",
    "--omit=optional",
    join(project, filename),
  );
  assert.ok(existsSync(inProject("node_modules/ccserver/dist/npm/main.js")));
});

test(`${RUNTIME}: each runtime gets its own driver`, () => {
  writeFileSync(
    inProject("which.mjs"),
    'import { CCServer, VERSION } from "ccserver";\nconsole.log(typeof CCServer, VERSION, import.meta.resolve("ccserver"));\n',
  );
  assert.match(
    must(PROGRAMS[0], ...PROGRAMS.slice(1), "which.mjs"),
    new RegExp(`^function \\d+\\.\\d+\\.\\d+ file:.*/dist/npm/mod\\.${RUNTIME}\\.js\n$`),
  );
  const [, , runtime] = /^ccserver (\S+) \((\w+) /.exec(must(...command(), "--version"))!;
  assert.equal(runtime, RUNTIME);
});

test(`${RUNTIME}: npx ccserver works`, {
  skip: skipFor(RUNTIME === "node" ? false : "npx runs Node"),
}, () => {
  assert.match(must("npx", "--no-install", "ccserver", "--version"), /^ccserver \d+\.\d+\.\d+ \(node /);
  assert.match(must("npx", "--no-install", "ccserver", "--ini"), /\[ccserver\]/);
});

/** The command of the package, as this runtime starts it. */
function command(): [string, ...string[]] {
  const [program, ...args] = PROGRAMS;
  return [program, ...args, inProject("node_modules/ccserver/dist/npm/main.js")];
}

/** A block of a page: a file, or a transcript of a terminal. */
interface Block {
  readonly kind: string;
  readonly file: string;
  readonly text: string;
}

function blocksOf(page: string): Block[] {
  const text = readFileSync(join(ROOT, page), "utf8");
  return [...text.matchAll(/^```(\w+)(?: (\S+))?\n([^]*?)^```$/gm)]
    .map(([, kind, file = "", body]) => ({ kind, file, text: body }));
}

for (const page of DOCS) {
  const blocks = blocksOf(page).filter(({ kind, file }) => file !== "" || kind === "console");

  test(`${RUNTIME}: every example of ${page} runs as it stands`, async () => {
    assert.ok(blocks.length >= 2, `${page} has examples`);
    const folder = inProject(page.replace(/\W/g, "_"));
    mkdirSync(folder, { recursive: true });
    for (const { file, text } of blocks) if (file !== "") writeFileSync(join(folder, file), text);
    for (const { kind, text } of blocks) {
      if (kind !== "console") continue;
      if (RUNTIME === "node" && text.includes("limit.ini")) {
        console.log("skipped: limit.ts is TypeScript, which Node 20 does not run");
        continue;
      }
      await new Transcript(folder, text).play();
    }
  });
}

/** What a terminal shows: lines that begin with `$ ` are commands, the others what they print; `…` is anything. */
class Transcript {
  readonly #folder: string;
  readonly #steps: { command: string; output: string }[] = [];

  constructor(folder: string, text: string) {
    this.#folder = folder;
    for (const line of text.trimEnd().split("\n")) {
      if (line.startsWith("$ ")) this.#steps.push({ command: line.slice(2), output: "" });
      else this.#steps[this.#steps.length - 1].output += `${line}\n`;
    }
  }

  async play(): Promise<void> {
    const background: ServerProcess[] = [];
    try {
      for (const { command: line, output } of this.#steps) {
        if (line.endsWith(" &")) background.push(await this.#serve(words(line.slice(0, -2))));
        else assert.match(await this.#run(words(line)), patternOf(output), `$ ${line}`);
      }
    } finally {
      for (const server of background) assert.equal((await server.stop()).code, 0, server.output);
    }
  }

  /** `node` stands for the runtime at hand, `ccserver` for the command of the package. */
  #argv([name, ...args]: string[]): [string, ...string[]] {
    const [program, ...before] = PROGRAMS;
    if (name === "node") return [program, ...before, ...args];
    assert.equal(name, "ccserver");
    return [...command(), ...args];
  }

  async #serve(line: string[]): Promise<ServerProcess> {
    const [name, ...args] = this.#argv(line);
    const server = new ServerProcess({ name, command: [name] }, args, {}, this.#folder);
    await server.until(/listening on/);
    return server;
  }

  async #run(line: string[]): Promise<string> {
    const [name, ...args] = this.#argv(line);
    const child = spawn(name, args, {
      cwd: this.#folder,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1" },
    });
    let output = "";
    let errors = "";
    child.stdout.setEncoding("utf8").on("data", (text) => output += text);
    child.stderr.setEncoding("utf8").on("data", (text) => errors += text);
    let code: number | null | undefined;
    child.on("close", (status) => code = status);
    await until(`the end of ${line.join(" ")}`, () => code !== undefined, 30_000);
    assert.equal(code, 0, `${line.join(" ")}:\n${output}${errors}`);
    return output;
  }
}

function words(line: string): string[] {
  return [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain);
}

function patternOf(output: string): RegExp {
  const literal = output.split("…").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${literal.join("[^\\n]*")}$`);
}

test(`${RUNTIME}: the types are right for a strict program, and for every example in TypeScript`, {
  skip: skipFor(RUNTIME === "bun" ? false : "the compiler is run once, on Bun"),
}, () => {
  // From this project, so that nothing is fetched: the compiler, and the types of Node that bun-types brings.
  for (const name of ["typescript", "@typescript", "@types", "undici-types"]) {
    if (existsSync(join(ROOT, "node_modules", name))) {
      cpSync(join(ROOT, "node_modules", name), inProject(`node_modules/${name}`), { recursive: true });
    }
  }
  writeFileSync(inProject("strict.ts"), STRICT);
  const files = ["strict.ts", ...readdirSync(project, { recursive: true }) as string[]]
    .filter((name, i, all) =>
      /\.ts$/.test(name) && !name.includes("node_modules") && all.indexOf(name) === i
    );
  assert.ok(files.length >= 2, files.join());
  for (
    const [moduleResolution, types] of [["NodeNext", ["node"]], ["Bundler", []]] as const
  ) {
    writeFileSync(
      inProject("tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          target: "ES2022",
          lib: ["ES2023", "ESNext.Disposable", ...types.length === 0 ? ["DOM"] : []],
          module: moduleResolution === "Bundler" ? "ESNext" : moduleResolution,
          moduleResolution,
          types,
          strict: true,
          exactOptionalPropertyTypes: true,
          noUncheckedIndexedAccess: true,
          verbatimModuleSyntax: true,
          skipLibCheck: false,
          noEmit: true,
        },
        files,
      }),
    );
    must(inProject("node_modules/typescript/bin/tsc"), "-p", ".");
  }
});

/** What a strict compiler has to accept, and, where it says so, to refuse. */
const STRICT = `
import {
  AnyBody, CCClient, CCServer, ClientError, connect, defineHandler, EVERYWHERE, handlerName, integer, loadConfig,
  MessageError, option, readConfig, required, serve, StartError, text,
  type Draft, type Environment, type Handler, type Message, type Outcome, type Received, type ReturnPath, type Upstream,
} from "ccserver";

interface Body { name: string }
const Body = {
  "~standard": {
    version: 1 as const,
    vendor: "own",
    validate: (value: unknown) => ({ value: value as Body }),
  },
};
const own = defineHandler({
  name: "own",
  summary: "x",
  roles: EVERYWHERE,
  options: { size: option(integer(1, 10), "1", "x", "2"), next: required(handlerName, "x", "h:a"), label: option(text, "a", "x", "b") },
  create({ options, connect, environment, log, meter, pass, publish, send }) {
    const size: number = options.size;
    const next: string = options.next;
    // @ts-expect-error there is no such option
    options.other;
    let kept: ReturnPath | null = null;
    let upstream: Upstream | null = null;
    const counter = meter.counter("x", { a: "b" });
    return {
      start(signal: AbortSignal) {
        upstream = connect("tcp://127.0.0.1:1", { highWaterMark: size, onChange: (up, why) => log.info("x", up + why) });
        environment.clock.after(10, () => signal.aborted);
      },
      plan: (type) => type === "a" ? { forward: upstream! } : { open: Body, count: [counter], maxBytes: 1024 },
      async handle(message, body): Promise<Outcome> {
        const name: string = body.name;
        kept = message.from;
        await send(kept, { type: "x", fields: { name }, blob: new Uint8Array(1) });
        await publish({ type: "y", fields: {} });
        if (message.blob === null) throw new MessageError("no-blob", "it has no blob");
        return await pass(message, next);
      },
      unready: () => null,
    };
  },
});
// @ts-expect-error an outcome is needed
const wrong: Handler<unknown, Body> = { plan: () => ({ open: Body }), handle: () => "maybe" };
// @ts-expect-error a message cannot be made
const made: Message = { type: "x" };

const config = readConfig("", "x.ini", { handlers: [own] });
const role: "insecure" | "local" | "remote" = config.options["cc-role"];
const server: CCServer = await serve(config, { log: (line: string) => console.log(line) });
const endpoint: string | null = server.endpoint;
const client: CCClient = connect(endpoint ?? "", { name: "x", onChange: (up: boolean) => up });
const draft: Draft = { type: "x", fields: { a: 1 } };
try {
  await client.publish(draft, { timeoutMs: 1000, signal: AbortSignal.timeout(5) });
  const { type, body, blob, signer }: Received = await client.query(draft);
  for await (const received of client.messages({ type: "x" })) console.log(received.type, type, body.x, blob, signer?.name);
} catch (error) {
  if (error instanceof ClientError && error.code === "timeout") console.log(error.message);
  // @ts-expect-error there is no such code
  if (error instanceof ClientError && error.code === "nonsense") console.log();
  if (error instanceof StartError) console.log(error.code);
}
const changes = await server.reload(await loadConfig("x.ini"));
const added: readonly string[] = changes.handlers.added;
const words: (environment: Environment) => number = (environment) => environment.clock.now();
console.log(role, added, wrong, made, words, AnyBody);
await server.stop();
`;
