"""Contradictions between a decoder's keys, each with a fix that can be pasted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmx.models.config import Decoder

Problem = tuple[str, str, str]
"""Key, message, fix."""


def problems_of(config: Decoder) -> list[Problem]:
    """Every contradiction of `model`."""
    return [
        *_heads(config),
        *_patterns(config),
        *_ropes(config),
        *_latent(config),
        *_moe(config),
        *_remat(config),
    ]


def _heads(config: Decoder) -> Iterator[Problem]:
    n, kv = config.n_heads, config.n_kv_heads
    if n % kv:
        best = max(k for k in range(1, n + 1) if n % k == 0 and k <= kv)
        message = f"{kv} key/value heads do not divide {n} query heads"
        yield "model.n_kv_heads", message, f"model.n_kv_heads={best}"


def _patterns(config: Decoder) -> Iterator[Problem]:
    position, attention = config.position, config.attention
    for name in position.pattern:
        if name != "none" and name not in position.ropes:
            message = f"{name!r} is not one of {', '.join(['none', *position.ropes])}"
            fix = f"model.position.pattern=[{next(iter(position.ropes), 'none')}]"
            yield "model.position.pattern", message, fix
    empty = "needs at least one entry"
    for key, entries in (("windows", attention.windows), ("chunks", attention.chunks)):
        if not entries:
            yield f"model.attention.{key}", empty, f"model.attention.{key}=[null]"
    if not position.pattern:
        yield "model.position.pattern", empty, "model.position.pattern=[none]"
    if config.moe and not config.moe.pattern:
        yield "model.moe.pattern", empty, "model.moe.pattern=[moe]"


def _ropes(config: Decoder) -> Iterator[Problem]:
    latent = config.attention.latent
    key = "model.attention.latent.rope_dim" if latent else "model.head_dim"
    for name, rope in config.position.ropes.items():
        if name not in config.position.pattern:
            continue
        rotated = round(config.rope_dim * rope.fraction)
        if rotated % 2:
            message = f"rope {name!r} rotates {rotated} dimensions of a head of {config.rope_dim}, which must be even"
            yield key, message, f"{key}={config.rope_dim + 1}"
        for which in ("short_factors", "long_factors"):
            factors = getattr(rope.scaling, which, None)
            if factors is not None and len(factors) != rotated // 2:
                key_ = f"model.position.ropes.{name}.scaling.{which}"
                message = f"has {len(factors)} entries for {rotated // 2} rotated pairs"
                yield key_, message, f"one for each pair, or position.ropes.{name}.fraction so that they fit"


def _latent(config: Decoder) -> Iterator[Problem]:
    latent = config.attention.latent
    if latent is None:
        return
    if latent.rope_dim >= config.head_dim:
        message = f"{latent.rope_dim} rotated dimensions leave none of head_dim {config.head_dim}"
        yield "model.attention.latent.rope_dim", message, f"model.head_dim={2 * latent.rope_dim}"
    if config.n_kv_heads != config.n_heads:
        message = "latent attention makes keys and values for every head"
        yield "model.n_kv_heads", message, f"model.n_kv_heads={config.n_heads}"
    if config.attention.qk_norm != "none":
        message = "latent attention norms the compressed vectors instead"
        yield "model.attention.qk_norm", message, "model.attention.qk_norm=none"
    if config.attention.temperature is not None:
        message = "latent attention has no temperature"
        yield "model.attention.temperature", message, "model.attention.temperature=null"


def _moe(config: Decoder) -> Iterator[Problem]:
    moe = config.moe
    if moe is None:
        return
    if moe.top_k > moe.n_experts:
        message = f"{moe.top_k} of {moe.n_experts} experts cannot be chosen"
        yield "model.moe.top_k", message, f"model.moe.top_k={moe.n_experts}"
    if moe.router.bias_update_speed is not None and moe.router.bias != "choice":
        message = f"there is no bias to update with model.moe.router.bias={moe.router.bias}"
        yield "model.moe.router.bias_update_speed", message, "model.moe.router.bias=choice"
    groups = moe.router.groups
    if groups is None:
        return
    size, rest = divmod(moe.n_experts, groups.n)
    if rest:
        best = max(n for n in range(1, groups.n + 1) if moe.n_experts % n == 0)
        message = f"{groups.n} groups do not divide {moe.n_experts} experts"
        yield "model.moe.router.groups.n", message, f"model.moe.router.groups.n={best}"
    elif groups.chosen > groups.n:
        message = f"{groups.chosen} of {groups.n} groups cannot be chosen"
        yield "model.moe.router.groups.chosen", message, f"model.moe.router.groups.chosen={groups.n}"
    elif groups.chosen * size < moe.top_k:
        message = f"{groups.chosen} groups of {size} experts hold fewer than top_k={moe.top_k}"
        yield (
            "model.moe.router.groups.chosen",
            message,
            f"model.moe.router.groups.chosen={-(-moe.top_k // size)}",
        )
    elif groups.score == "top2_sum" and size < 2:
        message = "a group of one expert has no two best"
        yield "model.moe.router.groups.score", message, "model.moe.router.groups.score=max"


def _remat(config: Decoder) -> Iterator[Problem]:
    if isinstance(config.remat, str):
        return
    absent = {
        "latent": (config.attention.latent is None, "model.attention.latent is null"),
        "mlp_gate": (config.mlp.kind == "plain", "model.mlp.kind is plain"),
    }
    for name, (missing, why) in absent.items():
        if missing and name in config.remat:
            rest = ", ".join(f"{key}: {value}" for key, value in config.remat.items() if key != name)
            yield (
                "model.remat",
                f"there is no {name}: {why}",
                f"'model.remat={{{rest}}}'" if rest else "model.remat=full",
            )
