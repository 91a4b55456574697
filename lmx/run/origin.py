"""What a run keeps of the directories it began from, so that it needs nothing else to be used or exported."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.data.kept import FOLDER, keep_tokenizer
from lmx.models.hf.keys import read_json
from lmx.models.hf.read import Found, parse_config

CONFIG = "model_config.json"
"""In RUN/pretrained: the config.json of the HuggingFace directory that the parameters came from."""


def keep_origin(tree: Mapping[str, Any], run: Path) -> None:
    """Copies into a run directory the tokenizer's files and the config.json of `model.init_from`; once."""
    keep_tokenizer(tree["tokenizer"], run)
    origin = tree["model"].get("init_from")
    file = None if origin is None else _config_file(Path(origin).expanduser())
    kept = run / FOLDER / CONFIG
    if file is not None and not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, kept)


def origin_of(run: Path, init_from: str | None, *, needed: bool) -> Found | None:
    """What the config.json says that a model came with; None where it came with none.

    Where the run did not keep it, and the directory it began from is gone: RequestError if it is needed, else None.
    """
    file: Path | None = run / FOLDER / CONFIG
    if not file.is_file():
        if init_from is None:
            return None
        folder = Path(init_from).expanduser()
        if not folder.exists() and not needed:
            return None
        if not folder.exists():
            raise RequestError(
                f"from={run}: began from model.init_from={init_from}, which is gone, so what its config.json said "
                f"of the model is not known\n    fix: put the directory back, or copy its config.json to {file}"
            )
        file = _config_file(folder)
    return None if file is None else parse_config(read_json(file), file)


def _config_file(origin: Path) -> Path | None:
    """Of a HuggingFace directory, a run or a checkpoint in one."""
    runs = (origin, origin.parent.parent)
    for file in (origin / "config.json", *(run / FOLDER / CONFIG for run in runs)):
        if file.is_file():
            return file
    return None
