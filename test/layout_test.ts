/** Keeps the house tidy: imports point one way, hot files allocate nothing by the message, nothing is left lying. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "./helpers/env.ts";

/** The table of ARCHITECTURE.md: what a folder may import. Contracts are files beside the folders, for all. */
const MAY_IMPORT: Record<string, string[]> = {
  runtime: [],
  zmtp: [],
  socket: ["zmtp", "runtime"],
  message: ["zmtp"],
  config: ["message", "socket"],
  server: ["runtime", "zmtp", "socket", "message", "config"],
  handlers: ["zmtp", "message", "socket", "config"],
  client: ["zmtp", "socket", "message"],
  cli: ["runtime", "zmtp", "socket", "message", "config", "server", "handlers", "client"],
};
const CONTRACTS = ["limits.ts", "log.ts", "handler.ts", "version.ts"];
/** Folders that may use none of the contracts: they know nothing of this program. */
const PURE = ["runtime", "zmtp"];

const SRC = join(ROOT, "src");
const files = (readdirSync(SRC, { recursive: true }) as string[]).filter((name) => name.endsWith(".ts"))
  .sort();
const read = (name: string) => readFileSync(join(SRC, name), "utf8");

test("layout: imports point one way", () => {
  const wrong: string[] = [];
  for (const name of files) {
    const [folder, inside] = name.split("/");
    if (inside === undefined) continue; // main.ts and the contracts
    for (const [, from] of read(name).matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)) {
      const target = from === "#runtime" ? "runtime" : /^\.\.\/([^/]+)(\/|$)/.exec(from)?.[1];
      if (target === undefined || target === folder || target === "..") continue;
      const allowed = CONTRACTS.includes(target)
        ? !PURE.includes(folder)
        : MAY_IMPORT[folder]?.includes(target);
      if (!allowed) wrong.push(`src/${name} imports ${from}`);
    }
  }
  assert.deepEqual(wrong, []);
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

test("layout: on the forwarding path, no promise, closure, event or array per message", () => {
  // Each method of the way a forwarded message takes, as it stands in its file.
  const path: Record<string, string[]> = {
    "zmtp/decoder.ts": ["push(", "#scan(", "#complete(", "#rescan("],
    "zmtp/relay.ts": ["run(", "list(", "#call("],
    "server/dispatch.ts": ["message(", "run(", "#listRun(", "call("],
    "socket/egress.ts": [
      "append(",
      "#copyIn(",
      "get full(",
      "runRoom(",
      "ran(",
      "ranListed(",
      "#list(",
      "#took(",
    ],
    "socket/router.ts": ["send("],
    "socket/dealer.ts": ["send("],
    "handlers/proxy.ts": ["handle(", "message("],
    "message/message.ts": ["set("],
  };
  for (const [name, methods] of Object.entries(path)) {
    for (const method of methods) {
      const text = read(name);
      const start = text.search(new RegExp(`^  (?:override )?${method.replace(/[#()]/g, "\\$&")}`, "m"));
      assert.ok(start >= 0, `${name} has ${method}`);
      const body = text.slice(start, text.indexOf("\n  }\n", start));
      const found = /\bPromise\b|\basync\b|\bawait\b|=>|\[\.\.\.|\.emit\(|\.bind\(|= \[|\.map\(|\.split\(/
        .exec(body);
      assert.equal(found, null, `${name} ${method}…) has "${found?.[0]}"`);
    }
  }
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
  for (const [, name] of limits.matchAll(/export const (\w+)/g)) {
    assert.ok(new RegExp(`\\b${name}\\b`).test(code) || limits.split(name).length > 2, `${name} is used`);
  }
});
