/**
 * What a seal costs beside the bare arithmetic, in one run and in turn: `npm run bench -- --only=seal`, or on one runtime
 * `bun bench/seal.ts`, `deno run -A bench/seal.ts`.
 */
import {
  constants,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  publicEncrypt,
  randomBytes,
  sign,
  verify,
} from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { Logger } from "../src/log.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { decryptBlob, encryptBlob } from "../src/seal/cms/enveloped_data.ts";
import { CmsSeal } from "../src/seal/cms_seal.ts";
import { utf8 } from "../src/text.ts";
import { RUNTIME, type Target } from "../test/helpers/env.ts";
import { changed, openssl } from "../test/helpers/pki.ts";
import { pkijsVerifies } from "../test/helpers/pkijs.ts";
import { ServerProcess } from "../test/helpers/process.ts";
import { RawPeer } from "../test/helpers/raw.ts";
import { buildPeers, folder, forwarders } from "./forwarders.ts";
import { beside, cpuSeconds, median, SHAPES } from "./load.ts";
import { keyStore, signedMessage } from "./signed.ts";

const ROUNDS = 9;
const ROUND_MS = 250;
/** Messages that are sent in turn. */
const DIFFERENT = 1000;

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
  return [
    median(rounds.map(([a]) => a)),
    median(rounds.map(([, b]) => b)),
    median(rounds.map(([a, b]) => a / b)),
  ];
}

const pki = keyStore();
for (const kind of ["p256", "ed25519"] as const) pki.issue(kind, { kind, by: "ca" });
const open = (more: object) => CmsSeal.open(pki.settings(more), MACHINE, log);
const verifying = await open({ verifyCa: ["ca"] });
const draft = {
  type: "pub.x",
  fields: { filler: "x".repeat(470) },
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
  const [{ body }] = sealed;
  const by = { key: privateKey, ...pss };
  const of = { key: createPublicKey(privateKey), ...pss };
  const bare = sign(hash, body, by);
  let i = 0;
  const verified = compare(
    () => void verifying.open(sealed[i++ & 63]),
    () => void verify(hash, body, of, bare),
  );
  lines.push([`verify ${kind}`, ...verified, least]);
  const signed = compare(() => void signing.seal(draft), () => void sign(hash, body, by));
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
console.log(
  `seal on ${MACHINE.host.runtime}: bodies of 600 bytes; bare: crypto.verify and crypto.sign of such a body`,
);
console.log("what             ours/s     bare/s   ratio   goal");
for (const [what, ours, bare, ratio, least] of lines) {
  const below = ratio < least ? "  below" : "";
  console.log(
    `${what.padEnd(14)}${figure(ours, 10)} ${figure(bare, 10)}   ${ratio.toFixed(3)}   ${least}${below}`,
  );
}
await refusals();
if (RUNTIME === "bun") {
  await endToEnd();
  await besideFlood();
}
process.exit(0);

function figure(value: number, width: number): string {
  return Math.round(value).toLocaleString("en").padStart(width);
}

/**
 * What a refusal takes of messages that cannot be decrypted, each for another reason: who could tell these apart would
 * learn of the key. RSA's PKCS #1 v1.5 is the one where that is an attack of old.
 */
async function refusals(): Promise<void> {
  const times = 2000;
  const opening = await open({ verifyCa: ["ca"], decrypt: "rsa", profile: "accept-legacy" });
  const sealing = await open({ sign: "rsa", encrypt: ["rsa"], profile: "legacy" });
  const parts = sealing.seal(draft);
  const publicKey = createPublicKey(createPrivateKey(pki.read("private/rsa.key")));
  const padded = (bytes: number) =>
    publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_PADDING }, randomBytes(bytes));
  const withKey = (key: () => Uint8Array) =>
    Array.from({ length: 64 }, () =>
      changed(parts.signature, (root) => {
        root.children![1].children![0].children![1].children![0].children!.at(-1)!.bytes = key();
      }));
  const kinds: [string, Uint8Array[]][] = [
    ["no padding", withKey(() => Uint8Array.of(0, ...randomBytes(255)))],
    ["a key of 5 bytes", withKey(() => padded(5))],
    ["a key of 32 bytes", withKey(() => padded(32))],
    ["another key", withKey(() => padded(16))],
  ];
  const took = new Map<string, number[]>(kinds.map(([what]) => [what, []]));
  for (let i = 0; i < times; i++) {
    for (const [what, signatures] of kinds) {
      const begin = performance.now();
      try {
        opening.open({ ...parts, signature: signatures[i & 63] });
        throw new Error(`${what} is accepted`);
      } catch (error) {
        if ((error as { code?: string }).code !== "undecryptable") throw error;
      }
      took.get(what)!.push(performance.now() - begin);
    }
  }
  console.log("\nwhat a refusal takes (RSA-2048, PKCS #1 v1.5), µs: the quickest tenth, and the median");
  const sorted = kinds.map(([what]) => [what, took.get(what)!.sort((a, b) => a - b)] as const);
  for (const [what, list] of sorted) {
    const at = (part: number) => (1000 * list[Math.floor(part * list.length)]).toFixed(1).padStart(8);
    console.log(`${what.padEnd(20)}${at(0.1)} ${at(0.5)}`);
  }
}

