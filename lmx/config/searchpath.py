"""The further folders of configuration that a command line names: `--config-dir` and hydra.searchpath."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from lmx.config.errors import ConfigError, Problem
from lmx.config.sources import Place


def check_searchpath(
    place: Place, overrides: Sequence[str], config_dir: str | Path | None, command: str
) -> list[str] | None:
    """hydra.searchpath of the command line; ConfigError naming every folder that is not there."""
    problems = []
    if config_dir is not None and not os.path.isdir(place.config_dir or ""):
        problems.append(
            Problem(
                f"--config-dir {config_dir}", "there is no such folder", origin="command line", kind="path"
            )
        )
    paths: list[str] | None = None
    for line in overrides:
        if line.lstrip("+").startswith("hydra.searchpath="):
            value = yaml.safe_load("x: " + line.partition("=")[2])["x"]
            paths = [str(item) for item in ([value] if isinstance(value, str) else value or [])]
            for path in paths:
                folder = path.removeprefix("file://")
                if "://" not in folder and not os.path.isdir(folder):
                    origin = f"command line: {line}"
                    message = "there is no such folder; a package is written pkg://package.folder"
                    problems.append(Problem("hydra.searchpath", message, path, origin, kind="path"))
    if problems:
        raise ConfigError(problems, command)
    return paths
