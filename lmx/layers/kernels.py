"""`KernelSet`: one implementation of each product that exists in several, chosen for the platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lmx.layers import choice, cpu, cudnn, grouped, loss, quantised, scores, splash
from lmx.layers.activations import ACTIVATIONS
from lmx.layers.choice import Needs
from lmx.layers.grouped import Grouping
from lmx.layers.loss import Head, Losses
from lmx.layers.names import ATTENTION_CONTEXT, named, scope
from lmx.layers.partition import over_mesh
from lmx.layers.precision_config import Precision
from lmx.layers.quantised import Coarse
from lmx.layers.spread import spread_of

if TYPE_CHECKING:
    from lmx.layers.config import Kernels


class KernelSet(NamedTuple):
    """Functions that every variant computes alike, up to rounding.

    einsum(spec, x, w) -> y
        product of activations with a weight, in the dtype of `x`, accumulated in float32; `w` in any dtype.
    einsums(specs, x, weights) -> ys
        the same for several weights that multiply the same activations.
    precision
        which weights' products are in 8 bits: the model hands those over as `lmx.layers.quantised.Coarse`.
    activation[name](x) -> y
        nonlinearities, see `lmx.layers.activations`.
    attention(q_BTNH, k_BSKH, v_BSKH, *, window, softcap, scale, q_positions_BT=, k_positions_BS=,
              q_segments_BT=, k_segments_BS=, sinks_N=) -> o_BTNH
        see `lmx.layers.scores`.
    attention_name(needs) -> str
        the kernel that a layer with these needs gets; ValueError where the one that is asked for cannot serve.
    group(experts_MJ, n_experts) -> Grouping
        tokens in the order of their experts, and the product with those: see `lmx.layers.grouped`.
    exchange
        how tokens get to the devices of their experts: see `lmx.layers.exchange`.
    exchange_room
        room of a device for the pairs of another, in even shares; None: for all that can come.
    cross_entropy(hidden_BTD, head, targets_BT, weights_BT, *, z_loss) -> Losses
    token_losses(hidden_BTD, head, targets_BT) -> nll_BT
        see `lmx.layers.loss`.
    """

    einsum: Callable[[str, jax.Array, jax.Array], jax.Array]
    einsums: Callable[[Sequence[str], jax.Array, Sequence[jax.Array]], tuple[jax.Array, ...]]
    activation: dict[str, Callable[[jax.Array], jax.Array]]
    attention: Callable[..., jax.Array]
    attention_name: Callable[[Needs], str]
    group: Callable[[jax.Array, int], Grouping]
    exchange: Literal["dense", "ragged"]
    cross_entropy: Callable[..., Losses]
    token_losses: Callable[..., jax.Array]
    exchange_room: float | None = None
    precision: Precision | None = None


def plain_einsum(spec: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """`jnp.einsum` in the dtype of `x`: matrix units accumulate in float32 by themselves."""
    return jnp.einsum(spec, x, w.astype(x.dtype))


def plain_einsums(specs: Sequence[str], x: jax.Array, weights: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """One product after another: each keeps its own sharding."""
    return tuple(plain_einsum(spec, x, w) for spec, w in zip(specs, weights, strict=True))


def build(
    config: Kernels,
    platform: str,
    n_devices: int,
    *,
    mesh: jax.sharding.Mesh | None = None,
    rules: Mapping[str, Any] | None = None,
) -> KernelSet:
    """The kernels that `config` names; `auto` is decided here, by platform, number of devices and needs alone."""
    # The kernels of cpu.py are written for one process's matrix library, not for a partitioned program.
    auto = "cpu" if platform == "cpu" and n_devices == 1 else "plain"

    def chosen(key: str) -> str:
        choice = getattr(config, key)
        return auto if choice == "auto" else choice

    def chunks(hidden_BTD: jax.Array, head: Head) -> int:
        tokens = hidden_BTD.shape[0] * hidden_BTD.shape[1]
        return loss.n_chunks(tokens, head.weight.shape[0], logits_mib=config.logits_mib, n_devices=n_devices)

    def cross_entropy(
        hidden_BTD: jax.Array, head: Head, targets_BT: jax.Array, weights_BT: jax.Array, *, z_loss: float
    ) -> Losses:
        pieces = chunks(hidden_BTD, head)
        turned = chosen("products") == "cpu"
        spread = spread_of(mesh, rules, hidden_BTD.shape)
        knobs = {"z_loss": z_loss, "chunks": pieces, "turned": turned, "spread": spread}
        with scope("head"):
            return loss.cross_entropy(hidden_BTD, head, targets_BT, weights_BT, **knobs)

    def token_losses(hidden_BTD: jax.Array, head: Head, targets_BT: jax.Array) -> jax.Array:
        return loss.token_losses(hidden_BTD, head, targets_BT, chunks=chunks(hidden_BTD, head))

    def attention_name(needs: Needs) -> str:
        return choice.chosen(config.attention, platform, n_devices, needs)

    products = {"plain": (plain_einsum, plain_einsums), "cpu": (cpu.einsum, cpu.einsums)}
    einsum, einsums = _in_formats(*products[chosen("products")])
    activation = {"plain": ACTIVATIONS, "cpu": cpu.CPU_ACTIVATIONS}
    return KernelSet(
        einsum=einsum,
        einsums=einsums,
        activation=activation[chosen("activations")],
        attention=_attention(config, attention_name, mesh=mesh, rules=rules),
        attention_name=attention_name,
        group=_group(config, platform, auto),
        exchange=_exchange(config, platform, n_devices),
        exchange_room=config.exchange_room,
        cross_entropy=cross_entropy,
        token_losses=token_losses,
    )


def _in_formats(
    one: Callable[..., Any], several: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Both, for weights that may be `Coarse`."""

    def einsum(spec: str, x: jax.Array, w: Any) -> jax.Array:
        return quantised.einsum(spec, x, w) if isinstance(w, Coarse) else one(spec, x, w)

    def einsums(specs: Sequence[str], x: jax.Array, weights: Sequence[Any]) -> tuple[jax.Array, ...]:
        if any(isinstance(w, Coarse) for w in weights):
            return tuple(einsum(spec, x, w) for spec, w in zip(specs, weights, strict=True))
        return several(specs, x, weights)

    return einsum, einsums


