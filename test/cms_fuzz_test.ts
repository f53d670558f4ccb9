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
import { spawnSync } from "node:child_process";
import { constants, createHash, createPrivateKey, type KeyObject, sign } from "node:crypto";
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
import { der, DerError, DerReader } from "../src/seal/cms/der.ts";
import { pem } from "../src/seal/cms/pem.ts";
import { verifySignedData } from "../src/seal/cms/signed_data.ts";
import { Trust } from "../src/seal/cms/trust.ts";
import { CmsSeal } from "../src/seal/cms_seal.ts";
import type { SealSettings } from "../src/seal/settings.ts";
import {
  become,
  encoded,
  joined,
  nodesOf,
  octetString,
  oidOf,
  parsed,
  seq,
  set,
  textOf,
  type Tree,
  value,
} from "./helpers/der_tree.ts";
import { freshSeed, ROOT, secondsFor, seeded, skipFor, tempFolder, utf8 } from "./helpers/env.ts";
import { HAS_OPENSSL, openssl, Pki } from "./helpers/pki.ts";

const SEED = freshSeed();
/** By hand: for so long, whatever the number. */
const SECONDS = secondsFor(0);
/** What is accepted and shown to openssl: a process each. */
const ACCEPTED = SECONDS > 0 ? 1000 : 60;
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
    const list = RevocationList.of(mutant);
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

// Against openssl

/** A certificate that is issued anew, and by whose key. */
interface Issued {
  readonly name: "ca" | "mid" | "rsa" | "p256" | "p384";
  readonly tree: Tree;
}

const keys = new Map<string, KeyObject>();
/** A private key of the store. */
function privateKey(name: string): KeyObject {
  const known = keys.get(name) ?? createPrivateKey(readFileSync(keyOf(name)));
  keys.set(name, known);
  return known;
}

const NOW = Date.now();
const YEAR = 365 * 86_400_000;
const digits = (ms: number) => new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, "");
const times: readonly (() => Tree)[] = [
  () => textOf(0x17, digits(NOW + pick([-3, -1, 1, 3]) * YEAR).slice(2)),
  () => textOf(0x17, digits(NOW + pick([-1, 1]) * 86_400_000).slice(2)),
  () => textOf(0x18, digits(NOW + pick([-1, 1]) * YEAR)),
  () => textOf(0x18, pick(["20500101000000Z", "99991231235959Z", "19000101000000Z", "20300101000000.5Z"])),
  () =>
    textOf(
      0x17,
      pick(["491231235959Z", "500101000000Z", "3001010000Z", "300101000000+0000", "300231000000Z"]),
    ),
];

const bool = (value: boolean) => ({ tag: 1, bytes: Uint8Array.of(value ? 0xff : 0) });
function extension(dotted: string, content: Tree, critical = random() < 0.5): Tree {
  return seq(oidOf(dotted), ...(critical ? [bool(true)] : []), octetString(encoded(content)));
}

const directory = (name: string) => ({
  tag: 0xa4,
  children: [parsed(certificateBytes(name)).children![0].children![5]],
});
const certificateBytes = (name: string) => pki().certificate(name);
const dns = (tag: number, name: string) => textOf(tag, name);

