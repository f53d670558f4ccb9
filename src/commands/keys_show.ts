/** `ccserver keys list` and `keys check`: what is in a key store, and what is wrong with it. */
import type { Program } from "../contracts/command.ts";
import { type Certificate, subjectText, USAGE } from "../seal/cms/certificate.ts";
import { encryptingUsage } from "../seal/cms/issue.ts";
import type { KeyType } from "../seal/cms/public_key.ts";
import { counted, dateText, didYouMean, hex, printable } from "../text.ts";
import { EXIT } from "./exit.ts";
import {
  certificateFile,
  type Contents,
  Fault,
  isIssuedBy,
  keyFile,
  type KeyFolder,
  revokedSince,
  type Stored,
} from "./key_folder.ts";

const DAY_MS = 24 * 3_600_000;
/** There should be time to issue another, and to carry it to where it is used. */
const EXPIRY_DAYS = 30;
const OTHERS = 0o007;

/** A certificate, as `--json` prints it. */
interface View {
  readonly name: string;
  readonly subject: string;
  readonly issuer: string;
  /** The name of the CA in the key store that has issued it; null: it is not there. */
  readonly issuedBy: string | null;
  readonly serial: string;
  /** SHA-256. */
  readonly fingerprint: string;
  /** Null: of a kind that is not used here. */
  readonly keyType: KeyType | null;
  readonly uses: readonly string[];
  readonly hosts: readonly string[];
  /** RFC 3339. */
  readonly validFrom: string;
  readonly validUntil: string;
  /** Negative: it has expired. */
  readonly daysLeft: number;
  readonly hasKey: boolean;
  readonly revokedSince: string | null;
}

export async function listKeys(
  folder: KeyFolder,
  json: boolean,
  { environment: { clock }, print, tell }: Program,
): Promise<number> {
  await folder.mustExist();
  const contents = await folder.contents();
  const now = clock.time();
  const views: View[] = [];
  for (const stored of contents.certificates) {
    const hasKey = stored.own && await folder.modeOf(keyFile(stored.name)) !== null;
    views.push(viewOf(stored, hasKey, contents, now));
  }
  if (json) print(`${JSON.stringify(views)}\n`);
  else if (views.length > 0) print(`${tableOf(views).join("\n")}\n`);
  else if (contents.faults.length === 0) tell(`ccserver: ${printable(folder.path("."))}: no certificates`);
  for (const { text } of contents.faults) tell(`ccserver: ${text}`);
  return contents.faults.length === 0 ? EXIT.ok : EXIT.failed;
}

function viewOf(
  { name, certificate }: Stored,
  hasKey: boolean,
  { certificates, lists }: Contents,
  now: number,
): View {
  const since = revokedSince(certificate, lists);
  return {
    name,
    subject: subjectText(certificate.subject),
    issuer: subjectText(certificate.issuer),
    issuedBy: issuerOf(certificate, certificates)?.name ?? null,
    serial: hex(certificate.serial),
    fingerprint: certificate.fingerprint,
    keyType: keyTypeOf(certificate),
    uses: usesOf(certificate),
    hosts: certificate.hosts,
    validFrom: new Date(certificate.validFrom).toISOString(),
    validUntil: new Date(certificate.validUntil).toISOString(),
    daysLeft: Math.floor((certificate.validUntil - now) / DAY_MS),
    hasKey,
    revokedSince: since === null ? null : new Date(since).toISOString(),
  };
}

/** Null: of a kind that is not used here, which is told among the faults. */
function keyTypeOf(certificate: Certificate): KeyType | null {
  try {
    return certificate.key.type;
  } catch {
    return null;
  }
}

function usesOf(certificate: Certificate): string[] {
  const type = keyTypeOf(certificate);
  if (type === null) return [];
  const encrypting = encryptingUsage(type);
  return [
    ...type !== "x25519" && certificate.mayUse(USAGE.digitalSignature | USAGE.nonRepudiation) ? ["sign"] : [],
    ...encrypting !== 0 && certificate.mayUse(encrypting) ? ["encrypt"] : [],
    ...certificate.ca === true && certificate.mayUse(USAGE.keyCertSign) ? ["CA"] : [],
  ];
}

/** A column: its head, and what it says of a certificate. */
const COLUMNS: readonly (readonly [head: string, of: (view: View) => string])[] = [
  ["NAME", ({ name }) => name],
  ["ISSUED BY", ({ issuedBy, issuer }) => issuedBy ?? issuer],
  ["TYPE", ({ keyType }) => keyType ?? "?"],
  ["FOR", ({ uses }) => uses.join(", ") || "-"],
  ["EXPIRES", ({ validUntil }) => validUntil.slice(0, 10)],
  ["LEFT", ({ daysLeft }) => daysLeft < 0 ? "expired" : counted(daysLeft, "day")],
  ["KEY", ({ hasKey }) => hasKey ? "yes" : "no"],
  ["REVOKED", ({ revokedSince }) => revokedSince?.slice(0, 10) ?? "no"],
];

