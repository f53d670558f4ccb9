import assert from "node:assert/strict";
import { homedir } from "node:os";
import { join } from "node:path";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import * as v from "valibot";
import { ConfigError, loadConfig, parseIni, readConfig, stringifyIni } from "../mod.ts";
import { Diagnostics } from "../src/config/diagnostics.ts";
import { configurationPage } from "../docs/generate.ts";
import { expand } from "../src/config/ini.ts";
import type { Options } from "../src/config/options.ts";
import { HANDLERS, SERVER_OPTIONS } from "../src/config/schemas.ts";
import { ROOT, tempFolder } from "./helpers/env.ts";

const MINIMAL = `[ccserver]
cc-socket = tcp://127.0.0.1:10000
[routes]
echo = h:echo
[h:echo]
handler = echo
`;

/** What is wrong with a config, one finding a line. */
function wrong(text: string): string[] {
  try {
    readConfig(text, "x.ini");
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.message.split("\n");
  }
  return [];
}

function value(ini: string, key = "v"): string | undefined {
  const diagnostics = new Diagnostics("x.ini");
  const parsed = parseIni(ini, "x.ini", diagnostics);
  diagnostics.check();
  const section = parsed.sections.get("s")!;
  const result = expand(parsed, section, section.entries.get(key)!, { job_name: "job" }, diagnostics);
  diagnostics.check();
  return result;
}

test("ini: = and :, comments, continuation, case, percent, defaults, CRLF, BOM", () => {
  assert.equal(value("[s]\nv = a = b : c"), "a = b : c");
  assert.equal(value("[s]\nv: x"), "x");
  assert.equal(value("[s]\nV=x"), "x");
  assert.equal(value("[s]\nv = x ; not a comment"), "x ; not a comment");
  assert.equal(value("# c\n; c\n[s]\n  # c\nv = a\n    # inside\n\n    b\n\tc\n"), "a\nb\nc");
  assert.equal(value("[s]\nv =\n  a,\n  b"), "a,\nb");
  assert.equal(value("[s]\nv ="), "");
  assert.equal(value("\ufeff[s]\r\nv = x\r\nw = y\r\n"), "x");
  assert.equal(value("[s]\nv = %(w)s/100%%\nw = %(x)s!\n[DEFAULT]\nx = deep"), "deep!/100%");
  assert.equal(value("[s]\nv = %(JOB_NAME)s"), "job");
  assert.equal(value("[s]\nv = %(x)s\nx = own\n[DEFAULT]\nx = default"), "own");
});