/** Extensions that are set, whatever was there. */
const EXTENSIONS: readonly [string, () => Tree][] = [
  ["2.5.29.19", () => seq()],
  ["2.5.29.19", () => seq(bool(true))],
  ["2.5.29.19", () => seq(bool(true), value(2, int(3)))],
  ["2.5.29.19", () => seq(...pick([[], [bool(false)]]), value(2, pick([0, 3, 0xff])))],
  ["2.5.29.19", () => seq(bool(true), value(2, 0xff))],
  ["2.5.29.15", () => value(3, pick([0, 1, 5]), pick([0x80, 0x04, 0x06, 0xc0, 0x20, 0xff, 0]))],
  ["2.5.29.15", () => value(3, 7, pick([0, 0x80]), 0x80)],
  ["2.5.29.15", () => value(3, 0)],
  ["2.5.29.37", () => seq(...pick([[], [oidOf("1.3.6.1.5.5.7.3.4")], [oidOf("2.5.29.37.0")]]))],
  ["2.5.29.37", () => seq(oidOf(pick(["1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.2"])))],
  ["2.5.29.14", () => octetString(bytes(pick([0, 20])))],
  ["2.5.29.35", () => seq({ tag: 0x80, bytes: bytes(20) })],
  ["2.5.29.35", () => seq()],
  [
    "2.5.29.35",
    () => seq({ tag: 0xa1, children: [directory(pick(["ca", "mid", "rsa"]))] }, value(0x82, 1, 2)),
  ],
  ["2.5.29.35", () => seq(value(0x82, 1, 2))],
  ["2.5.29.17", () => seq(dns(0x82, pick(["a.example", "", "*.b"])))],
  ["2.5.29.17", () => seq()],
  ["2.5.29.17", () => seq(value(0x87, 1, 2, 3))],
  ["2.5.29.30", () => seq({ tag: 0xa0, children: [seq(dns(0x82, "other.example"))] })],
  [
    "2.5.29.30",
    () => seq({ tag: pick([0xa0, 0xa1]), children: [seq(directory(pick(["ca", "rsa", "p256"])))] }),
  ],
  ["2.5.29.32", () => seq(seq(oidOf("2.5.29.32.0")))],
  ["2.5.29.36", () => seq(value(0x80, 0))],
  ["2.5.29.54", () => value(2, 0)],
  ["2.5.29.31", () => seq(seq({ tag: 0xa0, children: [{ tag: 0xa0, children: [dns(0x86, "http://a/")] }] }))],
  ["1.3.6.1.5.5.7.1.14", () => seq(seq(oidOf("1.3.6.1.5.5.7.21.1")))],
  ["2.16.840.1.113730.1.1", () => value(3, 0, pick([0x20, 0x04, 0x80]))],
  ["1.2.3.4", () => octetString(bytes(5))],
  // No such value.
  ["2.5.29.17", () => octetString(bytes(5))],
  ["2.5.29.30", () => octetString(bytes(5))],
  ["2.5.29.32", () => octetString(bytes(5))],
];

const tbsOf = ({ tree }: Issued) => tree.children![0];
const extensionsOf = (issued: Issued) => {
  const { children = [] } = tbsOf(issued);
  return children.find(({ tag }) => tag === 0xa3)?.children?.[0];
};

