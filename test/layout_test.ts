/** Keeps the house tidy: imports point one way, hot paths allocate nothing by the message, nothing is left lying. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { VERSION } from "../src/version.ts";
import { ROOT } from "./helpers/env.ts";

const SRC = join(ROOT, "src");

/** What a folder may import, besides itself and the files beside the folders; ARCHITECTURE.md has the same table. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  contracts: ["memory"],
  memory: [],
  runtime: ["contracts", "memory"],
  zmtp: ["memory"],
  relay: ["memory"],
  socket: ["contracts", "memory", "relay", "zmtp"],
  message: ["contracts", "memory", "zmtp"],
  seal: ["contracts", "message", "toolkit"],
  config: ["contracts", "message"],
  server: ["config", "contracts", "memory", "message", "relay", "socket", "zmtp"],
  observe: ["config", "contracts", "server", "socket"],
  process: ["contracts"],
  client: ["contracts", "memory", "message", "socket", "zmtp"],
  toolkit: ["contracts"],
  jobs: ["config", "contracts", "message"],
  daemons: ["config", "contracts", "message", "toolkit"],
  handlers: ["config", "contracts", "daemons", "jobs", "message", "toolkit"],
  commands: [
    "client",
    "config",
    "contracts",
    "daemons",
    "handlers",
    "jobs",
    "message",
    "observe",
    "process",
    "seal",
    "server",
  ],
  cli: ["commands", "contracts", "process"],
};
/** Files beside the folders that all may import, and what these import themselves. */
const SHARED: Record<string, readonly string[]> = {
  "limits.ts": [],
  "errors.ts": [],
  "version.ts": [],
  "text.ts": ["limits.ts"],
  "log.ts": ["limits.ts", "text.ts"],
  "endpoint.ts": ["contracts", "errors.ts", "limits.ts"],
};
/** Of these only types may be imported, whoever does. */
const TYPES_ONLY = ["contracts"];
/** A handler's file may import these, and no more. */
const FOR_HANDLERS = [
  "config/options.ts",
  "config/socket_options.ts",
  "contracts/",
  "daemons/index.ts",
  "endpoint.ts",
  "errors.ts",
  "handlers/define.ts",
  "jobs/",
  "limits.ts",
  "log.ts",
  "message/schemas.ts",
  "toolkit/",
];
/** Files of `handlers/` that are about all of them. */
const ABOUT_HANDLERS = ["handlers/index.ts", "handlers/toolkit.ts", "handlers/define.ts"];

/** Folders that run under a seed: the world comes to them as a parameter. */
const SEEDED = [
  "client",
  "config",
  "daemons",
  "handlers",
  "jobs",
  "memory",
  "message",
  "observe",
  "relay",
  "seal",
  "server",
  "socket",
  "toolkit",
  "zmtp",
];
/** Modules of the runtime that they may import all the same, and why. */
const PURE_MODULES: Record<string, readonly string[]> = {
  // Paths as text, and digests: nothing of them is outside the program.
  "config/modules.ts": ["node:crypto", "node:path"],
  "config/reader.ts": ["node:path"],
  "config/options.ts": ["node:path"],
  "jobs/config.ts": ["node:path"],
  "jobs/digest.ts": ["node:crypto"],
  // Compression, and base64: nothing of them is outside the program.
  "daemons/infoscript.ts": ["node:buffer", "node:util", "node:zlib"],
  // Arithmetic on what is given, and random bytes for keys and nonces, which no simulation has.
  ...Object.fromEntries(
    readdirSync(join(SRC, "seal", "cms")).map((name) => [`seal/cms/${name}`, ["node:buffer", "node:crypto"]]),
  ),
  "seal/cms_seal.ts": ["node:buffer", "node:crypto"],
  // HTTP is served by the runtime's own server; it is not part of any simulation.
  "observe/http.ts": ["node:http", "node:net"],
  // The compiler of the kernel, a program of its own.
  "relay/kernel/build.ts": ["node:fs", "node:path", "node:process", "node:url"],
  // A type of the second engine.
  "socket/libzmq.ts": ["node:buffer"],
};

const files = (readdirSync(SRC, { recursive: true }) as string[]).filter((name) => name.endsWith(".ts"))
  .sort();
const read = (name: string) => readFileSync(join(SRC, name), "utf8");

interface Import {
  readonly from: string;
  readonly specifier: string;
  /** The file in `src/`, or a path that leads out of it; null for a package. */
  readonly target: string | null;
  readonly typeOnly: boolean;
}

