from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lmx.config.errors import RequestError
from lmx.io.checkpoints import Checkpoints
from lmx.io.find import find_checkpoint, restore_params
from tests.io.states import abstract, assert_same, config, make_state, save_steps


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints 10 (the best) and 20, and an average of the weights in 20 alone."""
    path = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(path / "checkpoints", config())
    checkpoints.save(10, make_state(10), meta={"at": 10}, metrics={"eval/loss": 1.0})
    checkpoints.save(20, make_state(20, ema=True), meta={"at": 20}, metrics={"eval/loss": 2.0})
    checkpoints.close()
    return path


@pytest.mark.parametrize(("which", "step"), [("last", 20), ("best", 10), (10, 10), (20, 20)])
@pytest.mark.parametrize("part", ["", "checkpoints"])
def test_found(run: Path, part: str, which, step: int) -> None:
    assert find_checkpoint(run / part, which) == run / "checkpoints" / str(step)


def test_a_checkpoint_is_itself(run: Path) -> None:
    assert find_checkpoint(run / "checkpoints" / "10", "best") == run / "checkpoints" / "10"


def test_what_cannot_be_found(run: Path, tmp_path: Path) -> None:
    table = {
        (run, 15): f"{run / 'checkpoints'} has no checkpoint of step 15; it has 10, 20",
        (
            run / "checkpoints/30",
            "last",
        ): f"{run / 'checkpoints'} has no checkpoint of step 30; it has 10, 20",
        (tmp_path / "typo", "last"): f"{tmp_path / 'typo'}: no such directory",
        (
            tmp_path,
            "last",
        ): f"{tmp_path}: is neither a run directory (with checkpoints/ in it) nor a checkpoint",
    }
    for (path, which), message in table.items():
        with pytest.raises(RequestError) as error:
            find_checkpoint(path, which)
        assert str(error.value) == message
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"has no whole checkpoint:\n  7: lmx.json is missing"):
        find_checkpoint(tmp_path)
    with pytest.raises(RequestError, match=r"7 cannot be used: lmx.json is missing"):
        find_checkpoint(tmp_path / "checkpoints" / "7")


def test_none_was_evaluated(tmp_path: Path) -> None:
    save_steps(tmp_path / "checkpoints", [1])
    with pytest.raises(RequestError, match="has no evaluated checkpoint"):
        find_checkpoint(tmp_path, "best")


def test_parameters(run: Path) -> None:
    wanted = abstract(make_state().params)
    ten, twenty = make_state(10), make_state(20, ema=True)
    load = lambda path, weights: restore_params(path, wanted, warn=pytest.fail, weights=weights)
    for path, weights, expected, at in (
        (run, "auto", twenty.ema, 20),
        (run, "params", twenty.params, 20),
        (run / "checkpoints/20", "ema", twenty.ema, 20),
        (run / "checkpoints/10", "auto", ten.params, 10),
    ):
        params, meta = load(path, weights)
        assert_same(params, expected)
        assert meta == {"at": at}
    with pytest.raises(RequestError, match="holds no average"):
        load(run / "checkpoints/10", "ema")


def test_damage_in_a_run_is_passed_over_and_in_a_checkpoint_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    file = next((copy / "checkpoints/20/state/state/ocdbt.process_0/d").iterdir())
    file.write_bytes(file.read_bytes()[::-1])
    wanted = abstract(make_state().params)
    said: list[str] = []
    params, meta = restore_params(copy, wanted, warn=said.append, weights="params")
    assert meta == {"at": 10}
    assert_same(params, make_state(10).params)
    assert file.name in said[0]
    with pytest.raises(RequestError, match=f"{file.name} changed after it was written"):
        restore_params(copy / "checkpoints" / "20", wanted, warn=pytest.fail, weights="params")