/** Changes of what a certificate says; each tells what it did. */
const CERTIFICATE_EDITS: readonly ((issued: Issued) => string)[] = [
  (issued) => {
    const at = int(2);
    const time = pick(times)();
    tbsOf(issued).children![4].children![at] = time;
    return `${["notBefore", "notAfter"][at]} ${new TextDecoder().decode(time.bytes)}`;
  },
  ...Array.from({ length: 6 }, () => (issued: Issued) => {
    const [dotted, make] = pick(EXTENSIONS);
    // Who has issued a named CA is of no interest here, and openssl would look for it.
    if (issued.name === "ca" && dotted === "2.5.29.35") return "nothing";
    const name = encoded(oidOf(dotted));
    const list = extensionsOf(issued);
    if (list === undefined) return "nothing";
    const others = list.children!.filter(({ children }) => base64(encoded(children![0])) !== base64(name));
    const content = make();
    const critical = random() < 0.4;
    list.children = [...others, extension(dotted, content, critical)];
    return `${critical ? "critical " : ""}${dotted} ${Buffer.from(encoded(content)).toString("hex")}`;
  }),
  (issued) => {
    const list = extensionsOf(issued);
    if (list === undefined || list.children!.length === 0) return "nothing";
    const at = int(list.children!.length);
    if (random() < 0.5) list.children!.splice(at, 1);
    else list.children!.push(structuredClone(list.children![at]));
    return `extension ${at} away, or twice`;
  },
  (issued) => {
    const { children } = tbsOf(issued);
    if (random() < 0.5) children![0].children![0].bytes = Uint8Array.of(pick([0, 1, 2, 3, 4]));
    else if (children![0].tag === 0xa0) children!.shift();
    return "version";
  },
  (issued) => {
    const { children } = tbsOf(issued);
    tbsOf(issued).children = children!.filter(({ tag }) => tag !== 0xa3);
    if (random() < 0.5) children![0].children![0].bytes = Uint8Array.of(0);
    return "no extensions";
  },
  (issued) => {
    // Where it was, for the issuer's: a signer is named by it.
    tbsOf(issued).children![1] = pick([
      () => value(2, 0),
      () => value(2, 0x80, 1),
      () => ({ tag: 2, bytes: bytes(25).map((b) => b | 1) }),
      () => value(2, 0, 1),
      () => value(2, 7),
    ])();
    return "serial";
  },
  (issued) => {
    tbsOf(issued).children![5] = pick([
      () => seq(),
      () => seq(set(seq(oidOf("2.5.4.3"), textOf(pick([0x0c, 0x13, 0x16, 0x1e]), "other")))),
    ])();
    return "subject";
  },
  (issued) => {
    const key = tbsOf(issued).children![6];
    const { node } = pick(nodesOf(key));
    node.bytes = node.bytes === undefined ? undefined : changedBytes(node.bytes);
    return "key";
  },
  (issued) => {
    tbsOf(issued).children!.splice(7, 0, { tag: pick([0x81, 0x82]), bytes: Uint8Array.of(0, 1, 2) });
    return "unique identifier";
  },
];

/** Signs it with its issuer's key: ECDSA. */
function issue({ tree }: Issued, by: string): void {
  const hash = pick(["sha256", "sha256", "sha384", "sha512"]);
  const dotted = {
    sha256: "1.2.840.10045.4.3.2",
    sha384: "1.2.840.10045.4.3.3",
    sha512: "1.2.840.10045.4.3.4",
  }[hash]!;
  const algorithm = seq(oidOf(dotted));
  const at = tree.children![0].children![0].tag === 0xa0 ? 2 : 1;
  tree.children![0].children![at] = algorithm;
  tree.children![1] = algorithm;
  const signature = sign(hash, encoded(tree.children![0]), privateKey(by));
  tree.children![2] = { tag: 3, bytes: joined([Uint8Array.of(0), signature]) };
}

const HASHES: Readonly<Record<string, string>> = {
  sha1: "1.3.14.3.2.26",
  sha256: "2.16.840.1.101.3.4.2.1",
  sha384: "2.16.840.1.101.3.4.2.2",
  sha512: "2.16.840.1.101.3.4.2.3",
};
const digestAlgorithm = (hash: string) => seq(oidOf(HASHES[hash]), ...(random() < 0.5 ? [value(5)] : []));

/** Signs attributes. @returns AlgorithmIdentifier, and the signature. */
function signs(name: string, hash: string, data: Uint8Array): [Tree, Uint8Array] {
  const key = privateKey(name);
  const last = { sha1: 1, sha256: 2, sha384: 3, sha512: 4 }[hash];
  if (name !== "rsa") {
    return [
      seq(oidOf(hash === "sha1" ? "1.2.840.10045.4.1" : `1.2.840.10045.4.3.${last}`)),
      sign(hash, data, key),
    ];
  }
  if (random() < 0.5) {
    const named = { sha1: 5, sha256: 11, sha384: 12, sha512: 13 }[hash];
    const dotted = random() < 0.5 ? "1.2.840.113549.1.1.1" : `1.2.840.113549.1.1.${named}`;
    return [seq(oidOf(dotted), ...(random() < 0.8 ? [value(5)] : [])), sign(hash, data, key)];
  }
  const saltLength = pick([20, 32, 0, 48, 64]);
  const mask = random() < 0.9 ? hash : pick(["sha1", "sha256"]);
  const algorithm = seq(
    oidOf("1.2.840.113549.1.1.10"),
    seq(
      { tag: 0xa0, children: [digestAlgorithm(hash)] },
      { tag: 0xa1, children: [seq(oidOf("1.2.840.113549.1.1.8"), digestAlgorithm(mask))] },
      { tag: 0xa2, children: [value(2, random() < 0.9 ? saltLength : 33)] },
      ...(random() < 0.2 ? [{ tag: 0xa3, children: [value(2, pick([1, 1, 2]))] }] : []),
    ),
  );
  const padding = constants.RSA_PKCS1_PSS_PADDING;
  return [algorithm, sign(hash, data, { key, padding, saltLength })];
}

