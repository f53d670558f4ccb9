import type { Bench } from "tinybench";
import { RouteTable } from "../../src/server/routes.ts";

/** The handlers of a type that was not seen lately. */
export default function routeMatch(bench: Bench): void {
  const routes = Array.from({ length: 100 }, (_, i) => ({ type: `a${i}.b`, handlers: ["h:x"], line: 1 }));
  const table = new RouteTable([...routes, { type: "*", handlers: ["h:all"], line: 1 }]);
  bench.add("route match: four parts against 101 routes", () => {
    table.match("a50.b.c.d");
  });
}
