"""Where `lmx fork` puts a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmx.cli.fork import _folder
from lmx.config.errors import RequestError


def test_to_and_hydra_run_dir_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _folder(None, tmp_path) is None
    assert _folder("runs/a", tmp_path) == Path("runs/a")
    made = tmp_path / "runs" / "b"
    made.mkdir(parents=True)  # as Hydra does
    assert _folder(None, made) == Path("runs/b")
    assert not made.exists()
    with pytest.raises(RequestError, match="both name the folder"):
        _folder("runs/a", made)
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    assert _folder(None, full) == Path("full")  # `fork` refuses it: it is there already
    assert (full / "file").exists()
