/** The command line that sets what no runtime can, and then becomes the job's program: its pid is the job's. */
import type { JobConfig } from "./config.ts";

/** Exit codes of a shell that could not start a program. */
export const NOT_FOUND = 127;
export const NOT_EXECUTABLE = 126;
/** Of our own: the folder of `cwd` is not there. */
export const NO_FOLDER = 125;

/** `$1` folder, `$2` umask, `$3` descriptors, then the program. */
const SCRIPT = `cd -- "$1" || exit ${NO_FOLDER}; umask "$2"; ulimit -Sn "$3"; shift 3; exec "$@"`;

/** What is started for a job. */
export function wrapped({ argv, values }: JobConfig, folder: string): string[] {
  const { cwd, umask, nice, user, group } = values;
  return [
    "/bin/sh",
    "-c",
    SCRIPT,
    "ccserver",
    cwd ?? folder,
    umask,
    String(values["rlimit-nofile"]),
    ...(nice === null ? [] : ["nice", "-n", String(nice)]),
    ...identity(user, group),
    ...argv,
  ];
}

function identity(user: string | null, group: string | null): string[] {
  if (user === null) return group === null ? [] : ["setpriv", `--regid=${group}`, "--clear-groups", "--"];
  // Without a group it is the user's own, which --regid knows by the user's name only where they are called alike.
  return group === null
    ? ["setpriv", `--reuid=${user}`, `--regid=${user}`, "--init-groups", "--"]
    : ["setpriv", `--reuid=${user}`, `--regid=${group}`, "--init-groups", "--"];
}
