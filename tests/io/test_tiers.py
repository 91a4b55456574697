"""The remote tier: what is sent is whole there, what fails is tried again, and what is lost here comes back."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from lmx.config.errors import RequestError
from lmx.io.checkpoints import Checkpoints
from lmx.io.manifest import Manifest, read_manifest, write_manifest
from lmx.io.remote import ASIDE, RECORD, Remote, place_of
from lmx.io.stored import Stored
from tests.io.states import abstract, assert_same, config, make_state

TIER = {
    "path": "unused",
    "every_minutes": None,
    "keep_last": 2,
    "keep_best": 0,
    "keep_every": None,
    "retry_after": 0.05,
    "patience": 0.3,
}


class Run:
    """A run directory and its folder in a tier, the checkpoints in both, and what was said."""

    def __init__(
        self, tmp_path: Path, url: str | None = None, *, tier: dict[str, Any] | None = None, **changes: Any
    ):
        self.folder, self.there = tmp_path / "run", tmp_path / "elsewhere" / "run-0"
        self.folder.mkdir(exist_ok=True)
        self.said: list[str] = []
        self.told: list[tuple[str, int]] = []
        knobs = {"keep_last": 1, "keep_best": 0, **changes, "remote": {**TIER, **(tier or {})}}
        self.checkpoints = Checkpoints(
            self.folder / "checkpoints",
            config(**knobs),
            remote=Remote(url or str(self.there)),
            warn=self.said.append,
            tell=lambda moment, step: self.told.append((moment, step)),
        )

    def save(self, *steps: int, wait: bool = True) -> None:
        for step in steps:
            self.checkpoints.save(step, make_state(step), meta={})
            self.checkpoints.wait()
            until = time.monotonic() + 20
            while wait and ("sent", step) not in self.told and time.monotonic() < until:
                time.sleep(0.002)

    def whole_there(self) -> list[int]:
        return sorted(int(path.parent.name) for path in self.there.glob("*/lmx.json"))

    def restore(self) -> int:
        found = self.checkpoints.restore(abstract(make_state()))
        assert_same(found.state, make_state(found.step))
        self.checkpoints.rewind(found.step)
        self.checkpoints.catch_up(found.step)
        return found.step


def damage(step: Path) -> None:
    file = max(
        (p for p in step.rglob("*") if p.is_file() and p.name != "lmx.json"), key=lambda p: p.stat().st_size
    )
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_each_tier_keeps_its_own(tmp_path: Path) -> None:
    run = Run(tmp_path, tier={"keep_every": 30})
    (run.folder / "config.yaml").write_text("name: x\n")
    run.save(10, 20, 30, 40, 50, 60, 70)
    assert run.checkpoints.close() == []
    assert run.checkpoints.steps() == [70]
    assert run.whole_there() == [30, 60, 70]
    assert {p.name for p in run.there.iterdir()} == {"30", "60", "70", "run"}
    assert (run.there / "run" / "config.yaml").read_text() == "name: x\n"
    assert run.said == []
    assert [step for moment, step in run.told if moment == "sent"] == [
        10,
        20,
        30,
        40,
        50,
        60,
        70,
    ]  # once each


@pytest.mark.parametrize("url", [None, "memory://lmx-tier"])
def test_a_lost_folder_comes_back_from_the_remote_tier(tmp_path: Path, url: str | None) -> None:
    run = Run(tmp_path, url)
    run.save(10, 20)
    run.checkpoints.close()
    shutil.rmtree(run.folder / "checkpoints")
    again = Run(tmp_path, url)
    assert again.restore() == 20
    assert any("step 20 was brought from" in text for text in again.said)
    assert again.checkpoints.steps() == [20]


def test_the_nearest_valid_one_is_taken(tmp_path: Path) -> None:
    run = Run(tmp_path, keep_last=3)
    run.save(10, 20, 30)
    run.checkpoints.close()
    damage(run.folder / "checkpoints" / "30")
    assert Run(tmp_path, keep_last=3).restore() == 30  # whole there
    for step in ("30", "20"):
        damage(run.folder / "checkpoints" / step)
        damage(run.there / step)
    again = Run(tmp_path, keep_last=3)
    assert again.restore() == 10  # both of the others are damaged in both places; 10 is here
    assert sum("is no help" in text for text in again.said) == 2
    assert not again.there.joinpath("30", "lmx.json").exists()
    assert again.there.joinpath("30", ASIDE).exists()
    again.save(20)
    again.checkpoints.close()
    assert again.whole_there() == [10, 20]


def test_what_is_here_is_used_where_the_remote_tier_is_gone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(10)
    run.checkpoints.close()
    shutil.rmtree(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("a file in its place")
    again = Run(tmp_path)
    assert again.restore() == 10
    assert any("cannot be read" in text for text in again.said)
    assert again.checkpoints.close() == [10]


def test_sending_that_fails_is_said_and_tried_again(tmp_path: Path) -> None:
    run = Run(tmp_path, tier={"keep_every": 10})
    (tmp_path / "elsewhere").write_text("a file in its place")
    run.save(10, 15, 20, wait=False)
    until = time.monotonic() + 20
    while not any("try 2" in text for text in run.said) and time.monotonic() < until:
        time.sleep(0.01)
    assert any("could not be sent" in text and "sent again" in text for text in run.said)
    assert set(run.checkpoints.steps()) >= {10, 20}  # 10 is to stay there for ever, and is not there yet
    (tmp_path / "elsewhere").unlink()
    assert run.checkpoints.close() == []
    assert run.whole_there() == [10, 20]
    assert ("unsent", 15) in run.told


def test_what_never_comes_there_is_named_at_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "elsewhere").write_text("a file in its place")
    run.save(10, wait=False)
    assert run.checkpoints.close() == [10]
    assert ("unsent", 10) in run.told
    (tmp_path / "elsewhere").unlink()
    again = Run(tmp_path)
    assert again.restore() == 10  # a run that goes on sends it
    assert again.checkpoints.close() == []
    assert again.whole_there() == [10]


def test_half_a_copy_is_none(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(10, 20)
    run.checkpoints.close()
    (run.there / "20" / "lmx.json").unlink()  # as it is until the last file is there
    shutil.rmtree(run.folder / "checkpoints")
    assert list(Remote(str(run.there)).manifests()) == [10]
    assert Run(tmp_path).restore() == 10


def test_who_only_reads_is_told_how_to_get_it_from_there(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "remote.json").write_text('{"name": "a-0"}')
    with pytest.raises(
        RequestError, match=f"remote tier may have one: `lmx train resume={tmp_path}` brings it"
    ):
        Stored(tmp_path / "checkpoints").restore_params(abstract(make_state(1)))


def test_a_manifest_from_there_names_no_file_elsewhere(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(10)
    run.checkpoints.close()
    shutil.rmtree(run.folder / "checkpoints")
    found = read_manifest(run.there / "10")
    assert isinstance(found, Manifest)
    for name in ("../../escaped", "/escaped"):
        write_manifest(run.there / "10", found._replace(files={**found.files, name: (1, "00")}))
        with pytest.raises(RequestError, match="no whole checkpoint"):
            Run(tmp_path).restore()


def test_damage_is_not_sent(tmp_path: Path) -> None:
    run = Run(tmp_path, tier={"retry_after": 30})
    run.save(10)
    run.checkpoints.save(20, make_state(20), meta={})
    run.checkpoints._uploads.add = lambda step, always=False: None  # type: ignore[method-assign, union-attr]
    run.checkpoints.wait()
    damage(run.folder / "checkpoints" / "20")
    again = Run(tmp_path)
    again.checkpoints._uploads.add(20)  # type: ignore[union-attr]
    assert again.checkpoints.close() == [20]
    assert run.whole_there() == [10]  # and the last valid one stays
    assert any("changed after it was written" in text for text in again.said)


def test_time_between_sendings(tmp_path: Path) -> None:
    run = Run(tmp_path, tier={"every_minutes": 1000})
    run.save(10)
    run.save(20, 30, wait=False)
    assert run.whole_there() == [10]
    run.checkpoints.close()
    assert run.whole_there() == [10, 30]


def test_a_run_finds_its_folder_again(tmp_path: Path) -> None:
    run, tier, said = tmp_path / "r", str(tmp_path / "tier"), []
    run.mkdir()
    first = place_of(run, tier, resume=False, say=said.append)
    assert place_of(run, tier, resume=True, say=said.append) == first
    assert said == []
    Path(first).mkdir(parents=True)
    (run / RECORD).unlink()
    assert place_of(run, tier, resume=True, say=said.append) == first
    assert len(said) == 1
    (run / RECORD).unlink()
    (tmp_path / "tier" / "r-00000000").mkdir()
    with pytest.raises(RequestError, match="say which is its own"):
        place_of(run, tier, resume=True, say=said.append)


def test_a_storage_that_is_not_installed_is_a_request_error() -> None:
    with pytest.raises(RequestError, match=r"lmx\[gcs\]"):
        Remote("nosuch://bucket/x")


def test_contradictions_are_named() -> None:
    problems = lambda **changes: [key for key, _, _ in config(**changes).problems()]
    assert problems(remote={**TIER, "path": "gz://bucket/x"}) == ["checkpoint.remote.path"]
    assert problems(remote={**TIER, "path": " "}) == ["checkpoint.remote.path"]
    assert problems(remote=TIER, every=None, final=False) == ["checkpoint.remote"]
    assert problems(remote=TIER) == []
