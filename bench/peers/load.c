/*
 * Raw load for the benchmarks: bytes that were encoded before, so that neither end is ever the bottleneck.
 *
 *   load gen   PORT CLIENTS MESSAGES hello.bin message.bin      sends messages over CLIENTS connections, then waits to be ended
 *   load sink  PORT BYTES hello.bin                             listens; counts bytes behind each peer's handshake
 *   load drink PORT BYTES hello.bin                             the same, but connects (for servers that deliver to clients)
 *   load echo  PORT hello.bin                                   listens; sends back every byte
 *   load rtt   PORT RATE MESSAGES hello.bin message.bin         open loop: RATE messages a second, round trips in microseconds
 *   load light PORT RATE MESSAGES hello.bin message.bin         the same of one that sends little: each reply, whatever its size
 *   load idle  PORT CLIENTS hello.bin                           connects and rests until ended
 *   load crowd PORT CLIENTS hello.bin                           CLIENTS connect at once, and again when the server is back
 *   load knock PORT CLIENTS hello.bin                           CLIENTS at once connect, shake hands and leave, again and again
 *   load relay PORT TO_PORT                                     blind copy of bytes between two sockets
 *
 * hello.bin is what a peer says first (greeting and READY); HELLO_REPLY of the environment says how many bytes of the
 * other side's are its handshake, WIRE=nats that the other side is no ZMTP; DRAIN=1: gen reads and throws away what comes
 * back; ANSWER=type: sink sends back messages of this type. A message of rtt has its time stamp in the 8 bytes at STAMP_AT.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (1 << 20)

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static char *slurp(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  if (!f) die(path);
  fseek(f, 0, SEEK_END);
  *size = ftell(f);
  rewind(f);
  char *bytes = malloc(*size + 1);
  if (fread(bytes, 1, *size, f) != *size) die(path);
  fclose(f);
  return bytes;
}

static struct sockaddr_in address(int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return a;
}

static void no_delay(int fd) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static int connect_to(int port) {
  struct sockaddr_in a = address(port);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&a, sizeof a)) die("connect");
  no_delay(fd);
  return fd;
}

static int listen_on(int port) {
  struct sockaddr_in a = address(port);
  socklen_t size = sizeof a;
  int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) die("listen");
  getsockname(fd, (struct sockaddr *)&a, &size);
  printf("port %d\n", ntohs(a.sin_port));
  fflush(stdout);
  return fd;
}

static void write_all(int fd, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, bytes, size);
    if (n <= 0) die("write");
    bytes += n;
    size -= n;
  }
}

static void read_all(int fd, size_t size) {
  char buf[4096];
  while (size > 0) {
    ssize_t n = read(fd, buf, size < sizeof buf ? size : sizeof buf);
    if (n <= 0) die("handshake");
    size -= n;
  }
}

static size_t env_size(const char *name) {
  const char *value = getenv(name);
  return value ? strtoul(value, NULL, 10) : 0;
}

static int shake(int port, const char *hello, size_t hello_size) {
  int fd = connect_to(port);
  write_all(fd, hello, hello_size);
  read_all(fd, env_size("HELLO_REPLY"));
  return fd;
}

static void rest(void) {
  for (;;) pause();
}

static void wait_for_go(void) {
  printf("ready\n");
  fflush(stdout);
  if (getchar() == EOF) exit(0);
}

static int gen(int port, int clients, long messages, const char *hello_path, const char *message_path) {
  size_t hello_size, size;
  char *hello = slurp(hello_path, &hello_size), *message = slurp(message_path, &size);
  long batch = CHUNK / 4 / size ? CHUNK / 4 / size : 1;
  uint32_t drain = env_size("DRAIN") ? EPOLLIN : 0;
  char *block = malloc(batch * size);
  for (long i = 0; i < batch; i++) memcpy(block + i * size, message, size);
  int *fds = malloc(clients * sizeof *fds);
  long *left = malloc(clients * sizeof *left);
  size_t *offset = calloc(clients, sizeof *offset);
  int ep = epoll_create1(0);
  /* A thousand hosts have memory of their own; here they share the kernel's for TCP, which must not run short. */
  int send_buffer = clients > 8 ? (64 << 20) / clients : 0;
  for (int i = 0; i < clients; i++) {
    fds[i] = shake(port, hello, hello_size);
    if (send_buffer) setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
    fcntl(fds[i], F_SETFL, O_NONBLOCK);
    left[i] = messages / clients * (long)size;
  }
  wait_for_go();
  for (int i = 0; i < clients; i++) {
    struct epoll_event e = {.events = EPOLLOUT | drain, .data.u32 = i};
    epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e);
  }
  int open = clients;
  char *in = malloc(CHUNK);
  struct epoll_event events[256];
  while (open > 0) {
    int n = epoll_wait(ep, events, 256, -1);
    for (int k = 0; k < n; k++) {
      int i = events[k].data.u32;
      if (events[k].events & drain && read(fds[i], in, CHUNK) == 0) die("closed");
      if (!(events[k].events & EPOLLOUT) || left[i] == 0) continue;
      /* A block holds whole messages, so its start is always a message's start. */
      size_t room = batch * size - offset[i];
      if ((long)room > left[i]) room = left[i];
      ssize_t w = write(fds[i], block + offset[i], room);
      if (w < 0 && errno == EAGAIN) continue;
      if (w <= 0) die("write");
      left[i] -= w;
      offset[i] = (offset[i] + w) % (batch * size);
      if (left[i] == 0) {
        struct epoll_event e = {.events = drain, .data.u32 = i};
        epoll_ctl(ep, drain ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, fds[i], &e);
        if (!drain) open--;
      }
    }
  }
  rest();
  return 0;
}

