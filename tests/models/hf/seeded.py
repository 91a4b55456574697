"""Checkpoints whose weights follow from the names of their tensors, so that only what they answer has to be kept."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lmx.io.safetensors import Written, write_tensors
from lmx.models.hf.read import parse_config
from lmx.models.hf.tensors import bind
from tests.support import build_model

IDS = np.random.default_rng(0).integers(3, 61, (1, 40))
"""What every one of them is asked."""


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32: around 1 for norms, else around 0, so that activations keep their size."""
    x = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if len(shape) == 1:
        return (0.2 * x + ("norm" in name or ".ln_" in name)).astype(np.float32)
    if "embed" in name or "wte" in name:
        return x.astype(np.float32)
    return (1.2 * x / max(shape[-2:]) ** 0.5).astype(np.float32)


def write_seeded(folder: Path, raw: dict[str, Any]) -> None:
    """The checkpoint that a config.json describes."""
    found = parse_config(raw, "config.json")
    bound = bind(found.family.tensors_of(found.config), found.config, build_model(found.config).specs)
    dtype = np.dtype(np.float32)
    tensors = [
        Written(name, b.shape, dtype, lambda name=name, b=b: weights(name, b.shape))
        for b in bound
        for name, _ in b.names()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, tensors, shard_bytes=10**9)
    (folder / "config.json").write_text(json.dumps(raw))
