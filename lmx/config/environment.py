"""The environment that computing on a CPU wants, which must be there before the process makes its first array.

A step on CPU makes and frees the same large buffers over and over. By default the C library returns each to the
system and gets it back page by page, zeroed: about a fifth of a training step's time. The settings below keep memory
once it was used, in huge pages, in one arena: the heaps of any further arena are given back when they are empty,
whatever the threshold, so that a process in which a thread of XLA gets such an arena is slow for all its life, and
another is not. They are read when a process starts, so the command starts itself once more (the same process id,
standard streams and arguments; exit codes and signals are not in between).

Nothing happens beside an accelerator, outside Linux with the GNU C library, or where LMX_ENVIRONMENT is set;
what the user has set is never changed.
"""

from __future__ import annotations

import gc
import glob
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

MARK = "LMX_ENVIRONMENT"
"""Set when this was done; set by a user (to anything), it is not done."""

ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Variables of the GNU C library's malloc, see mallopt(3)."""

COMMANDS = ("train", "fork", "spike", "generate", "chat", "eval", "bench")
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")


def settle(arguments: Sequence[str]) -> None:
    """Starts this process anew with the settings when the command of `arguments` computes on a CPU; else returns."""
    wanted = settings(arguments, os.environ, accelerator=any(glob.glob(path) for path in ACCELERATORS))
    if wanted and _gnu_libc() and sys.executable:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})


def settings(
    arguments: Sequence[str], environment: Mapping[str, str], *, accelerator: bool
) -> dict[str, str]:
    """The variables to add, the mark among them; empty when nothing is to be done."""
    platforms = environment.get("JAX_PLATFORMS", "")
    on_cpu = platforms.split(",")[0] == "cpu" if platforms else not accelerator
    computes = bool(arguments) and arguments[0] in COMMANDS and not {"-h", "--help", "--cfg"} & set(arguments)
    if MARK in environment or not on_cpu or not computes:
        return {}
    return {name: value for name, value in ALLOCATOR.items() if name not in environment} | {MARK: "set"}


def trimmer(every: float = 60.0) -> Callable[[], None]:
    """A function that gives free room in the heap back to the system, at most once in `every` seconds.

    Now and then something small that stays comes to lie where a large buffer was. The buffer finds another place, and
    both would stay resident. Does nothing where the settings above are not in force.
    """
    if os.environ.get(MARK) != "set" or not _gnu_libc():
        return lambda: None
    import ctypes

    trim, last = ctypes.CDLL(None).malloc_trim, time.monotonic()

    def now_and_then() -> None:
        nonlocal last
        if time.monotonic() - last > every:
            trim(0)
            last = time.monotonic()

    return now_and_then


@contextmanager
def imports() -> Iterator[None]:
    """No garbage is looked for meanwhile, nor afterwards in what was made: a sixth of the time of large imports."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _gnu_libc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False