struct peer {
  int fd;
  size_t skip;
  /* Of the message that is coming: its first bytes, how many there are in all, and what is left of its frame. */
  unsigned char start[512];
  size_t have;
  size_t left;
  unsigned char head[9];
  int head_have, more;
};

/* Sends back the messages whose third frame, behind identity and delimiter, is this type; they are small. */
static void answer_some(struct peer *p, const unsigned char *bytes, size_t size, const char *type) {
  size_t type_size = strlen(type);
  for (size_t at = 0; at < size;) {
    if (p->left > 0) {
      size_t n = size - at < p->left ? size - at : p->left;
      if (p->have < sizeof p->start) {
        size_t room = sizeof p->start - p->have;
        memcpy(p->start + p->have, bytes + at, n < room ? n : room);
      }
      p->have += n;
      p->left -= n;
      at += n;
    } else {
      if (p->have < sizeof p->start) p->start[p->have] = bytes[at];
      p->have++;
      p->head[p->head_have++] = bytes[at++];
      int is_long = p->head[0] & 2;
      if (p->head_have < (is_long ? 9 : 2)) continue;
      p->left = p->head[1];
      if (is_long) {
        p->left = 0;
        for (int i = 1; i < 9; i++) p->left = p->left << 8 | p->head[i];
      }
      p->more = p->head[0] & 1;
      p->head_have = 0;
    }
    if (p->left > 0 || p->head_have > 0 || p->more) continue;
    size_t at_type = 2 + (size_t)p->start[1] + 2;
    if (p->have <= sizeof p->start && at_type + 2 + type_size <= p->have && p->start[at_type + 1] == type_size &&
        !memcmp(p->start + at_type + 2, type, type_size)) {
      write_all(p->fd, (char *)p->start, p->have);
    }
    p->have = 0;
  }
}

static void report(long bytes, long measured, int64_t start, int64_t end) {
  printf("{\"bytes\":%ld,\"measured\":%ld,\"ns\":%lld}\n", bytes, measured, (long long)(end - start));
  fflush(stdout);
}

