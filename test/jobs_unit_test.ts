/** Jobs without processes: command lines, lines of output, delays, and what is wrong with a section. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigError } from "../mod.ts";
import { type JobConfig, restartDelayMs } from "../src/jobs/config.ts";
import type { JobValues } from "../src/jobs/options.ts";
import { Notices } from "../src/jobs/notices.ts";
import { LineReader, OutputReader } from "../src/jobs/output.ts";
import { splitWords } from "../src/jobs/words.ts";
import { JOB_LINE_MAX_BYTES, JOB_LINES_BURST, JOB_LINES_PER_SECOND } from "../src/limits.ts";
import { MACHINE } from "../src/runtime/machine.ts";
import { utf8 } from "../src/text.ts";
import { TestClock } from "./helpers/clock.ts";
import { configOf } from "./helpers/server.ts";

test("jobs: a command is split as a POSIX shell would, and nothing is expanded", () => {
  const cases: [string, string[]][] = [
    ["  sleep   10 ", ["sleep", "10"]],
    ["a 'b c' d", ["a", "b c", "d"]],
    ["a'b'\"c\"d", ["abcd"]],
    ["'' \"\"", ["", ""]],
    ['"a \\" b" \\$HOME', ['a " b', "$HOME"]],
    ['"\\a \\\\ \\$x `y`"', ["\\a \\ $x `y`"]],
    ["'\\'", ["\\"]],
    ["a\\ b", ["a b"]],
    ["$HOME *.c ~ ; | > #x", ["$HOME", "*.c", "~", ";", "|", ">", "#x"]],
    ["a\tb\nc", ["a", "b", "c"]],
    ["", []],
  ];
  for (const [text, words] of cases) assert.deepEqual(splitWords(text), words, text);
  for (const wrong of ["a 'b", 'a "b', "a \\", '"\\"']) {
    assert.throws(() => splitWords(wrong), { code: "bad-value" }, wrong);
  }
});

test("jobs: the wait before a restart follows the formula, a tenth more at most, and its cap", () => {
  const values = (a: number, b: number, cap: number) =>
    ({ "watchdog-formula-a": a, "watchdog-formula-b": b, "watchdog-formula-cap": cap }) as JobValues;
  assert.deepEqual([1, 2, 3].map((starts) => restartDelayMs(values(0, 5, 0), starts, 0)), [0, 5000, 10_000]);
  assert.equal(restartDelayMs(values(1, 0, 0), 9, 0), 1000);
  assert.equal(restartDelayMs(values(0, 5, 7), 100, 0), 7000);
  for (const random of [0, 0.3, 0.999]) {
    const ms = restartDelayMs(values(10, 0, 0), 1, random);
    assert.ok(ms >= 10_000 && ms < 11_000, String(ms));
  }
});

function reader() {
  const clock = new TestClock();
  const lines: string[] = [];
  return { clock, lines, read: new LineReader(clock, (line) => lines.push(line)) };
}

test("jobs: output becomes lines, wherever it is cut, and the last needs no newline", () => {
  const text = "one\r\ntwo\n\nthree \u00e4\u20ac\u{1f600}\nfour";
  const bytes = utf8(text);
  for (let size = 1; size < 8; size++) {
    const { lines, read } = reader();
    for (let at = 0; at < bytes.length; at += size) read.take(bytes.subarray(at, at + size));
    assert.deepEqual(lines, ["one", "two", "", "three \u00e4\u20ac\u{1f600}"]);
    read.flush();
    assert.equal(lines.at(-1), "four");
    assert.equal(read.last, "four");
  }
});

test("jobs: a line without end is cut at 64 KiB, and what follows it is whole", () => {
  const { lines, read } = reader();
  for (let i = 0; i < 100; i++) read.take(new Uint8Array(10_000).fill(97));
  read.take(utf8("\nnext\n"));
  assert.deepEqual(lines.map((line) => line.length), [JOB_LINE_MAX_BYTES, 4]);
});

test("jobs: lines come in a burst and then at a rate; what is held back is counted", () => {
  const { clock, lines, read } = reader();
  const many = utf8("x\n".repeat(50_000));
  read.take(many);
  assert.equal(lines.length, JOB_LINES_BURST);
  read.tell();
  assert.match(lines.at(-1)!, /^\(49000 lines held back: more than 100 a second\)$/);
  clock.pass(1000);
  read.take(many);
  assert.equal(lines.length, JOB_LINES_BURST + 1 + JOB_LINES_PER_SECOND);
  read.tell();
  const told = () => lines.filter((line) => line.includes("held back"));
  assert.equal(told().length, 1, "not told again within ten seconds");
  clock.pass(10_000);
  read.tell();
  assert.match(told()[1], /^\(49900 lines held back/);
  // However short, those that are held back cost next to nothing.
  const began = performance.now();
  for (let i = 0; i < 40; i++) read.take(new Uint8Array(256 * 1024).fill(10));
  assert.ok(performance.now() - began < 1000);
});

const JOBS = "[routes]\njob = h:job\n[h:job]\nhandler = cc.handler.jobmgr\ndaemons = ";

function wrong(text: string): string {
  try {
    configOf(text);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return "";
}

test("jobs: what is wrong with a section is told with file and line, all at once", () => {
  const own = "pidfile = /tmp/%(job_name)s.pid\n";
  const cases: [string, RegExp][] = [
    [`${JOBS}d:a\n`, /:9: daemons names d:a, but there is no section \[d:a\]/],
    [`${own}${JOBS}d:a\n[d:a]\n`, /:11: \[d:a\] needs one of the options command, script and module/],
    [`${own}${JOBS}d:a\n[d:a]\ncommand = x\nscript = y\n`, /:13: \[d:a\] has command and script/],
    [`${own}${JOBS}d:a\n[d:a]\ncommand = a 'b\n`, /:12: command = a 'b: a quote ' is not closed/],
    [`${own}${JOBS}d:a\n[d:a]\ncommand = x\numask = 9\n`, /:13: umask = 9: expected an octal number/],
    [
      `${own}${JOBS}d:a\n[d:a]\ncommand = x\nnise = 9\n`,
      /:13: unknown option "nise" in \[d:a\]. Did you mean "nice"/,
    ],
    [
      `${own}${JOBS}d:a\n[d:a]\ncommand = x\nenvironment = A B=c\n`,
      /:13: environment = A B=c: expected NAME=VALUE, not "A"/,
    ],
    [`${own}${JOBS}d:a\n[d:a]\ncommand = x\nstop-signal = FOO\n`, /:13: stop-signal = FOO: expected SIGINT/],
    [
      `${own}${JOBS}d:a\n[d:a]\ncommand = x\noutput = file\n`,
      /:13: output = file in \[d:a\] needs the option "logfile"/,
    ],
    [
      `${own}${JOBS}d:a\n[d:a]\nmodule = cc.daemon.infosender\ninfodir = /x\n`,
      /:12: module = cc.daemon.infosender in \[d:a\] is not part/,
    ],
    [`${JOBS}d:a\n[d:a]\ncommand = x\n`, /:10: \[d:a\] needs a pidfile/],
    [
      `pidfile = /tmp/x.pid\n${JOBS}d:a\n[d:a]\ncommand = x\n`,
      /\/tmp\/x\.pid is the pidfile of \[ccserver\], and would be the pidfile of \[d:a\]/,
    ],
    [
      `${own}${JOBS}d:a, d:b\n[d:a]\ncommand = x\nafter = d:b\n[d:b]\ncommand = x\nafter = d:a\n`,
      /:13: daemons wait for each other: d:a -> d:b -> d:a/,
    ],
    [
      `${own}${JOBS}d:a\n[d:a]\ncommand = x\nafter = d:c\n`,
      /:13: after names d:c, which \[h:job\] does not start/,
    ],
  ];
  for (const [text, told] of cases) assert.match(wrong(text), told);
  const { warnings } = configOf(`${own}${JOBS}d:a\n[d:a]\nscript = /x\nstop-wiat = 3\n[d:b]\ncommand = x\n`);
  assert.deepEqual(warnings.map(({ line, message }) => `${line}: ${message}`), [
    '13: stop-wiat in [d:a] is left to the script, as no daemon has such an option. Did you mean "stop-wait"?',
    "14: [d:b] is not started: daemons in [h:job] does not name it",
  ]);
  assert.match(
    wrong(`${own}${JOBS}d:a\n[d:a]\ncommand = x\nenvironment = A="1",B="2"\n`),
    /have blanks between, not commas/,
  );
  assert.match(
    wrong(`${own}${JOBS}d:a\n[d:a]\ncommand = x\n[h:more]\nhandler = jobmgr\n`),
    /:13: \[h:more\]: a config has one handler jobmgr at most, and \[h:job\] is it/,
  );
  assert.equal(wrong(`${own}${JOBS}d:a\n[d:a]\ncommand = x\nenvironment = A="1,B=2" C=3\n`), "");
  assert.equal(wrong(`${own}${JOBS}d:a\n[d:a]\ncommand = x\nstop-signal = term\nclass = X\n`), "");
  // A script reads options of its own in its section.
  assert.equal(wrong(`${own}${JOBS}d:a\n[d:a]\nscript = /x\ninfodir = /y\n`), "");
});

test("jobs: a line that was cut is told once, whatever is held back", () => {
  const { lines, read } = reader();
  read.take(utf8("x\n".repeat(JOB_LINES_BURST - 1)));
  read.take(new Uint8Array(JOB_LINE_MAX_BYTES + 10).fill(97));
  read.take(utf8("the rest\nheld\n"));
  assert.equal(lines.length, JOB_LINES_BURST);
  read.tell();
  assert.match(lines.at(-1)!, /^\(1 line held back/);
});

test("jobs: what a daemon says of itself is read in pieces, bounded, and the rest passed over", () => {
  let told = 0;
  const config = { watchdogMs: 1000, noticesFile: "x" } as JobConfig;
  const notices = new Notices(
    config,
    { environment: MACHINE, output: new OutputReader(MACHINE.clock) },
    () => told++,
  );
  const say = (text: string) => notices.take(utf8(text));
  say("READ");
  assert.equal(notices.ready, false);
  say("Y=1\nSTATUS=fine");
  assert.deepEqual([notices.ready, told, notices.status], [true, 1, null]);
  say("\nREADY=1\nREADY=0\nMAINPID=1\n\n=\nSTATUS\n");
  assert.deepEqual([notices.ready, told, notices.status], [true, 1, "fine"]);
  for (let i = 0; i < 100; i++) say("STATUS=".padEnd(1000, "x"));
  say("\nSTATUS=\u001b[31mred\n");
  assert.deepEqual(notices.status, "\\x1b[31mred");
  say(`STATUS=${"y".repeat(4000)}\n`);
  assert.ok(notices.status!.length <= 240);
  say("STATUS=\n");
  assert.equal(notices.status, null);
  // Nobody listens: it may be silent.
  assert.equal(notices.patienceMs, Infinity);
  say("WATCHDOG=trigger\nWATCHDOG=trigger\n");
  assert.equal(told, 2);
  notices.begin();
  assert.equal(notices.ready, false);
});
