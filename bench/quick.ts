import { buildPeers, forwarders, load, SHAPES } from "./load.ts";
import process from "node:process";
const { load: l, proxyMissing } = buildPeers();
const all = forwarders(proxyMissing);
const [names, shapes, clients = "1", handlers = "1", rounds = "1"] = process.argv.slice(2);
for (let r = 0; r < Number(rounds); r++) {
  for (const s of shapes.split(",")) {
    for (const n of names.split(",")) {
      try {
        const x = await load(l, all[n], {
          shape: SHAPES[s],
          clients: Number(clients),
          handlers: Number(handlers),
          seconds: 1.5,
        });
        console.log(
          s.padEnd(6),
          n.padEnd(10),
          (x.messagesPerSecond / 1e6).toFixed(3),
          "M/s",
          x.megabytesPerSecond.toFixed(0),
          "MB/s",
          x.cpuMicros.toFixed(3),
          "us",
          (x.peakBytes / 2 ** 20).toFixed(0),
          "MiB",
        );
      } catch (e) {
        console.log(n, (e as Error).message);
      }
    }
  }
}