static int sink(int port, long expected, const char *hello_path, int connects, int reflects) {
  size_t hello_size;
  char *hello = slurp(hello_path, &hello_size), *buf = malloc(CHUNK);
  int ep = epoll_create1(0), listener = -1;
  long bytes = 0, warm = env_size("WARM_UP"), base = -1;
  int64_t start = 0;
  struct peer none = {.fd = -1};
  const char *answer = getenv("ANSWER");
  if (connects) {
    int fd = connect_to(port);
    write_all(fd, hello, hello_size);
    usleep(300000); /* what a server says first is not counted */
    while (recv(fd, buf, CHUNK, MSG_DONTWAIT) > 0) {
    }
    struct peer *p = malloc(sizeof *p);
    *p = (struct peer){.fd = fd};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    printf("port %d\n", port);
    fflush(stdout);
  } else {
    listener = listen_on(port);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &none};
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
  }
  struct epoll_event events[256];
  for (;;) {
    int n = epoll_wait(ep, events, 256, -1);
    for (int k = 0; k < n; k++) {
      struct peer *p = events[k].data.ptr;
      if (p == &none) {
        p = malloc(sizeof *p);
        *p = (struct peer){.fd = accept(listener, NULL, NULL), .skip = env_size("HELLO_REPLY")};
        no_delay(p->fd);
        write_all(p->fd, hello, hello_size);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
        epoll_ctl(ep, EPOLL_CTL_ADD, p->fd, &e);
        continue;
      }
      ssize_t r = read(p->fd, buf, CHUNK);
      if (r <= 0) {
        epoll_ctl(ep, EPOLL_CTL_DEL, p->fd, NULL);
        close(p->fd);
        continue;
      }
      size_t skip = (size_t)r < p->skip ? (size_t)r : p->skip;
      p->skip -= skip;
      if ((size_t)r == skip) continue;
      if (reflects) write_all(p->fd, buf + skip, r - skip);
      if (answer) answer_some(p, (unsigned char *)buf + skip, r - skip, answer);
      bytes += r - skip;
      /* Measured is what comes behind the warm-up: a server that has just started compiles its code. */
      if (base < 0 && bytes >= warm) {
        base = bytes;
        start = now_ns();
        printf("warm\n");
        fflush(stdout);
      }
      if (expected > 0 && bytes >= expected) report(bytes, bytes - base, start, now_ns());
    }
  }
}

static int by_size(const void *a, const void *b) {
  int64_t d = *(const int64_t *)a - *(const int64_t *)b;
  return d < 0 ? -1 : d > 0;
}

/* The first `warm` times are not counted: a server that has just started compiles its code. */
static int report_times(int64_t *times, long received, long warm) {
  if (received <= warm) return 1;
  times += warm;
  received -= warm;
  qsort(times, received, sizeof *times, by_size);
  printf("{\"received\":%ld,\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f}\n", received, times[received / 2] / 1e3,
         times[received * 99 / 100] / 1e3, times[received * 999 / 1000] / 1e3);
  fflush(stdout);
  return 0;
}

static int rtt(int port, long rate, long messages, const char *hello_path, const char *message_path) {
  size_t hello_size, size;
  char *hello = slurp(hello_path, &hello_size), *message = slurp(message_path, &size);
  size_t stamp_at = env_size("STAMP_AT");
  int fd = shake(port, hello, hello_size);
  int64_t *times = malloc(messages * sizeof *times);
  long sent = 0, received = 0;
  size_t have = 0;
  char *in = malloc(CHUNK), *out = malloc(CHUNK);
  wait_for_go();
  int64_t start = now_ns(), deadline = start + messages * 1000000000LL / rate + 10000000000LL;
  while (received < messages && now_ns() < deadline) {
    int64_t t = now_ns();
    long due = (t - start) * rate / 1000000000LL;
    if (due > messages) due = messages;
    if (sent < due) {
      size_t fill = 0;
      while (sent < due && fill + size < CHUNK) {
        memcpy(out + fill, message, size);
        /* When it was due, not when it was sent: a stall is not left out. */
        int64_t stamp = start + sent * 1000000000LL / rate;
        memcpy(out + fill + stamp_at, &stamp, 8);
        fill += size;
        sent++;
      }
      write_all(fd, out, fill);
    }
    ssize_t r = recv(fd, in + have, CHUNK - have, MSG_DONTWAIT);
    if (r <= 0) {
      if (r == 0) die("closed");
      struct timespec nap = {0, 20000};
      nanosleep(&nap, NULL);
      continue;
    }
    have += r;
    t = now_ns();
    size_t at = 0;
    for (; have - at >= size; at += size) {
      int64_t stamp;
      memcpy(&stamp, in + at + stamp_at, 8);
      if (received < messages) times[received++] = t - stamp;
    }
    memmove(in, in + at, have - at);
    have -= at;
  }
  return report_times(times, received, env_size("WARM_UP"));
}

/* Replies in buf[0, have), and where the first begins that is not whole yet. */
static long zmtp_replies(const unsigned char *buf, size_t have, size_t *whole) {
  long replies = 0;
  for (size_t at = 0;;) {
    int is_long = have - at >= 2 && buf[at] & 2;
    size_t head = is_long ? 9 : 2;
    if (have - at < head) return replies;
    uint64_t size = buf[at + 1];
    if (is_long) {
      size = 0;
      for (int i = 1; i < 9; i++) size = size << 8 | buf[at + i];
    }
    if (have - at - head < size) return replies;
    if (!(buf[at] & 5)) replies++;
    at += head + size;
    *whole = at;
  }
}