const DATA = "1.2.840.113549.1.7.1";
const attribute = (dotted: string, ...values: Tree[]) => seq(oidOf(dotted), set(...values));

/** Something that both are asked about. */
interface Case {
  readonly signature: Uint8Array;
  readonly content: Uint8Array;
  readonly attached: boolean;
  readonly anchor: Uint8Array;
  /** Certificates that lie in the store. */
  readonly stored: readonly Uint8Array[];
  readonly list: Uint8Array | null;
  /** Certificates of the chain. */
  readonly chain: readonly Uint8Array[];
  /** What was done to it. */
  readonly edits: readonly string[];
  /** The message before its last changes, and by the same signer. */
  readonly plain: Uint8Array;
}

/** `certificates`: as openssl has issued them. */
function makeCase(original: ReadonlyMap<string, Uint8Array>): Case {
  const edits: string[] = [];
  const issued = (name: Issued["name"]): Issued => ({ name, tree: parsed(original.get(name)!) });
  const leaf = issued(pick(["rsa", "p256", "p384"]));
  const mid = issued("mid");
  const ca = issued("ca");
  const by = leaf.name === "p256" ? "mid" : "ca";
  if (random() < 0.6) {
    for (let n = pick([1, 1, 2]); n > 0; n--) {
      const one = pick(by === "mid" ? [leaf, mid, ca] : [leaf, leaf, ca]);
      // What comes after a version is looked for behind it.
      if (tbsOf(one).children![0].tag !== 0xa0) continue;
      edits.push(`${one.name}: ${pick(CERTIFICATE_EDITS)(one)}`);
      issue(one, one === leaf ? by : "ca");
    }
  }
  const content = body(pick(["a", "b"]));
  const attached = random() < 0.3;
  // Deno's ECDSA takes no digest that is shorter than half of the curve's numbers.
  const hash = pick(["sha256", "sha256", "sha384", "sha512", leaf.name === "p384" ? "sha256" : "sha1"]);
  const attributes = [
    attribute("1.2.840.113549.1.9.3", oidOf(DATA)),
    attribute("1.2.840.113549.1.9.4", octetString(createHash(hash).update(content).digest())),
  ];
  const change = (text: string, probability: number, what: () => void) => {
    if (random() >= probability) return;
    edits.push(text);
    what();
  };
  change("signing time", 0.3, () => attributes.push(attribute("1.2.840.113549.1.9.5", pick(times)())));
  change("another attribute", 0.1, () => attributes.push(attribute("1.2.3.4", ...pick([[], [value(5)]]))));
  change("an attribute twice", 0.05, () => attributes.push(structuredClone(pick(attributes))));
  change("an attribute away", 0.03, () => attributes.splice(int(attributes.length), 1));
  change("two values", 0.03, () => {
    const { children } = pick(attributes).children![1];
    children!.push(...structuredClone(children!));
  });
  change(
    "another digest",
    0.02,
    () => void (attributes[1] = attribute("1.2.840.113549.1.9.4", octetString(bytes(32)))),
  );
  change("many attributes", 0.02, () => {
    for (let n = int(20); n > 0; n--) attributes.push(attribute(`1.2.3.${n}`, value(5)));
  });
  const order = (a: Tree, b: Tree) => Buffer.compare(encoded(a), encoded(b));
  if (random() < 0.9) attributes.sort(order);
  else edits.push("attributes as they came");
  const [algorithm, signature] = signs(leaf.name, hash, encoded(set(...attributes)));
  const tbs = tbsOf(leaf).children!;
  const shift = tbs[0].tag === 0xa0 ? 0 : -1;
  const signer = seq(
    value(2, 1),
    seq(tbs[3 + shift], tbs[1 + shift]),
    digestAlgorithm(hash),
    { tag: 0xa0, children: attributes },
    algorithm,
    octetString(signature),
  );
  const digests = [digestAlgorithm(hash)];
  let certificates: Tree[] = [leaf.tree, ...(by === "mid" ? [mid.tree] : [])];
  const stored: Uint8Array[] = [];
  // No other certificate of the same name and key: where one way ends we look for another, and openssl does not.
  const isOther = (name: string) =>
    [leaf, mid, ca].every((one) =>
      one.name !== name || base64(encoded(one.tree)) === base64(original.get(name)!)
    );
  const others = [...original.keys()].filter(isOther);
  const whole = () =>
    encoded(seq(oidOf("1.2.840.113549.1.7.2"), {
      tag: 0xa0,
      children: [seq(
        version,
        set(...digests),
        seq(oidOf(type), ...(attached ? [{ tag: 0xa0, children: [octetString(content)] }] : [])),
        ...(certificates.length > 0 ? [{ tag: 0xa0, children: certificates }] : []),
        ...lists,
        set(...signers),
      )],
    }));
  const version = value(2, 1);
  const lists: Tree[] = [];
  const signers = [signer];
  let type = DATA;
  const plain = whole();
  change("other digests named", 0.1, () => void digests.unshift(digestAlgorithm(pick(Object.keys(HASHES)))));
  change("no digest named", 0.02, () => void digests.pop());
  change("more certificates", 0.2, () => {
    for (let n = 1 + int(3); n > 0; n--) certificates.push(parsed(original.get(pick(others))!));
  });
  change(
    "a certificate that is none",
    0.05,
    () => void certificates.push(pick([seq(), seq(value(5)), value(4)])),
  );
  change("certificates in another order", 0.3, () => void certificates.reverse());
  change("the certificate is stored, and not in the message", 0.1, () => {
    // openssl looks there for the signer's alone.
    stored.push(encoded(leaf.tree));
    certificates = by === "mid" ? [mid.tree] : [];
  });
  change("a CRL", 0.05, () => void lists.push({ tag: 0xa1, children: [parsed(original.get("list")!)] }));
  change(
    "a CRL that is none",
    0.05,
    () => void lists.push({ tag: 0xa1, children: [pick([seq(), value(5)])] }),
  );
  change("unsigned attributes", 0.1, () => {
    const countersigned = attribute("1.2.840.113549.1.9.6", pick([seq(), value(5)]));
    const children = pick([
      [attribute("1.2.3.4", value(5))],
      [countersigned],
      [value(5)],
      [seq()],
      [attribute("1.2.3.4")],
      [],
    ]);
    signer.children!.push({ tag: 0xa1, children });
  });
  change("versions", 0.05, () => void (pick([version, signer.children![0]]).bytes = Uint8Array.of(int(5))));
  change("another type", 0.02, () => void (type = "1.2.840.113549.1.7.5"));
  change("two signers", 0.02, () => void signers.push(structuredClone(signer)));
  let made = whole();
  change("changed bytes", 0.15, () => void (made = mutated(made, plain)));
  let list: Uint8Array | null = null;
  if (by === "ca" && random() < 0.25) {
    const tree = parsed(original.get("list")!);
    edits.push(`CRL: ${random() < 0.8 ? pick(LIST_EDITS)(tree, tbs[1 + shift]) : "as it is"}`);
    issueList(tree);
    list = encoded(tree);
  }
  const chain = [leaf.tree, ...(by === "mid" ? [mid.tree] : [])].map(encoded);
  return { signature: made, chain, content, attached, anchor: encoded(ca.tree), stored, list, edits, plain };
}

