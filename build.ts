/**
 * Builds what is shipped: `dist/ccserver`, the standalone binary for this machine, and `dist/node/`, the package for
 * Node. Runs on Bun and on Deno; the compiler is Bun's, from npm.
 *
 *     npm run build                       this machine's binary, and the package for Node
 *     npm run build -- --target=bun-linux-arm64 [--target=…]   binaries for other machines, dist/ccserver-linux-arm64
 *     npm run build -- --release          the benchmark gate, then binaries for all machines, dist/release/
 *     npm run build -- --deno             a binary made by `deno compile`, dist/ccserver-deno; see DENORT_BIN below
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
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
  },
});

/** Machines that a release is for. */
const RELEASE_TARGETS = ["bun-linux-x64", "bun-linux-x64-musl", "bun-linux-arm64", "bun-linux-arm64-musl"];

mkdirSync(DIST, { recursive: true });
if (values.deno) {
  buildDeno();
} else if (values.release) {
  release(values.target ?? RELEASE_TARGETS);
} else if (values.target) {
  for (const target of values.target) {
    buildBinary(join(DIST, `ccserver-${target.replace(/^bun-/, "")}`), target);
  }
} else {
  buildBinary(join(DIST, "ccserver"));
  buildNodePackage();
}

/** No release without the gate: a binary that is slower than the last one's promises is not shipped. */
function release(targets: readonly string[]): void {
  buildBinary(join(DIST, "ccserver"));
  buildNodePackage();
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

/** JavaScript for Node, where TypeScript does not run; libzmq stays a package of its own. */
function buildNodePackage(): void {
  const out = join(DIST, "node");
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out);
  for (const [entry, file] of [["src/main.ts", "main.js"], ["mod.ts", "mod.js"]]) {
    run(join(BIN, "bun"), [
      "build",
      "--target=node",
      "--external=zeromq",
      join(ROOT, entry),
      "--outfile",
      join(out, file),
    ]);
  }
  const { name, version, description, license, engines, optionalDependencies } = JSON.parse(
    readFileSync(join(ROOT, "package.json"), "utf8"),
  );
  const manifest = {
    name,
    version,
    description,
    license,
    type: "module",
    engines,
    exports: { ".": "./mod.js" },
    bin: { ccserver: "./main.js" },
    optionalDependencies,
  };
  writeFileSync(join(out, "package.json"), JSON.stringify(manifest, null, 2) + "\n");
  writeFileSync(join(out, "main.js"), `#!/usr/bin/env node\n${readFileSync(join(out, "main.js"), "utf8")}`, {
    mode: 0o755,
  });
  copyFileSync(join(ROOT, "README.md"), join(out, "README.md"));
  report(join(out, "main.js"));
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
