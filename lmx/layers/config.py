"""`kernels`: which implementation computes each product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from lmx.config.component import Config, field
from lmx.config.types import Flag, Positive, PositiveReal

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from lmx.layers.kernels import KernelSet


class Splash(Config):
    """Blocks of the splash kernel, in tokens: multiples of 128; no result depends on them."""

    query_block: Positive = field("queries read at once, forward", unit="tokens", effect="throughput")
    key_block: Positive = field("keys read at once, forward", unit="tokens", effect="throughput")
    key_block_computed: Positive = field("of these, multiplied at a time", unit="tokens", effect="throughput")
    query_block_backward: Positive = field(
        "queries read at once, backward", unit="tokens", effect="throughput"
    )
    key_block_backward: Positive = field("keys read at once, backward", unit="tokens", effect="throughput")
    key_block_computed_backward: Positive = field(
        "of these, multiplied at a time", unit="tokens", effect="throughput"
    )
    fused_backward: Flag = field(
        "one backward pass instead of two; the gradient of the queries is then held once for each block of keys",
        effect="throughput",
    )


class Kernels(Config):
    """Implementations of the products that exist in several; all compute the same, up to rounding."""

    products: Literal["auto", "plain", "cpu"] = field(
        "products with weights: plain, or in the forms that a CPU's matrix unit takes; auto: cpu on one CPU device",
        effect="throughput",
    )
    activations: Literal["auto", "plain", "cpu"] = field(
        "nonlinearities: plain, or with gradients written out for CPU; auto: cpu on one CPU device",
        effect="throughput",
    )
    attention: Literal["auto", "dot_product", "blockwise", "cpu", "splash", "cudnn"] = field(
        "all scores at once; in blocks of queries that are recomputed backward; in blocks that are kept (cpu); or a "
        "fused kernel of TPU (splash) or NVIDIA GPU (cudnn); auto: the platform's own where it can serve (cpu: on one "
        "device), else blockwise",
        effect="throughput",
    )
    splash: Splash = field("blocks of the splash kernel", effect="throughput")
    attention_block: Positive = field(
        "fewest queries in a block of blockwise and cpu: smaller blocks skip more of what causality hides, larger "
        "ones make better products",
        unit="tokens",
        effect="throughput",
    )
    attention_blocks: Positive = field("most blocks of a sequence", effect="throughput")
    experts: Literal["auto", "ragged", "blocks", "megablox"] = field(
        "products of tokens with their experts: groups of any size (ragged; megablox is a fused kernel of TPU for "
        "them), or filled up to blocks; auto: blocks on one CPU device, megablox on TPU, else ragged",
        effect="throughput",
    )
    exchange: Literal["auto", "dense", "ragged"] = field(
        "tokens to the devices of their experts, where mesh.rules.experts splits those: all that there is room for, "
        "filled or not (dense), or what is filled (ragged: not on CPU); auto: ragged on TPU and GPU",
        effect="throughput",
    )
    exchange_room: PositiveReal | None = field(
        "room of a device for the tokens of another on their way to its experts, in even shares of its choices: what "
        "finds none is left out, and counted (experts/overflow of each logged step); null: room for all that can come, "
        "so that nothing is left out",
        effect="numerics",
        example="1.5",
        before=None,
    )
    logits_mib: PositiveReal = field(
        "float32 logits held at once on a device: the loss is computed in as many pieces as that takes",
        unit="MiB",
        effect="throughput",
    )

    def build(
        self,
        platform: str,
        n_devices: int = 1,
        *,
        mesh: Mesh | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> KernelSet:
        """The functions, for a platform and the size of the mesh.

        `mesh` and its `rules` are needed for kernels that are not partitioned by themselves (splash) on several
        devices.
        """
        from lmx.layers.kernels import build

        return build(self, platform, n_devices, mesh=mesh, rules=rules)