def _group(config: Kernels, platform: str, auto: str) -> Callable[[jax.Array, int], Grouping]:
    """`KernelSet.group`; ValueError where the platform has no such kernel."""
    functions = {"ragged": grouped.ragged, "blocks": grouped.blocks, "megablox": grouped.megablox}
    best = "blocks" if auto == "cpu" else "megablox" if platform == "tpu" else "ragged"
    name = best if config.experts == "auto" else config.experts
    if name == "megablox" and platform != "tpu":
        raise ValueError(
            f"kernels.experts=megablox: it runs on tpu only, and the devices here are {platform}; "
            f"set kernels.experts={best}, or auto"
        )
    return functions[name]


def _exchange(config: Kernels, platform: str, n_devices: int) -> Literal["dense", "ragged"]:
    """`KernelSet.exchange`; ValueError where several devices have no such collective."""
    if config.exchange == "ragged" and platform == "cpu" and n_devices > 1:
        raise ValueError(
            "kernels.exchange=ragged: CPU has no ragged all-to-all; set kernels.exchange=dense, or auto"
        )
    if config.exchange == "auto":
        return "dense" if platform == "cpu" else "ragged"
    return config.exchange


def _attention(
    config: Kernels,
    name_of: Callable[[Needs], str],
    *,
    mesh: jax.sharding.Mesh | None,
    rules: Mapping[str, Any] | None,
) -> Callable[..., jax.Array]:
    """`KernelSet.attention`: each call goes to the kernel that its layer gets."""

    def in_blocks(attention: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def of(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, **masks: Any) -> jax.Array:
            blocks = max(1, min(config.attention_blocks, q_BTNH.shape[1] // config.attention_block))
            return attention(q_BTNH, k_BSKH, v_BSKH, blocks=blocks, **masks)

        return of

    blocks = splash.Blocks(**config.splash.model_dump())
    one_device = partial(splash.attention, blocks=blocks)
    functions: dict[str, Callable[..., jax.Array]] = {
        "dot_product": scores.dot_product,
        "blockwise": in_blocks(scores.blockwise),
        "cpu": in_blocks(cpu.attention),
        "splash": one_device if mesh is None or rules is None else over_mesh(one_device, mesh, rules),
        "cudnn": cudnn.attention,
    }

    def attention(
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        *,
        sinks_N: jax.Array | None = None,
        softcap: float | None,
        q_positions_BT: jax.Array | None = None,
        k_positions_BS: jax.Array | None = None,
        **masks: Any,
    ) -> jax.Array:
        needs = Needs(
            q_BTNH.dtype.name, q_BTNH.shape[-1], v_BSKH.shape[-1], softcap is not None, sinks_N is not None
        )
        name = name_of(needs)
        if q_positions_BT is not None:
            masks |= {"q_positions_BT": q_positions_BT, "k_positions_BS": k_positions_BS}
            name = "blockwise" if name in choice.PLATFORMS else name  # the fused kernels know no cache
        if name != "cudnn":
            masks |= {"sinks_N": sinks_N, "softcap": softcap}
        o_BTNH = functions[name](q_BTNH, k_BSKH, v_BSKH, **masks)
        # Splash names its result, and what its backward pass needs of it, inside.
        return o_BTNH if name == "splash" else named(o_BTNH, ATTENTION_CONTEXT)

    return attention
