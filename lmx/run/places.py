"""What can be seen at once to be wrong with `from=`, `to=` and the files of a request. Free of jax."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.config.component import Fault
from lmx.io.remote import in_remote


def source_faults(node: Mapping[str, Any], key: str = "from") -> list[Fault]:
    """Of a key that names a run directory, RUN/checkpoints/STEP or a HuggingFace directory."""
    value = node.get(key)
    if not isinstance(value, str) or value.startswith("???"):
        return []
    path = Path(value).expanduser()
    run = path.parent.parent if path.name.isdecimal() and path.parent.name == "checkpoints" else path
    if (run / "config.yaml").is_file():
        if not (run / "checkpoints").is_dir():
            lost = (
                f"its checkpoints are gone; `lmx train resume={run}` brings the newest from the remote tier"
            )
            none = "the run has no checkpoints; checkpoint=default keeps them"
            return [Fault(key, lost if in_remote(run) else none)]
        if run != path and not path.is_dir():
            steps = sorted(int(p.name) for p in path.parent.iterdir() if p.name.isdecimal())
            told = f"it has {', '.join(map(str, steps))}" if steps else "it has none"
            return [
                Fault(
                    key,
                    f"the run has no checkpoint {path.name}; {told}",
                    str(path.parent / str(steps[-1])) if steps else None,
                )
            ]
        return []
    from lmx.models.hf.read import is_checkpoint

    if is_checkpoint(path):
        if (path / "config.json").is_file():
            return []
        message = "has weights but no config.json, without which they have no meaning; copy it too"
        return [Fault(key, message)]
    if path.is_dir():
        message = (
            "is no run directory (it has no config.yaml) and no HuggingFace directory (it has no config.json)"
        )
        return [Fault(key, message)]
    what = "is a file; give its directory" if path.exists() else "does not exist"
    return [
        Fault(
            key,
            f"{what}: a run directory, RUN/checkpoints/STEP or a HuggingFace directory is wanted",
            str(path.parent) if path.exists() else near(value),
        )
    ]


def prompts_faults(node: Mapping[str, Any], key: str = "prompts_file") -> list[Fault]:
    """Of a key that names a file with a prompt a line."""
    value = node.get(key)
    if not isinstance(value, str):
        return []
    path = Path(value).expanduser()
    if not path.exists():
        return [Fault(key, "does not exist", near(value))]
    if not path.is_file():
        return [Fault(key, "is a directory; give a file with a prompt a line")]
    if not os.access(path, os.R_OK):
        return [Fault(key, "cannot be read: its permissions do not allow it")]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return [Fault(key, "is not UTF-8 text")]
    if not lines:
        return [Fault(key, "is empty; a prompt needs at least one token")]
    if not all(lines):
        return [Fault(key, f"line {lines.index('') + 1} is empty; a prompt needs at least one token")]
    return []


def tools_faults(node: Mapping[str, Any], key: str = "tools") -> list[Fault]:
    """Of a key that names a JSON file with a list of objects, or is null."""
    value = node.get(key)
    if not isinstance(value, str):
        return []
    try:
        told = json.loads(Path(value).expanduser().read_text(encoding="utf-8"))
    except OSError:
        return [Fault(key, "is no file that can be read", near(value))]
    except ValueError as error:
        return [Fault(key, f"is no JSON: {error}")]
    if not isinstance(told, list) or not all(isinstance(tool, dict) for tool in told):
        return [Fault(key, "holds no list of objects, one a tool")]
    return []


def folder_faults(node: Mapping[str, Any], key: str) -> list[Fault]:
    """Of a key that names an existing folder, or is null."""
    value = node.get(key)
    if not isinstance(value, str) or Path(value).expanduser().is_dir():
        return []
    return [
        Fault(key, "is no folder" if Path(value).expanduser().exists() else "does not exist", near(value))
    ]


def target_faults(node: Mapping[str, Any], key: str = "to") -> list[Fault]:
    """Of a key that names a directory to be made: it may be there, but empty."""
    value = node.get(key)
    if not isinstance(value, str) or value.startswith("???"):
        return []
    path = Path(value).expanduser()
    if path.is_dir() and not any(path.iterdir()):
        return []
    if path.exists():
        return [
            Fault(
                key, "exists already; give a directory that does not, or remove it", f"{value.rstrip('/')}_2"
            )
        ]
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return [Fault(key, f"cannot be made: {above} is {'not writable' if above.is_dir() else 'a file'}")]
    return []


def near(value: str) -> str | None:
    """A path beside it whose name is like its own."""
    folder, name = os.path.split(value.rstrip("/"))
    try:
        names = os.listdir(os.path.expanduser(folder) or ".")
    except OSError:
        return None
    found = difflib.get_close_matches(name, names, n=1)
    return os.path.join(folder, found[0]) if found else None
