/** Starts, watches and ends the daemons of a host. */
import type { SectionsRead } from "../contracts/handler.ts";
import { daemonOf } from "../daemons/index.ts";
import { checkJobs, jobConfigOf, type JobmgrValues } from "../jobs/config.ts";
import { type Digest, loadDigest } from "../jobs/digest.ts";
import { JOBMGR_OPTIONS, jobOptionsFor } from "../jobs/options.ts";
import { Supervisor } from "../jobs/supervisor.ts";
import { CCError } from "../errors.ts";
import { defineHandler } from "./define.ts";

export const jobmgr = defineHandler({
  name: "jobmgr",
  summary: "Starts the daemons of `[d:…]` sections, watches them, and ends them with the server.",
  roles: ["local"],
  options: JOBMGR_OPTIONS,
  sections: [{
    prefix: "d:",
    options: (own) => jobOptionsFor(own, (module) => daemonOf(module)?.options),
    inherits: ["pidfile"],
  }],
  single: true,
  runsAlone: true,
  check: (options, sections, server, name) =>
    checkJobs(options, sections, server, name, (module) => daemonOf(module) !== undefined),
  create({ options, sectionsRead, server, environment, log, meter, publish }) {
    const supervisor = new Supervisor({ environment, log, meter, publish });
    const { host, processes } = environment;
    let digest: Digest;
    const configsOf = (values: JobmgrValues, sections: SectionsRead) => {
      const program = {
        folder: host.folder,
        self: processes.self,
        chain: processes.env.CC_JOB_CHAIN ?? "",
        digest,
      };
      return values.daemons.map((name) => jobConfigOf(sections.get(name)!, values, server, program));
    };
    return {
      async start() {
        digest = await loadDigest();
      },
      listening: () => supervisor.start(configsOf(options, sectionsRead)),
      plan: () => ({ drop: "jobmgr answers no messages", warn: true }),
      reconfigure(next, sections) {
        supervisor.reconfigure(configsOf(next, sections));
        return true;
      },
      unready: () => supervisor.unready(),
      async control(verb, { action, names }) {
        if (verb === "jobs") return { jobs: await supervisor.view() };
        if (verb !== "job") return undefined;
        if (
          typeof action !== "string" || !Array.isArray(names) ||
          !names.every((name) => typeof name === "string")
        ) {
          throw new CCError("bad-request", "job needs an action and names");
        }
        return { jobs: await supervisor.act(action, names) };
      },
      stopMs: () => supervisor.stopMs,
      stop: () => supervisor.stop(),
    };
  },
});
