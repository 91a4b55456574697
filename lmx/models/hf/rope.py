"""Rotary parameters of a `config.json`, in both spellings, to `position.ropes` and back.

Older files have `rope_theta` and `rope_scaling` (its kind called `type` or `rope_type`), newer ones
`rope_parameters`, which may be nested by layer type.
"""

from __future__ import annotations

import math
from typing import Any

from lmx.config.errors import RequestError
from lmx.config.foreign import quoted, quoted_keys
from lmx.models.hf.keys import Keys

LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")


def read_ropes(
    keys: Keys,
    *,
    theta: float,
    layout: str = "half",
    types: tuple[str, ...] = (),
    length: int | None = None,
    partial: bool = False,
) -> dict[str, dict[str, Any]]:
    """Layer type -> a rope, or `""` -> the one of all layers; `theta` is the family's where none is given.

    `types` are the layer types that get a rope each where the file has one for all. `length` is the context of
    pre-training where the scaling does not say it (max_position_embeddings). `partial`: whether the family rotates a
    part of a head where the file says so; the code of the others passes the key over, so that it is refused.
    """
    new, scaling = keys.take("rope_parameters", None), keys.take("rope_scaling", None)
    fraction = keys.given("partial_rotary_factor", 1.0)
    theta = keys.given("rope_theta", theta)
    for name, told in (("rope_parameters", new), ("rope_scaling", scaling)):
        if not isinstance(told, dict | None):
            keys.refuse(name, told)
        parts = [part for part in (told or {}, *(told or {}).values()) if isinstance(part, dict)]
        for part in (fraction, *(p.get("partial_rotary_factor") or 1.0 for p in parts)):
            if part != 1.0 and not partial:
                keys.refuse("partial_rotary_factor", part)
        _check_outer(keys, name, parts)

    def read(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return _by_layer(told, theta, fraction, layout, (keys, length))

    found = read(new or scaling or {})
    if new and scaling:
        older = read(scaling)
        if older != found and not (set(older) == {""} and older[""] in found.values()):
            raise RequestError(
                f"{keys.where}: rope_parameters={quoted(new)} and rope_scaling={quoted(scaling)} disagree, "
                "and readers differ in which of them they take; remove the wrong one"
            )
    return {name: found[""] for name in types} if types and "" in found else found


def _check_outer(keys: Keys, name: str, parts: list[dict[str, Any]]) -> None:
    """RequestError where a value outside of `rope_parameters` or `rope_scaling` is none of those inside."""
    for key in ("rope_theta", "partial_rotary_factor"):
        outer, inner = keys.raw.get(key), [part[key] for part in parts if part.get(key) is not None]
        if outer is not None and inner and outer not in inner:
            told = " and ".join(quoted(value) for value in inner)
            raise RequestError(
                f"{keys.where}: {key}={quoted(outer)}, but {name} has {key}={told}: they disagree; "
                "remove the wrong one"
            )


def _by_layer(
    told: dict[str, Any], theta: float, fraction: float, layout: str, context: tuple[Keys, int | None]
) -> dict[str, dict[str, Any]]:
    """The ropes of one spelling: by layer type, or `""` -> the one of all."""
    if not any(name in LAYER_TYPES for name in told):
        return {"": _read(told, theta, fraction, layout, context)}
    others = sorted(set(told) - set(LAYER_TYPES))
    if others:
        raise RequestError(
            f"{context[0].where}: rope_parameters has entries by layer type, and beside them {quoted_keys(others)} for "
            "all layers: which of them count is not clear; remove the others"
        )
    return {name: _read(part or {}, theta, fraction, layout, context) for name, part in told.items()}


def _read(
    told: dict[str, Any], theta: float, fraction: float, layout: str, context: tuple[Keys, int | None]
) -> dict[str, Any]:
    told = dict(told)
    theta = told.pop("rope_theta", theta)
    fraction = told.pop("partial_rotary_factor", fraction)
    return {
        "theta": float(theta),
        "fraction": float(fraction),
        "layout": layout,
        "scaling": _scaling(told, *context),
    }


def _scaling(told: dict[str, Any], keys: Keys, length: int | None) -> dict[str, Any] | None:
    kind = told.pop("rope_type", None) or told.get("type") or "default"
    told.pop("type", None)
    whole = {"rope_type": kind, **told}

    def take(name: str, default: Any = None) -> Any:
        value = told.pop(name, None)
        if value is None and default is None:
            raise RequestError(f"{keys.where}: rope scaling {quoted(whole)} lacks {name}")
        return default if value is None else value

    if kind == "default":
        found = None
    elif kind == "linear":
        take("original_max_position_embeddings", -1)  # changes nothing in this kind
        found = {"_target_": "lmx.models.LinearScaling", "factor": take("factor")}
    elif kind == "dynamic":
        # transformers goes by max_position_embeddings whatever the scaling says of the original length.
        original = take("original_max_position_embeddings", length or -1)
        found = {
            "_target_": "lmx.models.DynamicScaling",
            "factor": take("factor"),
            "original_length": length or original,
        }
    elif kind == "llama3":
        found = {
            "_target_": "lmx.models.Llama3Scaling",
            "factor": take("factor"),
            "low_frequency_factor": take("low_freq_factor"),
            "high_frequency_factor": take("high_freq_factor"),
            "original_length": take("original_max_position_embeddings", length),
        }
    elif kind == "yarn":
        found = _yarn(take, length)
    elif kind in ("longrope", "su"):
        found = _longrope(take, keys, length)
    else:
        raise RequestError(f"{keys.where}: rope_type={quoted(kind)} is not supported")
    if told:
        raise RequestError(
            f"{keys.where}: rope scaling {quoted(whole)}: {quoted_keys(told)} not known for {kind}"
        )
    return found


def _yarn(take: Any, length: int | None) -> dict[str, Any]:
    original = take("original_max_position_embeddings", length)
    # Without a factor the rope is stretched from the length that is said to the model's; else it would not be at all.
    factor = float(take("factor", length / original if length and length != original else None))
    absent = float("nan")
    attention, mscale, of_all = (
        float(take(name, absent)) for name in ("attention_factor", "mscale", "mscale_all_dim")
    )

    def grown(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if math.isnan(attention):
        both = not math.isnan(mscale) and not math.isnan(of_all) and mscale and of_all
        attention = grown(mscale) / grown(of_all) if both else grown(1.0)
    return {
        "_target_": "lmx.models.YarnScaling",
        "factor": factor,
        "beta_fast": take("beta_fast", 32.0),
        "beta_slow": take("beta_slow", 1.0),
        "original_length": original,
        "attention_factor": attention,
        "truncate": take("truncate", True),
    }


def _longrope(take: Any, keys: Keys, length: int | None) -> dict[str, Any]:
    inside = take("original_max_position_embeddings", -1)
    original = keys.given("original_max_position_embeddings", length if inside == -1 else inside)
    factor = float(take("factor", (length or original) / original))
    attention = take(
        "attention_factor", math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    )
    return {
        "_target_": "lmx.models.LongRopeScaling",
        "short_factors": take("short_factor"),
        "long_factors": take("long_factor"),
        "original_length": original,
        "attention_factor": float(attention),
    }


def write_rope(rope: Any) -> dict[str, Any]:
    """The newer spelling, `rope_parameters`, of a rope."""
    found: dict[str, Any] = {"rope_theta": rope.theta, "rope_type": "default"}
    if rope.fraction != 1.0:
        found["partial_rotary_factor"] = rope.fraction
    scaling = rope.scaling
    if scaling is None:
        return found
    names: dict[str, str] = {
        "low_frequency_factor": "low_freq_factor",
        "high_frequency_factor": "high_freq_factor",
        "original_length": "original_max_position_embeddings",
        "short_factors": "short_factor",
        "long_factors": "long_factor",
    }
    kinds = {"LongRopeScaling": "longrope"}
    kind = type(scaling).__name__
    found["rope_type"] = kinds.get(kind, kind.removesuffix("Scaling").lower())
    told: dict[str, Any] = scaling.model_dump()
    found |= {names.get(k, k): v for k, v in told.items() if v is not None}
    return found


def write_one(rope: Any) -> dict[str, Any]:
    """The older spelling, which every release reads: `rope_theta`, `rope_scaling`, `partial_rotary_factor`."""
    told = write_rope(rope)
    theta, fraction = told.pop("rope_theta"), told.pop("partial_rotary_factor", None)
    scaling = None if told["rope_type"] == "default" else told
    found = {"rope_theta": theta, "rope_scaling": scaling}
    return found if fraction is None else found | {"partial_rotary_factor": fraction}


def by_type(keys: Keys, ropes: dict[str, dict[str, Any]], types: list[str]) -> dict[str, Any]:
    """`position` of a model whose layers are rotated by their type; ropes that no layer has are left out."""
    lacking = sorted(set(types) - ropes.keys())
    if lacking:
        raise RequestError(f"{keys.where}: rope_parameters says nothing of {lacking[0]}")
    return {"ropes": {name: ropes[name] for name in sorted(set(types))}, "pattern": types}


def write_ropes(config: Any, types: list[str]) -> dict[str, Any]:
    """`rope_parameters` nested by layer type; where a type's layers differ, the first counts."""
    names, ropes = config.position.pattern, config.position.ropes
    first = {kind: names[types.index(kind) % len(names)] for kind in sorted(set(types))}
    return {kind: write_rope(ropes[name]) for kind, name in first.items()}
