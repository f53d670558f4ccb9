/** `ccserver keys`: a CA of one's own, and the certificates and keys that messages are signed and encrypted with. */
import { resolve } from "node:path";
import type { KeyObject } from "node:crypto";
import type { Program } from "../contracts/command.ts";
import { Certificate } from "../seal/cms/certificate.ts";
import { RevocationList } from "../seal/cms/crl.ts";
import {
  encryptingUsage,
  makeCa,
  makeCertificate,
  makeKey,
  makeRevocationList,
  NEW_KEY_TYPES,
  type NewKeyType,
  publicKeyOf,
  type Validity,
} from "../seal/cms/issue.ts";
import { pem } from "../seal/cms/pem.ts";
import { counted, dateText, didYouMean, hex, printable } from "../text.ts";
import { defineCommand } from "./define.ts";
import { EXIT, UsageError } from "./exit.ts";
import {
  certificateFile,
  Fault,
  isIssuedBy,
  KEY_FILE_MODE,
  keyFile,
  KeyFolder,
  listFile,
  type NewFile,
  PUBLIC_FILE_MODE,
} from "./key_folder.ts";
import { checkKeys, listKeys } from "./keys_show.ts";

const DAY_MS = 24 * 3_600_000;
const CA_DAYS = 7300;
const CERTIFICATE_DAYS = 730;
const DAYS_MAX = 36_500;
/** Clocks of other hosts may be late. */
const EARLIER_MS = 5 * 60_000;
/** RFC 5280, upper bound of a common name. */
const NAME_MAX_CHARS = 64;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;
const HOST_MAX_CHARS = 253;
const HOST = /^(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_][a-z0-9_-]{0,62})*$/i;

/** What a subcommand is given. */
interface Given {
  readonly folder: KeyFolder;
  /** As it was typed. */
  readonly keystore: string | undefined;
  readonly ca: string;
  readonly name: string | undefined;
  readonly days: number | null;
  readonly type: NewKeyType;
  readonly hosts: readonly string[];
  readonly json: boolean;
}

interface Subcommand {
  /** Its flags, besides those that all have. */
  readonly flags: readonly string[];
  /** How many names it takes. */
  readonly names: readonly [least: number, most: number];
  run(given: Given, names: readonly string[], program: Program): Promise<number>;
}

const SUBCOMMANDS: Readonly<Record<string, Subcommand>> = {
  init: { flags: ["name", "days"], names: [0, 0], run: init },
  issue: { flags: ["days", "type", "host"], names: [1, 1], run: issue },
  list: {
    flags: ["json"],
    names: [0, 0],
    run: ({ folder, json }, _names, program) => listKeys(folder, json, program),
  },
  check: {
    flags: [],
    names: [0, Infinity],
    run: ({ folder }, names, program) => checkKeys(folder, names, program),
  },
  revoke: { flags: [], names: [1, 1], run: revoke },
};
const FOR_ALL = ["keystore", "ca"];

export const keys = defineCommand({
  names: ["keys"],
  summary: "make a CA, and certificates to sign and encrypt messages with; look after them",
  operands: "init | issue NAME | list | check [NAME …] | revoke NAME",
  examples: [
    "keys init",
    "keys issue host1 --host host1.example.net",
    "keys list",
    "keys check --keystore /etc/cc/keys",
    "keys check host1  # what one host needs: its certificate, its key, its CA",
    "keys revoke host1",
  ],
  flags: {
    keystore: {
      kind: "text",
      value: "FOLDER",
      doc: "folder of NAME.crt, NAME.crl and private/NAME.key; ./keys when it is not said",
    },
    ca: {
      kind: "text",
      value: "STEM",
      doc: "the CA is STEM.crt, private/STEM.key and STEM.crl; ca when it is not said",
    },
    name: {
      kind: "text",
      value: "CA-NAME",
      doc: "init: the CA's common name, which certificates name as their issuer",
    },
    days: {
      kind: "text",
      value: "DAYS",
      doc:
        `init, issue: valid so long; a CA ${CA_DAYS} (20 years), certificates ${CERTIFICATE_DAYS} (2 years)`,
    },
    type: {
      kind: "text",
      value: "TYPE",
      doc: `issue: ${NEW_KEY_TYPES.join(", ")} (3072 bits); p256 when it is not said`,
    },
    host: { kind: "text", value: "DNSNAME", doc: "issue: for these hosts; several with commas between" },
    json: { kind: "flag", doc: "list: print one line of JSON: an array of certificates" },
  },
  async run(flags, [word, ...names], program) {
    const words = Object.keys(SUBCOMMANDS);
    if (word === undefined) throw new UsageError(`keys needs one of ${words.join(", ")}`);
    if (!Object.hasOwn(SUBCOMMANDS, word)) {
      throw new UsageError(`expected one of ${words.join(", ")}, not "${word}"${didYouMean(word, words)}`);
    }
    const subcommand = SUBCOMMANDS[word];
    const wrong = Object.entries(flags).find(([flag, value]) =>
      value !== undefined && value !== false && ![...FOR_ALL, ...subcommand.flags].includes(flag)
    );
    if (wrong !== undefined) throw new UsageError(`keys ${word} does not take --${wrong[0]}`);
    const [least, most] = subcommand.names;
    if (names.length < least) throw new UsageError(`keys ${word} needs a name`);
    if (names.length > most) {
      throw new UsageError(
        `keys ${word}: ${most === 0 ? "no" : "one"} name is expected, not "${names[most]}"`,
      );
    }
    if (flags.keystore === "") throw new UsageError("--keystore: a folder is expected");
    return await subcommand.run(
      {
        folder: new KeyFolder(flags.keystore ?? "keys", program.environment.files),
        keystore: flags.keystore,
        ca: checkedName(flags.ca ?? "ca", "--ca"),
        name: flags.name,
        days: daysOf(flags.days),
        type: typeOf(flags.type),
        hosts: hostsOf(flags.host),
        json: flags.json,
      },
      names,
      program,
    );
  },
});