/** A head and a line each; columns as wide as they need to be. */
function tableOf(views: readonly View[]): string[] {
  const cells = [
    COLUMNS.map(([head]) => head),
    ...views.map((view) => COLUMNS.map(([, of]) => printable(of(view), 256))),
  ];
  const widths = COLUMNS.map((_, i) => Math.max(...cells.map((row) => row[i].length)));
  return cells.map((row) => row.map((cell, i) => cell.padEnd(widths[i])).join("  ").trimEnd());
}

/** @param names What is looked at: these, their CAs and all CRLs; none: everything. */
export async function checkKeys(
  folder: KeyFolder,
  names: readonly string[],
  { environment: { clock }, print }: Program,
): Promise<number> {
  await folder.mustExist();
  const there = await folder.names(".crt");
  const unknown = names.find((name) => !there.includes(name));
  if (unknown !== undefined) {
    throw new Fault(
      `${folder.path(certificateFile(unknown))}: there is no such certificate${didYouMean(unknown, there)}`,
    );
  }
  const contents = await folder.contents();
  const chosen = names.length === 0 ? null : withCas(names, contents);
  const wanted = (name: string) => chosen === null || chosen.has(name);
  const faults = contents.faults.filter(({ name }) => name === null || wanted(name)).map(({ text }) => text);
  faults.push(...await folder.openFolders());
  if (there.length === 0) faults.push(`${printable(folder.path("."))}: there is no certificate in it`);
  const now = clock.time();
  for (const stored of contents.certificates) {
    if (!wanted(stored.name)) continue;
    faults.push(...datesOf(folder.path(certificateFile(stored.name)), stored.certificate, now));
    const since = revokedSince(stored.certificate, contents.lists);
    if (since !== null) {
      faults.push(`${folder.path(certificateFile(stored.name))}: it is revoked, since ${dateText(since)}`);
    }
    if (stored.own) {
      faults.push(...await keyFaults(folder, stored, chosen !== null && names.includes(stored.name)));
    }
  }
  for (const name of await folder.keyNames()) {
    const mode = await folder.modeOf(keyFile(name));
    if (wanted(name) && mode !== null && (mode & OTHERS) !== 0) {
      const octal = mode.toString(8).padStart(4, "0");
      faults.push(
        `${folder.path(keyFile(name))}: others may use it, its mode is ${octal}; chmod o= takes that away`,
      );
    }
  }
  for (const { file, list: { nextUpdate } } of contents.lists) {
    if (nextUpdate !== null && nextUpdate < now) {
      faults.push(`${folder.path(file)}: it is out of date, another was due on ${dateText(nextUpdate)}`);
    }
  }
  if (faults.length === 0) {
    print(`${printable(folder.path("."))}: ok, ${counted(names.length || there.length, "certificate")}\n`);
    return EXIT.ok;
  }
  print(faults.map((fault) => `${printable(fault)}\n`).join(""));
  return EXIT.failed;
}

/** The names, and those of the CAs above them. */
function withCas(names: readonly string[], { certificates }: Contents): ReadonlySet<string> {
  const chosen = new Set(names);
  // A set is walked over with what is added meanwhile.
  for (const name of chosen) {
    for (const below of certificates.filter((stored) => stored.name === name)) {
      const ca = issuerOf(below.certificate, certificates);
      if (ca !== undefined) chosen.add(ca.name);
    }
  }
  return chosen;
}

/** The CA that has issued it: its own file, where there is one; copies may stand behind others' certificates. */
function issuerOf(certificate: Certificate, stored: readonly Stored[]): Stored | undefined {
  const found = stored.filter((ca) => isIssuedBy(certificate, ca.certificate));
  return found.find(({ own }) => own) ?? found[0];
}

function datesOf(path: string, { validFrom, validUntil }: Certificate, now: number): string[] {
  if (now > validUntil) return [`${path}: it has expired, on ${dateText(validUntil)}`];
  if (now < validFrom) return [`${path}: it is not valid before ${new Date(validFrom).toISOString()}`];
  const days = Math.floor((validUntil - now) / DAY_MS);
  if (days >= EXPIRY_DAYS) return [];
  return [`${path}: it expires in ${counted(days, "day")}, on ${dateText(validUntil)}`];
}

/** @param named Its key must be there. Those of others may lie here for their certificates alone, as recipients do. */
async function keyFaults(folder: KeyFolder, stored: Stored, named: boolean): Promise<string[]> {
  const path = folder.path(keyFile(stored.name));
  try {
    const key = await folder.key(stored.name);
    if (key === null) {
      // Those of CAs are kept elsewhere, mostly.
      return stored.certificate.ca === true || !named ? [] : [`${path}: there is no such file`];
    }
    return folder.belongs(key, stored)
      ? []
      : [`${path}: it does not belong to ${folder.path(certificateFile(stored.name))}`];
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return [error.text];
  }
}
