"""`model`: the decoder and its parts. Each part owns its knobs; a family of models is one YAML of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Discriminator, Tag

from lmx.config.component import Component, Config, field
from lmx.config.types import Count, Decay, Flag, NonNegative, Positive, PositiveReal, Text
from lmx.layers.choice import Needs
from lmx.models.position import Position

if TYPE_CHECKING:
    import jax.numpy as jnp

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


class Temperature(Config):
    """Queries grow with their position on layers without rotation: x (1 + slope ln(1 + floor((p + 1) / length)))."""

    length: Positive = field("positions between two steps of the factor", unit="tokens")
    slope: NonNegative = field("how much a step adds")


class Latent(Config):
    """Multi-head latent attention (arXiv:2405.04434): keys and values of all heads from one narrow vector a token.

    The last `rope_dim` of the `head_dim` dimensions of queries and keys are rotated; the key's are shared by all
    heads. The cache holds the narrow vector, after its norm, and the rotated part of the key.
    """

    query_rank: Positive | None = field("width that queries are compressed to; null: not compressed")
    key_value_rank: Positive = field("width that keys and values are compressed to")
    rope_dim: Positive = field("rotated dimensions of each head, of its head_dim")
    value_dim: Positive = field("width of a head's value")
    epsilon: PositiveReal = field("epsilon of the norms of the compressed vectors")


class Attention(Config):
    """Self-attention; its heads are `n_heads`, `n_kv_heads` and `head_dim` of the model."""

    windows: list[Positive | None] = field(
        "tokens that a query sees, itself included; one a layer, repeated over the layers; null: all"
    )
    chunks: list[Positive | None] = field(
        "a query sees only its own chunk of this many positions, counted from 0 (Llama 4); one a layer, repeated "
        "over the layers; null: all"
    )
    qk_norm: Literal["none", "head", "full", "head_after_rope"] = field(
        "norm of queries and keys: none, each head's, over all heads, or each head's without a weight, after the "
        "rotation and only where there is one (Llama 4)"
    )
    qkv_bias: Flag = field("biases on query, key and value (of latent attention: on the compressions)")
    out_bias: Flag = field("bias on the output projection")
    sinks: Flag = field(
        "whether each head has a learned score that joins the softmax and carries no value (gpt-oss)"
    )
    softcap: PositiveReal | None = field("scores become softcap * tanh(scores / softcap)")
    scale: PositiveReal | None = field("factor of the scores; null: 1 / sqrt(head_dim)")
    temperature: Temperature | None = field("growth of queries on layers without rotation; null: none")
    latent: Latent | None = field("keys and values through a narrow vector; null: projected directly")


class Mlp(Config):
    """The feed-forward part."""

    d_ff: Positive = field("hidden width; of the dense layers, where others are mixtures")
    kind: Literal["plain", "gated"] = field("down(act(up x)), or down(act(gate x) * up x) (arXiv:2002.05202)")
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "relu2"] = field("nonlinearity")
    bias: Flag = field("biases on each product")
    limit: PositiveReal | None = field(
        "gate is cut above, up on both sides at this, and 1 added to up: act(gate) * (up + 1) (gpt-oss); null: neither"
    )


class RouterGroups(Config):
    """Experts in groups of neighbours, of which only the best are open to a token (arXiv:2405.04434, 2.2.2)."""

    n: Positive = field("groups")
    chosen: Positive = field("groups that a token may choose experts from")
    score: Literal["max", "top2_sum"] = field(
        "a group's score: its best expert's (DeepSeek V2), or the sum of its two best (DeepSeek V3)"
    )


class Router(Config):
    """How a token chooses its experts; always computed in float32."""

    scores: Literal["softmax", "sigmoid"] = field("of the router's logits, over all experts")
    normalise: Flag = field("whether the chosen experts' scores are divided by their sum")
    bias: Literal["none", "logits", "choice"] = field(
        "none; a learned one added to the logits (gpt-oss); or one that is added to the scores for choosing only, "
        "gets no gradient and is meant for balancing (arXiv:2408.15664)"
    )
    bias_update_speed: PositiveReal | None = field(
        "how far a `choice` bias moves after each step, up for experts with less than the mean load of their layer "
        "and down for those with more; null: it stays as it is"
    )
    groups: RouterGroups | None = field("choice limited to the best groups of experts; null: free")
    scale: PositiveReal = field("factor of the chosen experts' scores")
    weighs: Literal["output", "input"] = field(
        "what a score multiplies: an expert's output, or its input (Llama 4)"
    )


class Moe(Config):
    """Mixture of experts (arXiv:1701.06538) in place of the MLP: each an MLP like `model.mlp`, `d_ff` wide."""

    n_experts: Positive = field("routed experts of a layer")
    top_k: Positive = field("experts that a token goes through")
    d_ff: Positive = field("hidden width of an expert")
    shared_d_ff: Positive | None = field(
        "hidden width of the shared experts together, which see every token; null: none"
    )
    capacity_factor: PositiveReal | None = field(
        "an expert takes this times its even share of each sequence's choices, first come, first served, and drops "
        "the rest (arXiv:2006.16668); null: none is dropped, ever"
    )
    router: Router = field("choice of experts")
    first_dense: Count = field("layers at the start that keep the MLP")
    pattern: list[Literal["moe", "dense"]] = field("one a layer after those, repeated: mixture, or MLP")
    balance_loss: NonNegative = field(
        "factor of n_experts x sum of (share of choices x mean score), 1 when balanced (arXiv:2101.03961); 0: off"
    )
    z_loss: NonNegative = field(
        "factor of the mean squared log-sum-exp of the router's logits (arXiv:2202.08906); 0: off"
    )

    def layers(self, n_layers: int) -> list[Literal["moe", "dense"]]:
        """Which of `n_layers` is a mixture."""
        first = min(self.first_dense, n_layers)
        dense: list[Literal["moe", "dense"]] = ["dense"] * first
        return dense + [self.pattern[i % len(self.pattern)] for i in range(n_layers - first)]


class Convolution(Config):
    """Short causal convolutions, each channel apart, added to what they read; learned weights that start at 0.

    The number of earlier tokens that each token is mixed with; null: no convolution there. Token shift (RWKV,
    arXiv:2305.13048); Canon layers A and C (Allen-Zhu, Physics of Language Models, part 4.1).
    """

    embedding: Positive | None = field("on the embeddings")
    attention: Positive | None = field("on what attention reads, in every layer")
    mlp: Positive | None = field("on what the MLP reads, in every layer")


class Initializer(Config):
    """How weights start. Norm scales start at one and biases at zero."""

    distribution: Literal["normal", "truncated_normal"] = field("truncated_normal is cut at 3 deviations")
    matrix: PositiveReal | Literal["fan_in"] = field("deviation of the matrices; fan_in: 1 / sqrt(inputs)")
    embedding: PositiveReal = field("deviation of the embeddings")
    head: PositiveReal | Literal["fan_in", "zeros"] = field("deviation of an untied output head")
    residual: Literal["plain", "depth", "zeros"] = field(
        "projections back to the residual stream: like any matrix, divided by sqrt(2 n_layers) (GPT-2), or zero"
    )


TENSORS = (
    *("block_input", "latent", "query", "key", "value", "attention_context", "attention_out"),
    *("mlp_gate", "mlp_up", "mlp_hidden", "mlp_out"),
)
"""What `model.remat` can name, in the order of a block. block_input is kept in any case, here or on the host; latent
is the compressed vector of latent attention; mlp_gate, mlp_up and mlp_hidden are those of experts as well."""


def _known_tensors(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if name not in TENSORS:
            near = difflib.get_close_matches(name, TENSORS, n=1, cutoff=0.4)
            raise ValueError(
                f"{name!r} is no tensor of a block{f'; the nearest is {near[0]}' if near else ''}; there are "
                f"{', '.join(TENSORS)}"
            )
    if value.get("block_input") == "remat":
        raise ValueError("block_input cannot be recomputed from anything; it can be save or offload")
    return value


Remat = Annotated[
    Annotated[Literal["none", "full", "dots", "dots_no_batch", "attention", "block_io"], Tag("policy")]
    | Annotated[
        dict[str, Literal["save", "remat", "offload"]], AfterValidator(_known_tensors), Tag("by tensor")
    ],
    Discriminator(lambda value: "by tensor" if isinstance(value, Mapping) else "policy"),
]


class Model(Component):
    """A network. Subclasses bring `build` and whatever keys they need."""

    vocab_size: Positive = field("rows of the embedding", unit="tokens")

    def build(self, *, compute_dtype: jnp.dtype, kernels: KernelSet, shard: Shard) -> BuiltModel:
        """The parameters' specs and the functions over them."""
        raise NotImplementedError

    def max_length(self) -> int | None:
        """Longest sequence that the model has positions for; None: any."""
        return None

    def rope_switches(self) -> tuple[int, ...]:
        """Lengths past which the model turns all of its positions otherwise."""
        return ()

    def logical_axes(self) -> tuple[str, ...]:
        """Names of axes beyond those of `lmx.config.mesh.LOGICAL_AXES`, of which `mesh.rules` may speak."""
        return ()

    def attention_needs(self, compute_dtype: str) -> Needs | None:
        """What its layers ask of an attention kernel; None where it has no attention."""
        return None

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        return []


