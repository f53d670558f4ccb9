/**
 * What a seal costs beside the bare arithmetic, in one run and in turn: `npm run bench -- --only=seal`, or on one runtime
 * `bun bench/seal.ts`, `deno run -A bench/seal.ts`.
 */
import {
  constants,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  randomBytes,
  sign,
  verify,
} from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Logger } from "../src/log.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { decryptBlob, encryptBlob } from "../src/seal/cms/enveloped_data.ts";
import { CmsSeal } from "../src/seal/cms_seal.ts";
import { Pki } from "../test/helpers/pki.ts";

const ROUNDS = 9;
const ROUND_MS = 250;

const log = new Logger("bench", { sink: () => {}, level: "ERROR", pid: 1, clock: MACHINE.clock });

/** Calls a second. */
function rate(f: () => void, ms: number): number {
  const begin = performance.now();
  let calls = 0;
  let now = begin;
  while (now - begin < ms) {
    for (let i = 0; i < 16; i++) f();
    calls += 16;
    now = performance.now();
  }
  return 1000 * calls / (now - begin);
}

/** Medians of ours, the bare one's, and of their ratio. */
function compare(ours: () => void, bare: () => void): [number, number, number] {
  for (const f of [ours, bare]) rate(f, ROUND_MS);
  const rounds = Array.from({ length: ROUNDS }, () => [rate(ours, ROUND_MS), rate(bare, ROUND_MS)]);
  const median = (values: number[]) => values.sort((a, b) => a - b)[ROUNDS >> 1];
  return [
    median(rounds.map(([a]) => a)),
    median(rounds.map(([, b]) => b)),
    median(rounds.map(([a, b]) => a / b)),
  ];
}

const folder = mkdtempSync(join(tmpdir(), "cc-seal-"));
try {
  const pki = new Pki(folder);
  pki.ca("ca");
  for (const kind of ["rsa", "p256", "ed25519"] as const) pki.issue(kind, { kind, by: "ca" });
  const open = (more: object) => CmsSeal.open(pki.settings(more), MACHINE, log);
  const verifying = await open({ verifyCa: ["ca"] });
  const draft = {
    type: "pub.x",
    fields: { filler: "x".repeat(480) },
    time: Date.now() / 1000,
    hostname: "host",
  };
  const lines: [string, number, number, number, number][] = [];
  for (const [kind, least] of [["rsa", 0.75], ["p256", 0.85], ["ed25519", 0.85]] as const) {
    const signing = await open({ sign: kind });
    const sealed = Array.from({ length: 64 }, () => signing.seal(draft));
    const privateKey = createPrivateKey(pki.read(`private/${kind}.key`));
    const pss = kind === "rsa" ? { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 } : {};
    const hash = kind === "ed25519" ? null : "sha256";
    // What a signature covers has so many bytes: the signed attributes.
    const attributes = randomBytes(kind === "ed25519" ? 109 : 77);
    const by = { key: privateKey, ...pss };
    const of = { key: createPublicKey(privateKey), ...pss };
    const bare = sign(hash, attributes, by);
    let i = 0;
    const verified = compare(
      () => void verifying.open(sealed[i++ & 63]),
      () => void verify(hash, attributes, of, bare),
    );
    lines.push([`verify ${kind}`, ...verified, least]);
    const signed = compare(() => void signing.seal(draft), () => void sign(hash, attributes, by));
    lines.push([`sign ${kind}`, ...signed, 0.9]);
  }
  const key = randomBytes(32);
  const nonce = randomBytes(12);
  const blob = encryptBlob({ key, nonce }, "pub.x", randomBytes(65_536));
  const decrypted = compare(() => void decryptBlob({ key, nonce }, "pub.x", blob), () => {
    const cipher = createDecipheriv("aes-256-gcm", key, blob.subarray(0, 12), { authTagLength: 16 });
    cipher.setAuthTag(blob.subarray(blob.length - 16));
    cipher.update(blob.subarray(12, blob.length - 16));
  });
  lines.push(["decrypt 64 KiB", ...decrypted, 0.7]);
  console.log(`seal on ${MACHINE.host.runtime}, bodies of some 600 bytes`);
  console.log("what             ours/s     bare/s   ratio   goal");
  for (const [what, ours, bare, ratio, least] of lines) {
    const figure = (value: number) => Math.round(value).toLocaleString("en").padStart(10);
    console.log(
      `${what.padEnd(14)}${figure(ours)} ${figure(bare)}   ${ratio.toFixed(3)}   ${least}${
        ratio < least ? "  below" : ""
      }`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}
process.exit(0);
