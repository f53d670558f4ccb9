/* libzmq's own proxy, ROUTER to DEALER: zmq_proxy TO_PORT */
#include <stdio.h>
#include <zmq.h>

int main(int argc, char **argv) {
  char endpoint[256];
  size_t size = sizeof endpoint;
  if (argc != 2) return 64;
  void *context = zmq_ctx_new();
  void *front = zmq_socket(context, ZMQ_ROUTER), *back = zmq_socket(context, ZMQ_DEALER);
  if (zmq_bind(front, "tcp://127.0.0.1:*")) return 1;
  zmq_getsockopt(front, ZMQ_LAST_ENDPOINT, endpoint, &size);
  printf("%s\n", endpoint);
  fflush(stdout);
  snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%s", argv[1]);
  if (zmq_connect(back, endpoint)) return 1;
  return zmq_proxy(front, back, NULL);
}