const listExtensions = (list: Tree) => list.children![0].children!.at(-1)!.children![0].children!;

/** Changes of what a CRL says; `serial` is the signer's. */
const LIST_EDITS: readonly ((list: Tree, serial: Tree) => string)[] = [
  (list) => {
    const time = pick(times)();
    list.children![0].children![3] = time;
    return `thisUpdate ${new TextDecoder().decode(time.bytes)}`;
  },
  (list) => {
    const time = pick(times)();
    list.children![0].children![4] = time;
    return `nextUpdate ${new TextDecoder().decode(time.bytes)}`;
  },
  (list) => (list.children![0].children!.splice(4, 1), "no nextUpdate"),
  (list) => {
    const [dotted, content] = pick<[string, () => Tree]>([
      ["2.5.29.28", () => seq({ tag: pick([0x81, 0x82, 0x84, 0x85]), bytes: Uint8Array.of(0xff) })],
      ["2.5.29.27", () => value(2, 1)],
      ["2.5.29.46", () => seq()],
      ["2.5.29.35", () => seq({ tag: 0x80, bytes: bytes(20) })],
      ["2.5.29.20", () => value(2, 1, 2)],
      ["1.2.3.4", () => value(5)],
    ]);
    const critical = random() < 0.5;
    listExtensions(list).push(extension(dotted, content(), critical));
    return `${critical ? "critical " : ""}${dotted}`;
  },
  (list, serial) => {
    const entries = list.children![0].children!.find((child, i) => i > 3 && child.tag === 0x30)!;
    const reason = pick([0, 1, 6, 8, 9]);
    const time = pick(times)();
    const extensions = random() < 0.5 ? [] : [seq(extension("2.5.29.21", value(0x0a, reason)))];
    entries.children!.push(seq(serial, time, ...extensions));
    return `the signer is revoked: ${reason}, ${new TextDecoder().decode(time.bytes)}`;
  },
  (list) => {
    const entries = list.children![0].children!.find((child, i) => i > 3 && child.tag === 0x30)!;
    const dotted = pick(["2.5.29.29", "1.2.3.4"]);
    entries.children!.push(
      seq(value(2, 1), textOf(0x17, "200101000000Z"), seq(extension(dotted, seq(directory("ca"))))),
    );
    return `an entry with ${dotted}`;
  },
  (list) => (list.children![0].children!.shift(), "version"),
  (list) => (list.children![0].children![2] = seq(), "issuer"),
];

