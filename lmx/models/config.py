"""`model`: the decoder and its parts. Each part owns its knobs; a family of models is one YAML of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from lmx.config.component import Component, Config, field
from lmx.config.types import Decay, Flag, Fraction, Positive, PositiveReal, Text

if TYPE_CHECKING:
    import jax.numpy as jnp
    import numpy as np

    from lmx.layers.kernels import KernelSet
    from lmx.models.model import Model as BuiltModel
    from lmx.sharding import Shard


class Norm(Config):
    """Normalisation, wherever the model has one."""

    kind: Literal["rms_norm", "layer_norm"] = field(
        "rms_norm (arXiv:1910.07467) or layer_norm (arXiv:1607.06450)"
    )
    epsilon: PositiveReal = field("added to the mean square or the variance")
    scale: Literal["none", "weight", "one_plus_weight"] = field(
        "learned factor: none, a weight that starts at 1, or 1 + a weight that starts at 0 (Gemma)"
    )
    scale_in: Literal["compute", "float32"] = field(
        "precision of the product with the scale: compute casts first (Llama), float32 casts after (OLMo, Gemma)"
    )
    bias: Flag = field("whether a learned bias is added")
    placement: Literal["pre", "post", "both"] = field(
        "norms on the input of attention and MLP (pre), on their output before the residual (post), or both"
    )


class RopeScaling(Component):
    """How rotary frequencies are changed for contexts longer than those of pre-training."""

    def scale(self, inv: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """Radians a position of each pair, changed, and the factor of cos and sin."""
        raise NotImplementedError(f"{type(self).__name__}.scale")


class LinearScaling(RopeScaling):
    """Positions divided by `factor` (arXiv:2306.15595)."""

    factor: PositiveReal = field("how many times longer the context becomes")

    def scale(self, inv: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """See `RopeScaling.scale`."""
        return inv / self.factor, 1.0


class DynamicScaling(RopeScaling):
    """NTK-aware: theta grown so that the lowest frequency spans `factor` times the original context."""

    factor: PositiveReal = field("how many times longer the context becomes")
    original_length: Positive = field("context of pre-training", unit="tokens")

    def scale(self, inv: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """See `RopeScaling.scale`."""
        from lmx.layers.rope import dynamic

        return dynamic(inv, theta=theta, factor=self.factor), 1.0


class Llama3Scaling(RopeScaling):
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, those between interpolated."""

    factor: PositiveReal = field("divisor of the low frequencies")
    low_frequency_factor: PositiveReal = field("wavelengths over original_length / this are scaled")
    high_frequency_factor: PositiveReal = field("wavelengths under original_length / this are kept")
    original_length: Positive = field("context of pre-training", unit="tokens")

    def scale(self, inv: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """See `RopeScaling.scale`."""
        from lmx.layers.rope import llama3

        low, high = self.low_frequency_factor, self.high_frequency_factor
        length = self.original_length
        return llama3(inv, factor=self.factor, low=low, high=high, original_length=length), 1.0


class YarnScaling(RopeScaling):
    """YaRN (arXiv:2309.00071): a ramp between kept and divided frequencies, and hotter attention."""

    factor: PositiveReal = field("divisor of the low frequencies")
    beta_fast: PositiveReal = field("rotations over the original context above which a frequency is kept")
    beta_slow: PositiveReal = field("rotations below which it is divided by factor")
    original_length: Positive = field("context of pre-training", unit="tokens")
    attention_factor: PositiveReal | None = field("factor of cos and sin; null: 0.1 ln(factor) + 1")
    truncate: Flag = field("whether the ends of the ramp are rounded outwards to whole dimensions")

    def scale(self, inv: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """See `RopeScaling.scale`."""
        from lmx.layers.rope import yarn

        knobs = self.model_dump(exclude={"attention_factor"})
        return yarn(inv, theta=theta, **knobs), self.attention_factor or 0.1 * math.log(self.factor) + 1.0


class Rope(Config):
    """Rotary position embedding (arXiv:2104.09864)."""

    theta: PositiveReal = field("base of the wavelengths")
    fraction: Fraction = field("part of each head's dimensions that is rotated")
    layout: Literal["half", "interleaved"] = field("pairs are (i, i + half) or (2i, 2i + 1)")
    scaling: RopeScaling | None = field("change of the frequencies for long contexts")


class Position(Config):
    """How the model knows the order of tokens."""

    learned: Positive | None = field("length of a learned table added to the embeddings; null: no table")
    ropes: dict[str, Rope] = field("rotary embeddings by name")
    pattern: list[Text] = field("one a layer, repeated over the layers: a name in ropes, or none")


class Attention(Config):
    """Self-attention; its heads are `n_heads`, `n_kv_heads` and `head_dim` of the model."""

    windows: list[Positive | None] = field(
        "tokens that a query sees, itself included; one a layer, repeated over the layers; null: all"
    )
    qk_norm: Literal["none", "head", "full"] = field(
        "norm of queries and keys: none, each head's, or over all heads"
    )
    qkv_bias: Flag = field("biases on query, key and value")
    out_bias: Flag = field("bias on the output projection")
    softcap: PositiveReal | None = field("scores become softcap * tanh(scores / softcap)")
    scale: PositiveReal | None = field("factor of the scores; null: 1 / sqrt(head_dim)")


class Mlp(Config):
    """The feed-forward part."""

    d_ff: Positive = field("hidden width")
    kind: Literal["plain", "gated"] = field("down(act(up x)), or down(act(gate x) * up x) (arXiv:2002.05202)")
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "relu2"] = field("nonlinearity")
    bias: Flag = field("biases on each product")


class Initializer(Config):
    """How weights start. Norm scales start at one and biases at zero."""

    distribution: Literal["normal", "truncated_normal"] = field("truncated_normal is cut at 3 deviations")
    matrix: PositiveReal | Literal["fan_in"] = field("deviation of the matrices; fan_in: 1 / sqrt(inputs)")
    embedding: PositiveReal = field("deviation of the embeddings")
    head: PositiveReal | Literal["fan_in", "zeros"] = field("deviation of an untied output head")
    residual: Literal["plain", "depth", "zeros"] = field(
        "projections back to the residual stream: like any matrix, divided by sqrt(2 n_layers) (GPT-2), or zero"
    )


class Model(Component):
    """A network. Subclasses bring `build` and whatever keys they need."""

    vocab_size: Positive = field("rows of the embedding", unit="tokens")

    def build(self, *, compute_dtype: jnp.dtype, kernels: KernelSet, shard: Shard) -> BuiltModel:
        """The parameters' specs and the functions over them."""
        raise NotImplementedError

    def max_length(self) -> int | None:
        """Longest sequence that the model has positions for; None: any."""
        return None

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        return []


class Decoder(Model):
    """A decoder-only transformer of orthogonal parts."""

    n_layers: Positive = field("number of blocks")
    d_model: Positive = field("width of the residual stream")
    n_heads: Positive = field("query heads")
    n_kv_heads: Positive = field(
        "key/value heads; n_heads: multi-head, 1: multi-query, between: grouped-query"
    )
    head_dim: Positive = field("width of a head")
    norm: Norm = field("normalisation")
    position: Position = field("positions")
    attention: Attention = field("attention")
    mlp: Mlp = field("feed-forward")
    tie_embeddings: Flag = field("whether the output head is the embedding")
    embedding_scale: Literal["one", "sqrt_d_model"] = field("factor of the embeddings (sqrt_d_model: Gemma)")
    embedding_norm: Flag = field("whether the embeddings are normalised before the first block")
    embedding_shift: Positive | None = field(
        "earlier tokens whose embeddings are added to each token's, times learned weights that start at 0: a "
        "depthwise causal convolution (the smear of modded-nanogpt, arXiv:2109.08668 at the input); null: none"
    )
    logits_softcap: PositiveReal | None = field("logits become softcap * tanh(logits / softcap)")
    dropout: Decay = field("rate on the embeddings and on the output of attention and MLP, in training")
    initializer: Initializer = field("how weights start")
    layer_loop: Literal["scan", "unroll"] = field(
        "scan compiles one period of layers; unroll compiles all: longer to compile, faster on CPU",
        effect="throughput",
    )
    remat: Literal["none", "full", "dots", "dots_no_batch", "block_io"] = field(
        "what the backward pass recomputes: nothing, all of a block, all but matrix products, all but products "
        "with weights, all but the outputs of attention and MLP",
        effect="throughput",
    )

    def build(self, *, compute_dtype: jnp.dtype, kernels: KernelSet, shard: Shard) -> BuiltModel:
        """The parameters' specs and the functions over them."""
        from lmx.models.decoder import build

        return build(self, compute_dtype=compute_dtype, kernels=kernels, shard=shard)

    def max_length(self) -> int | None:
        """Longest sequence: the learned table's, or None."""
        return self.position.learned

    @property
    def period(self) -> int:
        """Layers after which window and position repeat."""
        return math.lcm(len(self.attention.windows), len(self.position.pattern))

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        found = []
        if self.n_heads % self.n_kv_heads:
            best = max(
                k for k in range(1, self.n_heads + 1) if self.n_heads % k == 0 and k <= self.n_kv_heads
            )
            found.append(
                (
                    "model.n_kv_heads",
                    f"{self.n_kv_heads} key/value heads do not divide {self.n_heads} query heads",
                    f"model.n_kv_heads={best}",
                )
            )
        for name in self.position.pattern:
            if name != "none" and name not in self.position.ropes:
                known = ", ".join(["none", *self.position.ropes])
                found.append(
                    (
                        "model.position.pattern",
                        f"{name!r} is not one of {known}",
                        f"model.position.pattern=[{next(iter(self.position.ropes), 'none')}]",
                    )
                )
        if not self.attention.windows:
            found.append(
                ("model.attention.windows", "needs at least one entry", "model.attention.windows=[null]")
            )
        if not self.position.pattern:
            found.append(
                ("model.position.pattern", "needs at least one entry", "model.position.pattern=[none]")
            )
        for name, rope in self.position.ropes.items():
            if name in self.position.pattern and round(self.head_dim * rope.fraction) % 2:
                found.append(
                    (
                        "model.head_dim",
                        f"rope {name!r} rotates {round(self.head_dim * rope.fraction)} dimensions of a head of "
                        f"{self.head_dim}, which must be even",
                        f"model.head_dim={self.head_dim + 1}",
                    )
                )
        return found
