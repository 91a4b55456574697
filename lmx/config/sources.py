"""Where configuration files lie, and Hydra's loader over them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from lmx.config.parsed import content, keep_parsed
from lmx.config.resolvers import register

VERSION_BASE = "1.3"


class Place(NamedTuple):
    """What a command is composed from.

    primary     name of the primary file, without `.yaml`
    conf        folder of the primary configuration, absolute
    config_dir  a further folder, from `--config-dir`; absolute, or None
    """

    primary: str
    conf: str
    config_dir: str | None = None


class Loader(ConfigLoaderImpl):
    """Hydra's loader, which keeps the files of its last composition, in merge order."""

    defaults: Sequence[ResultDefault] = ()

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        self.defaults = defaults
        return super()._compose_config_from_defaults_list(defaults, repo)


class Tree:
    """The files that one set of search paths reaches."""

    def __init__(self, place: Place, searchpath: Sequence[str] | None = None) -> None:
        """`searchpath`: the value of hydra.searchpath given on the command line, if any."""
        version.setbase(VERSION_BASE)
        keep_parsed()
        path = create_config_search_path(place.conf)
        if place.config_dir is not None:
            path.prepend("command-line", f"file://{place.config_dir}", SearchPathQuery(provider="schema"))
        setup_globals()
        register()
        self.place = place
        self.loader = Loader(path)
        self.parser = OverridesParser.create(config_loader=self.loader)
        overrides = [] if searchpath is None else [f"hydra.searchpath={_as_list(searchpath)}"]
        _, self.repository = self.loader._parse_overrides_and_create_caching_repo(place.primary, overrides)

    def is_group(self, name: str) -> bool:
        """Whether a folder of options has this name."""
        return bool(name) and not name.startswith("/") and self.repository.group_exists(name)

    def options(self, group: str) -> list[str]:
        """The options of a group, sorted; files whose name begins with _ are only built upon."""
        names = self.repository.get_group_options(group, ObjectType.CONFIG)
        return [name for name in names if not name.startswith("_")]

    def groups(self) -> list[str]:
        """Every group but Hydra's own, nested ones with slashes."""
        found: list[str] = []

        def visit(parent: str) -> None:
            for name in self.repository.get_group_options(parent, ObjectType.GROUP):
                group = f"{parent}/{name}" if parent else name
                if group.split("/")[0] != "hydra" and not name.startswith((".", "_")):
                    if self.options(group):
                        found.append(group)
                    visit(group)

        visit("")
        return found

    def file(self, config_path: str) -> Path | None:
        """The file of a configuration such as `model/tiny`; None for one that lives in no file."""
        name = config_path if config_path.endswith((".yaml", ".yml")) else f"{config_path}.yaml"
        for source in self.repository.get_sources():
            if not source.is_config(config_path):
                continue
            if source.scheme() == "file":
                return Path(source.path) / name
            if source.scheme() == "pkg" and source.path:
                spec = importlib.util.find_spec(source.path.replace("/", "."))
                places = list(spec.submodule_search_locations or ()) if spec else []
                return Path(places[0]) / name if places else None
            return None
        return None


def _as_list(items: Sequence[str]) -> str:
    quoted = ",".join("'" + item.replace("'", "\\'") + "'" for item in items)
    return f"[{quoted}]"


@lru_cache(maxsize=512)
def _node(path: str, stamp: int) -> yaml.Node | None:
    with open(path, encoding="utf-8") as stream:
        return yaml.compose(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def yaml_node(path: Path) -> yaml.Node | None:
    """The parsed nodes of a file, with their lines; None for an empty file."""
    return _node(str(path), os.stat(path).st_mtime_ns)


def load_yaml(path: Path) -> Any:
    """The plain content of a YAML file, read as Hydra reads it (`1e-3` is a number)."""
    return content(path)


def peek_yaml(path: Path | None) -> Any:
    """The content of a file in which only a hint is looked for: empty where it cannot be read."""
    try:
        return load_yaml(path) if path is not None and path.is_file() else {}
    except (yaml.YAMLError, OSError, ValueError):
        return {}
