/** What a config may say, and what is told when it says something else. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { configurationPage } from "../docs/generate.ts";
import {
  type AnyHandlerDefinition,
  ConfigError,
  defineHandler,
  handlerName,
  handlerNames,
  integer,
  loadConfig,
  option,
  optional,
  parseIni,
  path,
  readConfig,
  required,
  type SectionReader,
  stringifyIni,
  text as anyText,
} from "../mod.ts";
import { Diagnostics } from "../src/config/diagnostics.ts";
import { expand, parse } from "../src/config/ini.ts";
import { SERVER_OPTIONS } from "../src/config/server_options.ts";
import type { Options } from "../src/contracts/schema.ts";
import { DAEMONS } from "../src/daemons/index.ts";
import { JOB_OPTIONS, MODULE_OPTIONS } from "../src/jobs/options.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { HANDLERS } from "../src/handlers/index.ts";
import { CONFIG_VALUE_MAX_CHARS } from "../src/limits.ts";
import { ROOT, RUNTIME, tempFolder } from "./helpers/env.ts";
import { test } from "./helpers/memory.ts";
import { own } from "./helpers/server.ts";

const MINIMAL = `[ccserver]
cc-socket = tcp://127.0.0.1:10000
[routes]
echo = h:echo
[h:echo]
handler = echo
`;

/** What is wrong with a config, one finding a line. */
function wrong(text: string, handlers: AnyHandlerDefinition[] = []): string[] {
  try {
    readConfig(text, "x.ini", { handlers });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.message.split("\n");
  }
  return [];
}

function value(
  ini: string,
  key = "v",
  builtins: Record<string, string> = { job_name: "job" },
): string | undefined {
  const diagnostics = new Diagnostics("x.ini");
  const parsed = parse(ini, "x.ini", diagnostics);
  diagnostics.check();
  const section = parsed.sections.get("s")!;
  const result = expand(parsed, section, section.entries.get(key)!, builtins, diagnostics);
  diagnostics.check();
  return result;
}

test("ini: = and :, comments, continuation, case, percent, defaults, CRLF, BOM", () => {
  assert.equal(value("[s]\nv = a = b : c"), "a = b : c");
  assert.equal(value("[s]\nv: x"), "x");
  assert.equal(value("[s]\nV=x"), "x");
  assert.equal(value("# c\n; c\n[s]\n  # c\nv = a\n    # inside\n\n    b\n\tc\n"), "a\nb\nc");
  assert.equal(value("[s]\nv =\n  a,\n  b"), "a,\nb");
  assert.equal(value("[s]\nv ="), "");
  assert.equal(value("\ufeff[s]\r\nv = x\r\nw = y\r\n"), "x");
  assert.equal(value("[s]\nv = %(w)s/100%%\nw = %(x)s!\n[DEFAULT]\nx = deep"), "deep!/100%");
  assert.equal(value("[s]\nv = %(JOB_NAME)s"), "job");
  assert.equal(value("[s]\nv = %(x)s\nx = own\n[DEFAULT]\nx = default"), "own");
});

test("ini: white space and a semicolon begin a comment inside a line, as in Python 2", () => {
  assert.equal(value("[s]\nv = tcp://127.0.0.1:1 ; the port"), "tcp://127.0.0.1:1");
  assert.equal(value("[s]\nv = x\t;y ; z"), "x");
  assert.equal(value("[s]\nv = a;b"), "a;b");
  assert.equal(value("[s]\nv = a; b"), "a; b");
  assert.equal(value("[s]\nv = x # no comment"), "x # no comment");
  assert.equal(value("[s]\nv = ; all of it"), "");
  assert.equal(value("[s]\nv = a\n  b ; of a line that continues"), "a\nb ; of a line that continues");
});

test("ini: rem in the first column is a comment, two quotes are the empty string", () => {
  assert.equal(value("rem before\n[s]\nREM = 1\nv = x\nrem\nrem more\nremark = y"), "x");
  assert.equal(value("[s]\nremark = y", "remark"), "y");
  assert.equal(value("[s]\n  rem = y", "rem"), "y");
  assert.equal(value('[s]\nv = ""'), "");
  assert.equal(value('[s]\nv = "" ; nothing'), "");
  assert.equal(value('[s]\nv = "a"'), '"a"');
});

