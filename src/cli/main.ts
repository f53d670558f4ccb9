/** Picks the command and turns what it throws into an exit code and a message. */
import process from "node:process";
import runtime from "#runtime";
import { loadConfig } from "../config/config.ts";
import { type Level, Logger } from "../log.ts";
import { VERSION } from "../version.ts";
import { readArgs, usageError } from "./args.ts";
import { check, routes } from "./check.ts";
import { EXIT, Exit } from "./exit.ts";
import { type Control, control } from "./control.ts";
import { detach, detached } from "./detach.ts";
import { LineWriter } from "./output.ts";
import { ping, PING_USAGE } from "./ping.ts";
import { send, SEND_USAGE } from "./send.ts";
import { configOrExit, EXAMPLE_CONFIG, serve } from "./serve.ts";
import { unit } from "./unit.ts";

const USAGE = "ccserver [-d | -r | -s | -k] [-v | -q] CONFIG.ini";

const HELP = `CC ${VERSION}, Command & Control: a message proxy for server management on ZeroMQ

usage:
  ccserver [-v | -q] CONFIG.ini       run a server
  ccserver -d [-v | -q] CONFIG.ini    run it in the background; returns when it listens
  ccserver -r CONFIG.ini              make the one that runs read it again, and open its log again (SIGHUP)
  ccserver -s CONFIG.ini              stop it, and wait until it has gone (SIGINT); -k: with SIGTERM
  ccserver --check CONFIG.ini         check a config and say all that is wrong with it
  ccserver --routes TYPE CONFIG.ini   which handlers a message type reaches, in order
  ccserver --unit CONFIG.ini          print a systemd unit for a config
  ccserver --ini                      print an example config
  ccserver --example                  run a server on that example config
  ${SEND_USAGE}
  ${PING_USAGE}

options:
  -d, --daemon, -r, --reload, -s, --stop, -k, --kill
                  as above; the server is found by the config's pidfile
  -v, --verbose   log more: debug; -v -v: everything
  -q, --quiet     log less: warnings and errors
  -V, --version   print the version
  -h, --help      print this

exit codes: 0 ok, 1 no reply, 64 wrong usage, 69 cannot start or reach a server, 78 wrong config
`;

/** Runs the program; returns its exit code. */
export async function main(args: string[]): Promise<number> {
  try {
    return await run(args);
  } catch (error) {
    if (!(error instanceof Exit)) throw error;
    console.error(error.message);
    return error.code;
  }
}

async function run(args: string[]): Promise<number> {
  if (args[0] === "send") return await send(args.slice(1), toolLog());
  if (args[0] === "ping") return await ping(args.slice(1), toolLog());
  const { values, positionals } = readArgs(args, {
    verbose: { type: "boolean", short: "v", multiple: true },
    quiet: { type: "boolean", short: "q" },
    version: { type: "boolean", short: "V" },
    help: { type: "boolean", short: "h" },
    check: { type: "boolean" },
    routes: { type: "string" },
    ini: { type: "boolean" },
    example: { type: "boolean" },
    unit: { type: "boolean" },
    daemon: { type: "boolean", short: "d" },
    reload: { type: "boolean", short: "r" },
    stop: { type: "boolean", short: "s" },
    kill: { type: "boolean", short: "k" },
    detached: { type: "boolean" },
  }, USAGE);
  if (values.help) return print(HELP);
  if (values.version) return print(`ccserver ${VERSION} (${runtime.name} ${runtime.version})\n`);
  if (values.ini) return print(EXAMPLE_CONFIG);
  const level: Level = values.quiet
    ? "WARNING"
    : (["INFO", "DEBUG"] as const)[values.verbose?.length ?? 0] ?? "TRACE";
  const self = selfName();
  if (values.example) return await serve({ file: null, level, self });
  if (positionals.length === 0) throw usageError("a config file is needed", USAGE);
  if (positionals.length > 1) {
    throw usageError(`one config file is expected, not "${positionals[1]}" too`, USAGE);
  }
  const [file] = positionals;
  const read = (files = false) => configOrExit(() => loadConfig(file, { files }));
  if (values.check) return await check(read(true));
  if (values.routes !== undefined) return routes(values.routes, read());
  if (values.unit) return print(unit(read()));
  const actions = ACTIONS.filter((action) => values[action]);
  if (actions.length > 1) throw usageError(`--${actions[0]} and --${actions[1]} exclude each other`, USAGE);
  const [action] = actions;
  if (action === "daemon") {
    const flags = values.quiet ? ["-q"] : (values.verbose ?? []).map(() => "-v");
    return await detach(read(true), [...flags, "--", file]);
  }
  if (action !== undefined) return await control(action, read());
  if (values.detached) return await detached((onListen) => serve({ file, level, self, onListen }));
  return await serve({ file, level, self });
}

const ACTIONS: readonly ("daemon" | Control)[] = ["daemon", "reload", "stop", "kill"];

function print(text: string): number {
  process.stdout.write(text);
  return EXIT.ok;
}

/** Tools tell their own results; of the sockets below only what is grave. */
function toolLog(): Logger {
  return new Logger("ccserver", { sink: new LineWriter(2).sink, level: "ERROR", pid: process.pid });
}

/** How a person calls this program. */
function selfName(): string {
  return runtime.self.length === 1 ? runtime.self[0] : "npm run -s ccserver --";
}
