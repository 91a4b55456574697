"""Sinks: valid rows, nothing lost on a full disk, dashboards that never end a run."""

from __future__ import annotations

import json
import logging
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.config.errors import RequestError
from lmx.io import Logging, Wandb
from lmx.io.dashboards import check, flatten, identity
from lmx.io.files import to_json
from lmx.io.sinks import LineFile, Sinks, overheard


def logging_config(**changes) -> Logging:
    return Logging(
        **({"progress": "none", "tensorboard": False, "wandb": None, "loss_curve": False} | changes)
    )


def open_sinks(folder: Path, start: int = 0, **changes) -> Sinks:
    return Sinks(folder, logging_config(**changes), name="run", tree={"a": 1}, start=start, total=100)


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_rows_are_there_at_once_and_valid_json(tmp_path):
    sinks = open_sinks(tmp_path)
    sinks.scalars(1, {"loss": float("nan"), "grad_norm": float("inf"), "mfu": None, "tokens": np.int64(7)})
    sinks.scalars(2, {"loss": np.float32(2.5), "norms": {"param": {"w": np.arange(2.0)}}})
    rows = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "metrics.jsonl").open()]
    assert rows == [
        {"step": 1, "loss": "NaN", "grad_norm": "Infinity", "mfu": None, "tokens": 7},
        {"step": 2, "loss": 2.5, "norms": {"param": {"w": [0.0, 1.0]}}},
    ]
    sinks.close()