test("ini: deeper lines continue; those indented alike are options where they read name =, and are told", () => {
  const read = (text: string) => {
    const diagnostics = new Diagnostics("x.ini");
    const section = parse(text, "x.ini", diagnostics).sections.get("s")!;
    return {
      values: Object.fromEntries([...section.entries].map(([key, { raw }]) => [key, raw])),
      told: diagnostics.sorted.map(({ line, severity, message }) => `${line} ${severity}: ${message}`),
    };
  };
  assert.deepEqual(read("[s]\nv = a\n  w = b\n d:two"), { values: { v: "a\nw = b\nd:two" }, told: [] });
  assert.deepEqual(read("  [s]\n  v = a\n  w = b\n    c = d\n  d:two"), {
    values: { v: "a", w: "b\nc = d\nd:two" },
    told: [
      "3 warning: line 3: indented as the option before, and read as an option of its own; " +
      "the original would take it for a part of that option's value",
      "5 warning: line 5: indented as the option before, and read as a part of its value; indent it deeper to say so",
    ],
  });
  // An indented section is one after a blank line only.
  assert.deepEqual(Object.keys(read("[s]\nv = a\n\n  [t]\n  w = b").values), ["v"]);
  assert.deepEqual(read("[s]\nv = a\n  [t]").values, { v: "a\n[t]" });
});

