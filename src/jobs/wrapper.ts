/** The command line that sets what no runtime can, and then becomes the job's program: its pid is the job's. */
import type { JobConfig } from "./config.ts";

/** Exit codes of a shell that could not start a program. */
export const NOT_FOUND = 127;
export const NOT_EXECUTABLE = 126;
/** Of our own: the folder of `cwd` is not there, the user is not known, and setpriv(1) could not do it. */
export const NO_FOLDER = 125;
export const NO_USER = 124;

/** `$1` folder, `$2` umask, `$3` descriptors, `$4` user, `$5` group, both perhaps empty; then the program. */
const SCRIPT = `cd -- "$1" || exit ${NO_FOLDER}
umask "$2"
ulimit -Sn "$3"
user=$4 group=$5
shift 5
if [ -n "$user" ]; then
  [ -n "$group" ] || group=$(id -g -- "$user") || exit ${NO_USER}
  exec setpriv --reuid="$user" --regid="$group" --init-groups -- "$@"
elif [ -n "$group" ]; then
  exec setpriv --regid="$group" --clear-groups -- "$@"
fi
exec "$@"`;

/** What is started for a job. */
export function wrapped({ argv, values }: JobConfig, folder: string): string[] {
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
    ...argv,
  ];
}