function issueList(tree: Tree): void {
  const signature = sign("sha256", encoded(tree.children![0]), privateKey("ca"));
  tree.children![2] = { tag: 3, bytes: joined([Uint8Array.of(0), signature]) };
}

/** Does the seal take it? @returns False: it is refused. */
function sealTakes(one: Case): boolean {
  const { signature, content, attached, anchor, stored, list, plain } = one;
  try {
    const trust = new Trust({
      anchors: [new Certificate(anchor)],
      others: stored.map((stored) => new Certificate(stored)),
      lists: list === null ? [] : [RevocationList.of(list)],
      policy: { legacy: random() < 0.8 },
    });
    const detached = attached ? null : content;
    // As in a server: a signer that is known is not looked for again.
    if (random() < 0.5) {
      try {
        verifySignedData(plain, detached, trust, Date.now());
      } catch { /* then it is not known */ }
    }
    const verified = verifySignedData(signature, detached, trust, Date.now());
    assert.equal(base64(verified.content), base64(content));
    return true;
  } catch (error) {
    if (error instanceof MessageError || error instanceof DerError) return false;
    throw error;
  }
}

/** The same without certificates and CRLs that nobody uses: they are looked at here, but not through and through. */
function withChainAlone({ signature, chain, stored }: Case): Uint8Array {
  const info = new DerReader(signature).enter(0x30);
  const type = info.expect(6).element;
  const data = info.enter(0xa0).enter(0x30);
  const kept = der(0xa0, ...(stored.length > 0 ? chain.slice(1) : chain));
  const parts: Uint8Array[] = [];
  while (data.more) {
    const { tag, element } = data.next();
    if (tag !== 0xa1) parts.push(tag === 0xa0 ? kept : element);
  }
  return der(0x30, type, der(0xa0, der(0x30, ...parts)));
}

