/**
 * Seeded mutants of signed and encrypted messages, certificates and CRLs: each is refused as it should be, or says exactly what
 * the original said; and what is accepted here is accepted by openssl.
 *
 *     bun test/run.ts cms_fuzz                         a share of it on each runtime
 *     bun test/run.ts cms_fuzz --seconds=60            20,000 mutants and 1,000 comparisons, and more for so long
 *     bun test/run.ts cms_fuzz --on=bun --seed=17      under that seed
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import type { SealedParts } from "../src/contracts/seal.ts";
import { Logger } from "../src/log.ts";
import { MessageError } from "../src/message/errors.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { Certificate } from "../src/seal/cms/certificate.ts";
import { RevocationList } from "../src/seal/cms/crl.ts";
import { DerError } from "../src/seal/cms/der.ts";
import { verifySignedData } from "../src/seal/cms/signed_data.ts";
import { Trust } from "../src/seal/cms/trust.ts";
import { CmsSeal } from "../src/seal/cms_seal.ts";
import type { SealSettings } from "../src/seal/settings.ts";
import { become, encoded, joined, nodesOf, octetString, parsed, type Tree } from "./helpers/der_tree.ts";
import { freshSeed, ROOT, secondsFor, seeded, skipFor, tempFolder, utf8 } from "./helpers/env.ts";
import { HAS_OPENSSL, openssl, Pki } from "./helpers/pki.ts";

const SEED = freshSeed();
/** By hand: for so long, whatever the number. */
const SECONDS = secondsFor(0);
const MUTANTS = SECONDS > 0 ? 20_000 : 2_000;
/** No mutant holds others up for longer, or takes more memory. */
const MUTANT_MAX_MS = 50;
const MUTANT_MAX_BYTES = 16 * 1024 * 1024;

const missing = skipFor(!HAS_OPENSSL && "there is no openssl");
const folder = tempFolder();
after(() => folder[Symbol.dispose]());

const random = seeded(SEED);
const int = (n: number) => Math.floor(random() * n);
const pick = <T>(list: readonly T[]) => list[int(list.length)];
const bytes = (n: number) => new Uint8Array(n).map(() => int(256));

const SILENT = new Logger("test", { sink: () => {}, level: "ERROR", pid: 1, clock: MACHINE.clock });
const TYPE = "pub.infofile";
const SIGNERS = ["rsa", "p256", "p384", "ed25519"] as const;
const RECIPIENTS = ["rsa", "p256", "x25519"] as const;

let shared: Pki | null = null;

/** One key store for all tests: keys take long to make. */
function pki(): Pki {
  if (shared !== null) return shared;
  const made = new Pki(join(folder.path, "keys"));
  made.ca("ca");
  made.ca("mid", { by: "ca" });
  made.issue("rsa", { kind: "rsa", by: "ca" });
  made.issue("p256", { by: "mid" });
  made.issue("p384", { kind: "p384", by: "ca" });
  made.issue("ed25519", { kind: "ed25519", by: "ca" });
  made.issue("x25519", { kind: "x25519", by: "ca" });
  made.issue("gone", { by: "ca" });
  made.revoke("ca", ["gone"]);
  return shared = made;
}

const sealOf = (more: Partial<SealSettings>) => CmsSeal.open(pki().settings(more), MACHINE, SILENT);
const body = (name: string, more: Record<string, unknown> = {}) =>
  utf8(JSON.stringify({ req: TYPE, time: 1, hostname: "h", blob_hash: "", filename: name, ...more }));
const received = (signature: Uint8Array, of: Uint8Array): SealedParts => ({
  type: TYPE,
  body: of,
  signature,
  blob: null,
});
const base64 = (of: Uint8Array) => Buffer.from(of).toString("base64");
const keyOf = (name: string) => pki().path(`private/${name}.key`);
const certificateOf = (name: string) => pki().path(`${name}.crt`);

/** A signature by openssl. */
function opensslSigns(name: string, content: Uint8Array, ...more: string[]): Uint8Array {
  const by = ["-signer", certificateOf(name), "-inkey", keyOf(name)];
  return openssl(["cms", "-sign", "-binary", "-outform", "DER", ...by, ...more], Buffer.from(content));
}