class Decoder(Model):
    """A decoder-only transformer of orthogonal parts."""

    init_from: Text | None = field(
        "where the parameters start: a run directory, a checkpoint in it, or a HuggingFace directory; null: at random",
        example="DIR",
    )
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
    moe: Moe | None = field("mixture of experts; null: every layer is dense")
    tie_embeddings: Flag = field("whether the output head is the embedding")
    embedding_scale: Literal["one", "sqrt_d_model"] = field("factor of the embeddings (sqrt_d_model: Gemma)")
    embedding_norm: Flag = field("whether the embeddings are normalised before the first block")
    convolution: Convolution = field("mixing of neighbouring tokens")
    logits_softcap: PositiveReal | None = field("logits become softcap * tanh(logits / softcap)")
    dropout: Decay = field("rate on the embeddings and on the output of attention and MLP, in training")
    initializer: Initializer = field("how weights start")
    layer_loop: Literal["scan", "unroll"] = field(
        "scan compiles one period of layers; unroll compiles all: longer to compile, faster on CPU",
        effect="throughput",
    )
    remat: Remat = field(
        "what the backward pass recomputes: nothing (none), all of a block (full), all but matrix products (dots), "
        "all but products with weights (dots_no_batch), all but what attention mixes (attention), all but the "
        "outputs of attention and MLP (block_io); or by tensor, {attention_context: save, query: offload, ...}: "
        "kept, kept in the host's memory, or recomputed (remat), as are those not named",
        effect="throughput",
    )

    def build(self, *, compute_dtype: jnp.dtype, kernels: KernelSet, shard: Shard) -> BuiltModel:
        """The parameters' specs and the functions over them."""
        from lmx.models.decoder import build

        return build(self, compute_dtype=compute_dtype, kernels=kernels, shard=shard)

    def max_length(self) -> int | None:
        """Longest sequence: the learned table's, or None."""
        return self.position.learned

    def rope_switches(self) -> tuple[int, ...]:
        """See `Model.rope_switches`."""
        scalings = [rope.scaling for rope in self.position.ropes.values() if rope.scaling is not None]
        return tuple(sorted({s.switches_after for s in scalings if s.switches_after is not None}))

    def attention_needs(self, compute_dtype: str) -> Needs:
        """What its layers ask of an attention kernel."""
        latent, knobs = self.attention.latent, self.attention
        value_dim = latent.value_dim if latent else self.head_dim
        return Needs(compute_dtype, self.head_dim, value_dim, knobs.softcap is not None, knobs.sinks)

    @property
    def rope_dim(self) -> int:
        """Dimensions of a head that rotary embeddings count in."""
        return self.attention.latent.rope_dim if self.attention.latent else self.head_dim

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        from lmx.models.contradictions import problems_of

        return problems_of(self)
