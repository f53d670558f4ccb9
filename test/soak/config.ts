/** Configs of a soak's servers. A variant differs from the one before in what a running server can take over. */
export interface Place {
  readonly port: number;
  readonly httpPort: number;
  readonly variant: number;
}

/** @param sections Begins with the rest of [routes]. */
export function configOf({ port, httpPort, variant }: Place, options: string, sections: string): string {
  const extra = variant % 2 === 1;
  return `[ccserver]
cc-socket = tcp://127.0.0.1:${port}
http-listen = 127.0.0.1:${httpPort}
heartbeat = ${600 + variant}
zmq_linger = 10000
${options}
[routes]
${extra ? "extra = h:extra\n" : ""}${sections}
${extra ? "[h:extra]\nhandler = disposer\n" : ""}`;
}

/** Routes to upstreams, and their handlers, of the same names. */
export function proxies({ variant }: Place, ports: Readonly<Record<string, number>>): string {
  const all = Object.entries(ports);
  const handlers = all.map(([name, port]) =>
    `[h:${name}]
handler = proxy
remote-cc = tcp://127.0.0.1:${port}
zmq_hwm = ${variant % 2 === 1 ? 1000 : 800}
zmq_linger = 10000
`
  );
  return [...all.map(([name]) => `${name} = h:${name}\n`), ...handlers].join("");
}
