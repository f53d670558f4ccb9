/**
 * What is done with messages of one type, worked out once: the plans of all its handlers, and of those that these pass them
 * on to, in order.
 *
 * ```
 *   pub ─▶ h:filter { pass: h:proxy, count }  ─▶ h:proxy { forward: upstream }   =   forwards [upstream], counts [count]
 *   log ─▶ h:log { open: LogMessage }                                            =   steps [h:log]
 * ```
 */
import type { Counter, Plan } from "../contracts/handler.ts";
import type { DealerSocket } from "../socket/types.ts";
import type { Result } from "./counts.ts";
import type { Host } from "./host.ts";
import { BodyReader } from "./opener.ts";
import { HandlerUpstream } from "./upstream.ts";

/** A handler that handles the messages itself. */
export interface Step {
  readonly host: Host;
  /** How it reads the body; null: it gets the message as it came. */
  readonly reader: BodyReader | null;
  /** Where the message goes once it is verified; the host is not asked then. Null: the host handles it. */
  readonly verified: DealerSocket | null;
}

/** A handler that nothing is given to, and why. */
export interface DropWarning {
  readonly host: Host;
  readonly why: string;
}

/** All that is done with messages of a type. */
export interface Delivery {
  /** Upstreams that get the bytes unchanged. */
  readonly forwards: readonly DealerSocket[];
  readonly steps: readonly Step[];
  /** Counters of messages and of bytes, for each message. */
  readonly counts: readonly Counter[];
  readonly sizes: readonly Counter[];
  readonly warnings: readonly DropWarning[];
  /** How a message counts, as far as no step says worse. */
  readonly result: Extract<Result, "ok" | "dropped" | "crashed">;
}

/** Works out what these handlers do with messages of a type. */
export function deliveryOf(type: string, hosts: readonly Host[]): Delivery {
  const planner = new Planner(type);
  for (const host of hosts) planner.add(host, []);
  return planner.delivery();
}

class Planner {
  readonly #type: string;
  readonly #forwards: DealerSocket[] = [];
  readonly #steps: Step[] = [];
  readonly #counts: Counter[] = [];
  readonly #sizes: Counter[] = [];
  readonly #warnings: DropWarning[] = [];
  #failed = false;
  /** Has a handler taken it, if only to drop it? */
  #taken = false;

  constructor(type: string) {
    this.#type = type;
  }

  delivery(): Delivery {
    return {
      forwards: this.#forwards,
      steps: this.#steps,
      counts: this.#counts,
      sizes: this.#sizes,
      warnings: this.#warnings,
      result: this.#failed ? "crashed" : this.#taken ? "ok" : "dropped",
    };
  }

  /** @param way The handlers that passed it on to this one. */
  add(host: Host, way: readonly Host[]): void {
    // One that has ended takes nothing.
    if (!host.running) return;
    try {
      if (way.includes(host)) {
        throw new Error(
          `it is passed on in a circle: ${[...way, host].map(({ name }) => name).join(" -> ")}`,
        );
      }
      this.#addPlan(host, host.plan(this.#type), way);
    } catch (error) {
      this.#failed = true;
      host.planFailed(this.#type, error);
    }
  }

  #addPlan(host: Host, plan: Plan<unknown>, way: readonly Host[]): void {
    this.#counts.push(...plan.count ?? []);
    this.#sizes.push(...plan.bytes ?? []);
    if (!("pass" in plan)) this.#taken = true;
    if ("forward" in plan) {
      if (!(plan.forward instanceof HandlerUpstream)) throw new Error("forward: not what connect() gave");
      this.#forwards.push(plan.forward.dealer);
    } else if ("verify" in plan) {
      if (!(plan.verify instanceof HandlerUpstream)) throw new Error("verify: not what connect() gave");
      this.#steps.push({ host, reader: null, verified: plan.verify.dealer });
    } else if ("pass" in plan) {
      const next = host.find(plan.pass);
      if (next === undefined) throw new Error(`pass: there is no handler ${plan.pass} here`);
      this.add(next, [...way, host]);
    } else if ("open" in plan) {
      this.#steps.push({
        host,
        reader: new BodyReader(plan.open, plan.maxBytes, plan.unsealed),
        verified: null,
      });
    } else if ("raw" in plan) {
      this.#steps.push({ host, reader: null, verified: null });
    } else if ("drop" in plan) {
      if (plan.warn) this.#warnings.push({ host, why: plan.drop });
    } else {
      throw new Error("expected a plan: forward, verify, pass, open, raw or drop");
    }
  }
}
