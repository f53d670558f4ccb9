/** The seal that a config asks for. */
import { dirname, resolve } from "node:path";
import { ConfigError, type Diagnostic } from "../config/diagnostics.ts";
import { loadServerSection } from "../config/load.ts";
import type { ServerConfig } from "../config/reader.ts";
import type { Program } from "../contracts/command.ts";
import type { Environment, Host } from "../contracts/environment.ts";
import type { Seal } from "../contracts/seal.ts";
import type { Logger } from "../log.ts";
import type { Subject } from "../seal/allow.ts";
import { IDENTITY } from "../seal/identity.ts";
import { expiryTexts } from "../server/state.ts";
import { exitOf } from "./config.ts";
import { EXIT, Exit } from "./exit.ts";
import type { KeyFinding, SealSettings } from "../seal/settings.ts";

type SealLog = Pick<Logger, "warn" | "warnRarely">;

/** What of a config the seal is about. */
type SealConfig = Pick<ServerConfig, "file" | "options" | "lines"> & Partial<Pick<ServerConfig, "allow">>;

/**
 * Reads the keys of a config; without `cms-` options there are none.
 *
 * @param log Is told what is not wrong, but perhaps not meant.
 * @param before Whose place it takes: what that has seen stays known.
 * @param ofClient Is it for a client, which leaves alone what a server of that config keeps?
 * @throws {ConfigError} With the lines that name what is wrong.
 */
export async function openSeal(
  config: SealConfig,
  environment: Environment,
  log: SealLog,
  before: Seal | null = null,
  ofClient = false,
): Promise<Seal> {
  const found = await settingsOf(config, environment, log);
  if (found === null) return IDENTITY;
  const settings = { ...found, ofClient };
  // Loaded where it is wanted: cryptography costs every start of the program 10 ms.
  const [{ BesideSeal, CmsSeal }, { KeyStoreError }, { Verifiers }] = await Promise.all([
    import("../seal/cms_seal.ts"),
    import("../seal/cms/key_store.ts"),
    import("../seal/cms/verifiers.ts"),
  ]);
  try {
    const replaced = before instanceof BesideSeal ? before.inner : before;
    const seal = await CmsSeal.open(
      settings,
      environment,
      log,
      replaced instanceof CmsSeal ? replaced : null,
    );
    const { expired, soon } = expiryTexts(seal.expiries, environment.clock.time());
    for (const warning of [...seal.keys.warnings, ...expired, ...soon]) log.warn("keys", warning);
    if (settings.threads < 2 || settings.verifyCa === null) return seal;
    const count = settings.threads - 1;
    const verifiers = before instanceof BesideSeal && before.verifiers.count === count
      ? before.verifiers
      : new Verifiers(count, environment, log);
    return new BesideSeal(seal, verifiers);
  } catch (error) {
    if (!(error instanceof KeyStoreError)) throw error;
    throw new ConfigError(error.findings.map((finding) => diagnosticOf(config, finding)));
  }
}

function diagnosticOf({ file, lines }: SealConfig, { option, message }: KeyFinding): Diagnostic {
  // Keys are of this host: with others the same config is right.
  return { file, line: lines.get(option) ?? lines.get("ccserver") ?? 1, message, environmental: true };
}

/** Where it is kept over a restart which messages have been handled. */
function seenFileOf(pidfile: string): string {
  return `${pidfile.replace(/(?<=[^/])\.pid$/, "")}.seen`;
}

function writtenKeystore(options: SealConfig["options"], { home }: Pick<Host, "home">): string {
  return (options["cms-keystore"] ?? ".").replace(/^~(?=\/|$)/, home);
}

/** The key store of a config file, where it lies beside that. */
export function keystoreBeside(file: string, options: SealConfig["options"], host: Host): string {
  return resolve(host.folder, dirname(file), writtenKeystore(options, host));
}

async function settingsOf(
  { file, options, allow = null }: SealConfig,
  { host, files }: Environment,
  log: Pick<Logger, "warn">,
): Promise<SealSettings | null> {
  const { "cms-sign": sign, "cms-verify-ca": verifyCa } = options;
  if (sign === null && verifyCa === null) return null;
  const written = writtenKeystore(options, host);
  let keystore = keystoreBeside(file, options, host);
  const there = async (path: string) => await files.modeOf(path) !== null;
  const current = resolve(host.folder, written);
  if (!await there(keystore) && await there(current)) {
    log.warn(
      "keys",
      `cms-keystore = ${written} is not beside ${file}: ${current} is used, as the original does`,
    );
    keystore = current;
  }
  return {
    keystore,
    sign,
    verifyCa,
    encrypt: options["cms-encrypt"],
    decrypt: options["cms-decrypt"],
    profile: options["cms-profile"] ?? "modern",
    timeWindowMs: options["cms-time-window"] * 1000,
    hostname: options["cms-hostname"],
    allow,
    threads: options["cms-threads"],
    seenFile: options.pidfile === null ? null : seenFileOf(options.pidfile),
  };
}

/**
 * The seal of a config file, for a command that sends: its `[ccserver]` says whose keys.
 *
 * @throws {Exit} What is wrong with it, or that it has none.
 */
export async function sealOfFile(file: string, { environment, tell }: Program): Promise<Seal> {
  try {
    const found = await loadServerSection(file, environment);
    if (found === null) throw new Exit(EXIT.config, `ccserver: ${file}: the section [ccserver] is missing`);
    if (found.wrong.length > 0) {
      throw new Exit(EXIT.config, `ccserver: ${file}: its [ccserver] is wrong: --check tells how`);
    }
    const warn = (_where: string, text: string) => tell(`ccserver: ${text}`);
    const seal = await openSeal(found, environment, { warn, warnRarely: () => {} }, null, true);
    if (seal === IDENTITY) {
      throw new Exit(EXIT.config, `ccserver: ${file}: it has neither cms-sign nor cms-verify-ca`);
    }
    return seal;
  } catch (error) {
    throw exitOf(error);
  }
}

/** SHA-256 of a certificate. */
const FINGERPRINT = /^[0-9a-f]{64}$/i;

/** What a signer's certificate says, where the key store has one of that name; otherwise the name is a common name. */
export async function subjectOf(
  signer: string,
  config: SealConfig,
  environment: Environment,
): Promise<Subject> {
  const settings = await settingsOf(config, environment, { warn: () => {} });
  if (settings !== null) {
    const { isKeyName, readCertificates } = await import("../seal/cms/key_files.ts");
    const path = `${settings.keystore}/${signer}.crt`;
    const found = isKeyName(signer) ? await readCertificates(environment.files, path).catch(() => []) : [];
    if (found.length > 0) return found[0];
  }
  return FINGERPRINT.test(signer)
    ? { commonName: "", fingerprint: signer.toLowerCase(), attributes: [] }
    : { commonName: signer, fingerprint: "", attributes: [["CN", signer]] };
}