test("cms vectors: Ed25519 signers and X25519 recipients as another implementation writes them, with and without a ukm", async () => {
  const file = join(ROOT, "test", "vectors", "cms-rfc8418-rfc8419.json");
  const { keys, type, messages } = JSON.parse(readFileSync(file, "utf8"));
  const store = new Pki(join(folder.path, "vectors"));
  for (const [name, pem] of Object.entries<string>(keys)) {
    writeFileSync(store.path(name), pem, { mode: 0o600 });
  }
  const settings = store.settings({ verifyCa: ["ca"] });
  const verifying = await CmsSeal.open(settings, MACHINE, SILENT);
  const decrypting = await CmsSeal.open({ ...settings, decrypt: "x25519" }, MACHINE, SILENT);
  const bytesOf = (text: string) => new Uint8Array(Buffer.from(text, "base64"));
  for (const { name, body, signature, content } of messages) {
    const sealed = { type, body: bytesOf(body), signature: bytesOf(signature), blob: null };
    const opened = (/^Ed25519/.test(name) ? verifying : decrypting).open(sealed);
    assert.equal(base64(opened.json), content, name);
    assert.equal(opened.signer?.name, "ed signer", name);
  }
});

test(
  "cms: what a key is derived from is bounded: more is refused as bad-cms, not by an error of the runtime",
  {
    skip: missing,
  },
  async () => {
    const seal = await sealOf({ sign: "p256", encrypt: ["x25519"] });
    const decrypting = await sealOf({ verifyCa: ["ca"], decrypt: "x25519" });
    const { signature } = seal.seal({ type: TYPE, fields: {}, time: 1, hostname: "h" });
    for (const [size, code] of [[400, "undecryptable"], [1000, "bad-cms"], [60_000, "bad-cms"]] as const) {
      const ukm = { tag: 0xa1, children: [octetString(bytes(size))] };
      const parameter = octetString(bytes(size));
      const edits: ((info: Tree) => void)[] = [
        (info) => void info.children!.splice(2, 0, ukm),
        (info) => void info.children![2].children![1].children!.push(parameter),
      ];
      for (const edit of edits) {
        const tree = parsed(signature);
        edit(tree.children![1].children![0].children![1].children![0]);
        assert.throws(() => decrypting.open(received(encoded(tree), utf8("ENC1"))), { code });
      }
    }
  },
);

// Mutants

const TAGS = [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x17, 0x18, 0x30, 0x31, 0x80, 0xa0, 0xa1, 0xa2, 0x1f, 0xff];

/** Bytes that are changed wherever they are. */
function changedBytes(original: Uint8Array): Uint8Array {
  const at = int(original.length + 1);
  switch (int(6)) {
    case 0:
      return original.slice(0, at);
    case 1:
      return joined([original.subarray(0, at), bytes(1 + int(40)), original.subarray(at)]);
    case 2:
      return joined([original.subarray(0, at), original.subarray(at + 1 + int(40))]);
    default: {
      const out = original.slice();
      for (let n = 1 + int(3); n > 0; n--) out[int(out.length)] = pick([0, 1, 2, 0x7f, 0x80, 0xff, int(256)]);
      return out;
    }
  }
}

/** A length that says something else than how long it is. */
function withLength(content: Uint8Array, tag: number): Uint8Array {
  const length = content.length;
  const head = pick([
    () => [tag, 0x80],
    () => [tag, 0x84, 0xff, 0xff, 0xff, 0xff],
    () => [tag, 0x88, 0, 0, 0, 0, 0, 0, 0, 1],
    () => [tag, 0x83, 0, length >> 8, length & 0xff],
    () => [tag, Math.min(0x7f, Math.max(0, length + pick([-1, 1])))],
    () => [tag, 0xff],
    () => [tag],
  ])();
  // An indefinite one that is right, as BER has it.
  const end = head[1] === 0x80 ? [0, 0] : [];
  return joined([Uint8Array.from(head), content, Uint8Array.from(end)]);
}

/** Values in values, as deep as there is room. */
function nested(depth: number): Uint8Array {
  const heads: number[][] = [];
  for (let n = 0, length = 0; n < depth; n++) {
    const tag = pick([0x30, 0x31, 0xa0, 0x24]);
    const head = length < 0x80
      ? [tag, length]
      : length < 0x1_0000
      ? [tag, 0x82, length >> 8, length & 0xff]
      : [tag, 0x83, length >> 16, length >> 8 & 0xff, length & 0xff];
    length += head.length;
    heads.push(head);
  }
  return Uint8Array.from(heads.reverse().flat());
}

