/** What a server does besides routing holds no message up: scrapes, statistics, infofile, reloads; nor do messages that are refused. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { TARGETS, tempFolder } from "./helpers/env.ts";
import { ServerProcess } from "./helpers/process.ts";
import { message, RawPeer } from "./helpers/raw.ts";

const TYPES = 1000;
/** A message may be held up by so much longer than without. V8's collector takes up to 3 ms at once, twice perhaps. */
const heldUpMaxMs = (on: string) => on === "deno" || on === "node" ? 10 : 5;
const HOSTILE_MAX_MS = 10;
const WINDOWS = 7;
const WINDOW_MS = 300;

const ECHO = message("", "echo.request", '{"req":"echo.request","target":"x"}', "");

/** A config with a thousand routes, and something that differs. */
function config(folder: string, options: string, differs = 0): string {
  const routes = Array.from({ length: TYPES }, (_, i) => `t${i}.x = h:gone`);
  return `[ccserver]
cc-socket = tcp://127.0.0.1:*
cc-role = local
cc-stats = 2
${options.replaceAll("FOLDER", folder)}
[routes]
echo = h:echo
other${differs} = h:gone
${routes.join("\n")}
[h:echo]
handler = echo
[h:gone]
handler = disposer
`;
}

/** The longest round trip of a client that asks again and again for so long. */
function longest({ socket }: RawPeer, ms: number): Promise<number> {
  return new Promise((resolve) => {
    const end = performance.now() + ms;
    let most = 0;
    let asked = 0;
    const ask = () => {
      asked = performance.now();
      socket.write(ECHO);
    };
    // An answer is so short that it comes at once.
    const answer = () => {
      const now = performance.now();
      most = Math.max(most, now - asked);
      if (now < end) return ask();
      socket.off("data", answer);
      resolve(most);
    };
    socket.on("data", answer);
    ask();
  });
}

/** The second of the shortest: what holds up each window shows in it, and what else this machine does mostly not. */
const calm = (numbers: number[]) => numbers.sort((a, b) => a - b)[1];

for (const target of TARGETS) {
  const on = target.name;

  test(`${on}: half a megabyte of small messages that are refused holds no message up for ${HOSTILE_MAX_MS} ms`, async () => {
    using folder = tempFolder();
    const ini = join(folder.path, "test.ini");
    writeFileSync(ini, config(folder.path, ""));
    await using server = new ServerProcess(target, [ini]);
    await server.until(/listening on \S+,/);
    using peer = await RawPeer.open(server.port);
    // Each makes an error: of all that a peer can send, the dearest by its bytes.
    const bad = message("", "echo.request", "{}", "");
    const chunk = Buffer.concat(new Array(Math.ceil(512 * 1024 / bad.length)).fill(bad));
    const send = async () => {
      const other = await RawPeer.open(server.port);
      other.socket.write(chunk);
      other.socket.end();
    };
    const [nothing, beside]: number[][] = [[], []];
    await longest(peer, WINDOW_MS);
    await send();
    for (let i = 0; i < WINDOWS; i++) {
      nothing.push(await longest(peer, WINDOW_MS));
      const sent = send();
      beside.push(await longest(peer, WINDOW_MS));
      await sent;
    }
    const text = `${calm(beside).toFixed(1)} ms beside them, ${calm(nothing).toFixed(1)} ms without`;
    console.log(`${on}: longest round trips: ${text}`);
    assert.ok(calm(beside) - calm(nothing) < HOSTILE_MAX_MS, text);
    assert.equal((await server.stop()).code, 0);
    assert.match(server.output, /count\.refused: \d{5,}/);
  });

  test(`${on}: a scrape of 1000 types, a reload and an infofile hold no message up for ${heldUpMaxMs(on)} ms`, async () => {
    using folder = tempFolder();
    const ini = join(folder.path, "test.ini");
    const infofile = join(folder.path, "test.info");
    const quiet = "http-listen = 127.0.0.1:0\nstats-period = 86400";
    writeFileSync(ini, config(folder.path, quiet));
    await using server = new ServerProcess(target, [ini]);
    await server.until(/listening on \S+,/);
    writeFileSync(ini, config(folder.path, `stats-period = 1\ninfofile = ${infofile}\ninfofile-level = 3`));
    await using writing = new ServerProcess(target, [ini]);
    await writing.until(/listening on \S+,/);
    const [, url] = /HTTP on (\S+)/.exec(server.output)!;
    const peers = [await RawPeer.open(server.port), await RawPeer.open(writing.port)];
    try {
      for (const peer of peers) {
        for (let i = 0; i < TYPES; i++) peer.write(message("", `t${i}.x`, "{}", ""));
        // Warm, as a server is that runs for long.
        await longest(peer, 1000);
      }
      let reloads = 0;
      const nothing = async () => {};
      const actions: Record<string, [RawPeer, number, () => Promise<void>]> = {
        nothing: [peers[0], WINDOW_MS, nothing],
        scrape: [peers[0], WINDOW_MS, async () => {
          const text = await (await fetch(`${url}/metrics`)).text();
          assert.ok(text.includes(`type="t${TYPES - 2}.x"`));
        }],
        reload: [peers[0], WINDOW_MS, () => {
          writeFileSync(ini, config(folder.path, quiet, ++reloads));
          process.kill(server.pid, "SIGHUP");
          return nothing();
        }],
        // One of them writes in each second.
        infofile: [peers[1], 1100, nothing],
      };
      const most: Record<string, number> = {};
      const found = Object.fromEntries(Object.keys(actions).map((name) => [name, [] as number[]]));
      for (let i = 0; i < WINDOWS; i++) {
        for (const [name, [peer, ms, act]] of Object.entries(actions)) {
          const acts = act();
          found[name].push(await longest(peer, ms));
          await acts;
        }
      }
      for (const name in found) most[name] = calm(found[name]);
      const text = Object.entries(most).map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`).join(", ");
      console.log(`${on}: longest round trips: ${text}`);
      await server.until(new RegExp(`other${reloads}`));
      for (const [name, ms] of Object.entries(most)) {
        assert.ok(ms - most.nothing < heldUpMaxMs(on), `${name}: ${text}`);
      }
    } finally {
      for (const peer of peers) peer[Symbol.dispose]();
    }
  });
}
