/** A stretch of network between two servers that stalls, ends and breaks links. */
import net from "node:net";
import { type Ends, heldBytes } from "./servers.ts";

/** What a runtime may hold of a link beside what it tells. */
const SLACK_BYTES = 64 * 1024;

export class Relay {
  readonly #to: () => number;
  readonly #links = new Set<{ near: net.Socket; far: net.Socket }>();
  readonly #server: net.Server;
  links = 0;

  /** @param to The port that it leads to. */
  constructor(to: () => number) {
    this.#to = to;
    this.#server = net.createServer({ allowHalfOpen: true }, (near) => this.#join(near));
  }

  async listen(): Promise<number> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return (this.#server.address() as net.AddressInfo).port;
  }

  #join(near: net.Socket): void {
    const far = net.connect({ port: this.#to(), host: "127.0.0.1", allowHalfOpen: true });
    const link = { near, far };
    this.#links.add(link);
    this.links++;
    for (const [socket, other] of [[near, far], [far, near]]) {
      socket.setNoDelay(true);
      socket.on("error", () => {});
      socket.on("close", () => {
        this.#links.delete(link);
        other.destroy();
      });
      socket.pipe(other);
    }
  }

  stall(): void {
    for (const { near, far } of this.#links) {
      near.unpipe().pause();
      far.unpipe().pause();
    }
  }

  go(): void {
    for (const { near, far } of this.#links) {
      // One that came meanwhile flows already.
      near.unpipe().pipe(far);
      far.unpipe().pipe(near);
    }
  }

  /** Breaks all links off (RST); returns how many bytes were on their way to the far end. */
  cut(): number {
    let bytes = 0;
    for (const { near, far } of this.#links) {
      const ends: Ends[] = [
        { from: near.remotePort ?? 0, to: near.localPort ?? 0 },
        { from: far.localPort ?? 0, to: far.remotePort ?? 0 },
      ];
      bytes += near.readableLength + far.writableLength + heldBytes(ends) + SLACK_BYTES;
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
    return bytes;
  }

  /** Ends all links as a peer that leaves does (FIN): what was written before still arrives. */
  finish(): void {
    for (const { near, far } of this.#links) {
      far.unpipe(near);
      far.resume();
      near.end();
    }
  }

  close(): void {
    this.#server.close();
    for (const { near, far } of this.#links) {
      near.destroy();
      far.destroy();
    }
  }
}
