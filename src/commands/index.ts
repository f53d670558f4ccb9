/** The commands, a line each. */
import { HANDLER_TOOLKIT } from "../handlers/toolkit.ts";
import { HANDLERS_BY_NAME, UNBUILT_HANDLERS } from "../handlers/index.ts";
import type { Program } from "../contracts/command.ts";
import { check } from "./check.ts";
import { completion } from "./completion.ts";
import { Configs } from "./config.ts";
import { kill, reload, stop } from "./control.ts";
import { daemon } from "./daemon.ts";
import type { AnyCommand } from "./define.ts";
import { ini } from "./ini.ts";
import { jobs } from "./jobs.ts";
import { keys } from "./keys.ts";
import { notify } from "./notify.ts";
import { ping } from "./ping.ts";
import { routes } from "./routes.ts";
import { runDaemon } from "./run_daemon.ts";
import { send } from "./send.ts";
import { example, serve } from "./serve.ts";
import { unit } from "./unit.ts";

/** The commands of a program; the first is the one that runs when none is named. */
export function commandsOf(program: Program): readonly [AnyCommand, ...AnyCommand[]] {
  let configs: Configs | null = null;
  const make = () =>
    configs ??= new Configs(
      { definitions: HANDLERS_BY_NAME, unbuilt: UNBUILT_HANDLERS, toolkit: HANDLER_TOOLKIT },
      program,
    );
  const all: [AnyCommand, ...AnyCommand[]] = [
    serve(make),
    daemon(make),
    reload(make),
    stop(make),
    kill(make),
    check(make),
    routes(make),
    jobs(make),
    runDaemon(make),
    notify,
    keys,
    unit(make),
    ini,
    example(make),
    send,
    ping,
    completion(() => all),
  ];
  return all;
}
