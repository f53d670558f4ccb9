import type { Bench } from "tinybench";
import { parse } from "../../src/config/ini.ts";
import { config } from "./fixtures.ts";

/** A config with a hundred handlers. */
export default function iniParse(bench: Bench): void {
  const names = Array.from({ length: 100 }, (_, i) => `h:p${i}`);
  const text = `[ccserver]\ncc-socket = tcp://127.0.0.1:1\n[routes]\n* = ${names}\n` +
    names.map((name) => `[${name}]\nhandler = proxy\nremote-cc = tcp://127.0.0.1:2\nping = no\n`).join("");
  bench.add("ini parse: 100 sections", () => {
    parse(text, "bench.ini");
  });
  bench.add("config: the same, checked", () => {
    config(text);
  });
}
