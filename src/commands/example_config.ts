/** The example that is part of the program: `ccserver --ini` prints it. A test compares it with `examples/local.ini`. */
export const EXAMPLE_CONFIG =
  `# A CC server for one host: it answers echo, writes log messages as log lines, and needs no other service.
# Start it with:  ccserver examples/local.ini
# Where there is a remote server (examples/chain-remote.ini), remove the "#" below: what this host publishes goes there.

[ccserver]
cc-socket = tcp://127.0.0.1:10000
cc-role = local
cc-stats = 2
#logfile = ~/log/%(job_name)s.log
#pidfile = ~/pid/%(job_name)s.pid

# message type -> handlers; a route is for the type and all below it: log.info goes to h:locallog
[routes]
echo = h:echo
log = h:locallog
#pub = h:proxycc
#task = h:proxycc

[h:echo]
handler = cc.handler.echo

[h:locallog]
handler = cc.handler.locallogger

#[h:proxycc]
#handler = cc.handler.proxy
#remote-cc = tcp://127.0.0.1:22632
#ping = yes
`;