static long nats_replies(int fd, const char *buf, size_t have, size_t *whole) {
  long replies = 0;
  for (size_t at = 0;;) {
    const char *end = memmem(buf + at, have - at, "\r\n", 2);
    if (!end) return replies;
    size_t next = end + 2 - buf;
    if (!strncmp(buf + at, "MSG ", 4)) {
      const char *size = end;
      while (size[-1] != ' ') size--;
      next += strtoul(size, NULL, 10) + 2;
      if (next > have) return replies;
      replies++;
    } else if (!strncmp(buf + at, "PING", 4)) {
      write_all(fd, "PONG\r\n", 6);
    }
    *whole = at = next;
  }
}

static int light(int port, long rate, long messages, const char *hello_path, const char *message_path) {
  size_t hello_size, size, have = 0;
  char *hello = slurp(hello_path, &hello_size), *message = slurp(message_path, &size), *in = malloc(CHUNK + 1);
  const char *wire = getenv("WIRE");
  int nats = wire && !strcmp(wire, "nats"), fd = shake(port, hello, hello_size);
  int64_t *times = malloc(messages * sizeof *times);
  long sent = 0, received = 0;
  in[CHUNK] = 0;
  wait_for_go();
  int64_t start = now_ns(), deadline = start + messages * 1000000000LL / rate + 10000000000LL;
  while (received < messages && now_ns() < deadline) {
    int64_t next = start + sent * 1000000000LL / rate;
    while (sent < messages && next <= now_ns()) {
      write_all(fd, message, size);
      next = start + ++sent * 1000000000LL / rate;
    }
    int64_t left = sent < messages ? next - now_ns() : 1000000000LL;
    if (left < 0) left = 0;
    struct timespec wait = {left / 1000000000LL, left % 1000000000LL};
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (ppoll(&ready, 1, &wait, NULL) <= 0) continue;
    ssize_t r = read(fd, in + have, CHUNK - have);
    if (r <= 0) die("closed");
    have += r;
    size_t whole = 0;
    long replies = nats ? nats_replies(fd, in, have, &whole) : zmtp_replies((unsigned char *)in, have, &whole);
    int64_t t = now_ns();
    /* Since it was due, not since it was sent: a stall is not left out. */
    for (; replies > 0 && received < messages; replies--, received++) {
      times[received] = t - (start + received * 1000000000LL / rate);
    }
    memmove(in, in + whole, have - whole);
    have -= whole;
  }
  return report_times(times, received, env_size("WARM_UP_MESSAGES"));
}

static int knock(int port, int clients, const char *hello_path) {
  size_t hello_size;
  char *hello = slurp(hello_path, &hello_size);
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  wait_for_go();
  for (int i = 0; i < clients; i++) {
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
      int fd = shake(port, hello, hello_size);
      /* Ports are used again at once. */
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
      close(fd);
    }
  }
  rest();
  return 0;
}

static int idle(int port, int clients, const char *hello_path) {
  size_t hello_size;
  char *hello = slurp(hello_path, &hello_size);
  for (int i = 0; i < clients; i++) shake(port, hello, hello_size);
  printf("ready\n");
  fflush(stdout);
  rest();
  return 0;
}

/* A client of a crowd: closed, on its way, or there once its handshake has come. */
struct member {
  int fd;
  size_t left;
  int64_t again_at;
};

/* As libzmq does by default: so long after a failure it tries again. */
#define AGAIN_NS 100000000LL

static void enter(int ep, struct sockaddr_in *a, struct member *m, uint32_t i, size_t reply) {
  m->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  m->left = reply;
  if (connect(m->fd, (struct sockaddr *)a, sizeof *a) && errno != EINPROGRESS) {
    close(m->fd);
    m->fd = -1;
    m->again_at = now_ns() + AGAIN_NS;
    return;
  }
  struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = i};
  epoll_ctl(ep, EPOLL_CTL_ADD, m->fd, &e);
}

/*
 * All connect at once, and each that is closed connects again. A line whenever all are there: how long that took since the
 * first of them was let in, and how many were closed in the middle of their handshake.
 */