test("ini: %(job_name)s and its like, and what is nested without end", () => {
  const { options, jobName } = readConfig(
    MINIMAL.replace(
      "[routes]",
      "job_name = other\npidfile = /%(job_name)s/%(service_name)s/%(config_dir)s/%(config_file)s\n[routes]",
    ),
    "conf/x.ini",
  );
  assert.equal(jobName, "other");
  assert.equal(options.pidfile, "/other/ccserver/conf/conf/x.ini");
  assert.ok(value("[s]\nv = %(host_name)s", "v", { host_name: "here" }) === "here");
  const nested = (levels: number, times: number) =>
    `[s]\nv = %(a0)s\n${
      Array.from({ length: levels }, (_, i) => `a${i} = ${`%(a${i + 1})s`.repeat(times)}`).join("\n")
    }\na${levels} = xxxxxxxx\n`;
  assert.equal(value(nested(3, 10))!.length, 8000);
  const begin = performance.now();
  const long = [nested(8, 2).replace("xxxxxxxx", "x".repeat(40_000)), `[s]\nv = a${" ".repeat(200_000)}b`];
  for (const text of [nested(5, 10), nested(9, 10), ...long]) {
    assert.throws(
      () => value(text),
      (error: Error) =>
        error.message.includes(`the value of "v" has more than ${CONFIG_VALUE_MAX_CHARS} characters`),
    );
  }
  // Blanks that do not count cost no time either.
  assert.equal(value(`[s]\nv = a${" ".repeat(200_000)}\n${" ".repeat(200_000)};b\n`), "a");
  assert.ok(performance.now() - begin < 1000, "without long thought");
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

test("ini: parseIni gives the sections as they are meant", () => {
  assert.deepEqual(
    parseIni("[DEFAULT]\nx = 1\n[s]\na = %(x)s2 ; c\nB = %(job_name)s\n[t]\n", { job_name: "j" }),
    {
      s: { x: "1", a: "12", b: "j" },
      t: { x: "1" },
    },
  );
  assert.throws(() => parseIni("[s]\nnonsense\na = %(none)s"), (error: ConfigError) => {
    assert.equal(error.code, "bad-config");
    assert.deepEqual(error.diagnostics.map(({ line }) => line), [2, 3]);
    return true;
  });
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

/** The example of the document that this project started from, as it is printed there: indented as a whole. */
const SEED = `
    [ccserver]
    pidfile = ~/pid/%(job_name)s.pid
    logfile = ~/log/%(job_name)s.log
    infofile = ~/log/%(job_name)s.info

    cc-socket = tcp://127.0.0.1:10000
    cc-role = local
    cc-stats = 2

    cms-keystore = ./keys
    #cms-verify-ca = ca
    #cms-decrypt = server
    #cms-encrypt = confdb

    # msgtype -> handler mapping
    [routes]
    # local routes
    echo = h:echo
    log = h:locallog
SEED_JOB
    # remote routes
    pub = h:proxycc
    task = h:proxycc
    confdb = h:proxycc

    # handler sections
    [h:echo]
    handler = cc.handler.echo

    [h:locallog]
    plugin = cc.handler.locallogger

    [h:proxycc]
    handler = cc.handler.proxy
    remote-cc = tcp://127.0.0.1:22632
`.replace("SEED_JOB\n", "\n");

test("config: the seed document's example is read as it is printed, and what this version lacks is named", () => {
  assert.deepEqual(wrong(SEED), []);
  const { options, routes, warnings } = readConfig(SEED, "x.ini");
  assert.deepEqual(
    [options["cc-socket"], options["cc-role"], options["cc-stats"], options.zmq_hwm],
    ["tcp://127.0.0.1:10000", "local", 2, 50],
  );
  assert.deepEqual(routes.map(({ type, handlers }) => `${type} ${handlers}`), [
    "echo h:echo",
    "log h:locallog",
    "pub h:proxycc",
    "task h:proxycc",
    "confdb h:proxycc",
  ]);
  assert.deepEqual(warnings.map(({ line, message }) => `${line}: ${message}`), [
    "4: lines 4 to 5, 7 to 9, 11, 20, 23 to 25 and 1 place more: indented as the option before, and read as an option of " +
    "its own; the original would take it for a part of that option's value",
  ]);
  const sealed = SEED.replaceAll("#cms-", "cms-");
  assert.deepEqual(wrong(sealed).filter((line) => !line.includes("warning")), [
    'x.ini:14: "cms-encrypt" needs "cms-sign": what is encrypted is signed first',
  ]);
  const { options: read, warnings: told } = readConfig(
    sealed.replace("cms-keystore", "cms-sign = me\n    cms-keystore"),
    "x.ini",
  );
  assert.deepEqual(
    [read["cms-keystore"], read["cms-verify-ca"], read["cms-encrypt"], read["cms-decrypt"], read["cms-sign"]],
    ["./keys", ["ca"], ["confdb"], "server", "me"],
  );
  assert.match(told.map(({ message }) => message).join("\n"), /^there is no cms-profile, so it is modern/m);
  assert.match(
    wrong(`${SEED}\n    [h:writer]\n    handler = cc.handler.infowriter\n`).join("\n"),
    /handler "cc\.handler\.infowriter" in \[h:writer\] needs cc-role = remote, it is local/,
  );
});

test("config: options about signatures that need others say so", () => {
  const options = (lines: string) => wrong(MINIMAL.replace("[ccserver]\n", `[ccserver]\n${lines}`));
  assert.match(options("cms-decrypt = me\n").join(), /"cms-decrypt" needs "cms-verify-ca"/);
  assert.match(
    options("cms-time-window = 300\n").join(),
    /"cms-time-window" needs "cms-verify-ca": .* the time/,
  );
  assert.match(options("cms-hostname = cn\n").join(), /"cms-hostname" needs "cms-verify-ca": .* the host/);
  assert.match(options("cms-profile = new\n").join(), /expected modern, legacy, accept-legacy/);
  assert.deepEqual(options("cms-sign = me\ncms-encrypt = a, b\ncms-verify-ca = ca\ncms-decrypt = me\n"), []);
});

test("config: a section that nobody reads is told", () => {
  assert.deepEqual(wrong(`${MINIMAL}[d:logtail]\nmodule = cc.daemon.logtail\n[p:x]\na = b\n[t:y]\n`), [
    "x.ini:7: nobody reads [d:logtail]: no handler here reads sections d:…",
    "x.ini:9: nobody reads [p:x]: no handler here reads sections p:…",
    "x.ini:11: nobody reads [t:y]: no handler here reads sections t:…",
  ]);
  const reads = own("jobs", () => ({ plan: () => ({ raw: true }) }), { sections: ["d:"] });
  const config = readConfig(
    `${MINIMAL.replace("= echo", "= jobs")}[d:logtail]\nfile = %(job_name)s\n`,
    "x.ini",
    {
      handlers: [reads],
    },
  );
  assert.deepEqual([...config.handlers.get("h:echo")!.sections], [["d:logtail", { file: "x" }]]);
});

const READER: SectionReader = {
  prefix: "d:",
  options: ({ kind }) => ({
    kind: option(anyText, "plain", "", "x"),
    "Start-Seconds": option(integer(0, 10), "1", "", "2"),
    title: optional(anyText, "", "x"),
    pidfile: optional(path, "", "x"),
    ...(kind === "more" ? { extra: required(anyText, "", "x") } : {}),
  }),
  inherits: ["pidfile", "logfile"],
};

/** A config with sections that handlers read by a table; more of `[ccserver]` stands from line 2 on. */
const withJobs = (server: string, rest: string) =>
  `[ccserver]\n${server}\ncc-socket = tcp://127.0.0.1:10000\n[routes]\njob = h:job\n[h:job]\nhandler = jobs\n${rest}`;

/** A handler that reads them; null: it is given no check. */
function jobs(
  check: AnyHandlerDefinition["check"] = () => [],
  name = "jobs",
  reader: SectionReader = READER,
) {
  return own(name, () => ({ plan: () => ({ raw: true }) }), { options: {}, sections: [reader], check });
}

test("config: a section is read by its reader's table, with names of its own", () => {
  const read = (server: string, rest: string) =>
    readConfig(withJobs(server, rest), "conf/x.ini", { handlers: [jobs()] }).handlers.get("h:job")!;
  const { sections, sectionsRead } = read(
    "job_name = srv-%(service_name)s",
    "[d:one]\nSTART-seconds = 3\ntitle = %(job_name)s of %(service_name)s on %(config_file)s\n" +
      "[d:two]\njob_name = mine\nuse_skylog = 1\nclass = x\ntitle = %(job_name)s\npidfile = run/%(job_name)s.pid\n" +
      "[d:three]\nkind = more\nextra = %(title)s!\n[DEFAULT]\ntitle = all\nnobody-knows = %(nothing)s\n",
  );
  assert.equal(sections.size, 0);
  assert.deepEqual(
    [...sectionsRead].map(([key, { name, values, set }]) => [key === name, name, values, [...set].sort()]),
    [
      [true, "d:one", {
        kind: "plain",
        "Start-Seconds": 3,
        title: "srv-ccserver.d:one of d:one on conf/x.ini",
        pidfile: null,
      }, ["Start-Seconds", "title"]],
      [true, "d:two", {
        kind: "plain",
        "Start-Seconds": 1,
        title: "mine",
        pidfile: join(ROOT, "run/mine.pid"),
      }, [
        "pidfile",
        "title",
      ]],
      [true, "d:three", { kind: "more", "Start-Seconds": 1, title: "all", pidfile: null, extra: "all!" }, [
        "extra",
        "kind",
        "title",
      ]],
    ],
  );
});

test("config: a section takes from [ccserver] what its reader says, with its own names in it", () => {
  const server = "pidfile = /run/%(job_name)s.%(title)s";
  const read = (rest: string) =>
    readConfig(withJobs(server, rest), "x.ini", { handlers: [jobs()] }).handlers.get("h:job")!.sectionsRead;
  const found = read("[d:one]\ntitle = t\n[d:two]\npidfile = /own\n[DEFAULT]\ntitle = all\n");
  assert.deepEqual(
    [...found.values()].map(({ values, set }) => [values.pidfile, set.has("pidfile")]),
    [["/run/x.d:one.t", false], ["/own", true]],
  );
  const everywhere = read("[d:one]\n[DEFAULT]\npidfile = /default\ntitle = t\n").get("d:one")!;
  assert.deepEqual([everywhere.values.pidfile, everywhere.set.has("pidfile")], ["/default", true]);
  assert.deepEqual(
    wrong(withJobs("pidfile = /run/%(heartbeat)s\nheartbeat = 5", "[d:one]\n[d:two]\npidfile = x\n"), [
      jobs(),
    ]),
    ['x.ini:2: [d:one] takes "pidfile" from here: %(heartbeat)s in the value of "pidfile" is not defined'],
  );
  assert.deepEqual(wrong(withJobs("pidfile = %(x)s", '[d:one]\nx = ""\n[DEFAULT]\nx = ""'), [jobs()]), [
    "x.ini:2: pidfile = : a path is expected",
    'x.ini:2: [d:one] takes "pidfile" from here: pidfile = : a path is expected',
    'x.ini:9: unknown option "x" in [d:one]',
  ]);
});

test("config: what is wrong in a section that is read by a table is told once, with its line", () => {
  let checks = 0;
  const check = () => {
    checks++;
    return [];
  };
  const other = jobs(check, "other", { prefix: "d:", options: () => ({ none: required(anyText, "", "x") }) });
  assert.deepEqual(
    wrong(
      withJobs(
        "",
        "[d:one]\ntilte = x\nstart-seconds = 11\n[d:two]\nkind = more\n[d:]\n[d:a b]\n[h:other]\nhandler = other\n",
      ),
      [jobs(check), other],
    ),
    [
      'x.ini:9: unknown option "tilte" in [d:one]. Did you mean "title"?',
      "x.ini:10: Start-Seconds = 11: expected a whole number of at most 10",
      'x.ini:11: [d:two] needs the option "extra"',
      "x.ini:13: [d:]: expected a name such as [d:name], without blanks",
      "x.ini:14: [d:a b]: expected a name such as [d:name], without blanks",
    ],
  );
  assert.equal(checks, 0, "not while something in it is wrong");
  const crashing = jobs(check, "jobs", {
    prefix: "d:",
    options() {
      throw new Error("no table");
    },
  });
  assert.deepEqual(wrong(withJobs("", "[d:one]\n"), [crashing]), [
    "x.ini:6: the handler of [h:job] crashed in options: no table",
  ]);
});

test("config: what a handler finds wrong is told at the line of the option it is about", () => {
  const asked: unknown[] = [];
  const finds = own("jobs", () => ({ plan: () => ({ raw: true }) }), {
    options: { count: option(integer(0), "2", "", "3") },
    sections: [READER],
    check(options, sections, server, name) {
      asked.push(name, options, [...sections.keys()], server);
      return [
        { section: "d:one", option: "title", message: "its own" },
        { section: "d:one", option: "kind", message: "of DEFAULT" },
        { section: "d:one", option: "pidfile", message: "of ccserver" },
        { section: "d:one", option: "Start-Seconds", message: "not there" },
        { section: "d:one", option: null, message: "the section" },
        { section: "h:job", option: "count", message: "of the handler" },
        { section: "d:nowhere", option: null, message: "of no section" },
      ];
    },
  });
  const ini = withJobs("pidfile = /p/%(job_name)s", "count = 4\n[d:one]\ntitle = x\n[DEFAULT]\nkind = y\n");
  assert.deepEqual(wrong(ini, [finds]), [
    "x.ini:2: of ccserver",
    "x.ini:6: of no section",
    "x.ini:8: of the handler",
    "x.ini:9: not there",
    "x.ini:9: the section",
    "x.ini:10: its own",
    "x.ini:12: of DEFAULT",
  ]);
  assert.deepEqual(asked, ["h:job", { count: 4 }, ["d:one"], {
    jobName: "x",
    configFile: "x.ini",
    socket: "tcp://127.0.0.1:10000",
    pidfile: "/p/x",
    cms: {},
    receivesDatagrams: MACHINE.host.receivesDatagrams,
  }]);
  assert.deepEqual(wrong(ini.replace("count = 4", "count = x"), [finds]), [
    "x.ini:8: count = x: expected a whole number",
  ]);
  const crashing = jobs(() => {
    throw new Error("cannot check");
  });
  assert.deepEqual(wrong(withJobs("", ""), [crashing]), [
    "x.ini:6: the handler of [h:job] crashed in check: cannot check",
  ]);
});

test("config: a handler that runs alone is told where no route reaches it", () => {
  const alone = own("alone", () => ({ plan: () => ({ raw: true }) }), { runsAlone: true });
  const told = (route: string) =>
    readConfig(
      `[ccserver]\ncc-socket = tcp://127.0.0.1:1\n[routes]\na = ${route}\n[h:alone]\nhandler = alone\n` +
        "[h:f]\nhandler = filter\nforward-to = h:alone\n[h:e]\nhandler = echo\n",
      "x.ini",
      { handlers: [alone] },
    ).warnings.map(({ line, message }) => `${line}: ${message}`);
  assert.deepEqual(told("h:e"), ["5: [h:alone] is named by no route: it runs all the same"]);
  assert.deepEqual(told("h:alone"), []);
  assert.deepEqual(told("h:f"), []);
});

test("config: handlers that options name are edges of the graph, whatever the options are called", () => {
  const split = defineHandler({
    name: "split",
    summary: "",
    roles: ["local"],
    options: {
      "next-one": required(handlerName, "", "h:a"),
      "all-of-them": required(handlerNames, "", "h:a, h:b"),
    },
    create: () => ({ plan: () => ({ raw: true }) }),
  });
  const text = (one: string, all: string) =>
    `[ccserver]\ncc-socket = tcp://127.0.0.1:1\n[routes]\na = h:s\n[h:s]\nhandler = split\nnext-one = ${one}\nall-of-them = ${all}\n` +
    "[h:echo]\nhandler = echo\n[h:other]\nhandler = echo\n";
  assert.deepEqual(wrong(text("h:echo", "h:other, h:echo"), [split]), []);
  assert.deepEqual(wrong(text("h:eco", "h:other, h:nobody"), [split]), [
    'x.ini:7: next-one in [h:s] names h:eco, but there is no section [h:eco]. Did you mean "h:echo"?',
    "x.ini:8: all-of-them in [h:s] names h:nobody, but there is no section [h:nobody]",
  ]);
  assert.deepEqual(wrong(text("h:echo", "h:other, h:s"), [split]), [
    "x.ini:5: handlers name each other in a circle: h:s -> h:s",
  ]);
  // One without a table of options: by what the text is.
  const plain = own("plain", () => ({ plan: () => ({ raw: true }) }));
  assert.deepEqual(wrong(`${MINIMAL.replace("= echo", "= plain")}to = h:echo\n`, [plain]), [
    "x.ini:5: handlers name each other in a circle: h:echo -> h:echo",
  ]);
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
      "x.ini:17: handlers name each other in a circle: h:f -> h:g -> h:f",
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
  assert.match(
    told("jobmgr", "remote")[0],
    /^x\.ini:7: handler "cc\.handler\.jobmgr" in \[h:echo\] needs cc-role = local, it is remote$/,
  );
  assert.deepEqual(told("jobmgr", "local"), []);
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

test("config: a file that cannot be read is told", async () => {
  using folder = tempFolder();
  const told = (file: string) => loadConfig(file).then(() => "", (error: Error) => error.message);
  assert.match(
    await told(join(folder.path, "none.ini")),
    /none\.ini:1: cannot read the config: no such file/,
  );
  assert.match(await told(folder.path), /it is a folder/);
  writeFileSync(join(folder.path, "bin.ini"), new Uint8Array([0xff, 0xfe, 0]));
  assert.match(await told(join(folder.path, "bin.ini")), /not text in UTF-8/);
  assert.match(await told("/dev/zero"), /it has more than 1048576 bytes: that is no config/);
});

test("config: every example is right", async () => {
  const examples = (readdirSync(join(ROOT, "examples"), { recursive: true }) as string[])
    .filter((name) => name.endsWith(".ini"));
  assert.ok(examples.length >= 5);
  for (const name of examples) {
    const loaded = loadConfig(join(ROOT, "examples", name));
    if (RUNTIME === "node" && name === "count_words.ini") {
      await assert.rejects(
        loaded,
        /count_words\.ts: it is TypeScript, which node \S+ does not run: name a \.js file/,
      );
    } else await loaded;
  }
});

test("every option's example is accepted, and says something else than the default", async () => {
  const tables = [
    SERVER_OPTIONS,
    JOB_OPTIONS,
    MODULE_OPTIONS,
    ...DAEMONS.map(({ options }) => options),
    ...HANDLERS.map(({ options }) => options),
  ] as Options[];
  for (const options of tables) {
    for (const [name, { schema, example, default: fallback }] of Object.entries(options)) {
      assert.equal((await schema["~standard"].validate(example)).issues, undefined, `${name} = ${example}`);
      // One thread serves everything.
      if (name !== "zmq_nthreads") assert.notEqual(example, fallback, name);
    }
  }
});

test("docs/configuration.md is what the option tables say", () => {
  const page = readFileSync(join(ROOT, "docs", "configuration.md"), "utf8");
  assert.equal(page, configurationPage(), "run: bun docs/generate.ts");
});

test("config: a fingerprint with colons in [cms-allow] is told how to be written", () => {
  const text = (signer: string) =>
    `[ccserver]\ncc-socket = ipc:///x\ncc-role = local\ncms-profile = modern\ncms-verify-ca = ca\n[cms-allow]\n${signer} = *\n[routes]\n`;
  const digits = Array.from({ length: 32 }, (_, i) => (i + 16).toString(16));
  assert.throws(
    () => readConfig(text(digits.join(":")), "x.ini"),
    /x\.ini:7: a fingerprint in \[cms-allow\] is 64 hexadecimal digits, without colons/,
  );
  readConfig(text(digits.join("")), "x.ini");
});
