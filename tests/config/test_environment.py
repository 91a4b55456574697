"""The allocator's settings: when they are made, and that a second start loses nothing."""

import os
import subprocess
import sys

import pytest

from lmx.config.environment import ALLOCATOR, MARK, settings

PROGRAM = """
import os, sys
from lmx.config.environment import settle
print(os.getpid(), flush=True) if "LMX_ENVIRONMENT" not in os.environ else None
settle(sys.argv[1:])
seen = [os.environ.get(name) for name in ("MALLOC_ARENA_MAX", "LMX_ENVIRONMENT")]
print(os.getpid(), *seen, sys.argv[1:], sys.stdin.read())
sys.exit(7)
"""


def test_training_on_cpu_gets_all():
    assert settings(["train", "model=nano"], {}, accelerator=False) == ALLOCATOR | {MARK: "set"}
    assert settings(["bench", "train"], {"JAX_PLATFORMS": "cpu"}, accelerator=True) == ALLOCATOR | {
        MARK: "set"
    }


@pytest.mark.parametrize(
    ("arguments", "environment", "accelerator"),
    [
        (["train"], {}, True),
        (["train"], {"JAX_PLATFORMS": "tpu,cpu"}, False),
        (["train"], {MARK: "keep"}, False),
        (["train", "--help"], {}, False),
        (["train", "--cfg", "job"], {}, False),
        (["runs"], {}, False),
        ([], {}, False),
    ],
)
def test_nothing_otherwise(arguments, environment, accelerator):
    assert settings(arguments, environment, accelerator=accelerator) == {}


def test_what_the_user_set_stays():
    wanted = settings(["train"], {"GLIBC_TUNABLES": "mine"}, accelerator=False)
    assert "GLIBC_TUNABLES" not in wanted
    assert wanted["MALLOC_ARENA_MAX"] == "1"


def test_second_start_keeps_process_arguments_input_and_exit_code(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    clean = {k: v for k, v in os.environ.items() if k not in (*ALLOCATOR, MARK)} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(program), "train", "a b", "x='1,2'"],
        input="typed",
        env=clean,
        capture_output=True,
        text=True,
        timeout=60,
    )
    first, second = done.stdout.splitlines()
    assert second == f"{first} 1 set ['train', 'a b', \"x='1,2'\"] typed"
    assert done.returncode == 7


HOLE = """
import time
from lmx.config.environment import trimmer

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024

trim = trimmer(every=0.0)
large = bytearray(200 << 20)
small = bytearray(1 << 16)  # above it
del large
before = resident()
time.sleep(0.01)
trim()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's malloc")
def test_room_that_a_large_buffer_has_left_goes_back_to_the_system():
    freed = lambda more: int(
        subprocess.run(
            [sys.executable, "-c", HOLE], env=os.environ | more, capture_output=True, text=True, check=True
        ).stdout
    )
    assert freed(ALLOCATOR | {MARK: "set"}) > 150 << 20
    assert freed(ALLOCATOR | {MARK: "off"}) < 50 << 20
