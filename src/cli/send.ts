/** `ccserver send ENDPOINT TYPE [key=value …] [--blob FILE]`: sends one message. */
import { readFileSync } from "node:fs";
import process from "node:process";
import { CCClient, ClientError } from "../client/client.ts";
import { type Logger, printable, reason } from "../log.ts";
import { isType } from "../message/type.ts";
import { EndpointError } from "../socket/endpoint.ts";
import { numberArg, readArgs, usageError } from "./args.ts";
import { EXIT, Exit } from "./exit.ts";

export const SEND_USAGE =
  "ccserver send [--reply] [--timeout SECONDS] [--blob FILE] ENDPOINT TYPE [key=value | key:=JSON …]";

const LINGER_MS = 10_000;

export async function send(args: string[], log: Logger): Promise<number> {
  const { values, positionals } = readArgs(args, {
    blob: { type: "string" },
    reply: { type: "boolean", default: false },
    timeout: { type: "string" },
  }, SEND_USAGE);
  const [endpoint, type, ...pairs] = positionals;
  if (endpoint === undefined || type === undefined) {
    throw usageError("send needs an endpoint and a type", SEND_USAGE);
  }
  if (!isType(type)) throw usageError(`"${type}" is not a message type`, SEND_USAGE);
  const fields = { ...defaultsFor(type), ...Object.fromEntries(pairs.map(readPair)) };
  const timeoutMs = numberArg(values.timeout, "--timeout", 5, SEND_USAGE) * 1000;
  const blob = values.blob === undefined ? undefined : readBlob(values.blob);
  const client = connect(endpoint, log);
  try {
    await client.ready(timeoutMs);
    if (values.reply) {
      const reply = await client.query(type, fields, { blob, timeoutMs });
      console.log(`${reply.type} ${printable(JSON.stringify(reply.body), Infinity)}`);
      return reply.type === "error" ? EXIT.failed : EXIT.ok;
    }
    await client.publish(type, fields, { blob });
    await client.close(LINGER_MS);
    if (client.dropped > 0) {
      throw new Exit(EXIT.unavailable, `ccserver: ${endpoint} did not take the message`);
    }
    return EXIT.ok;
  } catch (error) {
    if (error instanceof ClientError) throw new Exit(EXIT.unavailable, `ccserver: ${error.message}`);
    throw error;
  } finally {
    await client.close();
  }
}

/** @throws {Exit} The endpoint is none. */
export function connect(endpoint: string, log: Logger): CCClient {
  try {
    return new CCClient(endpoint, { log });
  } catch (error) {
    if (error instanceof EndpointError) throw new Exit(EXIT.usage, `ccserver: ${error.message}`);
    throw error;
  }
}

/** `key=text`, or `key:=JSON` for a number, list, object, true, false or null. */
function readPair(pair: string): [string, unknown] {
  const match = /^([^=:]+)(:?=)(.*)$/s.exec(pair);
  if (!match) throw usageError(`"${pair}" is not key=value`, SEND_USAGE);
  const [, key, operator, value] = match;
  if (operator === "=") return [key, value];
  try {
    return [key, JSON.parse(value)];
  } catch {
    throw usageError(`"${pair}": what follows := is not JSON`, SEND_USAGE);
  }
}

/** A log message by hand needs no more than its text. */
function defaultsFor(type: string): Record<string, unknown> {
  const level = /^log\.([a-z]+)$/.exec(type)?.[1];
  if (level === undefined) return {};
  return {
    log_level: level.toUpperCase(),
    service_type: "ccserver",
    job_name: "send",
    log_msg: "",
    log_time: Date.now() / 1000,
    log_pid: process.pid,
    log_line: 0,
    log_function: "send",
  };
}

function readBlob(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new Exit(EXIT.usage, `ccserver: --blob ${file}: ${reason(error)}`);
  }
}
