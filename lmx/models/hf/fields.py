"""The fields of a `Decoder`, from what a family says to the whole tree, and what two of them differ in."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from lmx.models.config import Decoder

NEUTRAL: dict[str, Any] = {
    "norm": {
        "kind": "rms_norm",
        "scale": "weight",
        "scale_in": "compute",
        "bias": False,
        "placement": "pre",
    },
    "position": {"learned": None, "ropes": {}, "pattern": ["none"]},
    "attention": {
        "windows": [None],
        "chunks": [None],
        "qk_norm": "none",
        "qkv_bias": False,
        "out_bias": False,
        "sinks": False,
        "softcap": None,
        "scale": None,
        "temperature": None,
        "latent": None,
    },
    "mlp": {"kind": "gated", "activation": "silu", "bias": False, "limit": None},
    "moe": None,
    "tie_embeddings": False,
    "embedding_scale": "one",
    "embedding_norm": False,
    "convolution": {"embedding": None, "attention": None, "mlp": None},
    "logits_softcap": None,
}
"""What a checkpoint has that says nothing of a part: none of it, and otherwise the ways of Llama."""

FREE: dict[str, Any] = {
    "init_from": None,
    "dropout": 0.0,
    "initializer": {
        "distribution": "normal",
        "matrix": 0.02,
        "embedding": 0.02,
        "head": 0.02,
        "residual": "plain",
    },
    "layer_loop": "scan",
    "remat": "none",
}
"""What a checkpoint does not decide, as `conf/model/pretrained.yaml` has it."""


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, key by key; ropes are taken whole."""
    found = copy.deepcopy(dict(base))
    for key, value in over.items():
        inner = found.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping) and key != "ropes":
            found[key] = merge(inner, value)
        else:
            found[key] = copy.deepcopy(value)
    return found


def to_decoder(fields: Mapping[str, Any]) -> Decoder:
    """The `Decoder` of what a checkpoint decides."""
    absent = {
        **dict.fromkeys(Decoder.model_fields),
        "_target_": "lmx.models.Decoder",
    }  # others may derive from it
    found = Decoder.model_validate(merge(merge(absent, FREE), fields))
    assert isinstance(found, Decoder)
    return found


def decided(config: Decoder) -> dict[str, Any]:
    """What a checkpoint decides of a model, patterns written out layer by layer, as flat `a.b` -> value."""
    tree = {k: v for k, v in config.model_dump().items() if k not in FREE}
    n = config.n_layers
    for part, names in (("attention", ("windows", "chunks")), ("position", ("pattern",))):
        for name in names:
            listed = tree[part][name]
            tree[part][name] = [listed[i % len(listed)] for i in range(n)]
    if config.moe is not None:
        tree["moe"] |= {"layers": config.moe.layers(n), "first_dense": None, "pattern": None}
        for training_only in ("balance_loss", "z_loss", "capacity_factor"):
            tree["moe"].pop(training_only, None)
        tree["moe"]["router"].pop("bias_update_speed", None)
    ropes = config.position.ropes
    tree["position"]["pattern"] = [
        None if name == "none" else _rope(ropes[name]) for name in tree["position"]["pattern"]
    ]
    del tree["position"]["ropes"]
    if tree["attention"]["scale"] is None:
        tree["attention"]["scale"] = config.head_dim**-0.5
    if config.mlp.kind == "plain":
        tree["mlp"].pop("limit", None)
    return flat(tree)


def _rope(rope: Any) -> tuple:
    scaling = rope.scaling
    told = None if scaling is None else (type(scaling).__name__, *sorted(flat(scaling.model_dump()).items()))
    return (rope.theta, rope.fraction, rope.layout, told)


def alike(a: Any, b: Any) -> bool:
    """Whether two values are equal, numbers up to rounding: some are written as another number's power."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-12)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as `a.b` -> value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
