/** Keys and certificates of a test, made by openssl; and DER as a tree, to change what is well formed. */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SealSettings } from "../../src/seal/settings.ts";
import { MACHINE } from "../../src/runtime/machine.ts";

export const HAS_OPENSSL = spawnSync("openssl", ["version"]).status === 0;

/** Runs openssl. @throws {Error} With what it wrote. */
export function openssl(args: string[], input: Uint8Array | string = ""): Uint8Array {
  const { status, stdout, stderr } = spawnSync("openssl", args, { input, maxBuffer: 2 ** 27 });
  if (status !== 0) throw new Error(`openssl ${args.join(" ")}: ${stderr}`);
  return new Uint8Array(stdout);
}

/** Does openssl take it? */
export function opensslTakes(args: string[], input: Uint8Array): boolean {
  return spawnSync("openssl", args, { input }).status === 0;
}

/** How keys of a kind are made. */
const KINDS = {
  rsa: ["RSA", "rsa_keygen_bits:2048"],
  rsa1024: ["RSA", "rsa_keygen_bits:1024"],
  p256: ["EC", "ec_paramgen_curve:P-256"],
  p384: ["EC", "ec_paramgen_curve:P-384"],
  ed25519: ["ED25519"],
  x25519: ["X25519"],
  "rsa-pss": ["RSA-PSS", "rsa_keygen_bits:2048"],
} as const;

export type KeyKind = keyof typeof KINDS;

/** What a certificate says. */
export interface CertificateOptions {
  readonly kind?: KeyKind;
  /** The issuer's name in the store; missing: it issues itself. */
  readonly by?: string;
  /** Lines of an extension section. */
  readonly extensions?: string;
  readonly commonName?: string;
  readonly serial?: number;
  readonly hash?: string;
}

/** A key store. */
export class Pki {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
    mkdirSync(join(folder, "private"), { recursive: true });
  }

  path(file: string): string {
    return join(this.folder, file);
  }

  key(name: string, kind: KeyKind): string {
    const file = this.path(`private/${name}.key`);
    const [algorithm, ...options] = KINDS[kind];
    openssl(["genpkey", "-algorithm", algorithm, ...options.flatMap((o) => ["-pkeyopt", o]), "-out", file]);
    chmodSync(file, 0o600);
    return file;
  }

  ca(name: string, options: CertificateOptions = {}): void {
    this.issue(name, {
      kind: "p256",
      extensions:
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash",
      ...options,
    });
  }

  issue(name: string, options: CertificateOptions = {}): void {
    const {
      kind = "p256",
      by,
      extensions = "subjectKeyIdentifier=hash",
      commonName = name,
      hash = "sha256",
    } = options;
    const key = this.key(name, kind);
    const file = this.path(`${name}.crt`);
    const config = this.path(`${name}.cnf`);
    writeFileSync(config, `[req]\ndistinguished_name=dn\n[dn]\n[x]\n${extensions}\n`);
    const subject = `/O=Test/CN=${commonName}`;
    const serial = String(options.serial ?? 1 + Math.floor(Math.random() * 1e9));
    const digest = kind === "ed25519" && by === undefined ? [] : [`-${hash}`];
    const exts = extensions === "" ? [] : ["-extfile", config, "-extensions", "x"];
    if (by === undefined) {
      const extended = extensions === "" ? [] : ["-extensions", "x"];
      openssl([
        ...["req", "-x509", "-new", "-config", config, "-key", key, "-subj", subject, "-days", "365"],
        ...[...digest, "-set_serial", serial, "-out", file, ...extended],
      ]);
      return;
    }
    const signing = [
      "-CA",
      this.path(`${by}.crt`),
      "-CAkey",
      this.path(`private/${by}.key`),
      "-set_serial",
      serial,
    ];
    const forced = this.path(`${name}.pub`);
    writeFileSync(forced, openssl(["pkey", "-in", key, "-pubout"]));
    // A key that cannot sign cannot ask for its certificate: another does, and its own is put into it.
    const asking = openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    writeFileSync(this.path("asking.key"), asking);
    const request = openssl([
      "req",
      "-new",
      "-config",
      config,
      "-key",
      this.path("asking.key"),
      "-subj",
      subject,
    ]);
    const byEd = /ED25519/.test(
      new TextDecoder().decode(openssl(["pkey", "-in", signing[3], "-text", "-noout"])),
    );
    openssl([
      ...["x509", "-req", ...signing, "-days", "365", ...(byEd ? [] : [`-${hash}`])],
      ...["-force_pubkey", forced, "-out", file, ...exts],
    ], request);
  }

  certificate(name: string): Uint8Array {
    return openssl(["x509", "-in", this.path(`${name}.crt`), "-outform", "DER"]);
  }

  /** A list of what a CA has revoked, by the names of the certificates. */
  revoke(ca: string, names: readonly string[], days = 30): void {
    const database = this.path(`${ca}.db`);
    writeFileSync(database, "");
    writeFileSync(`${database}.attr`, "unique_subject = no\n");
    const config = this.path(`${ca}.ca.cnf`);
    writeFileSync(
      config,
      `[ca]\ndefault_ca=x\n[x]\ndatabase=${database}\ndefault_md=sha256\ncrlnumber=${database}.n\n`,
    );
    writeFileSync(`${database}.n`, "01\n");
    const by = [
      "-config",
      config,
      "-cert",
      this.path(`${ca}.crt`),
      "-keyfile",
      this.path(`private/${ca}.key`),
    ];
    for (const name of names) openssl(["ca", ...by, "-revoke", this.path(`${name}.crt`)]);
    openssl(["ca", ...by, "-gencrl", "-crldays", String(days), "-out", this.path(`${ca}.crl`)]);
  }

  /** What a seal with these keys is made with. */
  settings(more: Partial<SealSettings>): SealSettings {
    return {
      keystore: this.folder,
      sign: null,
      verifyCa: null,
      encrypt: null,
      decrypt: null,
      profile: "modern",
      timeWindowMs: 0,
      hostname: "off",
      allow: null,
      threads: 1,
      seenFile: null,
      ...more,
    };
  }

  read(file: string): string {
    return readFileSync(this.path(file), "utf8");
  }
}