/** A file's imports and re-exports, of every form. */
function importsOf(name: string, text = read(name)): Import[] {
  const code = text.replace(/\/\*[^]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
  const found: Import[] = [];
  const add = (specifier: string, typeOnly: boolean) => {
    const target = specifier.startsWith(".") ? relative(SRC, resolve(SRC, dirname(name), specifier)) : null;
    found.push({ from: name, specifier, target, typeOnly });
  };
  const statement = /\b(import|export)\s+(type\s)?([^;"'`]*?)\bfrom\s*(["'`])([^"'`]+)\4/g;
  for (const [, , type, names, , specifier] of code.matchAll(statement)) {
    const listed = /^\s*\{([^}]*)\}\s*$/.exec(names)?.[1].split(",").map((part) => part.trim()).filter(
      Boolean,
    );
    add(specifier, type !== undefined || (listed?.every((part) => part.startsWith("type ")) ?? false));
  }
  for (const [, , specifier] of code.matchAll(/\bimport\s*\(\s*(["'`])([^"'`]+)\1/g)) {
    // The type of a module that is loaded elsewhere: `typeof import("x")`.
    add(specifier, new RegExp(`typeof import\\(\\s*["'\`]${specifier}`).test(code));
  }
  for (const [, , specifier] of code.matchAll(/\bimport\s*(["'`])([^"'`]+)\1/g)) add(specifier, false);
  return found;
}

/** What is wrong with an import; null when nothing is. */
function wrongImport({ from, specifier, target, typeOnly }: Import): string | null {
  const [folder, inside] = from.split("/");
  const told = `src/${from} imports ${specifier}`;
  if (inside === undefined && !(folder in SHARED)) return null; // main.ts, which puts it all together
  if (specifier === "#runtime") return folder === "runtime" ? null : told;
  if (target === null) return null;
  if (target.startsWith("..")) return `${told}, which is outside of src`;
  const [toFolder, toInside] = target.split("/");
  const shared = toInside === undefined;
  if (inside === undefined) return SHARED[folder].includes(shared ? target : toFolder) ? null : told;
  if (shared) return target in SHARED ? null : told;
  if (toFolder !== folder && !MAY_IMPORT[folder]?.includes(toFolder)) return told;
  if ((TYPES_ONLY.includes(toFolder) || folder === "contracts") && !typeOnly) {
    return `${told}, which has types only`;
  }
  return null;
}

test("layout: imports point one way", () => {
  assert.deepEqual(files.flatMap((name) => importsOf(name)).flatMap((found) => wrongImport(found) ?? []), []);
  const unknown = new Set(files.filter((name) => name.includes("/")).map((name) => name.split("/")[0]));
  assert.deepEqual([...unknown].sort(), Object.keys(MAY_IMPORT).sort(), "every folder is in the table");
});

test("layout: the check of imports sees every form of them", () => {
  const cases: [string, string, RegExp | null][] = [
    ["zmtp/x.ts", 'import { a } from "../server/dispatch.ts";', /server\/dispatch/],
    ["zmtp/x.ts", "import { a } from '../server/dispatch.ts';", /server\/dispatch/],
    ["relay/kernel/x.ts", 'import { a } from "../../server/dispatch.ts";', /server\/dispatch/],
    ["zmtp/x.ts", 'import {\n  a,\n  type b,\n} from "../server/dispatch.ts";', /server\/dispatch/],
    ["zmtp/x.ts", 'export * from "../server/dispatch.ts";', /server\/dispatch/],
    ["zmtp/x.ts", 'export type { A } from "../server/dispatch.ts";', /server\/dispatch/],
    ["zmtp/x.ts", 'import "../server/dispatch.ts";', /server\/dispatch/],
    ["zmtp/x.ts", 'const a = await import("../server/dispatch.ts");', /server\/dispatch/],
    ["zmtp/x.ts", 'import * as a from "../../mod.ts";', /outside of src/],
    ["server/x.ts", 'import runtime from "#runtime";', /#runtime/],
    ["contracts/x.ts", 'import { Logger } from "../log.ts";', null],
    ["contracts/x.ts", 'import { Arena } from "../memory/arena.ts";', /types only/],
    ["contracts/x.ts", 'import type { Arena } from "../memory/arena.ts";', null],
    ["socket/x.ts", 'import { Clock } from "../contracts/environment.ts";', /types only/],
    ["socket/x.ts", 'import { type Clock, type Host } from "../contracts/environment.ts";', null],
    ["limits.ts", 'import { a } from "./text.ts";', /text/],
    ["server/x.ts", '// import { a } from "../cli/main.ts";', null],
  ];
  for (const [name, text, wrong] of cases) {
    const found = importsOf(name, text).map(wrongImport).filter((told) => told !== null);
    if (wrong === null) assert.deepEqual(found, [], text);
    else assert.match(found.join(), wrong, text);
  }
});

test("layout: package.json, deno.json and the program have one version", () => {
  for (const name of ["package.json", "deno.json"]) {
    assert.equal(JSON.parse(readFileSync(join(ROOT, name), "utf8")).version, VERSION, name);
  }
});

test("layout: no file imports itself by way of others", () => {
  const graph = new Map(files.map((name) => [
    name,
    importsOf(name).filter(({ typeOnly }) => !typeOnly).flatMap(({ target }) => target ?? []),
  ]));
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (name: string, way: string[]) => {
    if (way.includes(name)) circles.push([...way.slice(way.indexOf(name)), name].join(" -> "));
    if (done.has(name) || way.includes(name)) return;
    for (const next of graph.get(name) ?? []) visit(next, [...way, name]);
    done.add(name);
  };
  for (const name of files) visit(name, []);
  assert.deepEqual(circles, []);
});

test("layout: a handler imports contracts, options, schemas and the toolkit, nothing else", () => {
  const wrong = files.filter((name) => name.startsWith("handlers/") && !ABOUT_HANDLERS.includes(name))
    .flatMap((name) => importsOf(name))
    .filter(({ target, specifier }) =>
      target === null
        ? !specifier.startsWith("valibot")
        : !FOR_HANDLERS.some((allowed) => target.startsWith(allowed))
    );
  assert.deepEqual(wrong.map(({ from, specifier }) => `${from} imports ${specifier}`), []);
});

test("layout: every handler and every command stands in its index", () => {
  const missing = (folder: string, others: readonly string[]) => {
    const index = read(`${folder}/index.ts`);
    return files.filter((name) => name.startsWith(`${folder}/`) && name !== `${folder}/index.ts`)
      .filter((name) => !others.includes(name) && /\bdefine(?:Handler|Command)\(\{/.test(read(name)))
      .filter((name) => !index.includes(`from "./${name.split("/")[1]}"`));
  };
  assert.deepEqual(missing("handlers", ABOUT_HANDLERS), []);
  assert.deepEqual(missing("commands", ["commands/define.ts"]), []);
});

test("layout: ARCHITECTURE.md has the same table", () => {
  const text = readFileSync(join(ROOT, "ARCHITECTURE.md"), "utf8");
  for (const [folder, imports] of Object.entries(MAY_IMPORT)) {
    const row = new RegExp(`^\\| \`${folder}/\` *\\|.*\\|([^|]*)\\|$`, "m").exec(text);
    assert.ok(row, `a row for ${folder}/`);
    const named = [...row[1].matchAll(/`([a-z]+)`/g)].map(([, name]) => name).sort();
    assert.deepEqual(named, [...imports].sort(), `what ${folder}/ may import`);
  }
});

test("layout: only runtime/ knows the runtimes", () => {
  const wrong = files.filter((name) =>
    !name.startsWith("runtime/") &&
    /\bDeno\.|\bBun\.|"bun:|process\.versions|process\.isBun|navigator\.userAgent/.test(read(name))
  );
  assert.deepEqual(wrong, []);
});

test("layout: what runs under a seed takes time, chance, files and the process from its environment", () => {
  const reaches =
    /\bDate\.now\b|\bnew Date\(\)|\bMath\.random\b|\bset(?:Timeout|Interval|Immediate)\b|\bqueueMicrotask\b|\bperformance\.|\bprocess\.(?!env\b)|\bcrypto\.|\bglobalThis\b/;
  const wrong: string[] = [];
  for (const name of files.filter((file) => SEEDED.includes(file.split("/")[0]))) {
    if (name === "relay/kernel/build.ts") continue; // a program of its own, not part of the server
    const code = read(name).replace(/\/\*[^]*?\*\//g, "").replace(/\/\/.*$/gm, "");
    const found = reaches.exec(code)?.[0];
    if (found !== undefined) wrong.push(`src/${name} uses ${found}`);
    for (const { specifier, typeOnly } of importsOf(name)) {
      if (!specifier.startsWith("node:") || typeOnly || PURE_MODULES[name]?.includes(specifier)) continue;
      wrong.push(`src/${name} imports ${specifier}`);
    }
  }
  assert.deepEqual(wrong, []);
});

/** Where each message that is forwarded passes; what these call in their own file is looked at too. */
const HOT: Record<string, readonly string[]> = {
  "zmtp/decoder.ts": ["push", "commitRead"],
  "relay/table.ts": ["run", "list"],
  "relay/run.ts": ["forwardRun"],
  "server/dispatch.ts": ["message", "run"],
  "server/upstream.ts": ["message"],
  "socket/egress.ts": ["append", "reserveRun", "runLimit", "commitRun", "writeRun", "shareRun", "full"],
  "socket/block_writer.ts": ["append", "space", "commit", "appendRun", "room", "bytes"],
  "socket/router.ts": ["send"],
  "socket/dealer.ts": ["send"],
  "socket/bounds.ts": ["boundPassed"],
};
/** What they call only now and then, and why it does not count by the message. */
const COLD: Record<string, Readonly<Record<string, string>>> = {
  "zmtp/decoder.ts": {
    "#reserve": "once a message whose chunk ends in its middle",
    "copy": "the same",
    "#tooLarge": "a message above the bound, which is passed over",
    "#emitCommand": "commands are no messages",
  },
  "relay/table.ts": {},
  "server/dispatch.ts": {
    "#invalid": "counted apart, and told once in a while",
    "#notOurs": "the same",
    "#badType": "the same",
    "#find": "once a run of messages of a type",
    "#endRun": "once a run of messages of a type",
    "#handle": "messages that a handler opens are not only forwarded",
  },
  "server/upstream.ts": { "#unrouted": "pongs, and what is dropped" },
  "socket/egress.ts": {
    "#startBlock": "once a block",
    "#closeBlock": "once a block",
    "#copyLarge": "once a message that no block is large enough for",
    "#scheduleFlush": "once a flush",
    "#send": "once a write",
    "#reference": "once a message of 64 KiB or more, or a run of that size",
    "#borrow": "once a message of 8 KiB or more",
    "#copyRest": "once a write that the link took in part",
    "copyBorrowed": "the same",
    "#advance": "once a write",
  },
  "socket/router.ts": {
    "#noRoute": "a message that is dropped",
    "#noPeer": "a message that is dropped",
    "#find": "once a run of messages to a peer",
    "#pauseSelf": "once a queue that is full",
    "#tooLarge": "a message at a bound, which is dropped",
  },
  "socket/dealer.ts": {
    "#watchFull": "once a queue that is full",
    "#refuse": "a message at a bound, which is dropped",
  },
};
const ALLOCATES =
  /\bPromise\b|\basync\b|\bawait\b|=>|\[\.\.\.|\{\s*\.\.\.|\.emit\(|\.bind\(|[=(,:]\s*\[|\.map\(|\.split\(|\bnew\b|\.subarray\(|\.slice\(|`|\bfunction\b/;

/** The methods and functions of a file: their names and bodies. */
function bodiesOf(name: string): Map<string, string> {
  const bodies = new Map<string, string>();
  const lines = read(name).split("\n");
  lines.forEach((line, i) => {
    const found = /^( {2})?(?:export )?(?:override )?(?:get |function )?(#?\w+)\(/.exec(line);
    if (found === null || /^\s*(?:if|for|while|switch|return|super)\b/.test(line)) return;
    const opens = lines.findIndex((later, j) => j >= i && /[{;]$/.test(later));
    // Signatures of interfaces have no body.
    if (opens < 0 || lines[opens].endsWith(";")) return;
    const end = lines.indexOf(`${found[1] ?? ""}}`, opens);
    if (end > 0) bodies.set(found[2], lines.slice(opens + 1, end).join("\n"));
  });
  assert.ok(bodies.size > 0, `${name} has methods`);
  return bodies;
}

test("layout: on the forwarding path, no promise, closure, event, object or array per message", () => {
  const wrong: string[] = [];
  for (const [name, roots] of Object.entries(HOT)) {
    const bodies = bodiesOf(name);
    const cold = COLD[name] ?? {};
    const todo = [...roots];
    const seen = new Set<string>();
    for (let method = todo.pop(); method !== undefined; method = todo.pop()) {
      if (seen.has(method) || method in cold) continue;
      seen.add(method);
      const body = bodies.get(method);
      assert.ok(body !== undefined, `${name} has ${method}`);
      // What throws is not on the way of a message that goes on.
      const lines = body.split("\n").filter((line) => !/^\s*\/\/|\bthrow\b/.test(line));
      for (const line of lines) {
        if (ALLOCATES.test(line)) wrong.push(`src/${name}, ${method}: ${line.trim()}`);
      }
      for (const [, called] of lines.join("\n").matchAll(/(?:this\.)?(#?\w+)\(/g)) {
        if (bodies.has(called)) todo.push(called);
      }
    }
    for (const method of Object.keys(cold)) {
      assert.ok(bodies.has(method), `${name} has ${method}, listed as cold`);
    }
  }
  assert.deepEqual(wrong, []);
});

test("layout: no any without a reason, nothing unfinished, nothing of this machine", () => {
  const wrong: string[] = [];
  for (const name of files) {
    read(name).split("\n").forEach((line, i, lines) => {
      const excused = /deno-lint-ignore no-explicit-any -- \w/.test(lines[i - 1] ?? "");
      if (
        /[:<( ]any\b[,;>)\[ ]/.test(line) && /\bany\b/.test(line.replace(/\/\/.*|\*.*|".*?"|`.*?`/g, "")) &&
        !excused
      ) {
        wrong.push(`src/${name}:${i + 1}: ${line.trim()}`);
      }
      if (/\b(TODO|FIXME|XXX|HACK)\b|@ts-ignore|@ts-expect-error/.test(line)) {
        wrong.push(`src/${name}:${i + 1}: ${line.trim()}`);
      }
    });
  }
  assert.deepEqual(wrong, []);
});

test("layout: bytes are copied by copyOf: slice() of a Buffer is a view on memory that is used again", () => {
  const wrong = files.filter((name) =>
    /\b(?:buf|buffer|chunk|bytes|frame|blob|body|message)\.slice\(/.test(read(name))
  );
  assert.deepEqual(wrong, []);
});

test("layout: every bound in limits.ts is used, and says why it is there", () => {
  const limits = read("limits.ts");
  const code = files.filter((name) => name !== "limits.ts").map(read).join("\n");
  let reason: string | null = null;
  let names = 0;
  for (const line of limits.split("\n")) {
    // One reason may stand for several bounds that follow one another.
    if (line === "") reason = null;
    const comment = /^\/\*\* (.+) \*\/$/.exec(line)?.[1] ?? /^ \* (.+)$/.exec(line)?.[1];
    if (comment !== undefined) reason = `${reason ?? ""} ${comment}`.trim();
    const name = /^export const (\w+)/.exec(line)?.[1];
    if (name === undefined) continue;
    names++;
    assert.ok(reason !== null && reason.split(" ").length >= 6, `${name} says why it is there: "${reason}"`);
    assert.ok(new RegExp(`\\b${name}\\b`).test(code) || limits.split(name).length > 2, `${name} is used`);
  }
  assert.ok(names > 40, `${names} bounds were looked at`);
});

test("layout: every code of an error is explained in docs/errors.md, and none that does not exist", () => {
  const docs = readFileSync(join(ROOT, "docs", "errors.md"), "utf8");
  const explained = new Set([...docs.matchAll(/^\| `([a-z-]+)`/gm)].map(([, code]) => code));
  const used = new Set<string>();
  for (const name of files) {
    const text = read(name);
    for (const [, code] of text.matchAll(/new \w*Error\(\s*"([a-z-]+)",/g)) used.add(code);
    for (const [, code] of text.matchAll(/super\("([a-z-]+)", /g)) used.add(code);
    // Where an error of somebody else's has none.
    for (const [, code] of text.matchAll(/\bcode(?:Of\(\w+\))? \?\? "([a-z-]+)"/g)) used.add(code);
    for (const [, codes] of text.matchAll(/^export type \w+ErrorCode =([^;]+);/gm)) {
      for (const [, code] of codes.matchAll(/"([a-z-]+)"/g)) used.add(code);
    }
  }
  used.delete("exit"); // ends the program, and is never seen
  used.delete("system"); // in the text above the tables
  assert.deepEqual([...used].filter((code) => !explained.has(code)).sort(), [], "not explained");
  assert.deepEqual([...explained].filter((code) => !used.has(code)).sort(), [], "explained, but unknown");
});
