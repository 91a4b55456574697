"""Sees that process 0 is gone before JAX ends this process for it, without a word on which host that was.

The coordination service is a part of process 0. A connection to it that asks for nothing ends when the process does:
that is said at once, since JAX is as quick. Where nobody listens any more, the next connection is refused.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

PAUSE_S = 1.0
"""Between two connections where the service closes them at once, or cannot be reached at all."""
QUICK = 10
"""Looks without that pause: a process that ends closes its connections one by one."""

_ACK = 1
_SETTINGS, _PING = 4, 6
_HEADER = 9


def _frame(kind: int, flags: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1) that belongs to no stream."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 0]) + payload


_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0) + _frame(_SETTINGS, _ACK)
"""What gRPC waits for before it takes a connection for one that may stay (RFC 9113, section 3.4)."""


def watch(
    address: str, ended: Callable[[], object], gone: Callable[[], object], over: threading.Event
) -> threading.Thread:
    """Looks after the service at host:port `address` in a thread of its own, until `over` is set.

    Calls `ended` when a connection that stood ends, and `gone` once when nobody listens any more. A host that is cut
    off ends and refuses nothing: heartbeats see that one.
    """
    host, _, port = address.rpartition(":")
    place = (host.strip("[]"), int(port))
    thread = threading.Thread(
        target=_watch, args=(place, ended, gone, over), name="watch-process-0", daemon=True
    )
    thread.start()
    return thread


def _watch(
    place: tuple[str, int], ended: Callable[[], object], gone: Callable[[], object], over: threading.Event
) -> None:
    reached, short = False, 0
    while not over.is_set():
        began = time.monotonic()
        try:
            with socket.create_connection(place, timeout=30) as connection:
                reached = True
                connection.settimeout(None)
                _stay(connection)
        except ConnectionRefusedError:
            if reached and not over.is_set():
                gone()
                return
        except OSError:
            pass  # reset, or not reachable: the next connection tells
        stood = time.monotonic() - began >= PAUSE_S
        if stood and reached and not over.is_set():
            ended()
        short = 0 if stood else short + 1
        if short:
            over.wait(0.02 if short < QUICK and reached else PAUSE_S)


def _stay(connection: socket.socket) -> None:
    """Until the other side ends the connection; pings are answered, all else is passed over."""
    connection.sendall(_HELLO)
    buffer = b""
    while data := connection.recv(4096):
        buffer += data
        while len(buffer) >= _HEADER and len(buffer) >= (end := _HEADER + int.from_bytes(buffer[:3], "big")):
            kind, flags, payload, buffer = buffer[3], buffer[4], buffer[_HEADER:end], buffer[end:]
            if kind == _PING and not flags & _ACK:
                connection.sendall(_frame(_PING, _ACK, payload))
