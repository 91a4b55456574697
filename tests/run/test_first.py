"""A process that others depend on dies: seen at once where its connection ends, and never where it only changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from lmx.run import first

SERVER = """
import socket, sys, time
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
for drop in sys.argv[1:] + ["keep"]:
    connection, _ = listening.accept()
    hello = connection.recv(4096)
    while len(hello) < 42:
        hello += connection.recv(4096)
    assert hello.startswith(b"PRI * HTTP/2.0")
    settings, ping = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"12345678"
    connection.sendall(settings + ping[:5])
    connection.sendall(ping[5:])
    answer = connection.recv(4096)
    while len(answer) < 17:
        answer += connection.recv(4096)
    assert answer == bytes([0, 0, 8, 6, 1, 0, 0, 0, 0]) + b"12345678", answer
    if drop == "drop":
        connection.close()
print("kept", flush=True)
time.sleep(60)
"""


def serve(*drops: str) -> tuple[subprocess.Popen, int]:
    child = subprocess.Popen([sys.executable, "-c", SERVER, *drops], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, int(child.stdout.readline())


def test_a_death_is_seen_and_a_closed_connection_is_none() -> None:
    child, port = serve("drop", "drop")
    seen, ended, over = threading.Event(), threading.Event(), threading.Event()
    thread = first.watch(f"127.0.0.1:{port}", ended.set, seen.set, over)
    assert child.stdout is not None
    assert child.stdout.readline() == "kept\n"  # it came again, twice
    assert not seen.is_set()
    time.sleep(1.1 * first.PAUSE_S)  # it stands
    assert not ended.is_set()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert seen.wait(20)
    thread.join(20)
    assert ended.is_set()


def test_nothing_is_said_once_it_is_over() -> None:
    child, port = serve()
    seen, over = threading.Event(), threading.Event()
    thread = first.watch(f"127.0.0.1:{port}", seen.set, seen.set, over)
    assert child.stdout is not None
    child.stdout.readline()
    over.set()
    child.kill()
    child.wait()
    thread.join(20)
    assert not thread.is_alive()
    assert not seen.is_set()
