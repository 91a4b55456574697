"""What a family of checkpoints declares, and what families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from lmx.models.config import Decoder
from lmx.models.hf.declare import Tensor, one
from lmx.models.hf.fields import NEUTRAL, merge
from lmx.models.hf.keys import Keys, activation_name
from lmx.models.hf.rope import read_ropes, write_one

BUFFERS = r".*rotary_emb\.inv_freq"
"""Tensors that older releases wrote although they follow from config.json."""


class Family(NamedTuple):
    """A family of checkpoints.

    model_type    of its config.json
    architecture  class name in `architectures`
    read          Keys of a config.json -> the fields of a Decoder that a checkpoint decides
    write         a Decoder -> keys of a config.json; may be wrong for models outside the family: what it wrote is
                  read again and compared
    tensors       which tensors hold which parameters; a function of the Decoder where that depends on it
    prefix        what names start with, which some checkpoints leave off
    ignored       patterns of tensors that hold no parameters (buffers); a function of config.json where that decides
    quantised     `quant_method` of a quantization_config -> what makes plain tensors of a checkpoint's (name -> Entry),
                  the quantization_config and the directory
    fold          from config.json and a checkpoint's tensors to those with factors of config.json multiplied in
    """

    model_type: str
    architecture: str
    read: Callable[[Keys], dict[str, Any]]
    write: Callable[[Decoder], dict[str, Any]]
    tensors: tuple[Tensor, ...] | Callable[[Decoder], tuple[Tensor, ...]]
    prefix: str = "model."
    ignored: tuple[str, ...] | Callable[[Mapping[str, Any]], tuple[str, ...]] = (BUFFERS,)
    quantised: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], Any], dict[str, Any]]] = (
        MappingProxyType({})
    )
    fold: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None

    def tensors_of(self, config: Decoder) -> tuple[Tensor, ...]:
        """`tensors` for one model."""
        return self.tensors(config) if callable(self.tensors) else self.tensors

    def ignored_of(self, raw: Mapping[str, Any]) -> tuple[str, ...]:
        """`ignored` for one config.json."""
        return self.ignored(raw) if callable(self.ignored) else self.ignored


def fields(**given: Any) -> dict[str, Any]:
    """All that a checkpoint decides: `given`, and for the rest no such part."""
    return merge(NEUTRAL, given)


class Defaults(NamedTuple):
    """What a family takes for a key that its config.json leaves out."""

    kv_heads: int | None = None
    head_dim: int | None = None
    theta: float = 10000.0
    tied: bool = False
    max_length: int = 2048
    norm_epsilon: float = 1e-6
    partial_rope: bool = False


def sizes(keys: Keys, defaults: Defaults) -> dict[str, Any]:
    """The sizes in the names that most families use; `num_key_value_heads: null` means as many as heads."""
    heads, width = keys.take("num_attention_heads"), keys.take("hidden_size")
    kv = keys.take("num_key_value_heads", defaults.kv_heads)
    head_dim = keys.given("head_dim", defaults.head_dim) or width // heads
    if width % heads and "head_dim" not in keys:
        keys.refuse("num_attention_heads", heads)
    return {
        "n_layers": keys.take("num_hidden_layers"),
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": kv or heads,
        "head_dim": head_dim,
        "vocab_size": keys.take("vocab_size"),
        "tie_embeddings": bool(keys.given("tie_word_embeddings", defaults.tied)),
    }


def one_rope(keys: Keys, defaults: Defaults, layout: str = "half") -> dict[str, Any]:
    """`position` with one rope on every layer."""
    length = keys.take("max_position_embeddings", defaults.max_length)
    ropes = read_ropes(
        keys, theta=defaults.theta, layout=layout, length=length, partial=defaults.partial_rope
    )
    if "" not in ropes:
        keys.refuse("rope_parameters", keys.raw.get("rope_parameters"))
    return {"ropes": {"rope": ropes[""]}, "pattern": ["rope"]}


def llama_fields(keys: Keys, defaults: Defaults) -> dict[str, Any]:
    """A Llama in the common names, without biases and windows: what most families start from."""
    return fields(
        **sizes(keys, defaults),
        norm={"epsilon": keys.take("rms_norm_eps", defaults.norm_epsilon)},
        position=one_rope(keys, defaults),
        mlp={"d_ff": keys.take("intermediate_size"), "activation": keys.activation("hidden_act")},
    )


def write_llama(config: Decoder) -> dict[str, Any]:
    """The keys that `llama_fields` reads."""
    rope = next(iter(config.position.ropes.values()), None)
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "intermediate_size": config.mlp.d_ff,
        "hidden_act": activation_name(config.mlp.activation),
        "rms_norm_eps": config.norm.epsilon,
        "tie_word_embeddings": config.tie_embeddings,
        **({} if rope is None else write_one(rope)),
    }


def layer_types(keys: Keys, n_layers: int, default: list[str]) -> list[str]:
    """One of full_attention, sliding_attention, ... a layer."""
    types = keys.given("layer_types", default)
    if not isinstance(types, list) or len(types) != n_layers:
        keys.refuse("layer_types", types)
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            keys.refuse("layer_types", name)
    return types


def expect_types(keys: Keys, n_layers: int, windows: list[int | None]) -> None:
    """Takes `layer_types` of a family that has no use for it; refused where it is not what `windows` makes."""
    window = [windows[i % len(windows)] for i in range(n_layers)]
    built = ["full_attention" if w is None else "sliding_attention" for w in window]
    if layer_types(keys, n_layers, built) != built:
        keys.refuse("layer_types", keys.raw["layer_types"])


def windows_of(types: list[str], window: int | None) -> list[int | None]:
    """The window of each layer."""
    return [window if name == "sliding_attention" else None for name in types]


def types_of(config: Decoder) -> list[str]:
    """The layer types that a model's windows spell."""
    listed = config.attention.windows
    windows = [listed[i % len(listed)] for i in range(config.n_layers)]
    return ["full_attention" if w is None else "sliding_attention" for w in windows]


