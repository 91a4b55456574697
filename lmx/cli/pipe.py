"""What to do when whoever reads stdout has gone: `lmx runs | head`."""

from __future__ import annotations

import os
import sys


def nobody_reads() -> int:
    """Sends the rest of stdout nowhere; the exit code, that of a program that SIGPIPE ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