test("ini: what cannot be read is told with its line", () => {
  const told = (ini: string) => {
    try {
      value(ini);
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };
  assert.match(told("v = x\n[s]\nv=1"), /^x\.ini:1: option "v" stands before any \[section\]/);
  assert.match(
    told("[s]\nv = 1\njust words"),
    /^x\.ini:3: "just words" is not an option, expected key = value/,
  );
  assert.match(told("[s\nv = 1\n[s]\nv = 1"), /^x\.ini:1: "\[s" is not a section/);
  assert.match(told("[s]\nv = 1\nV = 2"), /^x\.ini:3: option "v" stands in \[s\] on line 2 already/);
  assert.match(told("[s]\nv = 1\n[s]"), /^x\.ini:3: section \[s\] stands on line 1 already/);
  assert.match(told("[s]\nv = %(w)s\nw = %(v)s"), /^x\.ini:2: %\(\w\)s in the value of "v" refers to itself/);
  assert.match(told("[s]\nv = %(jobname)s"), /is not defined\. Did you mean "job_name"\?/);
  assert.match(told("[s]\nv = 5%"), /write %% for a percent sign/);
});

test("ini: stringify and parse are each other's inverse", () => {
  const sections = { s: { v: "100% of\nlines", w: "", x: "a = b" }, "h:t": { handler: "echo" } };
  const text = stringifyIni(sections);
  assert.equal(value(text), sections.s.v);
  assert.equal(value(text, "w"), "");
  assert.equal(value(text, "x"), "a = b");
});

test("config: defaults are those of the reference", () => {
  const { options, jobName } = readConfig(MINIMAL, "/etc/cc/node.ini");
  assert.equal(jobName, "node");
  assert.deepEqual(
    [
      options["cc-role"],
      options["cc-stats"],
      options["stats-period"],
      options.heartbeat,
      options["infofile-level"],
    ],
    ["insecure", 1, 30, 60, 2],
  );
  assert.deepEqual(
    [
      options.zmq_hwm,
      options.zmq_linger,
      options.zmq_nthreads,
      options.zmq_rcvbuf,
      options.zmq_tcp_keepalive,
    ],
    [50, 500, 1, 0, true],
  );
  assert.deepEqual(
    [options.zmq_tcp_keepalive_intvl, options.zmq_tcp_keepalive_idle, options.zmq_tcp_keepalive_cnt],
    [15, 240, 4],
  );
});

test("config: units, lists, booleans, paths", () => {
  const { options, handlers } = readConfig(
    MINIMAL.replace(
      "[routes]",
      `zmq_rcvbuf = 64 KB
zmq_sndbuf = 1048576
zmq_tcp_keepalive = OFF
logfile = ~/log/%(job_name)s.log
[routes]
pub = h:f , h:echo`,
    ) + "[h:f]\nplugin = cc.handler.filter\nforward-to = h:echo\ninclude = pub.*,\n   log.?nfo\n",
    "j.ini",
  );
  assert.deepEqual([options.zmq_rcvbuf, options.zmq_sndbuf, options.zmq_tcp_keepalive], [
    65_536,
    1_048_576,
    false,
  ]);
  assert.equal(options.logfile, join(homedir(), "log", "j.log"));
  assert.deepEqual(handlers.get("h:f")!.options.include, ["pub.*", "log.?nfo"]);
});

test("config: the seed document's example is read, and names what this version lacks", () => {
  const seed = `[ccserver]
pidfile = ~/pid/%(job_name)s.pid
logfile = ~/log/%(job_name)s.log
infofile = ~/log/%(job_name)s.info

cc-socket = tcp://127.0.0.1:10000
cc-role = local
cc-stats = 2

cms-keystore = ./keys
#cms-verify-ca = ca

[routes]
echo = h:echo
log = h:locallog
pub = h:proxycc
task = h:proxycc
confdb = h:proxycc

[h:echo]
handler = cc.handler.echo
[h:locallog]
plugin = cc.handler.locallogger
[h:proxycc]
handler = cc.handler.proxy
remote-cc = tcp://127.0.0.1:22632
`;
  assert.deepEqual(wrong(seed), []);
  assert.deepEqual(wrong(seed.replace("#cms-verify", "cms-verify")), [
    'x.ini:11: "cms-verify-ca": this version neither signs nor checks messages, and will not start as if it did',
  ]);
  assert.match(
    wrong(`${seed}[h:jobmgr]\nhandler = cc.handler.jobmgr\n`)[0],
    /^x\.ini:2[0-9]: .* not part of this version/,
  );
});

test("config: everything wrong is told at once, in the order of the lines", () => {
  assert.deepEqual(
    wrong(`[ccserver]
cc-socket = udp://127.0.0.1:1
cc-rol = local
zmq_hwn = 5
cc-stats = 7
zmq_rcvbuf = much
heartbeat = soon
[route]
x = y
[routes]
echo = h:ecoh
pub..x = h:echo
log = echo
task =
[h:echo]
handler = cc.handler.ech
[h:f]
handler = filter
forward-to = h:g
[h:g]
handler = filter
forward-to = h:f
[h:p]
handler = proxy
[h:none]
`),
    [
      'x.ini:2: cc-socket = udp://127.0.0.1:1: "udp://127.0.0.1:1" is not an endpoint: expected tcp://HOST:PORT or ' +
      'ipc://PATH, the transport "udp://" is not supported',
      'x.ini:3: unknown option "cc-rol" in [ccserver]. Did you mean "cc-role"?',
      'x.ini:4: unknown option "zmq_hwn" in [ccserver]. Did you mean "zmq_hwm"?',
      "x.ini:5: cc-stats = 7: expected a whole number of at most 2",
      "x.ini:6: zmq_rcvbuf = much: expected a size such as 64 KB, 256 MB or 1048576",
      "x.ini:7: heartbeat = soon: expected a number",
      'x.ini:8: unknown section [route]. Did you mean "routes"?',
      'x.ini:11: route "echo" names h:ecoh, but there is no section [h:ecoh]. Did you mean "h:echo"?',
      'x.ini:12: "pub..x" is not a message type, expected dotted names or *',
      'x.ini:13: route "log" = echo: expected a handler such as h:name',
      'x.ini:14: route "task" names no handler',
      'x.ini:16: unknown handler "cc.handler.ech" in [h:echo]. Did you mean "echo"?',
      "x.ini:19: forward-to goes round: h:f -> h:g -> h:f",
      'x.ini:23: [h:p] needs the option "remote-cc"',
      'x.ini:25: [h:none] needs the option "handler"',
    ],
  );
});

test("config: roles are enforced", () => {
  const told = (handler: string, role: string) =>
    wrong(
      MINIMAL.replace("handler = echo", `handler = cc.handler.${handler}`).replace(
        "[routes]",
        `cc-role = ${role}\n[routes]`,
      ),
    );
  for (const handler of ["jobmgr"]) {
    assert.match(
      told(handler, "remote")[0],
      /^x\.ini:7: handler "cc\.handler\.jobmgr" in \[h:echo\] needs cc-role = local, it is remote$/,
    );
    assert.match(told(handler, "local")[0], /not part of this version/);
    assert.match(told(handler, "insecure")[0], /not part of this version/);
  }
  for (const handler of ["infowriter", "tailwriter", "taskrouter", "database"]) {
    assert.match(told(handler, "local")[0], /needs cc-role = remote, it is local$/);
    assert.match(told(handler, "remote")[0], /not part of this version/);
  }
  for (const role of ["local", "remote", "insecure"]) {
    for (const handler of ["echo", "locallogger", "disposer"]) assert.deepEqual(told(handler, role), []);
  }
});

test("config: endpoints", () => {
  const told = (endpoint: string) => wrong(MINIMAL.replace("tcp://127.0.0.1:10000", endpoint)).join();
  for (
    const good of [
      "tcp://*:22632",
      "tcp://0.0.0.0:*",
      "tcp://[::1]:0",
      "tcp://localhost:1",
      "ipc:///run/cc.sock",
    ]
  ) {
    assert.equal(told(good), "", good);
  }
  for (
    const [bad, why] of [
      ["tcp://127.0.0.1", /expected tcp:\/\/HOST:PORT/],
      ["tcp://127.0.0.1:99999", /port 99999 is above 65535/],
      ["tcp://::1:5", /IPv6 in brackets/],
      ["127.0.0.1:5", /expected tcp:/],
      ["ipc://", /expected ipc:\/\/PATH/],
      ["ipc://" + "x".repeat(200), /longer than 107 bytes/],
      ["ipc://@abstract", /abstract sockets are not supported/],
    ] as const
  ) assert.match(told(bad), why);
});

test("config: a file that cannot be read is told", () => {
  using folder = tempFolder();
  const told = (file: string) => {
    try {
      loadConfig(file);
    } catch (error) {
      return (error as Error).message;
    }
  };
  assert.match(told(join(folder.path, "none.ini"))!, /none\.ini:1: cannot read the config: no such file/);
  assert.match(told(folder.path)!, /it is a folder/);
  writeFileSync(join(folder.path, "bin.ini"), new Uint8Array([0xff, 0xfe, 0]));
  assert.match(told(join(folder.path, "bin.ini"))!, /not text in UTF-8/);
});

test("config: every example is right", () => {
  const examples = readdirSync(join(ROOT, "examples")).filter((name) => name.endsWith(".ini"));
  assert.ok(examples.length >= 4);
  for (const name of examples) loadConfig(join(ROOT, "examples", name));
});

test("every option's example is accepted, and says something else than the default", () => {
  const tables = [SERVER_OPTIONS, ...Object.values(HANDLERS).map(({ options }) => options)] as Options[];
  for (const options of tables) {
    for (const [name, { schema, example, default: fallback }] of Object.entries(options)) {
      const { issues } = v.safeParse(schema, example);
      assert.equal(issues, undefined, `${name} = ${example}: ${issues?.[0].message}`);
      // One thread serves everything.
      if (name !== "zmq_nthreads") assert.notEqual(example, fallback, name);
    }
  }
});

test("docs/configuration.md is what the option tables say", () => {
  const page = readFileSync(join(ROOT, "docs", "configuration.md"), "utf8");
  assert.equal(page, configurationPage(), "run: bun docs/generate.ts");
});
