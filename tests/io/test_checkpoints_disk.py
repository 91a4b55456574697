"""A disk that fills up: said, survived, tried again. On a real file system of a few megabytes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lmx.io.checkpoints import Checkpoints
from tests.io.states import abstract, assert_same, config

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def state(step: int) -> dict[str, jax.Array]:
    """3 MB that no compression shrinks by much."""
    return {"w": jax.random.normal(jax.random.key(step), (3 * MEGABYTE // 4,), jnp.float32)}


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves `leave` bytes free."""
    import shutil

    ballast = disk / "ballast"
    ballast.write_bytes(b"\1" * (shutil.disk_usage(disk).free - leave))
    return ballast


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_disk_full(disk: Path, compression: str) -> None:
    said: list[str] = []
    knobs = config(every=10, keep_last=2, compression=compression, retry_after=3600)
    directory = disk / "checkpoints"
    checkpoints = Checkpoints(directory, knobs, warn=said.append)
    checkpoints.save(10, state(10), meta={})
    checkpoints.wait()
    ballast = fill(disk, leave=MEGABYTE)
    checkpoints.save(20, state(20), meta={})
    checkpoints.wait()
    assert len(said) == 1
    assert "step 20 was not saved" in said[0]
    assert "No space left on device" in said[0]
    assert "the one of step 10 stays" in said[0]
    assert checkpoints.failure is not None
    assert [p.name for p in directory.iterdir()] == ["10"]
    assert not checkpoints.due(21)
    assert checkpoints.due(20, last=True)
    assert_same(checkpoints.restore(abstract(state(0))).state, state(10))
    ballast.unlink()
    assert checkpoints.due(30)
    checkpoints.save(30, state(30), meta={})
    checkpoints.wait()
    assert checkpoints.failure is None
    assert len(said) == 1
    assert checkpoints.steps() == [10, 30]
    assert_same(checkpoints.restore(abstract(state(0))).state, state(30))


def test_disk_filled_while_writing(disk: Path) -> None:
    """There was room when the save began: the write itself fails, in the background."""
    said: list[str] = []
    knobs = config(keep_last=1, keep_best=0, retry_after=3600)
    checkpoints = Checkpoints(disk / "checkpoints", knobs, warn=said.append)
    checkpoints.save(10, state(10), meta={})
    checkpoints.wait()
    checkpoints._check_space = lambda leaves: None  # type: ignore[method-assign]
    fill(disk, leave=MEGABYTE)
    for step in (20, 30, 40):
        checkpoints.save(step, state(step), meta={})
    checkpoints.close()
    assert len(said) == 3
    assert all("No space left on device; the one of step 10 stays" in text for text in said)
    assert [p.name for p in (disk / "checkpoints").iterdir()] == ["10"]
    assert_same(checkpoints.restore(abstract(state(0))).state, state(10))


def test_not_a_byte_left(disk: Path) -> None:
    said: list[str] = []
    fill(disk, leave=0)
    checkpoints = Checkpoints(disk / "checkpoints", config(), warn=said.append)
    checkpoints._check_space = lambda leaves: None  # type: ignore[method-assign]
    checkpoints.save(10, {"w": jnp.ones(3)}, meta={})
    checkpoints.close()
    assert len(said) == 1
    assert "No space left on device; there is none before it" in said[0]


def test_tried_again_after_a_pause(disk: Path) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(disk / "checkpoints", config(every=1000, retry_after=0.05), warn=said.append)
    ballast = fill(disk, leave=MEGABYTE)
    checkpoints.save(1000, state(1000), meta={})
    checkpoints.wait()
    ballast.unlink()
    time.sleep(0.06)
    assert checkpoints.due(1002)
    checkpoints.save(1002, state(1002), meta={})
    checkpoints.wait()
    assert checkpoints.steps() == [1002]
    assert not checkpoints.due(1003)