async function init(
  { folder, keystore, ca, name, days }: Given,
  _names: readonly string[],
  program: Program,
) {
  const { environment: { clock, host }, print } = program;
  const standard = `CC CA${ca === "ca" ? "" : ` ${ca}`} of ${host.name}`.slice(0, NAME_MAX_CHARS);
  const commonName = checkedCommonName(name ?? standard);
  await folder.mustBeFree([keyFile(ca), certificateFile(ca), listFile(ca)]);
  const now = clock.time();
  const key = await makeKey("p256");
  const bytes = makeCa({
    name: commonName,
    key,
    validity: { from: now - EARLIER_MS, until: now + (days ?? CA_DAYS) * DAY_MS },
  });
  const certificate = new Certificate(bytes);
  const list = makeRevocationList({
    before: null,
    revoked: null,
    issuer: { certificate, key },
    updated: now,
  });
  const made: NewFile[] = [
    ...pairOf(ca, key, bytes),
    { file: listFile(ca), text: pem("X509 CRL", list), mode: PUBLIC_FILE_MODE },
  ];
  await folder.create(made);
  print(`${made.map(({ file }) => folder.path(file)).join("\n")}

The CA "${certificate.name}" is valid until ${dateText(certificate.validUntil)}. Whoever has ${
    folder.path(keyFile(ca))
  } can issue certificates:
keep a copy in a safe place, and none on hosts that do not need it.

For the config of a server, once NAME has been issued:
${configLines(folder, program, ca, "NAME", true)}

Next: ${program.name} keys issue NAME${again(keystore, ca)}
`);
  return EXIT.ok;
}

async function issue(
  { folder, ca, days, type, hosts }: Given,
  [name]: readonly string[],
  program: Program,
): Promise<number> {
  const { environment: { clock }, print } = program;
  checkedName(name, "NAME");
  const now = clock.time();
  const issuer = await folder.issuer(ca, now);
  await folder.mustBeFree([keyFile(name), certificateFile(name)]);
  const key = await makeKey(type);
  const { validFrom, validUntil } = issuer.certificate;
  const wanted = now + (days ?? CERTIFICATE_DAYS) * DAY_MS;
  const validity: Validity = {
    from: Math.max(now - EARLIER_MS, validFrom),
    until: Math.min(wanted, validUntil),
  };
  const bytes = makeCertificate({ name, publicKey: publicKeyOf(key), hosts, validity, issuer });
  const made = pairOf(name, key, bytes);
  await folder.create(made);
  const encrypts = encryptingUsage(type) !== 0;
  const facts = [
    `${name}: ${type}, issued by ${ca}${hosts.length === 0 ? "" : ` for ${hosts.join(", ")}`}, valid until ${
      dateText(validity.until)
    }${wanted > validUntil ? ", when its CA ends" : ""}.`,
    ...encrypts ? [] : ["An Ed25519 key signs; nothing can be encrypted for it."],
  ];
  const needed = [certificateFile(name), keyFile(name), certificateFile(ca), listFile(ca)];
  print(`${made.map(({ file }) => folder.path(file)).join("\n")}

${facts.join("\n")}

A host that uses it needs ${needed.join(", ")}, and in its config:
${configLines(folder, program, ca, name, encrypts)}
`);
  return EXIT.ok;
}

async function revoke(given: Given, [name]: readonly string[], program: Program): Promise<number> {
  await given.folder.mustExist();
  return await given.folder.lockingList(given.ca, () => revokeAlone(given, name, program));
}