/** What a light client's echo takes, in milliseconds, while another floods with messages that are verified. */
async function besideFlood(): Promise<void> {
  const { load: tool, libzmqMissing } = buildPeers();
  const { binary } = forwarders(libzmqMissing);
  console.log(
    "\nbinary, echo of a client that sends little beside one that sends signed messages, all verified",
  );
  const flood = { shape: SHAPES.signed, floods: 1, does: "send", answers: "server", seconds: 2 } as const;
  const found = [];
  for (let round = 0; round < 5; round++) found.push(await beside(tool, binary, flood));
  for (const p of ["p50", "p99", "p999"] as const) {
    console.log(`${p.padEnd(5)} ${(median(found.map((row) => row[p])) / 1000).toFixed(2).padStart(6)} ms`);
  }
}

/** A client floods the binary with messages that openssl has signed, to a handler that opens each and does nothing more. */
async function endToEnd(): Promise<void> {
  writeFileSync(
    join(folder, "nothing.mjs"),
    `export default {
      name: "nothing", summary: "", roles: ["local"], options: {},
      create: ({ log }) => ({
        plan: () => ({ open: { "~standard": { version: 1, vendor: "x", validate: (value) => ({ value }) } } }),
        handle(message) {
          if (message.type === "end") log.info("end", "done");
          return "ok";
        },
      }),
    };`,
  );
  const config = (cms: string) =>
    `[ccserver]
cc-socket = ipc://${folder}/sock
cc-role = local
${cms}
[routes]
* = h:nothing
[h:nothing]
handler = ./nothing.mjs
`;
  console.log(
    `\nbinary, one client, bodies of 600 bytes signed by openssl (RSA-2048, SHA-256), opened and no more`,
  );
  console.log("what                        messages/s   CPU a message   one core would do");
  const all = Array.from({ length: DIFFERENT }, (_, i) => signedMessage("pub.x", i));
  const batch = Buffer.concat(all.map(({ bytes }) => bytes));
  const end = signedMessage("end", 0).bytes;
  for (
    const [what, cms] of [
      ["verified", `cms-profile = modern\ncms-keystore = ${pki.folder}\ncms-verify-ca = ca`],
      [
        "verified, cms-threads = 2",
        `cms-profile = modern\ncms-keystore = ${pki.folder}\ncms-verify-ca = ca\ncms-threads = 2`,
      ],
      ["not verified", ""],
    ]
  ) {
    writeFileSync(join(folder, "bench.ini"), config(cms));
    const rates: [number, number][] = [];
    for (let round = 0; round < 3; round++) {
      await using server = new ServerProcess(
        { name: "binary", command: [join("dist", "ccserver")] } as Target,
        [
          join(folder, "bench.ini"),
        ],
      );
      await server.until(/listening on/);
      using peer = await RawPeer.overFile(join(folder, "sock"));
      const send = async (batches: number) => {
        const from = server.output.length;
        for (let i = 0; i < batches; i++) {
          if (!peer.socket.write(batch)) await new Promise((resolve) => peer.socket.once("drain", resolve));
        }
        peer.write(end);
        while (!server.output.slice(from).includes("done")) await new Promise((done) => setTimeout(done, 1));
      };
      // Compiled code is what a server has that runs for long.
      await send(cms === "" ? 200 : 100);
      const batches = cms === "" ? 500 : 100;
      const cpu = cpuSeconds(server.pid);
      const begin = performance.now();
      await send(batches);
      const seconds = (performance.now() - begin) / 1000;
      rates.push([DIFFERENT * batches / seconds, 1e6 * (cpuSeconds(server.pid) - cpu) / DIFFERENT / batches]);
    }
    const [rate, cpu] = [0, 1].map((k) => median(rates.map((row) => row[k])));
    console.log(
      `${what.padEnd(28)}${figure(rate, 10)}   ${cpu.toFixed(1).padStart(10)} µs   ${figure(1e6 / cpu, 17)}`,
    );
  }
  const content = join(folder, "content");
  writeFileSync(content, all[0].body);
  const args = [
    "cms",
    "-verify",
    "-binary",
    "-inform",
    "DER",
    "-content",
    content,
    "-CAfile",
    pki.path("ca.crt"),
  ];
  const perProcess = rate(() => void openssl([...args, "-out", "/dev/null"], all[0].signature), 1000);
  console.log(`${"openssl cms -verify, a process each".padEnd(38)}${figure(perProcess, 0)}`);
  const ca = pki.certificate("ca");
  const begin = performance.now();
  const count = 300;
  for (const { body, signature } of all.slice(0, count)) {
    if (!await pkijsVerifies(signature, utf8(body), ca)) throw new Error("PKI.js refuses it");
  }
  const perSecond = 1000 * count / (performance.now() - begin);
  console.log(`${"PKI.js on Bun".padEnd(38)}${figure(perSecond, 0)}`);
  console.log("The original (0.8.8, Python 2) does about 1,000 on a machine like this.");
}
