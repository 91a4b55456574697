"""Versions on the hosts of a run: kept when they are first asked, compared whenever they are asked again.

RUN_DIR/launch/versions.json    name of a host -> its Python and packages
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.io.files import read_json, to_json, write_atomic

PACKAGES = (
    "lmx",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "hydra-core",
    "pydantic",
    "orbax-checkpoint",
    "grain",
)
"""What a host has to have, in the same versions as all others."""

FILES = "files of lmx"
"""The hash of the lmx that a host has itself; a snapshot that is sent has none here."""

_FILE = "versions.json"


def versions_of(answer: Mapping[str, Any]) -> dict[str, str]:
    """Name -> version, of a host's answer to `probe`."""
    found = {"Python": answer["python"], **answer["packages"], FILES: answer["lmx_files"]}
    return {name: version for name, version in found.items() if version is not None}


def known(folder: Path) -> dict[str, dict[str, str]]:
    """Host -> name -> version, as kept in a run's folder."""
    return read_json(folder / _FILE) or {}


def keep(folder: Path, found: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Keeps what the hosts have; of those that are known already it stays."""
    if folder.is_dir():
        now = {name: versions_of(answer) for name, answer in found}
        write_atomic(folder / _FILE, to_json({**now, **known(folder)}, indent=1) + "\n")


def forget(folder: Path) -> None:
    """What the hosts have when they are asked next is right."""
    (folder / _FILE).unlink(missing_ok=True)


def changed(folder: Path, found: Sequence[tuple[str, Mapping[str, Any]]], *, lmx: bool) -> list[str]:
    """How hosts differ from what they had, a line each. `lmx`: whether they run the lmx that is installed there."""
    before = known(folder)
    lines = []
    for name, answer in found:
        words = differing(before.get(name, {}), versions_of(answer))
        words = [word for word in words if lmx or word[0] not in ("lmx", FILES)]
        if words:
            lines.append(
                f"{name}: {', '.join(f'{what} {now}, but {then} when the run began' for what, then, now in words)}; "
                "install what was there (pin it in target.setup), or accept it: lmx launch resume RUN "
                "changed_versions=accept"
            )
    return lines


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, version in `one`, version in `other`) of what both have, and not in the same version."""
    return [(name, one[name], other[name]) for name in one if name in other and one[name] != other[name]]
