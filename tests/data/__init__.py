"""Sources and tokenizers from the real YAML, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lmx.config.component import Config
from lmx.data import Data, Tokenizer

CONF = Path(__file__).parents[2] / "conf"
SHARED = Path(__file__).parents[2] / "../shared/data"


def read_option(group: str, option: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """One YAML of conf/ with `changes` applied (dotted keys)."""
    tree = OmegaConf.load(CONF / group / f"{option}.yaml")
    for key, value in (changes or {}).items():
        OmegaConf.update(tree, key, value)
    found = OmegaConf.to_container(tree)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


class _Root(Config):
    data: Data | None = None
    tokenizer: Tokenizer | None = None


def data_config(option: str, changes: dict[str, Any] | None = None) -> Any:
    """A validated `data` option."""
    return _Root.model_validate({"data": read_option("data", option, changes)}).data


def tokenizer_config(option: str, changes: dict[str, Any] | None = None) -> Any:
    """A validated `tokenizer` option."""
    return _Root.model_validate({"tokenizer": read_option("tokenizer", option, changes)}).tokenizer


def byte_tokenizer() -> Any:
    """The default tokenizer."""
    return tokenizer_config("bytes").build()


def shared(name: str) -> Path:
    """A real text or tokenizer; the test is skipped where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine")
    return path