async function revokeAlone(
  { folder, ca }: Given,
  name: string,
  { environment: { clock }, print }: Program,
): Promise<number> {
  const now = clock.time();
  const issuer = await folder.issuer(ca, now);
  const names = await folder.names(".crt");
  const file = folder.path(certificateFile(name));
  if (!names.includes(name)) {
    throw new Fault(`${file}: there is no such certificate${didYouMean(name, names)}`);
  }
  if (name === ca) throw new Fault(`${file}: a CA cannot revoke itself: take it out of cms-verify-ca`);
  const [certificate] = await folder.certificates(name);
  if (!isIssuedBy(certificate, issuer.certificate)) {
    throw new Fault(`${file}: it was not issued by ${ca}; --ca names another CA`);
  }
  const before = await listBefore(folder, ca, issuer.certificate);
  const since = before?.since(certificate) ?? null;
  if (since !== null) {
    print(`${name} has been revoked already, on ${dateText(since)}.\n`);
    return EXIT.ok;
  }
  const bytes = makeRevocationList({ before, revoked: certificate, issuer, updated: now });
  await folder.replaceList(ca, bytes);
  const { size } = RevocationList.of(bytes).revoked;
  print(
    `${name} is revoked, serial number ${hex(certificate.serial)}. ${folder.path(listFile(ca))} has ${
      counted(size, "certificate")
    } now:
it takes effect on a host that gets this file, and whose server then reloads.
${name} can be issued anew when ${file} and ${folder.path(keyFile(name))} have been removed.
`,
  );
  return EXIT.ok;
}

/** What a CA has revoked so far; null: it has no list. @throws {Fault} It cannot be gone on with. */
async function listBefore(
  folder: KeyFolder,
  ca: string,
  issuer: Certificate,
): Promise<RevocationList | null> {
  const file = listFile(ca);
  if (await folder.modeOf(file) === null) return null;
  const [list, ...more] = await folder.lists(ca);
  if (more.length > 0) throw new Fault(`${folder.path(file)}: there are several CRLs in it`);
  if (!list.isOf(issuer, { legacy: true })) {
    throw new Fault(`${folder.path(file)}: it is not signed by its CA`);
  }
  return list;
}

/** The key first: no certificate is ever there without it. */
function pairOf(name: string, key: KeyObject, certificate: Uint8Array): NewFile[] {
  return [
    {
      file: keyFile(name),
      text: key.export({ format: "pem", type: "pkcs8" }).toString(),
      mode: KEY_FILE_MODE,
    },
    { file: certificateFile(name), text: pem("CERTIFICATE", certificate), mode: PUBLIC_FILE_MODE },
  ];
}

function configLines(
  folder: KeyFolder,
  { environment: { host } }: Program,
  ca: string,
  name: string,
  encrypts: boolean,
): string {
  // A percent sign stands for itself when it is doubled.
  const keystore = printable(resolve(host.folder, folder.path("."))).replaceAll("%", "%%");
  return [
    `cms-keystore = ${keystore}`,
    `cms-sign = ${name}`,
    "# where messages are handled: only signed ones are, those of this host's own programs too",
    `cms-verify-ca = ${ca}`,
    ...encrypts
      ? [
        `# to encrypt as well: "cms-encrypt = ${name}" where it is sent, "cms-decrypt = ${name}" where it is read`,
      ]
      : [],
  ].join("\n");
}

/** The flags that must be typed again. */
function again(keystore: string | undefined, ca: string): string {
  return `${keystore === undefined ? "" : ` --keystore ${shellWord(printable(keystore))}`}${
    ca === "ca" ? "" : ` --ca ${ca}`
  }`;
}

function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** @throws {UsageError} */
function checkedName(name: string, what: string): string {
  if (NAME.test(name) && name.length <= NAME_MAX_CHARS) return name;
  throw new UsageError(
    `${what}: expected one word of letters, digits, ".", "_" and "-", with neither "." nor "-" first and at most ${NAME_MAX_CHARS} characters, not "${name}"`,
  );
}

/** @throws {UsageError} */
function checkedCommonName(name: string): string {
  const fits = name.trim() === name && name !== "" && [...name].length <= NAME_MAX_CHARS;
  if (fits && printable(name) === name) return name;
  throw new UsageError(`--name: expected 1 to ${NAME_MAX_CHARS} printable characters, not "${name}"`);
}

/** @throws {UsageError} */
function daysOf(value: string | undefined): number | null {
  if (value === undefined) return null;
  const days = Number(value);
  if (/^\d+$/.test(value) && days >= 1 && days <= DAYS_MAX) return days;
  throw new UsageError(`--days ${value}: expected a whole number from 1 to ${DAYS_MAX}`);
}

/** @throws {UsageError} */
function typeOf(value: string | undefined): NewKeyType {
  const type = NEW_KEY_TYPES.find((one) => one === (value ?? NEW_KEY_TYPES[0]));
  if (type !== undefined) return type;
  throw new UsageError(`--type: expected one of ${NEW_KEY_TYPES.join(", ")}, not "${value}"`);
}

/** @throws {UsageError} */
function hostsOf(value: string | undefined): string[] {
  const hosts = value === undefined ? [] : value.split(",").map((host) => host.trim());
  const wrong = hosts.find((host) => !HOST.test(host) || host.length > HOST_MAX_CHARS);
  if (wrong !== undefined) throw new UsageError(`--host: expected DNS names, not "${wrong}"`);
  return hosts;
}
