"""Gemma 3, text: Gemma 2 with query/key norms, two ropes and five layers of six with a window."""

from __future__ import annotations

from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.family import Family, layer_types, types_of
from lmx.models.hf.fields import merge
from lmx.models.hf.gemma import gemma_fields
from lmx.models.hf.gemma2 import DEFAULTS, TENSORS, four_norms, write_four_norms
from lmx.models.hf.keys import Keys
from lmx.models.hf.rope import by_type, read_ropes, write_ropes

_FULL, _SLIDING = "full_attention", "sliding_attention"


def _read(keys: Keys) -> dict[str, Any]:
    n, length = keys.take("num_hidden_layers"), keys.take("max_position_embeddings", 131072)
    period = keys.given("sliding_window_pattern", keys.given("_sliding_window_pattern", 6))
    keys.ignore("_sliding_window_pattern", "hidden_act")
    types = layer_types(keys, n, [_FULL if (i + 1) % period == 0 else _SLIDING for i in range(n)])
    local = float(keys.given("rope_local_base_freq", 10000.0))
    ropes = read_ropes(keys, theta=1000000.0, length=length)
    if "" in ropes:
        ropes = {_FULL: ropes[""], _SLIDING: ropes[""] | {"scaling": None, "theta": local}}
    elif keys.raw.get("rope_local_base_freq") and ropes.get(_SLIDING, {}).get("theta", local) != local:
        keys.refuse("rope_local_base_freq", local)  # rope_parameters says otherwise
    # transformers reads this key and does nothing with it: no published model has it.
    keys.expect("attn_logit_softcapping", None)
    activation = keys.activation("hidden_activation", "gelu_pytorch_tanh")
    found = gemma_fields(keys, DEFAULTS, activation=activation, position=by_type(keys, ropes, types))
    more = four_norms(keys, types, softcap=None, logits_softcap=None)
    return merge(merge(found, more), {"attention": {"qk_norm": "head"}})


def _write(config: Decoder) -> dict[str, Any]:
    told = {name: value for name, value in write_four_norms(config).items() if not name.startswith("rope_")}
    return {**told, "rope_parameters": write_ropes(config, types_of(config))}


FAMILY = Family("gemma3_text", "Gemma3ForCausalLM", _read, _write, TENSORS)
