/*
 * Load by libzmq itself: what a real client costs beside the raw generator of load.c.
 *
 *   zmq_load gen  PORT MESSAGES BODY_BYTES BLOB_BYTES     a DEALER that sends, then waits to be ended
 *   zmq_load sink MESSAGES BYTES_A_MESSAGE WARM_UP        a ROUTER that counts; prints as "load sink" does
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

static long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int gen(const char *port, long messages, size_t body, size_t blob) {
  void *socket = zmq_socket(zmq_ctx_new(), ZMQ_DEALER);
  char endpoint[64], *bytes = malloc(body + blob + 1);
  memset(bytes, 'x', body + blob);
  snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%s", port);
  if (zmq_connect(socket, endpoint)) return 1;
  printf("ready\n");
  fflush(stdout);
  if (getchar() == EOF) return 0;
  for (long i = 0; i < messages; i++) {
    zmq_send(socket, "", 0, ZMQ_SNDMORE);
    zmq_send(socket, "pub.infofile", 12, ZMQ_SNDMORE);
    zmq_send(socket, bytes, body, ZMQ_SNDMORE);
    zmq_send(socket, "", 0, blob ? ZMQ_SNDMORE : 0);
    if (blob) zmq_send(socket, bytes, blob, 0);
  }
  for (;;) pause();
}

static int sink(long messages, long bytes, long warm) {
  void *socket = zmq_socket(zmq_ctx_new(), ZMQ_ROUTER);
  char endpoint[64];
  size_t size = sizeof endpoint;
  if (zmq_bind(socket, "tcp://127.0.0.1:*")) return 1;
  zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size);
  printf("port %s\n", strrchr(endpoint, ':') + 1);
  fflush(stdout);
  long long start = 0;
  zmq_msg_t frame;
  zmq_msg_init(&frame);
  for (long i = 0; i < messages; i++) {
    do {
      if (zmq_msg_recv(&frame, socket, 0) < 0) return 1;
    } while (zmq_msg_more(&frame));
    if (i == warm) {
      start = now_ns();
      printf("warm\n");
      fflush(stdout);
    }
  }
  printf("{\"bytes\":%ld,\"measured\":%ld,\"ns\":%lld}\n", messages * bytes, (messages - warm) * bytes,
         now_ns() - start);
  fflush(stdout);
  for (;;) pause();
}

int main(int argc, char **argv) {
  if (argc == 6 && !strcmp(argv[1], "gen")) return gen(argv[2], atol(argv[3]), atol(argv[4]), atol(argv[5]));
  if (argc == 5 && !strcmp(argv[1], "sink")) return sink(atol(argv[2]), atol(argv[3]), atol(argv[4]));
  fprintf(stderr, "zmq_load: wrong arguments, see the head of zmq_load.c\n");
  return 64;
}
