"""A stand-in for ``carrel-worker``: keeps the contract of a worker process, and echoes.

It takes the same arguments, dies with its parent, reports on its control channel and ends when
told. Of its client it reads lines: a command below, or anything else, which it sends back. For
tests of the door and of supervision that need no GPU; the real worker has tests of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import selectors
import signal
import socket
import sys
import time

PROTOCOL = bytes(range(32)).hex()


def main() -> None:
    if sys.argv[1:] == ["--describe"]:
        print(json.dumps({"protocol": PROTOCOL, "version": "test"}))
        return
    parser = argparse.ArgumentParser()
    for name in ("client-fd", "control-fd", "ledger-fd", "ledger-slot", "device", "vram-bytes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("driver", "session", "lease", "transport"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--tflops", type=float, required=True)
    parser.add_argument("--grace-s", type=float, required=True)
    parser.add_argument("--image-store", required=True)
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    client = socket.socket(fileno=arguments.client_fd)
    control = socket.socket(fileno=arguments.control_fd)
    ledger = memoryview(mmap.mmap(arguments.ledger_fd, 8 * 258)).cast("Q")
    slot = 2 + arguments.ledger_slot
    stubborn = False

    control.send(json.dumps({"type": "ready"}).encode())
    client.sendall(f"hello from {os.getpid()}\n".encode())
    waiting = selectors.DefaultSelector()
    waiting.register(client, selectors.EVENT_READ)
    waiting.register(control, selectors.EVENT_READ)
    rest = b""
    while True:
        for key, _ in waiting.select():
            if key.fileobj is control:
                packet = control.recv(65536)
                if not packet:
                    sys.exit(0)
                if not stubborn:
                    reason = json.loads(packet)["reason"]
                    client.sendall(f"ended: {reason}\n".encode())
                    control.send(json.dumps({"type": "ended", "reason": reason}).encode())
                    sys.exit(0)
                continue
            data = client.recv(65536)
            if not data:
                ledger[1] -= ledger[slot]
                ledger[slot] = 0
                sys.exit(0)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                words = line.decode().split()
                if words[:1] == ["charge"]:  # bytes
                    fits = ledger[1] + int(words[1]) <= ledger[0]
                    if fits:
                        ledger[1] += int(words[1])
                        ledger[slot] += int(words[1])
                    answer = "ok" if fits else "no"
                elif words[:1] == ["stats"]:  # JSON
                    control.send(line.partition(b" ")[2])
                    answer = "sent"
                elif words[:1] == ["environment"]:
                    answer = json.dumps(dict(os.environ))
                elif words[:1] == ["descriptors"]:
                    answer = json.dumps(sorted(int(fd) for fd in os.listdir("/proc/self/fd")))
                elif words[:1] == ["arguments"]:
                    answer = json.dumps(vars(arguments))
                elif words[:1] == ["stubborn"]:
                    stubborn = True
                    answer = "hm"
                elif words[:1] == ["exit"]:  # status
                    sys.exit(int(words[1]))
                elif words[:1] == ["sleep"]:  # seconds
                    time.sleep(float(words[1]))
                    answer = "awake"
                else:
                    answer = line.decode()
                client.sendall(answer.encode() + b"\n")


if __name__ == "__main__":
    main()
