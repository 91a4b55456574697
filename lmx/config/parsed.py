"""Parsed configuration files, kept while the process lives: one command composes the same files many times."""

from __future__ import annotations

import copy
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader


@lru_cache(maxsize=1)
def _loader() -> Any:
    """OmegaConf's loader (`1e-3` is a number, a key given twice an error) over libyaml where there is one."""
    plain = get_yaml_loader()
    parser = getattr(yaml.cyaml, "CParser", None) if yaml.__with_libyaml__ else None
    if parser is None:
        return plain

    class Loader(parser, plain):
        def __init__(self, stream: Any) -> None:
            parser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


@lru_cache(maxsize=1024)
def _parsed(path: str, stamp: tuple[int, int]) -> tuple[dict[str, str | None], Any]:
    """Header and content of a file; the error of PyYAML's own scanner, in its words, where it is no YAML."""
    with open(path, encoding="utf-8") as stream:
        header = ConfigSource._get_header_dict(stream.read(512))
        stream.seek(0)
        try:
            found = yaml.load(stream, Loader=_loader())
        except (yaml.YAMLError, UnicodeDecodeError):
            stream.seek(0)
            found = yaml.load(stream, Loader=get_yaml_loader())
    if found is not None and not isinstance(found, list | dict | str):
        raise OSError(f"{path} holds {type(found).__name__} {found!r}, not keys and values")
    return header, found


def _stamped(path: str) -> tuple[dict[str, str | None], Any]:
    told = os.stat(path)
    return _parsed(path, (told.st_mtime_ns, told.st_size))


def content(path: str | Path) -> Any:
    """The plain content of a file, an object of its own each time; {} where the file is empty."""
    _, found = _stamped(os.path.abspath(path))
    return {} if found is None else copy.deepcopy(found)


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of configuration files, which reads a file again only where it has changed.

    It bears the name of the class that it stands for: a process that takes over Hydra's state, as launchers start
    them, refuses a source of another name.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """See `ConfigSource.load_config`; ConfigLoadError where there is no such file."""
        path = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        if not os.path.exists(path):
            raise ConfigLoadError(f"Config not found : {path}")
        header, found = _stamped(path)
        return ConfigResult(
            config=OmegaConf.create({} if found is None else found),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=dict(header),
        )


def keep_parsed() -> None:
    """Makes Hydra read files by the source here; doing it again is harmless."""
    Plugins.instance()  # which registers Hydra's own sources
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