const EDITS: readonly ((node: Tree, parent: Tree | null, other: Tree) => void)[] = [
  // Swapped with a part of another message.
  (node, _, other) => become(node, pick(nodesOf(other)).node),
  (node, _, other) => {
    const alike = nodesOf(other).filter((found) => found.node.tag === node.tag);
    if (alike.length > 0) become(node, pick(alike).node);
  },
  (node, parent) => void parent?.children?.splice(parent.children.indexOf(node), 1),
  (node, parent) => {
    const times = pick([1, 1, 2, 20, 200, 3000]);
    const at = parent?.children?.indexOf(node) ?? 0;
    const many = Array.from({ length: times }, () => structuredClone(node));
    if (encoded(node).length * times < 200_000) parent?.children?.splice(at, 0, ...many);
  },
  (_, parent) => void parent?.children?.reverse(),
  (node) => void (node.tag = pick(TAGS)),
  (node) => {
    const content = node.bytes ?? joined((node.children ?? []).map(encoded));
    node.raw = withLength(content, node.tag);
  },
  (node) => void (node.raw = nested(pick([2, 50, 1000, 20_000]))),
  (node) => become(node, { tag: node.tag, bytes: bytes(pick([0, 1, 3, 32, 1000, 60_000])) }),
  (node) => become(node, { tag: 6, bytes: bytes(pick([0, 1, 31, 33, 5000])).map((b) => b | 0x80) }),
  (node, parent) => {
    const at = parent?.children?.indexOf(node) ?? 0;
    parent?.children?.splice(at, 0, { tag: pick(TAGS), bytes: bytes(int(8)) });
  },
  (node) => {
    if (node.bytes !== undefined && node.bytes.length > 0) node.bytes = changedBytes(node.bytes);
  },
];

function mutated(original: Uint8Array, other: Uint8Array): Uint8Array {
  const kind = random();
  if (kind < 0.35) return changedBytes(original);
  if (kind < 0.36) return bytes(int(2000));
  const tree = parsed(original);
  const donor = parsed(other);
  for (let n = pick([1, 1, 1, 2, 3]); n > 0; n--) {
    const { node, parent } = pick(nodesOf(tree));
    pick(EDITS)(node, parent, donor);
  }
  return encoded(tree);
}

// What is changed

/** What is given to a part, and what that says of it where it accepts: content and signer. */
interface Sample {
  readonly kind: string;
  readonly bytes: Uint8Array;
  /** @throws {MessageError} Refused. */
  open(mutant: Uint8Array): string;
}

const told = (content: Uint8Array, signer: string | undefined) => `${base64(content)} ${signer}`;

async function samples(): Promise<Sample[]> {
  const found: Sample[] = [];
  const add = (kind: string, of: Uint8Array, open: Sample["open"]) => found.push({ kind, bytes: of, open });
  const profile = "accept-legacy";
  const verifying = await sealOf({ verifyCa: ["ca"], profile });
  const signed = (kind: string, content: Uint8Array, signature: Uint8Array) =>
    add(kind, signature, (mutant) => {
      const { json, signer } = verifying.open(received(mutant, content));
      return told(json, signer?.fingerprint);
    });
  for (const sign of SIGNERS) {
    const seal = await sealOf({ sign });
    const { body, signature } = seal.seal({ type: TYPE, fields: { by: sign }, time: 1, hostname: "h" });
    signed(`signed, ${sign === "rsa" ? "rsa-pss" : sign}`, body, signature);
  }
  for (const hash of ["sha1", "sha384"]) {
    const content = body(`rsa ${hash}`);
    signed(`signed, rsa ${hash}`, content, opensslSigns("rsa", content, "-md", hash));
  }
  const trust = verifying.keys.trust!;
  for (const name of ["p256", "rsa"]) {
    const content = body(`attached ${name}`);
    add(`attached, ${name}`, opensslSigns(name, content, "-nodetach"), (mutant) => {
      const { content, signer } = verifySignedData(mutant, null, trust, Date.now());
      return told(content, signer.fingerprint);
    });
  }
  const enveloped = (kind: string, decrypting: CmsSeal, envelope: Uint8Array) =>
    add(kind, envelope, (mutant) => {
      const { json, signer } = decrypting.open(received(mutant, utf8("ENC1")));
      return told(json, signer?.fingerprint);
    });
  for (const decrypt of RECIPIENTS) {
    const decrypting = await sealOf({ verifyCa: ["ca"], profile, decrypt });
    for (const encrypt of [[decrypt], ["p384", "rsa", "p256", "x25519"]]) {
      const seal = await sealOf({ sign: "p256", encrypt });
      const sealed = seal.seal({ type: TYPE, fields: { for: encrypt }, time: 1, hostname: "h" });
      enveloped(`enveloped GCM, ${decrypt}`, decrypting, sealed.signature);
    }
    if (decrypt === "x25519") continue;
    const attached = opensslSigns("p384", body(`cbc ${decrypt}`), "-nodetach");
    const envelope = openssl([
      ...["cms", "-encrypt", "-binary", "-outform", "DER", "-aes-128-cbc"],
      certificateOf(decrypt),
    ], attached);
    enveloped(`enveloped CBC, ${decrypt}`, decrypting, envelope);
  }
  const parts = { others: [], lists: [], policy: { legacy: true } };
  const anchor = new Certificate(pki().certificate("ca"));
  for (const name of ["rsa", "p384", "ed25519", "x25519"]) {
    add("certificate", pki().certificate(name), (mutant) => {
      const certificate = new Certificate(mutant);
      const seen = [certificate.name, certificate.attributes, certificate.hosts, certificate.fingerprint];
      assert.equal(seen.length, 4);
      const trusted = new Trust({ ...parts, anchors: [anchor] });
      const signer = trusted.find(certificate, [certificate], Date.now());
      return told(utf8(signer.name), signer.fingerprint);
    });
  }
  add("CRL", openssl(["crl", "-in", pki().path("ca.crl"), "-outform", "DER"]), (mutant) => {
    const list = new RevocationList(mutant);
    if (!list.isOf(anchor, parts.policy)) throw new DerError("it is not the CA's");
    return told(list.entries, String(list.updated));
  });
  return found;
}