/** Does openssl? @returns What it says against it; null: it takes it. */
function opensslRefuses({ signature, content, attached, anchor, stored, list }: Case): string | null {
  const file = (name: string, of: Uint8Array | string) => {
    const path = join(folder.path, name);
    writeFileSync(path, of);
    return path;
  };
  const trusted = pem("CERTIFICATE", anchor) + (list === null ? "" : pem("X509 CRL", list));
  const ask = (crl: readonly string[]) =>
    spawnSync("openssl", [
      ...["cms", "-verify", "-binary", "-inform", "DER", "-in", file("signature", signature)],
      ...["-CAfile", file("trusted", trusted), "-no-CApath", "-no-CAstore", "-purpose", "any"],
      ...(attached ? [] : ["-content", file("content", content)]),
      ...(stored.length === 0
        ? []
        : ["-certfile", file("stored", stored.map((one) => pem("CERTIFICATE", one)).join(""))]),
      ...crl,
      ...["-out", join(folder.path, "out")],
    ]);
  let { status, stderr } = ask(list === null ? [] : ["-crl_check"]);
  // A list of something else is none, and none need be there.
  if (/unable to get certificate CRL/.test(String(stderr))) ({ status, stderr } = ask([]));
  return status === 0 ? null : /Verify error:.*|Type=.*/.exec(String(stderr))?.[0] ?? String(stderr);
}

test(`cms fuzz: what is accepted is accepted by openssl (seed ${SEED})`, { skip: missing }, () => {
  const list = openssl(["crl", "-in", pki().path("ca.crl"), "-outform", "DER"]);
  const original = new Map(
    ["ca", "mid", "rsa", "p256", "p384"].map((name) => [name, certificateBytes(name)]),
  );
  original.set("list", list);
  const until = performance.now() + SECONDS * 1000;
  const counts = { accepted: 0, refused: 0, asked: 0, stricter: 0, unused: 0 };
  const faults: string[] = [];
  while (counts.accepted < ACCEPTED || performance.now() < until) {
    const one = makeCase(original);
    if (sealTakes(one)) {
      counts.accepted++;
      let why = opensslRefuses(one);
      if (why !== null && opensslRefuses({ ...one, signature: withChainAlone(one) }) === null) {
        counts.unused++;
        why = null;
      }
      if (why !== null) faults.push(`${one.edits.join(", ")}: ${why}`);
    } else {
      counts.refused++;
      // A share of them, to know by how much we are stricter.
      if (random() > 0.1) continue;
      counts.asked++;
      if (opensslRefuses(one) === null) counts.stricter++;
    }
  }
  console.log(
    `cms against openssl, seed ${SEED}: ${counts.accepted} accepted by both (${counts.unused} but for a ` +
      `certificate or CRL that nobody uses), ${counts.refused} refused; of ` +
      `${counts.asked} of those, openssl would take ${counts.stricter}`,
  );
  assert.ok(
    faults.length === 0,
    `seed ${SEED}: accepted here, and refused by openssl:\n${faults.join("\n")}`,
  );
});

