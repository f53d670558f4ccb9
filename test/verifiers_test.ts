/** Signatures that are verified on threads beside the main one. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { constants, generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { test } from "node:test";
import type { Environment, ThreadEvents } from "../src/contracts/environment.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { PublicKey } from "../src/seal/cms/public_key.ts";
import type { HashName, SignatureAlgorithm } from "../src/seal/cms/signatures.ts";
import { Verifiers } from "../src/seal/cms/verifiers.ts";
import { until } from "./helpers/env.ts";

interface Kind {
  name: string;
  algorithm: SignatureAlgorithm;
  hash: HashName;
  privateKey: KeyObject;
  key: PublicKey;
  sign: (data: Uint8Array) => Uint8Array;
}

function kind(
  name: string,
  pair: { publicKey: KeyObject; privateKey: KeyObject },
  scheme: SignatureAlgorithm["scheme"],
  hash: HashName,
): Kind {
  const { privateKey, publicKey } = pair;
  const saltBytes = scheme === "pss" ? 32 : 0;
  const key = new PublicKey(new Uint8Array(publicKey.export({ format: "der", type: "spki" })));
  const padding = constants.RSA_PKCS1_PSS_PADDING;
  const by = scheme === "pss" ? { key: privateKey, padding, saltLength: saltBytes } : privateKey;
  return {
    name,
    algorithm: { scheme, hash: scheme === "ed25519" ? null : hash, saltBytes },
    hash,
    privateKey,
    key,
    sign: (data) => sign(scheme === "ed25519" ? null : hash, data, by),
  };
}

const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
const KINDS: Kind[] = [
  kind("RSA, SHA-1", rsa, "rsa", "sha1"),
  kind("RSA", rsa, "rsa", "sha256"),
  kind("PSS", rsa, "pss", "sha256"),
  kind("P-256", generateKeyPairSync("ec", { namedCurve: "P-256" }), "ecdsa", "sha256"),
  kind("P-384", generateKeyPairSync("ec", { namedCurve: "P-384" }), "ecdsa", "sha384"),
  kind("Ed25519", generateKeyPairSync("ed25519"), "ed25519", "sha512"),
];

/** Collects what is logged. */
function logged() {
  const lines: string[] = [];
  return {
    lines,
    log: { warnRarely: (_where: string, _key: string, text: string) => void lines.push(text) },
  };
}

function verify(
  verifiers: Verifiers,
  { algorithm, hash, key }: Kind,
  data: Uint8Array,
  signature: Uint8Array,
) {
  return new Promise<boolean>((resolve) => verifiers.verify(algorithm, hash, key, data, signature, resolve));
}

test("verifiers: on threads the same fits as on the main one, whatever the key, in any number", async () => {
  const { lines, log } = logged();
  const verifiers = new Verifiers(2, MACHINE, log);
  try {
    const wanted: boolean[] = [];
    const found: Promise<boolean>[] = [];
    for (let i = 0; i < 120; i++) {
      const one = KINDS[i % KINDS.length];
      const data = randomBytes(50 + i);
      const signature = Buffer.from(one.sign(data));
      if (i % 5 === 1) signature[signature.length - 1] ^= 1;
      if (i % 5 === 2) data[0] ^= 1;
      wanted.push(i % 5 !== 1 && i % 5 !== 2);
      found.push(verify(verifiers, one, data, i % 25 === 4 ? signature.subarray(1) : signature));
      if (i % 25 === 4) wanted[i] = false;
    }
    assert.deepEqual(await Promise.all(found), wanted);
    assert.equal(verifiers.running, 2);
    const [one] = KINDS;
    const other = KINDS.at(-1)!;
    assert.throws(
      () => verifiers.verify(one.algorithm, "sha1", other.key, randomBytes(3), randomBytes(64), () => {}),
      /another kind of key/,
    );
    assert.deepEqual(lines, []);
  } finally {
    verifiers.close();
  }
  assert.equal(verifiers.running, 0);
});

