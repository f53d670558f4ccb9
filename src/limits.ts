/**
 * Every bound on what a peer can send or make us hold, in one place, each with its reason.
 * Units stand last in the names.
 */

/** Bytes of one message, all frames with their headers. A stored file travels as one message. */
export const MESSAGE_MAX_BYTES = 64 * 1024 * 1024;

/** The most that `zmq_maxmsgsize` can be: a neighbour may have it. What passes our own and not this is passed over. */
export const MESSAGE_BOUND_MAX_BYTES: number = 1024 * 1024 * 1024;

/** Hops a message may have taken; each adds one route frame. More means a loop. */
export const ROUTE_MAX_FRAMES = 32;

/** Frames of one message: its route, and the five of a CC message from the delimiter on. */
export const MESSAGE_MAX_FRAMES = ROUTE_MAX_FRAMES + 5;

/** Bytes of a message type; the type is kept in tables and in logs. */
export const TYPE_MAX_BYTES = 256;

/** Parts of a message type; each is one look-up when a new type is routed. */
export const TYPE_MAX_PARTS = 16;

/** Message types whose routes and counters are remembered; the rest share one entry. */
export const TYPES_TRACKED = 1000;

/** A type that has not come for so long gives up its counters to others, when there are no more to be had. */
export const TYPE_UNUSED_MS: number = 15 * 60_000;

/** Counters that handlers add to the statistics; the rest share one. A handler of one's own may name them as it likes. */
export const COUNTERS_MAX = 1000;

/** Gauges of all handlers together: five for each of the most daemons, and more. */
export const GAUGES_MAX = 10_000;

/** Bytes of a body that is parsed as JSON, where its reader asks for no more: those of built-in types have a few hundred. */
export const BODY_DEFAULT_MAX_BYTES = 64 * 1024;

/** Bytes that a reader may ask for: a file in base64. Parsing costs several times its size. */
export const BODY_MAX_BYTES = 16 * 1024 * 1024;

/** Levels of arrays and objects in a body; known types have two. Parsers recurse. */
export const JSON_MAX_DEPTH = 32;

/** Values in a body, keys not counted: each costs an object's memory and some hundred nanoseconds. */
export const JSON_MAX_VALUES = 10_000;

/** Bytes of the way back to a sender that are kept: its identity, and route frames of up to 255 bytes a hop. */
export const RETURN_PATH_MAX_BYTES = 16 * 1024;

/** Codes that handlers refuse messages with and that are counted apart; the rest share one. */
export const REFUSED_CODES_MAX = 100;

/** Messages that one handler has under way at once, and their bytes; past it their senders wait. */
export const IN_FLIGHT_MESSAGES = 100;
export const IN_FLIGHT_MAX_BYTES = 64 * 1024 * 1024;

/** From the start of a handler to its being ready: connecting to a database, say. */
export const HANDLER_START_MAX_MS = 30_000;

/** What a handler's stop may take on top of linger: its signal has told it to end by then. */
export const HANDLER_STOP_EXTRA_MS = 5000;

/** Messages that handlers publish while one of theirs is being handled, each caused by the one before. More is a loop. */
export const PUBLISH_MAX_DEPTH = 8;

/** Bytes of a command frame after the handshake: PING with its context, ERROR with its reason. */
export const COMMAND_MAX_BYTES = 512;

/** Bytes of the READY command: metadata of a peer. libzmq sends about 30. */
export const METADATA_MAX_BYTES = 8 * 1024;

/** Bytes of an identity: its length is one byte on the wire (RFC 23). */
export const IDENTITY_MAX_BYTES = 255;

/** Bytes of the frame that a ROUTER puts in front of a message: an identity and its header. */
export const IDENTITY_FRAME_MAX_BYTES: number = IDENTITY_MAX_BYTES + 2;

/** From connect to READY. A peer on a slow line needs one or two round trips. */
export const HANDSHAKE_MAX_MS = 10_000;

/** A holder of an identity that another claims is asked, and has so long to show that it lives; what was found holds for a while. */
export const IDENTITY_PROBE_MS = 2000;
export const IDENTITY_VERDICT_MS = 5000;

/** Connections of one listening socket. Past it new ones are closed at once, so that descriptors are left for files. */
export const PEERS_MAX = 16_384;

/** Descriptors that are left for all else, and for each handler, which may have upstreams. */
export const DESCRIPTORS_KEPT = 64;
export const DESCRIPTORS_PER_HANDLER = 4;

