/** What `/readyz` tells: may this server be sent to? */
import type { ServerState } from "./state.ts";

/** Why it is not ready; empty when it is. */
export function unreadyReasons(state: ServerState): string[] {
  const reasons: string[] = [];
  if (state.stopping) reasons.push("the server is stopping");
  else if (state.endpoint === null) reasons.push("the server does not listen yet");
  for (const { handler, endpoint, dealer } of state.upstreams) {
    if (!dealer.up) reasons.push(`upstream ${endpoint} of ${handler} is down`);
  }
  return reasons;
}