test("verifiers: more keys than a thread remembers", async () => {
  const { log } = logged();
  const verifiers = new Verifiers(1, MACHINE, log);
  const pair = generateKeyPairSync("ed25519");
  const data = randomBytes(10);
  const signature = sign(null, data, pair.privateKey);
  try {
    for (let round = 0; round < 2; round++) {
      const all = Array.from({ length: 1100 }, () => kind("Ed25519", pair, "ed25519", "sha512"));
      const found = await Promise.all(all.map((one) => verify(verifiers, one, data, signature)));
      assert.ok(found.every(Boolean));
    }
  } finally {
    verifiers.close();
  }
});

/** Threads that this test ends, and that do nothing. */
function lameThreads() {
  const threads: ThreadEvents[] = [];
  let posts = 0;
  let ends = 0;
  const processes: Environment["processes"] = {
    ...MACHINE.processes,
    startThread(_program, events) {
      threads.push(events);
      return { post: () => void posts++, end: () => void ends++ };
    },
  };
  return { environment: { ...MACHINE, processes }, threads, posts: () => posts, ends: () => ends };
}

test("verifiers: a thread that fails is logged, and what it had is done on the main one, all that follows too", async () => {
  const { lines, log } = logged();
  const { environment, threads, posts } = lameThreads();
  const verifiers = new Verifiers(2, environment, log);
  const one = KINDS[1];
  const data = randomBytes(9);
  const right = one.sign(data);
  const found = [right, randomBytes(256), right, right].map((signature) =>
    verify(verifiers, one, data, signature)
  );
  await until("they are sent", () => posts() === 2);
  const late = verify(verifiers, one, data, right);
  threads[0].failed(new Error("no memory"));
  threads[1].failed(new Error("no memory"));
  assert.deepEqual(await Promise.all(found), [true, false, true, true]);
  assert.equal(await late, true);
  assert.equal(await verify(verifiers, one, data, right), true);
  assert.equal(await verify(verifiers, one, data, randomBytes(256)), false);
  assert.equal(threads.length, 2, "none is started again");
  assert.deepEqual(lines, [
    "a thread that verifies signatures has failed: no memory; 1 thread left",
    "a thread that verifies signatures has failed: no memory; the main thread does it now",
  ]);
});

test("verifiers: threads start when they are needed, and end when another seal has its own", async () => {
  const { log } = logged();
  const { environment, threads, posts, ends } = lameThreads();
  const verifiers = new Verifiers(2, environment, log);
  assert.equal(verifiers.running, 0);
  const one = KINDS[1];
  const data = randomBytes(9);
  const right = one.sign(data);
  const first = verify(verifiers, one, data, right);
  assert.equal(verifiers.running, 2);
  verifiers.retire();
  assert.deepEqual([verifiers.running, posts(), ends()], [0, 1, 1], "one has something under way");
  assert.equal(await verify(verifiers, one, data, right), true, "on the main thread");
  threads[0].result(Uint8Array.of(1));
  assert.equal(await first, true);
  assert.deepEqual([threads.length, posts(), ends()], [2, 1, 2]);
});

test("verifiers: where much waits, the main thread does a part of it", async () => {
  const { log } = logged();
  const { environment, posts } = lameThreads();
  const verifiers = new Verifiers(1, environment, log);
  const one = KINDS[1];
  const data = randomBytes(9);
  const right = one.sign(data);
  let done = 0;
  for (let i = 0; i < 5000; i++) {
    verifiers.verify(one.algorithm, one.hash, one.key, data, right, (fits) => {
      assert.ok(fits);
      done++;
    });
  }
  await until("they are sent", () => posts() === 1024 / 32);
  // Of the 1,200 that fill the thread a fifth of all behind the 64th, then all.
  assert.equal(done, 5000 - 1024);
  verifiers.close();
});