/** The codes of messages, as they are documented. */
function documentedCodes(): Set<string> {
  const [, part] = /^## Messages\n([^]*?)^## /m.exec(readFileSync(join(ROOT, "docs", "errors.md"), "utf8"))!;
  return new Set([...part.matchAll(/^\| `([a-z-]+)`/gm)].map(([, code]) => code));
}

const memory = () => process.memoryUsage().rss;

test(`cms fuzz: mutants are refused with a documented code, or are what the original was (seed ${SEED})`, {
  skip: missing,
}, async () => {
  const all = await samples();
  const codes = documentedCodes();
  const valid = new Map(all.map((sample) => [sample, sample.open(sample.bytes)]));
  const said = new Set(valid.values());
  const until = performance.now() + SECONDS * 1000;
  const counts = { refused: 0, same: 0, longest: 0, kind: "" };
  /** @returns Milliseconds and bytes that it took. */
  const run = (sample: Sample, mutant: Uint8Array): [number, number] => {
    const before = memory();
    const began = performance.now();
    let outcome: string | null = null;
    let thrown: unknown = null;
    try {
      outcome = sample.open(mutant);
    } catch (error) {
      thrown = error;
    }
    const took = performance.now() - began;
    const grown = memory() - before;
    if (outcome !== null) {
      assert.ok(said.has(outcome), `accepted, and says something else: ${outcome}`);
      counts.same++;
    } else {
      // Files of the key store are refused by their reader, which knows both kinds.
      const isOfFile = thrown instanceof DerError && /^(certificate|CRL)/.test(sample.kind);
      if (!isOfFile && !(thrown instanceof MessageError && codes.has(thrown.code))) throw thrown;
      counts.refused++;
    }
    return [took, grown];
  };
  let n = 0;
  for (; n < MUTANTS || performance.now() < until; n++) {
    const sample = pick(all);
    const mutant = random() < 0.02 ? sample.bytes : mutated(sample.bytes, pick(all).bytes);
    try {
      let [ms, grown] = run(sample, mutant);
      // This machine may have been busy with something else, or have collected nothing for long.
      for (let tries = 0; tries < 2 && (ms > MUTANT_MAX_MS || grown > MUTANT_MAX_BYTES); tries++) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        const again = run(sample, mutant);
        ms = Math.min(ms, again[0]);
        grown = Math.min(grown, again[1]);
      }
      if (ms > counts.longest) [counts.longest, counts.kind] = [ms, sample.kind];
      assert.ok(ms <= MUTANT_MAX_MS, `${ms.toFixed(1)} ms`);
      assert.ok(grown <= MUTANT_MAX_BYTES, `${grown} bytes`);
    } catch (error) {
      throw new Error(`${sample.kind}, mutant ${n} of seed ${SEED}: ${base64(mutant).slice(0, 4000)}`, {
        cause: error,
      });
    }
  }
  assert.ok(counts.same > 0 && counts.refused > counts.same);
  const longest = `longest ${counts.longest.toFixed(1)} ms (${counts.kind})`;
  console.log(
    `cms fuzz, seed ${SEED}: ${n} mutants, ${counts.refused} refused, ${counts.same} as the original, ${longest}`,
  );
});