test("cms: what openssl refuses of certificates, CRLs and parts that are not signed is refused", {
  skip: missing,
}, () => {
  const ca = new Certificate(certificateBytes("ca"));
  const trustWith = (lists: readonly RevocationList[] = []) =>
    new Trust({ anchors: [ca], others: [], lists, policy: { legacy: false } });
  const leafWith = (dotted: string, content: Tree, critical = false): Certificate => {
    const leaf: Issued = { name: "p384", tree: parsed(certificateBytes("p384")) };
    const list = extensionsOf(leaf)!;
    const name = base64(encoded(oidOf(dotted)));
    list.children = list.children!.filter(({ children }) => base64(encoded(children![0])) !== name);
    list.children.push(extension(dotted, content, critical));
    issue(leaf, "ca");
    return new Certificate(encoded(leaf.tree));
  };
  const find = (certificate: Certificate, trust = trustWith()) => trust.find(certificate, [], Date.now());
  assert.equal(find(leafWith("1.2.3.4", value(5))).name, "p384");
  const issuer = { tag: 0xa1, children: [directory("ca")] };
  const serial = { tag: 0x82, bytes: ca.serial };
  assert.equal(find(leafWith("2.5.29.35", seq(issuer, serial))).name, "p384");
  for (
    const [dotted, content, critical] of [
      ["2.5.29.30", seq({ tag: 0xa0, children: [seq(dns(0x82, "other.example"))] })],
      ["1.3.6.1.5.5.7.1.14", seq(seq(oidOf("1.3.6.1.5.5.7.21.1")))],
      ["2.5.29.14", octetString(bytes(20)), true],
      ["2.5.29.35", seq(issuer, value(0x82, 1, 2))],
      ["2.5.29.35", seq({ tag: 0xa1, children: [directory("mid")] }, serial)],
    ] as const
  ) {
    assert.throws(() => find(leafWith(dotted, content, critical)), MessageError, dotted);
  }
  assert.throws(() => leafWith("2.5.29.15", value(3, 5, 0x84)), DerError);
  for (const name of ["rsa", "p256"]) {
    const tree = parsed(certificateBytes(name));
    const parameters = tree.children![0].children![6].children![0].children!;
    if (name === "rsa") parameters[1].bytes = bytes(3);
    else parameters.push(value(5));
    assert.throws(() => new Certificate(encoded(tree)).key, DerError, name);
  }

  const listWith = (change: (list: Tree) => void): RevocationList => {
    const tree = parsed(openssl(["crl", "-in", pki().path("ca.crl"), "-outform", "DER"]));
    change(tree);
    issueList(tree);
    return RevocationList.of(encoded(tree));
  };
  const leaf = new Certificate(certificateBytes("p384"));
  const present = listWith(() => {});
  const future = listWith((list) => {
    list.children![0].children![3] = textOf(0x17, digits(NOW + 86_400_000).slice(2));
  });
  assert.throws(() => find(leaf, trustWith([future])), { code: "expired" });
  assert.equal(find(leaf, trustWith([future, present])).name, "p384");
  for (const dotted of ["2.5.29.27", "2.5.29.28"]) {
    const other = (list: Tree) => void listExtensions(list).push(extension(dotted, seq(), false));
    assert.throws(() => listWith(other), DerError, dotted);
  }

  const content = body("unsigned");
  const signature = opensslSigns("p384", content);
  const trust = trustWith();
  const verify = (change: (data: Tree[]) => void) => {
    const tree = parsed(signature);
    change(tree.children![1].children![0].children!);
    return verifySignedData(encoded(tree), content, trust, Date.now()).signer.name;
  };
  const unsigned = (child: Tree) => (data: Tree[]) =>
    void data.at(-1)!.children![0].children!.push({ tag: 0xa1, children: [child] });
  assert.equal(verify(unsigned(attribute("1.2.3.4", value(5)))), "p384");
  for (
    const change of [
      unsigned(value(5)),
      unsigned(seq()),
      (data: Tree[]) => void data[3].children!.push(seq(value(5))),
      (data: Tree[]) => void data.splice(4, 0, { tag: 0xa1, children: [seq(value(5))] }),
    ]
  ) {
    assert.throws(() => verify(change), { code: "bad-cms" });
  }
});