def window_of(config: Decoder) -> int | None:
    """The window of the layers that have one."""
    return next((w for w in config.attention.windows if w is not None), None)


def norm(name: str, path: str) -> tuple[Tensor, Tensor]:
    """A norm's weight, and its bias where it has one."""
    return one(f"{name}.weight", f"{path}.scale", "d -> d"), one(f"{name}.bias", f"{path}.bias", "d -> d")


EMBEDDING = one("model.embed_tokens.weight", "embedding.tokens", "v d -> v d")
HEAD = one("lm_head.weight", "head", "v d -> v d")
FINAL_NORM = norm("model.norm", "final_norm")
_ATTENTION = "model.layers.{l}.self_attn."
OUT = (
    one(f"{_ATTENTION}o_proj.weight", "attention.out", "d (n h) -> n h d"),
    one(f"{_ATTENTION}o_proj.bias", "attention.out_bias", "d -> d"),
)
ATTENTION = (
    one(f"{_ATTENTION}q_proj.weight", "attention.query", "(n h) d -> d n h"),
    one(f"{_ATTENTION}k_proj.weight", "attention.key", "(k h) d -> d k h"),
    one(f"{_ATTENTION}v_proj.weight", "attention.value", "(k h) d -> d k h"),
    one(f"{_ATTENTION}q_proj.bias", "attention.query_bias", "(n h) -> n h"),
    one(f"{_ATTENTION}k_proj.bias", "attention.key_bias", "(k h) -> k h"),
    one(f"{_ATTENTION}v_proj.bias", "attention.value_bias", "(k h) -> k h"),
    *OUT,
    *norm(f"{_ATTENTION}q_norm", "attention.query_norm"),
    *norm(f"{_ATTENTION}k_norm", "attention.key_norm"),
)


def mlp_tensors(
    prefix: str, path: str, *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
):
    """The three products of a gated MLP below `prefix`, and their biases."""
    into = [(gate, "gate"), (up, "up")]
    return (
        *(one(f"{prefix}{theirs}.weight", f"{path}.{ours}", "f d -> d f") for theirs, ours in into),
        one(f"{prefix}{down}.weight", f"{path}.down", "d f -> f d"),
        *(one(f"{prefix}{theirs}.bias", f"{path}.{ours}_bias", "f -> f") for theirs, ours in into),
        one(f"{prefix}{down}.bias", f"{path}.down_bias", "d -> d"),
    )


MLP = mlp_tensors("model.layers.{l}.mlp.", "mlp")
PRE_NORMS = (
    *norm("model.layers.{l}.input_layernorm", "attention_norm"),
    *norm("model.layers.{l}.post_attention_layernorm", "mlp_norm"),
)
OUTSIDE = (EMBEDDING, *FINAL_NORM, HEAD)
LLAMA = (*OUTSIDE, *ATTENTION, *MLP, *PRE_NORMS)
"""The tensors of a Llama; families of the same names take them as they are."""
