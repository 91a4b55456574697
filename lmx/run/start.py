"""The parameters that training starts from: drawn at random, or those of `model.init_from`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from lmx import params as param_tree
from lmx.io.find import restore_params
from lmx.models import hf
from lmx.models.hf.fields import alike, decided
from lmx.types import Tree


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def pretrained_params(model_config: Any, specs: Tree, shardings: Tree, dtype: str) -> Tree:
    """The parameters at `model.init_from`, in `dtype`, laid out as `shardings` say.

    It is a run directory, a checkpoint in one, or a HuggingFace directory. RequestError where there is none, and
    where names or shapes differ from the model's.
    """
    path = Path(model_config.init_from).expanduser()
    if not hf.is_checkpoint(path):
        abstract = param_tree.abstract(specs, jnp.dtype(dtype), shardings)
        return restore_params(path, abstract, warn=_say, weights="auto")[0]
    found = hf.read_config(path)
    params = hf.load_params(path, found, specs, shardings, dtype, config=model_config)
    theirs, ours = decided(found.config), decided(model_config)
    differ = [
        f"model.{key}={ours[key]} (there {value})"
        for key, value in theirs.items()
        if not alike(ours[key], value)
    ]
    _say(f"parameters: those of {path} ({found.family.model_type})")
    if differ:
        _say(f"model.init_from={path}: parameters taken into another model: {', '.join(differ)}")
    return params
