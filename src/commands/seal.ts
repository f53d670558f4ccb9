/** The seal that a config asks for. */
import { dirname, resolve } from "node:path";
import { ConfigError, type Diagnostic } from "../config/diagnostics.ts";
import type { ServerConfig } from "../config/reader.ts";
import type { Environment } from "../contracts/environment.ts";
import type { Seal } from "../contracts/seal.ts";
import type { Logger } from "../log.ts";
import { IDENTITY } from "../seal/identity.ts";
import type { KeyFinding, SealSettings } from "../seal/settings.ts";

/** What of a config the seal is about. */
type SealConfig = Pick<ServerConfig, "file" | "options" | "lines">;

/**
 * Reads the keys of a config; without `cms-` options there are none.
 *
 * @param log Is told what is not wrong, but perhaps not meant.
 * @throws {ConfigError} With the lines that name what is wrong.
 */
export async function openSeal(
  config: SealConfig,
  environment: Environment,
  log: Pick<Logger, "warn">,
): Promise<Seal> {
  const settings = await settingsOf(config, environment, log);
  if (settings === null) return IDENTITY;
  // Loaded where it is wanted: cryptography costs every start of the program 10 ms.
  const [{ CmsSeal }, { KeyStoreError }] = await Promise.all([
    import("../seal/cms_seal.ts"),
    import("../seal/cms/key_store.ts"),
  ]);
  try {
    const seal = await CmsSeal.open(settings, environment);
    for (const warning of seal.keys.warnings) log.warn("keys", warning);
    return seal;
  } catch (error) {
    if (!(error instanceof KeyStoreError)) throw error;
    throw new ConfigError(error.findings.map((finding) => diagnosticOf(config, finding)));
  }
}

function diagnosticOf({ file, lines }: SealConfig, { option, message }: KeyFinding): Diagnostic {
  // Keys are of this host: with others the same config is right.
  return { file, line: lines.get(option) ?? lines.get("ccserver") ?? 1, message, environmental: true };
}

async function settingsOf(
  { file, options }: SealConfig,
  { host, files }: Environment,
  log: Pick<Logger, "warn">,
): Promise<SealSettings | null> {
  const { "cms-sign": sign, "cms-verify-ca": verifyCa } = options;
  if (sign === null && verifyCa === null) return null;
  const written = (options["cms-keystore"] ?? ".").replace(/^~(?=\/|$)/, host.home);
  let keystore = resolve(host.folder, dirname(file), written);
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
  };
}