/** The part of the memory there is that messages may take. */
export const MEMORY_SHARE = 0.25;

/** Bytes reserved at once for a frame whose length a peer has only announced; beyond, memory grows as bytes come. */
export const ANNOUNCED_MAX_BYTES = 4 * 1024 * 1024;

/** Bytes that may wait for one peer whatever its high water mark: two of the largest messages. */
export const EGRESS_MAX_BYTES = 2 * MESSAGE_MAX_BYTES;

/**
 * Bytes from which on a queue counts as full whatever its high water mark: who sends to it is held back. Large messages
 * would otherwise fill memory long before they are many.
 */
export const EGRESS_FULL_BYTES = 8 * 1024 * 1024;

/**
 * Bytes of egress that are not counted against a client's high water mark: they stand in for the
 * kernel's send buffer, which the runtimes do not let us fill within one turn.
 */
export const CLIENT_EGRESS_FLOOR_BYTES = 64 * 1024;

/** The same for an upstream, of which a server has few and through which everything goes. */
export const UPSTREAM_EGRESS_FLOOR_BYTES = 1024 * 1024;

/** A client whose queue is full and that takes nothing for so long is disconnected. */
export const CLIENT_STALL_MAX_MS = 15_000;

/** An upstream that takes nothing for so long counts as down. */
export const UPSTREAM_STALL_MS = 30_000;

/** Shortest and longest wait before connecting anew. */
export const RECONNECT_MIN_MS = 100;
export const RECONNECT_MAX_MS = 10_000;

/** A link that lasted so long was well: the next waits between attempts are short again. */
export const RECONNECT_STEADY_MS = 10_000;

/** Links that may break while one and the same message is written to them: then it is what they break on, and is dropped. */
export const SEND_TRIES = 3;

/** Messages that one delay handler keeps; their bytes are bounded as every handler's are. */
export const DELAYED_MAX_MESSAGES = 100_000;

/** Queries of one client that wait for their reply. */
export const QUERIES_MAX = 100_000;

/** Peers whose drops are counted apart; of those counted longest ago, only the totals stay. */
export const PEERS_COUNTED = 1000;

/** Subjects (peers, types) a rate limiter remembers. */
export const RATE_LIMITED_SUBJECTS = 1000;

/** Characters of remote text in one log line. */
export const LOG_TEXT_MAX_CHARS = 4096;

/** HTTP connections at one time: a few scrapers and probes. More are refused, so that descriptors are left for peers. */
export const HTTP_CONNECTIONS_MAX = 32;

/** From an HTTP connection's first moment to its last, one request and its answer. */
export const HTTP_CONNECTION_MAX_MS = 10_000;

/** Bytes of an HTTP request's head; a scraper's is some hundred. */
export const HTTP_HEAD_MAX_BYTES = 8 * 1024;

/** Connections of the control channel at one time: a few people and their scripts. */
export const CONTROL_CONNECTIONS_MAX = 8;

/** When so many connect there within so long, nobody else does for a moment. */
export const CONTROL_ACCEPTS_MAX = 64;
/** See {@link CONTROL_ACCEPTS_MAX}. */
export const CONTROL_ACCEPTS_MS = 100;

/** Bytes of a request on the control channel, which is one line: a verb and names of jobs. */
export const CONTROL_LINE_MAX_BYTES: number = 64 * 1024;

/** Bytes of an answer there: ten thousand jobs have some three million. */
export const CONTROL_ANSWER_MAX_BYTES: number = 4 * 1024 * 1024;

/** A connection of the control channel that asks nothing, or takes no byte of its answer, is closed after so long. */
export const CONTROL_IDLE_MS = 60_000;

/** A connection that sends more than one request may have while one is answered is ended when that takes so long. */
export const CONTROL_CROWDED_MS = 5000;

/** From a request to its answer: jobs that are to stop have three signals, one after the other. */
export const CONTROL_ANSWER_MAX_MS: number = 10 * 60_000;

/** What a connection that is refused or ended has to read why, before it is closed. */
export const CONTROL_LINGER_MS = 1000;

/** Bytes of a config file; the largest known has some ten thousand. More is a wrong file, such as a device. */
export const CONFIG_MAX_BYTES = 1024 * 1024;

