"""What `lmx verify soak` calls growth, on looks whose growth is known, and on a real process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from lmx.run.verify_soak import Grown, Look, Soak, judge, look_at

SOAK = Soak(duration="1h", every="5s", settle=0.25, memory=32, files=2, slower=0.03)
MIB = 2**20


def looks(grow=lambda t: 0.0, files=lambda t: 0):
    """720 looks, an hour, of 500 MiB that go up and down by 20, and grow by `grow` MiB."""
    noise = np.random.default_rng(0).uniform(-20, 20, 720)
    times = np.arange(720) * 5.0
    return [
        Look(t, int((500 + n + grow(t)) * MIB), 10 + files(t), 20) for t, n in zip(times, noise, strict=True)
    ]


def test_a_level_run_passes_also_where_its_caches_fill_at_first():
    result = judge(looks(grow=lambda t: min(t, 600)), [0.5] * 100 + [0.1] * 900, SOAK)
    assert result["wrong"] == []
    assert abs(result["memory_growth_mib"]) < 10


@pytest.mark.parametrize(
    ("seen", "steps", "message"),
    [
        (looks(grow=lambda t: t / 60), [0.1] * 1000, "resident memory grew"),
        (looks(files=lambda t: int(t // 600)), [0.1] * 1000, "more open files"),
        (looks(), list(np.linspace(0.1, 0.11, 1000)), "slower"),
    ],
)
def test_growth_is_named(seen, steps, message):
    result = judge(seen, steps, SOAK)
    assert len(result["wrong"]) == 1
    assert message in result["wrong"][0]


def test_too_little_is_not_judged():
    with pytest.raises(Grown, match=r"set soak\.duration longer"):
        judge(looks()[:5], [0.1] * 1000, SOAK)


def test_a_process_that_keeps_memory_and_files_is_seen_to():
    program = (
        "import sys; kept = [open('/dev/null') for _ in range(7)]; b = bytearray(b'x') * (50 << 20); "
        "print('there', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "there\n"
        seen = look_at(child.pid, time.monotonic())
        assert seen.memory > 50 * MIB
        assert seen.files == 3 + 7
    finally:
        child.communicate("")
    assert look_at(child.pid, time.monotonic()) is None
    assert look_at(os.getpid(), time.monotonic()) is not None
