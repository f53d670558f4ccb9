/** `ccserver send ENDPOINT TYPE [key=value …] [--blob FILE]`: sends one message. */
import { readFileSync } from "node:fs";
import { Client } from "../client/client.ts";
import { ClientError } from "../client/errors.ts";
import type { Program } from "../contracts/command.ts";
import { EndpointError } from "../endpoint.ts";
import { errorText } from "../errors.ts";
import { LEVELS } from "../log.ts";
import { logDraft } from "../message/log_fields.ts";
import { MessageError } from "../message/errors.ts";
import { isType } from "../message/type.ts";
import { IDENTITY } from "../seal/identity.ts";
import { printable } from "../text.ts";
import { defineCommand, numberFlag } from "./define.ts";
import { EXIT, Exit, UsageError } from "./exit.ts";
import { sealOfFile } from "./seal.ts";

const LINGER_MS = 10_000;

/** Of commands that send. */
export const CONFIG_FLAG = {
  kind: "text",
  value: "CONFIG.ini",
  doc: "sign, encrypt and verify by the cms- options of this config",
} as const;

export const send = defineCommand({
  names: ["send"],
  summary: "send one message",
  operands: "ENDPOINT TYPE [KEY=VALUE | KEY:=JSON …]",
  examples: [
    'send tcp://127.0.0.1:10000 log.info "log_msg=hello"',
    "send --reply tcp://127.0.0.1:10000 echo.request target=me",
  ],
  flags: {
    reply: { kind: "flag", doc: "wait for the reply and print it" },
    timeout: { kind: "text", value: "SECONDS", doc: "wait at most so long; 5 when it is not said" },
    blob: { kind: "text", value: "FILE", doc: "send the file's bytes too; - is stdin" },
    config: CONFIG_FLAG,
  },
  async run(flags, [endpoint, type, ...pairs], program) {
    if (endpoint === undefined || type === undefined) {
      throw new UsageError("send needs an endpoint and a type");
    }
    if (!isType(type)) throw new UsageError(`"${type}" is not a message type`);
    const given = Object.fromEntries(pairs.map(readPair));
    const fields = { ...defaultsFor(type, program), ...given };
    const timeoutMs = numberFlag(flags.timeout, "--timeout", 5) * 1000;
    const blob = flags.blob === undefined ? undefined : readBlob(flags.blob);
    const client = await connect(endpoint, program, flags.config);
    try {
      await client.reach({ timeoutMs });
      if (flags.reply) return await ask(client, { type, fields, blob }, timeoutMs, program);
      await client.publish({ type, fields, blob }, { timeoutMs });
      await client.close(LINGER_MS);
      if (client.drops.size > 0) {
        throw new Exit(EXIT.unavailable, `ccserver: ${endpoint} did not take the message`);
      }
      return EXIT.ok;
    } catch (error) {
      if (error instanceof ClientError) throw new Exit(EXIT.unavailable, `ccserver: ${error.message}`);
      throw error;
    } finally {
      await client.close();
    }
  },
});

async function ask(
  client: Client,
  draft: { type: string; fields: Record<string, unknown>; blob?: Uint8Array },
  timeoutMs: number,
  { print }: Program,
): Promise<number> {
  try {
    const { type, body } = await client.query(draft, { timeoutMs });
    print(`${type} ${printable(JSON.stringify(body), Infinity)}\n`);
    return EXIT.ok;
  } catch (error) {
    if (error instanceof MessageError) {
      // Of an answer that came.
      throw new Exit(
        EXIT.failed,
        `ccserver: the reply is refused: ${printable(error.message)} (${error.code})`,
      );
    }
    if (error instanceof ClientError && error.code === "timeout") {
      throw new Exit(EXIT.failed, `ccserver: ${error.message}`);
    }
    if (!(error instanceof ClientError && error.code === "refused")) throw error;
    print(`error ${printable(error.message, Infinity)}\n`);
    return EXIT.failed;
  }
}

/**
 * @param config Whose keys are used.
 * @throws {Exit} The endpoint is none, or the config is wrong.
 */
export async function connect(endpoint: string, program: Program, config?: string): Promise<Client> {
  const { environment, log } = program;
  const seal = config === undefined ? IDENTITY : await sealOfFile(config, program);
  try {
    return new Client(endpoint, { environment, log, seal });
  } catch (error) {
    if (error instanceof EndpointError) throw new Exit(EXIT.usage, `ccserver: ${error.message}`);
    throw error;
  }
}

/** `key=text`, or `key:=JSON` for a number, list, object, true, false or null. */
function readPair(pair: string): [string, unknown] {
  const match = /^([^=:]+)(:?=)(.*)$/s.exec(pair);
  if (!match) throw new UsageError(`"${pair}" is not key=value`);
  const [, key, operator, value] = match;
  if (operator === "=") return [key, value];
  try {
    return [key, JSON.parse(value)];
  } catch {
    throw new UsageError(`"${pair}": what follows := is not JSON`);
  }
}

/** A log message by hand needs no more than its text. */
function defaultsFor(type: string, { environment: { clock, host } }: Program): Record<string, unknown> {
  const level = LEVELS.find((level) => type === `log.${level.toLowerCase()}`);
  if (level === undefined) return {};
  const line = { level, service: "ccserver", job: "send", text: "", where: "send" };
  return logDraft({ ...line, timeMs: clock.time(), pid: host.pid }).fields;
}

function readBlob(file: string): Uint8Array {
  try {
    return readFileSync(file === "-" ? 0 : file);
  } catch (error) {
    throw new Exit(EXIT.usage, `ccserver: --blob ${file}: ${errorText(error)}`);
  }
}
