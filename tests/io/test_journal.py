"""The lock and the log of a folder that one process drives."""

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lmx.config.errors import RequestError
from lmx.io import journal

_HOLD = """
import sys, pathlib
from lmx.io import journal
held = journal.hold(pathlib.Path(sys.argv[1]), str)
print("held", flush=True)
sys.stdin.read()
"""


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == []
    journal.append(tmp_path, {"a": 1}, {"b": "two\nlines"})
    journal.append(tmp_path, {"c": None})
    assert journal.read(tmp_path) == [{"a": 1}, {"b": "two\nlines"}, {"c": None}]


@pytest.mark.parametrize("torn", ['{"half', '{"whole": 1}', "\0\0\0"])
def test_nothing_is_lost_after_a_line_that_was_not_finished(tmp_path: Path, torn: str) -> None:
    journal.append(tmp_path, {"a": 1})
    with (tmp_path / "events.jsonl").open("a") as handle:
        handle.write(torn)
    journal.append(tmp_path, {"b": 2})
    found = journal.read(tmp_path)
    assert found[0] == {"a": 1}
    assert found[-1] == {"b": 2}


def test_one_process_drives_at_a_time_and_a_killed_one_gives_way(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert f"process {other.pid}" in (journal.driver(tmp_path) or "")
        with pytest.raises(RequestError, match=f"process {other.pid} on"):
            journal.hold(tmp_path, lambda who: f"taken by {who}")
    finally:
        other.kill()
        other.wait()
    assert journal.driver(tmp_path) is None
    held = journal.hold(tmp_path, str)
    journal.let_go(held)
    assert journal.driver(tmp_path) is None


def test_those_who_look_do_not_keep_a_driver_out(tmp_path: Path) -> None:
    journal.let_go(journal.hold(tmp_path, str))
    looking = (tmp_path / "driver.lock").open()
    fcntl.flock(looking, fcntl.LOCK_SH)  # as `driver` does, for longer
    end = threading.Timer(0.3, looking.close)
    end.start()
    journal.let_go(journal.hold(tmp_path, str))
    end.join()
