/**
 * Builds what is shipped: `dist/ccserver`, the standalone binary for this machine, and `dist/npm/`, what the package for npm
 * has. Runs on Bun and on Deno; the compiler is Bun's, from npm.
 *
 *     npm run build                       this machine's binary, and the package's files
 *     npm run build -- --npm              the package's files alone, as `npm pack` does
 *     npm run build -- --target=bun-linux-arm64 [--target=…]   binaries for other machines, dist/ccserver-linux-arm64
 *     npm run build -- --release          the benchmark gate, then binaries for all machines, dist/release/
 *     npm run build -- --deno             a binary made by `deno compile`, dist/ccserver-deno; see DENORT_BIN below
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const ROOT = dirname(fileURLToPath(import.meta.url));
const DIST = join(ROOT, "dist");
const BIN = join(ROOT, "node_modules", ".bin");

const { values } = parseArgs({
  options: {
    target: { type: "string", multiple: true },
    deno: { type: "boolean" },
    release: { type: "boolean" },
    npm: { type: "boolean" },
  },
});

/** What a runtime's own bundle is made for: one driver each, picked by `#runtime` in package.json. */
const RUNTIMES: Readonly<Record<string, readonly string[]>> = {
  bun: ["--target=bun"],
  deno: ["--target=node", "--conditions=deno"],
  node: ["--target=node"],
};

/** Machines that a release is for. */
const RELEASE_TARGETS = ["bun-linux-x64", "bun-linux-x64-musl", "bun-linux-arm64", "bun-linux-arm64-musl"];

mkdirSync(DIST, { recursive: true });
if (values.deno) {
  buildDeno();
} else if (values.npm) {
  buildPackage();
} else if (values.release) {
  release(values.target ?? RELEASE_TARGETS);
} else if (values.target) {
  for (const target of values.target) {
    buildBinary(join(DIST, `ccserver-${target.replace(/^bun-/, "")}`), target);
  }
} else {
  buildBinary(join(DIST, "ccserver"));
  buildPackage();
}

/** No release without the gate: a binary that is slower than the last one's promises is not shipped. */
function release(targets: readonly string[]): void {
  buildBinary(join(DIST, "ccserver"));
  buildPackage();
  const gate = spawnSync(join(BIN, "bun"), [join("bench", "run.ts"), "--gate"], {
    cwd: ROOT,
    stdio: "inherit",
  });
  if (gate.status !== 0) {
    console.error("no release: the benchmark gate failed");
    process.exit(1);
  }
  const folder = join(DIST, "release");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  const sums = targets.map((target) => {
    const name = `ccserver-${target.replace(/^bun-/, "")}`;
    buildBinary(join(folder, name), target);
    return `${createHash("sha256").update(readFileSync(join(folder, name))).digest("hex")}  ${name}\n`;
  });
  writeFileSync(join(folder, "SHA256SUMS"), sums.join(""));
}

/** One file with the runtime in it. It loads nothing from the folder it is started in. */
function buildBinary(outfile: string, target?: string): void {
  run(join(BIN, "bun"), [
    "build",
    "--compile",
    "--minify-syntax",
    "--minify-whitespace",
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    ...(target ? [`--target=${target}`] : []),
    join(ROOT, "src", "main.ts"),
    "--outfile",
    outfile,
  ]);
  report(outfile);
}

/** The package for npm: JavaScript for each runtime, which `exports` and `#main` in package.json choose from, and types. */
function buildPackage(): void {
  const out = join(DIST, "npm");
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out);
  for (const [runtime, flags] of Object.entries(RUNTIMES)) {
    for (const [entry, name] of [["src/main.ts", "main"], ["mod.ts", "mod"]]) {
      const outfile = join(out, `${name}.${runtime}.js`);
      const packages = ["--external=valibot", "--external=zeromq"];
      run(join(BIN, "bun"), ["build", ...flags, ...packages, join(ROOT, entry), "--outfile", outfile]);
    }
  }
  writeFileSync(join(out, "main.js"), '#!/usr/bin/env node\nimport "#main";\n', { mode: 0o755 });
  const types = join(out, "types");
  run(join(BIN, "tsc"), ["-p", join(ROOT, "tsconfig.json"), "--outDir", types]);
  keepReachable(types, "mod.d.ts");
  report(join(out, "mod.node.js"));
}

/** Removes declarations that the entry does not need, and names the others as JavaScript, which every resolver takes. */
function keepReachable(folder: string, entry: string): void {
  const kept = new Set<string>();
  const todo = [entry];
  for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
    if (kept.has(name)) continue;
    kept.add(name);
    const text = readFileSync(join(folder, name), "utf8");
    const renamed = text.replace(/(["'])(\.{1,2}\/[^"']+)\.ts\1/g, (_, quote, path) => {
      todo.push(`${join(dirname(name!), path)}.d.ts`);
      return `${quote}${path}.js${quote}`;
    });
    writeFileSync(join(folder, name), renamed);
  }
  const found = readdirSync(folder, { recursive: true, withFileTypes: true });
  for (const one of found.reverse()) {
    const path = join(one.parentPath, one.name);
    if (one.isDirectory()) {
      if (readdirSync(path).length === 0) rmdirSync(path);
    } else if (!kept.has(relative(folder, path))) rmSync(path);
  }
}

/** `deno compile` needs the program `denort`: from the network, or the file that DENORT_BIN names. */
function buildDeno(): void {
  const outfile = join(DIST, "ccserver-deno");
  run(join(BIN, "deno"), [
    "compile",
    "-A",
    "--include",
    join(ROOT, "package.json"),
    "--output",
    outfile,
    join(ROOT, "src", "main.ts"),
  ]);
  report(outfile);
}

function run(command: string, args: string[]): void {
  const { status, error, stdout, stderr } = spawnSync(command, args, { cwd: ROOT, encoding: "utf8" });
  if (status === 0) return;
  console.error(error ? error.message : `${stdout}${stderr}`);
  console.error(`build failed: ${[command, ...args].join(" ").replaceAll(ROOT + "/", "")}`);
  process.exit(1);
}

function report(file: string): void {
  console.log(`${file.replace(ROOT + "/", "")}  ${(statSync(file).size / 2 ** 20).toFixed(1)} MiB`);
}
