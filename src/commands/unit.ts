/** `ccserver --unit CONFIG.ini`: a systemd unit that runs the server with no more rights than it needs. */
import { readFileSync, statSync } from "node:fs";
import { userInfo } from "node:os";
import { dirname, resolve } from "node:path";
import type { ServerConfig } from "../config/reader.ts";
import type { Host, Processes } from "../contracts/environment.ts";
import { parseEndpoint } from "../endpoint.ts";
import { printable } from "../text.ts";
import { controlSocketOf } from "../config/server_options.ts";
import { pidfileOf } from "../jobs/config.ts";
import type { JobValues } from "../jobs/options.ts";
import type { Configs } from "./config.ts";
import { jobsStopMs, supervisorsOf } from "./control.ts";
import { configOperand, defineCommand } from "./define.ts";
import { EXIT, Exit } from "./exit.ts";
import { keystoreBeside } from "./seal.ts";

export const unit = (configs: () => Configs) =>
  defineCommand({
    names: ["unit", "--unit"],
    summary: "print a systemd unit for a config",
    operands: "CONFIG.ini",
    examples: ["--unit /etc/cc/my.ini > /etc/systemd/system/cc.service"],
    flags: {},
    async run(_flags, operands, { environment: { host, processes }, print }) {
      const config = await configs().readOrExit(configOperand(operands));
      const odd = [resolve(config.file), ...writtenFolders(config)].find((path) => /\p{Cc}/u.test(path));
      if (odd !== undefined) {
        throw new Exit(
          EXIT.usage,
          `ccserver: ${printable(odd)}: a unit cannot name a path with control characters`,
        );
      }
      print(unitText(config, host, processes));
      return EXIT.ok;
    },
  });

const HOMES = ["/home", "/root", "/run/user"];
const TEMPORARY = ["/tmp", "/var/tmp"];
/** Below, a port is for root, or for who has the capability. */
const FIRST_FREE_PORT = 1024;

/** The unit file. */
function unitText(config: ServerConfig, host: Host, { self, serviceManager }: Processes): string {
  const file = resolve(config.file);
  const folders = writtenFolders(config);
  const modules = [...config.handlers.values()].flatMap(({ module }) => module ?? []);
  const seen = [...folders, file, ...self, ...modules];
  const start = [...self, file].map((word) => quote(word.replaceAll("$", "$$$$"))).join(" ");
  const socket = parseEndpoint(config.options["cc-socket"], "bind");
  const lowPort = socket.transport === "tcp" && socket.port > 0 && socket.port < FIRST_FREE_PORT;
  const jobs = jobsOf(config);
  const capability = lowPort ? "CAP_NET_BIND_SERVICE" : "";
  const stopSeconds = Math.ceil((config.options.zmq_linger + jobsStopMs(config)) / 1000) + 10;
  const asRoot = jobs.some(({ values: { user, group, nice } }) =>
    user !== null || group !== null || nice !== null && nice < 0
  );
  // What a daemon may need is not known here.
  const forServer = (line: string) =>
    jobs.length === 0 ? line : `# Not with daemons, which may need it: ${line}`;
  return `# Made by "ccserver --unit ${printable(config.file)}". A new config may need a new unit.
# Relative paths in the config start at the root folder here.
[Unit]
Description=CC message proxy ${printable(config.jobName).replaceAll("%", "%%").replaceAll("\\", "\\\\")}
Documentation=man:systemd.exec(5)
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
${
    serviceManager.hearsUs
      ? "NotifyAccess=main"
      : `# On ${
        host.runtime.split(" ")[0]
      } a helper process speaks for the server; the binary needs no more than main.\nNotifyAccess=all`
  }
ExecStart=${start}
ExecReload=/bin/kill -HUP $MAINPID
${
    jobs.length === 0 ? "" : `# The server ends its daemons, each in its way; what is left then is killed.