/** Characters of an option's value, and replacements of `%(name)s` in it: nested ones multiply. */
export const CONFIG_VALUE_MAX_CHARS = 64 * 1024;
export const CONFIG_VALUE_MAX_REPLACEMENTS = 10_000;

/** Files that a handler of one's own is made of, and bytes of each, that are looked at to tell whether they have changed. */
export const MODULE_FILES_MAX = 1000;
export const MODULE_MAX_BYTES = 16 * 1024 * 1024;

/** Bytes of one line that a job writes; the rest of a longer one is passed over. */
export const JOB_LINE_MAX_BYTES = 64 * 1024;

/** Bytes of a message that asks for a job's options. */
export const JOB_REQUEST_MAX_BYTES = 4096;

/** Bytes of one line in which a job says how it is. */
export const NOTICE_MAX_BYTES = 4096;

/** Lines of a job's output that are logged: so many at once, then so many a second. */
export const JOB_LINES_BURST = 1000;
export const JOB_LINES_PER_SECOND = 100;

/** Bytes that are read of one job's output at a time: others' messages wait for that. */
export const JOB_READ_MAX_BYTES = 256 * 1024;

/** Bytes of a pidfile or state file of a job. */
export const JOB_FILE_MAX_BYTES = 16 * 1024;

/** Longest path of a Unix socket on Linux, without its closing zero: a name past that cannot be connected to. */
export const UNIX_PATH_MAX_BYTES = 107;

/** Daemons of one server: each has a process, descriptors and files. */
export const JOBS_MAX = 1000;

/** Bytes that a script of infoscript may write: it is one message's blob. */
export const INFOSCRIPT_OUTPUT_MAX_BYTES = 16 * 1024 * 1024;

/** Log lines of a daemon that wait for its server; more go to stderr. */
export const DAEMON_LOG_QUEUE = 200;

/** Certificates that come with one signature: the signer's, and CAs above it. */
export const CMS_CERTIFICATES_MAX = 10;

/** Bytes of a signature beside its content: certificates, attributes and the signature itself. */
export const SIGNATURE_MAX_BYTES = 64 * 1024;

/** Bytes of an envelope beside what is encrypted: a hundred recipients with the longest keys. */
export const ENVELOPE_MAX_BYTES = 128 * 1024;

/** Signers whose certificates are remembered as trusted; each takes some 3 KB. */
export const SIGNERS_KNOWN = 4096;

/** Recipients of one encrypted message: looking for one's own among them is a walk. */
export const CMS_RECIPIENTS_MAX = 100;

/** Files of a key store, and their bytes: read whole, at start and at each reload. */
export const KEY_STORE_MAX_FILES = 10_000;
export const KEY_FILE_MAX_BYTES: number = 256 * 1024;
/** A list of 100,000 revoked certificates has some 4 MB. */
export const CRL_MAX_BYTES: number = 16 * 1024 * 1024;

/** Errors that are sent in a second to those whose requests are refused: to one peer, and in all. Each may cost a signature. */
export const COMPLAINTS_A_CLIENT = 10;
export const COMPLAINTS_IN_ALL = 200;

/** Signers and types of which it is remembered whether `[cms-allow]` lets them pass: types are made up by signers. */
export const ALLOWED_REMEMBERED = 4096;

/** Messages of one signer, and of all, that are remembered against copies; each takes some 150 bytes. */
export const REPLAYS_A_SIGNER = 65_536;
export const REPLAYS_IN_ALL = 1_000_000;

/** From so long before the end of a certificate or CRL on it is told. */
export const EXPIRY_WARNING_MS: number = 30 * 24 * 3_600_000;

/** Threads that verify signatures, the main one among them. */
export const CMS_THREADS_MAX = 16;
/** Messages of one client that are opened at one time, where that is done beside the main thread: past it the client waits. */
export const OPENING_MAX = 256;
/** The same in bytes; a message that is larger is opened alone. */
export const OPENING_MAX_BYTES: number = 4 * 1024 * 1024;
/** The same of all clients together. Past it each has no more than the two below: many clients wait, and none holds much. */
export const OPENING_ALL_MAX = 16_384;
/** See {@link OPENING_ALL_MAX}. */
export const OPENING_ALL_MAX_BYTES: number = 64 * 1024 * 1024;
/** Of one client, where those of all are too many. */
export const OPENING_CROWD_MAX = 16;
/** The same in bytes. */
export const OPENING_CROWD_MAX_BYTES: number = 64 * 1024;
