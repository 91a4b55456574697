"""The tokenizer's files that a run keeps beside its checkpoints, so that it needs nothing else to be used.

RUN/pretrained/tokenizer.yaml   the tokenizer's configuration, its `path` naming what lies beside it
RUN/pretrained/...              the files themselves
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lmx.data.files import TRAINED

FOLDER = "pretrained"
"""Where a run directory keeps what it was given."""

SETTINGS = "tokenizer.yaml"

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Of a HuggingFace directory: all that its tokenizer and its defaults of generation are read from."""

_PRETRAINED = ("lmx.data.Pretrained", "lmx.data.tokenizer_config.Pretrained")


def of_run(path: str | Path) -> dict[str, Any] | None:
    """The configuration of the tokenizer of the run at `path`, or of the run of that checkpoint; None: it is none.

    It names the files that the run keeps, where it keeps them.
    """
    folder = Path(path).expanduser()
    for run in (folder, folder.parent.parent):
        if (run / "config.yaml").is_file():
            told = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["tokenizer"]
            return kept_tokenizer(run) or told
    return None


def kept_tokenizer(run: Path) -> dict[str, Any] | None:
    """The configuration of the tokenizer that a run keeps, its path that of the kept files; None: it keeps none."""
    file = run / FOLDER / SETTINGS
    if not file.is_file():
        return None
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    if tree.get("path") is not None:
        tree["path"] = str((run / FOLDER / tree["path"]).absolute())
    return tree


def keep_tokenizer(tree: Mapping[str, Any], run: Path) -> None:
    """Copies into a run directory what the tokenizer of `tree` (a composed `tokenizer`) is read from; once."""
    tree, folder = dict(tree), run / FOLDER
    if tree.get("path") is None or (folder / SETTINGS).is_file():
        return
    pretrained = tree.get("_target_") in _PRETRAINED
    tree = (of_run(tree["path"]) if pretrained else None) or tree
    folder.mkdir(exist_ok=True)
    if tree.get("path") is not None:
        tree["path"] = _copy(Path(tree["path"]).expanduser(), folder)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    (folder / SETTINGS).write_text(text, encoding="utf-8")


def _copy(source: Path, folder: Path) -> str:
    """Copies a tokenizer's file, or those of its directory; the name, from `folder` on, of what was copied."""
    if source.is_file():
        shutil.copyfile(source, folder / source.name)
        return source.name
    names = [*FILES, "config.json", TRAINED]
    if (source / TRAINED).is_file() or not (source / "tokenizer.json").is_file():
        names += ["tokenizer.model", *(path.name for path in source.glob("*.tiktoken"))]
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return "."