KillMode=mixed
TimeoutStopSec=${stopSeconds}
`
  }WatchdogSec=30
LimitNOFILE=${Math.max(32_768, ...jobs.map(({ values }) => values["rlimit-nofile"]))}
Restart=on-failure
RestartSec=1
# A config that is wrong, or a wrong command line, is not mended by starting again.
RestartPreventExitStatus=64 78
${asRoot ? "# To run daemons as other users.\nUser=root" : userLines(folders, keyFolderOf(config, host))}

${forServer("NoNewPrivileges=yes")}
${forServer(`CapabilityBoundingSet=${capability}`)}
AmbientCapabilities=${capability}
${forServer("ProtectSystem=strict")}
${runtimeLines(folders)}${folders.map((folder) => `ReadWritePaths=${quote(`-${folder}`)}\n`).join("")}${
    forServer(`ProtectHome=${seen.some((path) => isBelow(path, HOMES)) ? "read-only" : "yes"}`)
  }
${forServer(`PrivateTmp=${seen.some((path) => isBelow(path, TEMPORARY)) ? "no" : "yes"}`)}
${forServer("PrivateDevices=yes")}
${forServer("ProtectClock=yes")}
${forServer("ProtectControlGroups=yes")}
${forServer("ProtectHostname=yes")}
${forServer("ProtectKernelLogs=yes")}
${forServer("ProtectKernelModules=yes")}
${forServer("ProtectKernelTunables=yes")}
${forServer("RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX")}
${forServer("RestrictNamespaces=yes")}
${forServer("RestrictRealtime=yes")}
${forServer("RestrictSUIDSGID=yes")}
${forServer("LockPersonality=yes")}
${forServer("SystemCallArchitectures=native")}
UMask=0027
# Not MemoryDenyWriteExecute=yes: JavaScript is compiled while it runs, into memory that is written and then executed.

[Install]
WantedBy=multi-user.target
`;
}

/** What the sections of the daemons say that are started, and where their pidfiles are. */
function jobsOf(
  { handlers, jobName, options: { pidfile } }: ServerConfig,
): { values: JobValues; pidfile: string | null }[] {
  return supervisorsOf(handlers, { pidfile, jobName }).flatMap(({ values: jobmgr, sections }) =>
    jobmgr.daemons.flatMap((name) => {
      const section = sections.get(name);
      if (section === undefined) return [];
      return { values: section.values as JobValues, pidfile: pidfileOf(section, jobmgr, { jobName }) };
    })
  );
}

/** Folders of the files that the server makes, and its daemons. */
function writtenFolders(config: ServerConfig): string[] {
  const { options } = config;
  const socket = parseEndpoint(options["cc-socket"], "bind");
  const files = [options.pidfile, options.logfile, options.infofile, controlSocketOf(options)];
  for (const { values: { logfile }, pidfile } of jobsOf(config)) files.push(pidfile, logfile);
  if (socket.transport === "ipc") files.push(resolve(socket.path));
  return [...new Set(files.filter((file) => file !== null).map((file) => dirname(file)))].sort();
}

/** What is below /run is gone when the machine starts anew: systemd makes it then, and leaves it at a restart. */
function runtimeLines(folders: readonly string[]): string {
  const names = folders.flatMap((folder) => /^\/run\/([^/\s%"'\\]+)$/.exec(folder)?.[1] ?? []);
  return names.map((name) => `RuntimeDirectory=${name}\nRuntimeDirectoryPreserve=yes\n`).join("");
}

/** Where private keys lie that the server uses, as the seal finds them; null: it uses none. */
function keyFolderOf({ file, options }: ServerConfig, host: Host): string | null {
  if (options["cms-sign"] === null && options["cms-decrypt"] === null) return null;
  return `${keystoreBeside(file, options, host)}/private`;
}

/** Who writes no file, and reads no private key, may be anyone; else it is who owns the folder. */
function userLines(folders: readonly string[], keyFolder: string | null): string {
  if (folders.length === 0 && keyFolder !== null) {
    return `# The keys in ${keyFolder} must be this user's.\nUser=${ownerOf(keyFolder)}`;
  }
  if (folders.length === 0) return "DynamicUser=yes";
  const [folder] = folders;
  const keys = keyFolder === null ? "" : `, and the keys in ${keyFolder}`;
  return `# ${folder} must be this user's, and every other folder under ReadWritePaths${keys}.\nUser=${
    ownerOf(folder)
  }`;
}

function ownerOf(folder: string): string {
  let uid: number;
  try {
    ({ uid } = statSync(folder));
  } catch {
    return userInfo().username;
  }
  const names = readFileSync("/etc/passwd", "utf8").matchAll(/^([^:]+):[^:]*:(\d+):/gm);
  return [...names].find(([, , id]) => Number(id) === uid)?.[1] ?? String(uid);
}

function isBelow(path: string, folders: readonly string[]): boolean {
  return folders.some((folder) => path === folder || path.startsWith(`${folder}/`));
}

/** A word of systemd's syntax: `%` begins a specifier. */
function quote(word: string): string {
  const text = word.replaceAll("%", "%%");
  return /[\s"'\\;]/.test(text) ? `"${text.replace(/["\\]/g, "\\$&")}"` : text;
}
