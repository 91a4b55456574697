"""GPT-2: learned positions, products stored [in, out], q|k|v in one tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lmx.models.config import Decoder
from lmx.models.hf.declare import one, packed
from lmx.models.hf.family import HEAD, Family, fields, norm
from lmx.models.hf.folded import Folded
from lmx.models.hf.keys import Keys, activation_name


def read_gpt2(keys: Keys, *, kv_heads: int | None = None, activation: str = "gelu_new") -> dict[str, Any]:
    """A GPT-2 in its own names; `kv_heads` where they are fewer than the heads."""
    width, heads = keys.take("n_embd"), keys.take("n_head")
    if width % heads:
        keys.refuse("n_head", heads)
    keys.ignore("n_ctx", "reorder_and_upcast_attn")
    return fields(
        n_layers=keys.take("n_layer"),
        d_model=width,
        n_heads=heads,
        n_kv_heads=kv_heads or heads,
        head_dim=width // heads,
        vocab_size=keys.take("vocab_size"),
        tie_embeddings=bool(keys.given("tie_word_embeddings", True)),
        norm={"kind": "layer_norm", "epsilon": keys.take("layer_norm_epsilon", 1e-5), "bias": True},
        position={"learned": keys.take("n_positions", 1024)},
        attention={
            "qkv_bias": True,
            "out_bias": True,
            "scale": None if keys.given("scale_attn_weights", True) else 1.0,
        },
        mlp={
            "d_ff": keys.given("n_inner", 4 * width),
            "kind": "plain",
            "activation": keys.activation("activation_function", activation),
            "bias": True,
        },
    )


def _read(keys: Keys) -> dict[str, Any]:
    keys.expect("scale_attn_by_inverse_layer_idx", False, True, None)  # see _fold
    return read_gpt2(keys)


def write_gpt2(config: Decoder) -> dict[str, Any]:
    """The keys that `read_gpt2` reads."""
    name = activation_name(config.mlp.activation)
    return {
        "n_embd": config.d_model,
        "n_head": config.n_heads,
        "n_layer": config.n_layers,
        "n_positions": config.position.learned,
        "n_inner": config.mlp.d_ff,
        "vocab_size": config.vocab_size,
        "activation_function": "gelu_new" if config.mlp.activation == "gelu_tanh" else name,
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.tie_embeddings,
        "scale_attn_weights": config.attention.scale != 1.0,
    }


_LAYER = "transformer.h.{l}."
OUTSIDE = (
    one("transformer.wte.weight", "embedding.tokens", "v d -> v d"),
    one("transformer.wpe.weight", "embedding.positions", "p d -> p d"),
    *norm("transformer.ln_f", "final_norm"),
    HEAD,
)
SHARED = (
    *OUTSIDE,
    *norm(f"{_LAYER}ln_1", "attention_norm"),
    *norm(f"{_LAYER}ln_2", "mlp_norm"),
    one(f"{_LAYER}attn.c_proj.bias", "attention.out_bias", "d -> d"),
    one(f"{_LAYER}mlp.c_fc.bias", "mlp.up_bias", "f -> f"),
    one(f"{_LAYER}mlp.c_proj.bias", "mlp.down_bias", "d -> d"),
)
"""What GPT-2 and GPTBigCode store alike."""
IGNORED = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",)
_TENSORS = (
    *SHARED,
    packed(
        f"{_LAYER}attn.c_attn.weight",
        1,
        ("attention.query", "d (n h) -> d n h"),
        ("attention.key", "d (k h) -> d k h"),
        ("attention.value", "d (k h) -> d k h"),
    ),
    packed(
        f"{_LAYER}attn.c_attn.bias",
        0,
        ("attention.query_bias", "(n h) -> n h"),
        ("attention.key_bias", "(k h) -> k h"),
        ("attention.value_bias", "(k h) -> k h"),
    ),
    one(f"{_LAYER}attn.c_proj.weight", "attention.out", "(n h) d -> n h d"),
    one(f"{_LAYER}mlp.c_fc.weight", "mlp.up", "d f -> d f"),
    one(f"{_LAYER}mlp.c_proj.weight", "mlp.down", "f d -> f d"),
)


def _fold(raw: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """Scores that shrink with depth, `scale_attn_by_inverse_layer_idx`, as queries that do (Mistral's GPT-2s).

    The model is the same; written again, it is one without that key.
    """
    if not raw.get("scale_attn_by_inverse_layer_idx"):
        return dict(entries)

    def folded(name: str, entry: Any) -> Any:
        found = re.fullmatch(r"transformer\.h\.(\d+)\.attn\.c_attn\.(weight|bias)", name)
        return Folded(entry, raw["n_embd"], int(found[1]) + 1) if found else entry

    return {name: folded(name, entry) for name, entry in entries.items()}


FAMILY = Family(
    "gpt2",
    "GPT2LMHeadModel",
    _read,
    write_gpt2,
    _TENSORS,
    prefix="transformer.",
    ignored=IGNORED,
    fold=_fold,
)
