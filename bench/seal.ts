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
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Logger } from "../src/log.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { decryptBlob, encryptBlob } from "../src/seal/cms/enveloped_data.ts";
import { CmsSeal } from "../src/seal/cms_seal.ts";
import { RUNTIME, type Target } from "../test/helpers/env.ts";
import { openssl, Pki } from "../test/helpers/pki.ts";
import { ServerProcess } from "../test/helpers/process.ts";
import { message, RawPeer } from "../test/helpers/raw.ts";

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
  if (RUNTIME === "bun") await endToEnd(pki);
} finally {
  rmSync(folder, { recursive: true });
}
process.exit(0);

/** A client floods the binary with messages that openssl has signed, to a handler that opens each and does nothing more. */
async function endToEnd(pki: Pki): Promise<void> {
  const { folder } = pki;
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
  const signed = (type: string, i: number) => {
    const fields =
      `"req": "${type}", "time": ${i}, "hostname": "host", "blob_hash": "", "n": ${i}, "filler": "`;
    const body = `{${fields}${"x".repeat(598 - fields.length)}"}`;
    const by = ["-signer", pki.path("rsa.crt"), "-inkey", pki.path("private/rsa.key"), "-md", "sha256"];
    const signature = openssl(["cms", "-sign", "-binary", "-outform", "DER", "-nosmimecap", ...by], body);
    return { body, signature, bytes: message("", type, body, signature) };
  };
  const all = Array.from({ length: DIFFERENT }, (_, i) => signed("pub.x", i));
  const batch = Buffer.concat(all.map(({ bytes }) => bytes));
  const end = signed("end", 0).bytes;
  for (
    const [what, cms] of [
      ["verified", `cms-profile = modern\ncms-keystore = ${folder}\ncms-verify-ca = ca`],
      [
        "verified, cms-threads = 2",
        `cms-profile = modern\ncms-keystore = ${folder}\ncms-verify-ca = ca\ncms-threads = 2`,
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
      await send(cms === "" ? 50 : 10);
      const batches = cms === "" ? 500 : 60;
      const cpu = cpuSeconds(server.pid);
      const begin = performance.now();
      await send(batches);
      const seconds = (performance.now() - begin) / 1000;
      rates.push([DIFFERENT * batches / seconds, 1e6 * (cpuSeconds(server.pid) - cpu) / DIFFERENT / batches]);
    }
    const [rate, cpu] = [0, 1].map((k) => rates.map((row) => row[k]).sort((a, b) => a - b)[1]);
    const figure = (value: number) => Math.round(value).toLocaleString("en");
    console.log(
      `${what.padEnd(28)}${figure(rate).padStart(10)}   ${cpu.toFixed(1).padStart(10)} µs   ${
        figure(1e6 / cpu).padStart(17)
      }`,
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
  console.log(`${"openssl cms -verify, a process each".padEnd(38)} ${Math.round(perProcess)}`);
  console.log("The original (0.8.8, Python 2) does about 1,000 on a machine like this.");
}

/** Processor time of a process so far. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /, "").split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