/** This machine, so many milliseconds from now. */
export function later(ms: number): typeof MACHINE {
  const { clock } = MACHINE;
  return {
    ...MACHINE,
    clock: {
      now: () => clock.now(),
      time: () => clock.time() + ms,
      after: (wait, f) => clock.after(wait, f),
      every: (wait, f) => clock.every(wait, f),
      soon: (f) => clock.soon(f),
      nextTurn: (f) => clock.nextTurn(f),
    },
  };
}

/** A DER value as a tree. */
export interface Node {
  tag: number;
  /** Of a constructed value. */
  children?: Node[];
  bytes?: Uint8Array;
}

export function parseDer(bytes: Uint8Array, at = 0): { node: Node; end: number } {
  const tag = bytes[at++];
  let length = bytes[at++];
  if (length >= 0x80) {
    let count = length & 0x7f;
    length = 0;
    while (count-- > 0) length = length * 256 + bytes[at++];
  }
  const end = at + length;
  if ((tag & 0x20) === 0) return { node: { tag, bytes: bytes.slice(at, end) }, end };
  const children: Node[] = [];
  while (at < end) {
    const child = parseDer(bytes, at);
    children.push(child.node);
    at = child.end;
  }
  return { node: { tag, children }, end };
}

export function encodeDer({ tag, children, bytes = new Uint8Array(0) }: Node): Uint8Array {
  const parts = children?.map(encodeDer) ?? [bytes];
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const head = [tag];
  if (length < 0x80) head.push(length);
  else {
    const digits: number[] = [];
    for (let left = length; left > 0; left = Math.floor(left / 256)) digits.unshift(left % 256);
    head.push(0x80 | digits.length, ...digits);
  }
  const out = new Uint8Array(head.length + length);
  out.set(head, 0);
  let at = head.length;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** The same bytes, changed as a tree. */
export function changed(bytes: Uint8Array, change: (root: Node) => void): Uint8Array {
  const { node } = parseDer(bytes);
  change(node);
  return encodeDer(node);
}
