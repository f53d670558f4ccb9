"""Answers `greet` messages with `greet.reply`: a process of a CC server's handler `process`."""

import json
import os
import zmq

socket = zmq.Context().socket(zmq.DEALER)
socket.bind(os.environ["CC_SOCKET"])
while True:
    frames = socket.recv_multipart()
    way = frames[: frames.index(b"") + 1]  # the way back, which ends with an empty frame
    kind, body, *signature_and_blob = frames[len(way) :]
    name = json.loads(body)["name"]
    reply = {"req": "greet.reply", "text": f"hello {name}"}
    socket.send_multipart(way + [b"greet.reply", json.dumps(reply).encode(), b""])
