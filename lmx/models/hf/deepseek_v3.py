"""DeepSeek V3 and R1: sigmoid scores, a bias for the choice, limited to groups by their two best experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmx.io.fp8 import join_scales
from lmx.models.config import Decoder
from lmx.models.hf.deepseek import deepseek_fields, groups, tensors_of, write_deepseek
from lmx.models.hf.family import BUFFERS, Family
from lmx.models.hf.keys import Keys


def _read(keys: Keys) -> dict[str, Any]:
    keys.expect("scoring_func", "sigmoid")
    keys.expect("topk_method", "noaux_tc")
    router = {
        "scores": "sigmoid",
        "bias": "choice",
        "normalise": bool(keys.given("norm_topk_prob", True)),
        "groups": groups(keys, "top2_sum"),
    }
    layout = "interleaved" if keys.given("rope_interleave", True) else "half"
    return deepseek_fields(keys, router, layout=layout)


def _write(config: Decoder) -> dict[str, Any]:
    assert config.moe is not None
    rope = next(iter(config.position.ropes.values()))
    return write_deepseek(config) | {
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": config.moe.router.normalise,
        "rope_interleave": rope.layout == "interleaved",
    }


def _ignored(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Layers after the last predict tokens further on (arXiv:2412.19437, 2.2) and play no part in the logits."""
    first = raw["num_hidden_layers"]
    further = range(first, first + (raw.get("num_nextn_predict_layers") or 0))
    return (BUFFERS, *(rf"model\.layers\.{i}\..*" for i in further))


FAMILY = Family(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    _read,
    _write,
    tensors_of,
    ignored=_ignored,
    quantised={"fp8": join_scales},
)
