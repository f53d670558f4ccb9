/** Starts, watches and ends the daemons of a host, and gives them their options. */
import * as v from "valibot";
import type { Finding, Plan, SectionRead, SectionsRead, ServerFacts } from "../contracts/handler.ts";
import type { Outcome } from "../contracts/message.ts";
import { daemonOf, daemonOfSection } from "../daemons/index.ts";
import { checkJobs, jobConfigOf, type JobmgrValues, programFacts } from "../jobs/config.ts";
import { type Digest, loadDigest } from "../jobs/digest.ts";
import { JOBMGR_OPTIONS, jobOptionsFor } from "../jobs/options.ts";
import { answerTo, JOB_CONFIG, type JobConfigRequest } from "../jobs/provide.ts";
import { steer } from "../jobs/steering.ts";
import { Supervisor } from "../jobs/supervisor.ts";
import { isLoopback, parseEndpoint } from "../endpoint.ts";
import { JOB_REQUEST_MAX_BYTES } from "../limits.ts";
import { defineHandler } from "./define.ts";

/** What is asked for is looked at by {@link answerTo}. */
const Request: v.GenericSchema<JobConfigRequest> = v.looseObject({
  job_name: v.optional(v.unknown()),
  token: v.optional(v.unknown()),
});

export const jobmgr = defineHandler({
  name: "jobmgr",
  summary: "Starts the daemons of `[d:…]` sections, watches them, and ends them with the server.",
  roles: ["local"],
  options: JOBMGR_OPTIONS,
  sections: [{
    prefix: "d:",
    options: (own, module) => jobOptionsFor(own, optionsOf(own, module)),
    inherits: ["pidfile"],
  }],
  single: true,
  runsAlone: true,
  check: (options, sections, server, name) => [
    ...checkJobs(options, sections, server, name, whyNoDaemon),
    ...checkOpen(options["job-config"], server, name),
  ],
  create({ options, sectionsRead, server, environment, log, meter, publish, send, isRouted }) {
    let digest: Digest;
    const supervisor = new Supervisor({
      environment,
      log,
      meter,
      publish,
      send,
      digest: (text) => digest(text),
      isRouted,
      isOurs: (section) => section.startsWith("d:"),
    });
    let isOpen = options["job-config"] === "open";
    const configsOf = (values: JobmgrValues, sections: SectionsRead) => {
      const program = programFacts(environment, digest, daemonOfSection);
      return values.daemons.map((name) => jobConfigOf(sections.get(name)!, values, server, program));
    };
    return {
      async start() {
        digest = await loadDigest();
      },
      listening: () => supervisor.start(configsOf(options, sectionsRead)),
      plan: (type): Plan<JobConfigRequest> =>
        type === JOB_CONFIG
          ? { open: Request, maxBytes: JOB_REQUEST_MAX_BYTES, unsealed: true }
          : { drop: `jobmgr answers ${JOB_CONFIG} only`, warn: true },
      handle(message, request) {
        const answer = (): Outcome => {
          message.reply(answerTo(request, message.from, supervisor, isOpen));
          return "ok";
        };
        // A daemon may be back before the server knows it again.
        return supervisor.knowing === null ? answer() : supervisor.knowing.then(answer);
      },
      reconfigure(next, sections) {
        isOpen = next["job-config"] === "open";
        supervisor.reconfigure(configsOf(next, sections));
        return true;
      },
      unready: () => supervisor.unready(),
      control: (verb, request) => steer(supervisor, verb, request, (name) => !name.startsWith("h:")),
      stopMs: () => supervisor.stopMs,
      stop: () => supervisor.stop(),
    };
  },
});

/** A file's own, or those of a built-in one; undefined: there is no such daemon. */
function optionsOf({ module: name = "" }: Readonly<Record<string, string>>, module: unknown) {
  if (module === undefined) return daemonOf(name)?.options;
  return daemonOfSection({ values: {}, modulePath: name, module })?.options;
}

/** What is wrong with the option `module`, after its value; null: nothing. */
function whyNoDaemon(section: SectionRead): string | null {
  if (daemonOfSection(section) !== undefined) return null;
  return section.modulePath === null
    ? "is not part of this version"
    : 'is no daemon: its default export has no function "run"';
}

/** Options may hold secrets: who has no token must be of this host at least. */
function checkOpen(access: "token" | "open", { socket }: ServerFacts, name: string): Finding[] {
  if (access === "token" || isLoopback(parseEndpoint(socket, "bind"))) return [];
  const message =
    `job-config = open in [${name}] would give the options of daemons to whoever reaches ${socket}: ` +
    "it needs a cc-socket on a loopback address, or ipc";
  return [{ section: name, option: "job-config", message }];
}
