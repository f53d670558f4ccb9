/** The command line that sets what no runtime can, and then becomes the job's program: its pid is the job's. */
import type { JobConfig } from "./config.ts";

/** Exit codes of a shell that could not start a program. */
export const NOT_FOUND = 127;
export const NOT_EXECUTABLE = 126;
/** Of our own: the folder of `cwd` is not there, the user is not known. */
export const NO_FOLDER = 125;
export const NO_USER = 124;

/** Assignments that a shell sets once it is no longer root: what a job's section sets must not choose what root runs. */
export const LATE_ENVIRONMENT = "CC_JOB_ENVIRONMENT";
const LATE = `eval "$${LATE_ENVIRONMENT}"; unset ${LATE_ENVIRONMENT}; exec "$@"`;

/** `$1` folder, `$2` umask, `$3` descriptors, `$4` user, `$5` group, both perhaps empty, `$6` which limit; then the program. */
const SCRIPT = `cd -- "$1" || exit ${NO_FOLDER}
umask "$2"
user=$4 group=$5 limit=$6
ulimit $limit "$3"
shift 6
if [ -n "$user" ]; then
  [ -n "$group" ] || group=$(id -g -- "$user") || exit ${NO_USER}
  exec setpriv --reuid="$user" --regid="$group" --init-groups -- /bin/sh -c '${LATE}' ccserver "$@"
elif [ -n "$group" ]; then
  exec setpriv --regid="$group" --clear-groups -- /bin/sh -c '${LATE}' ccserver "$@"
fi
exec "$@"`;

/** What is started for a job. */
export function wrapped({ argv, kind, values }: JobConfig, folder: string): string[] {
  const { cwd, umask, nice, user, group } = values;
  return [
    // Before the user is another: less than 0 is for root.
    ...(nice === null ? [] : ["nice", "-n", String(nice)]),
    "/bin/sh",
    "-c",
    SCRIPT,
    "ccserver",
    cwd ?? folder,
    umask,
    String(values["rlimit-nofile"]),
    user ?? "",
    group ?? "",
    // The runtime of a daemon of this program raises its own limit as far as it may.
    kind === "module" ? "-n" : "-Sn",
    ...argv,
  ];
}

/** What is in a job's environment, beside the server's own, when it is started. */
export function environmentOf({ environment, facts, values }: JobConfig): Record<string, string> {
  if (values.user === null && values.group === null) return { ...environment, ...facts };
  const late = Object.entries(environment)
    .map(([name, value]) => `export ${name}='${value.replaceAll("'", "'\\''")}'`);
  return { ...facts, [LATE_ENVIRONMENT]: late.join("\n") };
}
