"""Sees that process 0 is gone before JAX ends this process for it, without a word on which host that was.

The coordination service is a part of process 0. A connection to it that carries nothing ends when the process does, or
when the service tires of it: which of the two, a second one tells, which is refused where nobody listens any more.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

PAUSE_S = 1.0
"""Between two connections where the service closes them at once, or cannot be reached at all."""
QUICK = 10


def watch(address: str, gone: Callable[[], None], over: threading.Event) -> threading.Thread:
    """Calls `gone` in a thread of its own once nobody listens at host:port `address`, unless `over` is set before.

    A host that is cut off refuses nothing: heartbeats see that one.
    """
    host, _, port = address.rpartition(":")
    place = (host.strip("[]"), int(port))
    thread = threading.Thread(target=_watch, args=(place, gone, over), name="watch-process-0", daemon=True)
    thread.start()
    return thread


def _watch(place: tuple[str, int], gone: Callable[[], None], over: threading.Event) -> None:
    reached, short = False, 0
    while not over.is_set():
        began = time.monotonic()
        try:
            with socket.create_connection(place, timeout=30) as connection:
                reached = True
                connection.settimeout(None)
                while connection.recv(4096):
                    pass
        except ConnectionRefusedError:
            if reached and not over.is_set():
                gone()
                return
        except OSError:
            pass  # reset, or not reachable: the next connection tells
        short = short + 1 if time.monotonic() - began < PAUSE_S else 0
        if short:  # a process that ends closes its connections one by one: a few looks at once
            over.wait(0.02 if short < QUICK and reached else PAUSE_S)
