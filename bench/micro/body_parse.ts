import type { Bench } from "tinybench";
import { CCMessage, encodeMessage } from "../../src/message/message.ts";
import { EchoRequest } from "../../src/message/schemas.ts";

/** What a handler pays that reads the body, and answers. */
export default function bodyParse(bench: Bench): void {
  const bytes = encodeMessage([], "echo.request", { target: "tcp://127.0.0.1:1" }, {
    hostname: "host",
    time: 1,
  });
  const view = new CCMessage();
  const source = { prefix: new Uint8Array([1, 5, 0, 1, 2, 3, 4]), name: "bench", hold() {}, release() {} };
  view.set(source, bytes, 0, bytes.length, 0, false, "echo.request");
  bench.add("body parse: echo.request", () => {
    view.read(EchoRequest);
  });
  bench.add("reply: echo.response", () => {
    view.reply("echo.response", { orig_target: "x", orig_time: 1, orig_hostname: "h" }, { hostname: "host" });
  });
}