@given(
    st.recursive(
        st.floats() | st.integers() | st.text() | st.none(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_whatever_is_written_reads_back_as_json(value):
    json.loads(to_json(value), parse_constant=refuse)


def test_words_and_warnings_are_in_the_log_and_warnings_on_the_screen_even_without_progress(tmp_path, capsys):
    sinks = open_sinks(tmp_path)
    sinks.say("first\nsecond")
    logging.getLogger("lmx").warning("the disk is %s", "full")
    sinks.scalars(3, {"loss": 1.25})
    sinks.close()
    logging.getLogger("lmx").warning("after the end")
    words = [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert words == ["first", "second", "WARNING: the disk is full", "step 3  loss 1.2500"]
    shown = capsys.readouterr().err
    assert "WARNING: the disk is full" in shown
    assert "first" not in shown


def test_warnings_are_heard_after_logging_was_configured_anew(tmp_path, capsys):
    import logging.config

    below = logging.getLogger("lmx.below")
    level = logging.getLogger().level
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR"}, "disable_existing_loggers": True})
    sinks = open_sinks(tmp_path)
    below.warning("from below")
    sinks.close()
    logging.getLogger().setLevel(level)
    assert "WARNING: from below" in capsys.readouterr().err


def test_what_is_warned_of_before_there_is_a_run_is_shown_at_once_and_in_its_log(tmp_path, capsys):
    with overheard() as said:
        logging.getLogger("lmx.data").warning("the text is not UTF-8")
        assert capsys.readouterr().err == "WARNING: the text is not UTF-8\n"
    logging.getLogger("lmx.data").warning("of another run")
    assert said == ["the text is not UTF-8"]
    capsys.readouterr()
    sinks = Sinks(tmp_path, logging_config(), name="run", tree={}, start=0, total=9)
    sinks.was_warned(said[0])
    sinks.close()
    assert (tmp_path / "log.txt").read_text().endswith("WARNING: the text is not UTF-8\n")
    assert capsys.readouterr() == ("", "")


def test_a_process_that_is_not_the_first_writes_its_log_alone(tmp_path, capsys):
    knobs = logging_config(progress="lines", tensorboard=True)
    sinks = Sinks(tmp_path, knobs, name="run", tree={}, start=0, total=9, process=3)
    sinks.scalars(1, {"loss": 1.0})
    sinks.progress.row(1, {"loss": 1.0})
    sinks.text(1, "sample", "x")
    sinks.say("x")
    sinks.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.3.txt"]
    assert "loss" in (tmp_path / "log.3.txt").read_text()
    assert capsys.readouterr().err == ""


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_no_row_once_there_is_space_again(small_disk):
    said: list[str] = []
    file = LineFile(small_disk / "metrics.jsonl", said.append)
    lines = [f"{number:04d} " + "x" * 200 for number in range(60)]
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * 8192)
    for line in lines[:50]:
        file.write(line)
    assert len(said) == 1
    assert "No space left on device" in said[0]
    ballast.unlink()
    for line in lines[50:51]:
        file.write(line)
    assert said[1].endswith("no line is lost")
    file.close()
    assert (small_disk / "metrics.jsonl").read_text().splitlines() == lines[:51]


def test_what_a_disk_never_takes_is_said_at_the_end(capsys):
    said: list[str] = []
    file = LineFile(Path("/dev/full"), said.append)
    for number in range(3):
        file.write(str(number))
    file.close()
    assert len(said) == 1
    assert "/dev/full: 3 lines are lost" in capsys.readouterr().err


def events(folder: Path) -> list:
    """The records of TensorBoard's files, in order of writing."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(folder.glob("events*"), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def scalars_of(found: list) -> dict[tuple[str, int], float]:
    return {
        (v.tag, e.step): v.simple_value for e in found for v in e.summary.value if v.HasField("simple_value")
    }


def test_tensorboard_has_scalars_a_tag_a_layer_texts_and_the_configuration(tmp_path):
    sinks = open_sinks(tmp_path, tensorboard=True)
    sinks.scalars(10, {"loss": 2.0, "eval/loss": float("nan"), "norms": {"grad": {"w": [1.0, 3.0]}}})
    sinks.text(10, "sample", "def f():\n    return 1")
    sinks.close()
    found = events(tmp_path / "tensorboard")
    assert scalars_of(found) == {("loss", 10): 2.0, ("norms/grad/w/0", 10): 1.0, ("norms/grad/w/1", 10): 3.0}
    texts = {
        v.tag: v.tensor.string_val[0].decode() for e in found for v in e.summary.value if v.tensor.string_val
    }
    assert texts["sample/text_summary"] == "    def f():\n        return 1"
    assert "a: 1" in texts["configuration/text_summary"]


def test_a_resumed_run_takes_back_the_events_after_its_step(tmp_path):
    open_sinks(tmp_path, tensorboard=True).close()
    sinks = open_sinks(tmp_path, start=20, tensorboard=True)
    sinks.scalars(30, {"loss": 1.0})
    sinks.close()
    starts = [e.step for e in events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert starts == [21]


def test_a_dashboard_that_fails_is_said_once_and_the_rows_go_on(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("in the way")
    sinks = open_sinks(tmp_path, tensorboard=True)
    for step in (1, 2, 3):
        sinks.scalars(step, {"loss": 1.0})
    sinks.close()
    assert capsys.readouterr().err.count("a dashboard stopped") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_flags_and_texts_are_no_numbers():
    row = {"a": True, "b": "NaN", "c": None, "d": {"e": [1, {"f": 2.0}]}}
    assert dict(flatten(row)) == {"d/e/0": 1, "d/e/1/f": 2.0}


def test_a_dashboard_that_is_not_installed_is_refused_before_training():
    try:
        import wandb  # noqa: F401  # pyright: ignore[reportMissingImports]

        pytest.skip("wandb is installed here")
    except ImportError:
        pass
    chosen = Wandb(project="p", entity=None, mode="offline")
    with pytest.raises(RequestError, match=r"logging\.wandb: .*pip install 'lmx\[wandb\]'"):
        check(logging_config(wandb=chosen))
    check(logging_config())


def test_runs_of_two_sweeps_have_names_of_their_own(tmp_path):
    first, second = (identity(tmp_path / sweep / "0") for sweep in ("2026-01-01", "2026-01-02"))
    assert first != second
    assert first == identity(tmp_path / "2026-01-01" / "." / "0")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", identity(tmp_path / "a=1,b" / "x y"))
