/** Compiles the relay kernel: `npm run kernel` writes `src/relay/wasm.ts`. A test compares the two. */
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import asc from "assemblyscript/asc";

const HERE = dirname(fileURLToPath(import.meta.url));

/** The text of `wasm.ts`, made anew. */
export async function relayWasm(): Promise<string> {
  let binary: Uint8Array | null = null;
  const { error, stderr } = await asc.main(
    [
      "relay.ts",
      "--outFile=relay.wasm",
      "--runtime=stub",
      "--importMemory",
      "--noExportMemory",
      "--noAssert",
      "--enable=simd",
      "--optimizeLevel=3",
    ],
    {
      readFile: (name) => name === "relay.ts" ? readFileSync(join(HERE, name), "utf8") : null,
      writeFile: (name, contents) => void (name === "relay.wasm" && (binary = contents as Uint8Array)),
      listFiles: () => [],
    },
  );
  if (error || binary === null) throw new Error(`the kernel does not compile: ${error?.message}\n${stderr}`);
  return `/** The relay kernel as WebAssembly, base64. Made from \`kernel/relay.ts\` by \`npm run kernel\`: do not edit. */\nexport const RELAY_WASM =\n  "${
    btoa(String.fromCharCode(...binary as Uint8Array))
  }";\n`;
}

const [, script] = process.argv;
if (script !== undefined && fileURLToPath(import.meta.url) === script) {
  writeFileSync(join(HERE, "..", "wasm.ts"), await relayWasm());
}