static int crowd(int port, int clients, const char *hello_path) {
  size_t hello_size, reply = env_size("HELLO_REPLY");
  char *hello = slurp(hello_path, &hello_size), *in = malloc(CHUNK);
  struct sockaddr_in a = address(port);
  struct member *all = calloc(clients, sizeof *all);
  struct epoll_event events[1024];
  int ep = epoll_create1(0), there = 0, cut = 0;
  int64_t began = 0;
  wait_for_go();
  for (int i = 0; i < clients; i++) enter(ep, &a, &all[i], i, reply);
  for (int64_t looked = 0;;) {
    int n = epoll_wait(ep, events, 1024, 10);
    for (int k = 0; k < n; k++) {
      struct member *m = &all[events[k].data.u32];
      int over = 0;
      if (m->left == reply && events[k].events & EPOLLOUT && !(events[k].events & (EPOLLERR | EPOLLHUP))) {
        /* Connected; the hello goes into an empty buffer. Once: an edge of EPOLLOUT comes behind what is read too. */
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(m->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error == 0 && m->again_at != -1) {
          if (began == 0) began = now_ns();
          if (write(m->fd, hello, hello_size) != (ssize_t)hello_size) over = 1;
          m->again_at = -1;
        }
      }
      while (!over) {
        ssize_t r = read(m->fd, in, CHUNK);
        if (r < 0 && (errno == EAGAIN || errno == ENOTCONN)) break;
        if (r <= 0) {
          over = 1;
        } else if (m->left > 0) {
          m->left = (size_t)r < m->left ? m->left - r : 0;
          if (m->left == 0) there++;
        }
      }
      if (!over) continue;
      if (m->left == 0) there--;
      else if (m->again_at == -1) cut++;
      close(m->fd);
      m->fd = -1;
      m->again_at = now_ns() + AGAIN_NS;
    }
    int64_t t = now_ns();
    if (there == clients && began > 0) {
      printf("{\"ms\":%lld,\"cut\":%d}\n", (long long)(t - began) / 1000000, cut);
      fflush(stdout);
      began = cut = 0;
    }
    if (t - looked < 10000000) continue;
    looked = t;
    for (int i = 0; i < clients; i++) {
      if (all[i].fd < 0 && all[i].again_at <= t) {
        all[i].again_at = 0;
        enter(ep, &a, &all[i], i, reply);
      }
    }
  }
}

static int relay(int port, int to) {
  int listener = listen_on(port);
  char *buf = malloc(CHUNK);
  int a = accept(listener, NULL, NULL), b = connect_to(to), ep = epoll_create1(0);
  no_delay(a);
  struct epoll_event ea = {.events = EPOLLIN, .data.fd = a}, eb = {.events = EPOLLIN, .data.fd = b}, events[2];
  epoll_ctl(ep, EPOLL_CTL_ADD, a, &ea);
  epoll_ctl(ep, EPOLL_CTL_ADD, b, &eb);
  for (;;) {
    int n = epoll_wait(ep, events, 2, -1);
    for (int k = 0; k < n; k++) {
      int from = events[k].data.fd;
      ssize_t r = read(from, buf, CHUNK);
      if (r <= 0) return 0;
      write_all(from == a ? b : a, buf, r);
    }
  }
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const char *mode = argc > 2 ? argv[1] : "";
  int port = argc > 2 ? atoi(argv[2]) : 0;
  if (!strcmp(mode, "gen") && argc == 7) return gen(port, atoi(argv[3]), atol(argv[4]), argv[5], argv[6]);
  if (!strcmp(mode, "sink") && argc == 5) return sink(port, atol(argv[3]), argv[4], 0, 0);
  if (!strcmp(mode, "drink") && argc == 5) return sink(port, atol(argv[3]), argv[4], 1, 0);
  if (!strcmp(mode, "echo") && argc == 4) return sink(port, 0, argv[3], 0, 1);
  if (!strcmp(mode, "rtt") && argc == 7) return rtt(port, atol(argv[3]), atol(argv[4]), argv[5], argv[6]);
  if (!strcmp(mode, "light") && argc == 7) return light(port, atol(argv[3]), atol(argv[4]), argv[5], argv[6]);
  if (!strcmp(mode, "knock") && argc == 5) return knock(port, atoi(argv[3]), argv[4]);
  if (!strcmp(mode, "idle") && argc == 5) return idle(port, atoi(argv[3]), argv[4]);
  if (!strcmp(mode, "crowd") && argc == 5) return crowd(port, atoi(argv[3]), argv[4]);
  if (!strcmp(mode, "relay") && argc == 4) return relay(port, atoi(argv[3]));
  fprintf(stderr, "load: wrong arguments, see the head of load.c\n");
  return 64;
}
