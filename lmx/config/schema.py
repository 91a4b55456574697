"""Questions to a tree of configuration classes: which keys exist, what they mean, what a change of one affects."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from lmx.config.component import Component, Config, Effect, resolve_target
from lmx.config.errors import UNSET

_STRENGTH: dict[str, int] = {"bookkeeping": 0, "throughput": 1, "numerics": 2}


class Spot(NamedTuple):
    """A place in the schema.

    annotation  the type of the value there
    field       the field's description, or None inside a dict or list
    effect      what a change of it affects, the weakest along the path
    """

    annotation: Any
    field: FieldInfo | None
    effect: Effect


def fields_of(cls: type[Config]) -> dict[str, FieldInfo]:
    """Key as YAML writes it -> field."""
    return {info.alias or name: info for name, info in cls.model_fields.items()}


def alternatives(annotation: Any) -> list[Any]:
    """The types that a value may have: unions and `Annotated` undone."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [inner for part in get_args(annotation) for inner in alternatives(part)]
    return [annotation]


def is_optional(annotation: Any) -> bool:
    """Whether `null` is allowed."""
    return type(None) in alternatives(annotation) or annotation is Any


def literals(annotation: Any) -> list[Any]:
    """The values that a Literal (or a boolean) allows, in order."""
    found: list[Any] = []
    for part in alternatives(annotation):
        if get_origin(part) is Literal:
            found += get_args(part)
        elif part is bool:
            found += [True, False]
    return found


def subclasses(base: type) -> Iterator[type]:
    """`base` and every class derived from it that is known so far."""
    yield base
    for child in base.__subclasses__():
        yield from subclasses(child)


def classes_at(annotation: Any, value: Any) -> list[type[Config]]:
    """The configuration classes that describe `value`: the one its `_target_` names, or all that are possible."""
    found: list[type[Config]] = []
    for part in alternatives(annotation):
        if not (isinstance(part, type) and issubclass(part, Config)):
            continue
        if issubclass(part, Component) and isinstance(value, Mapping) and "_target_" in value:
            try:
                return [resolve_target(value["_target_"], part)]
            except PydanticCustomError:
                pass
        if issubclass(part, Component):
            found += [c for c in subclasses(part) if c not in found]  # type: ignore[misc]
        else:
            found.append(part)
    return found


def inside_of(annotation: Any) -> Any:
    """The type of the entries of a dict or list type; UNSET for anything else."""
    for part in alternatives(annotation):
        origin, args = get_origin(part) or part, get_args(part)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return args[1] if len(args) > 1 else Any
        if origin in (list, tuple, set, frozenset, Sequence):
            return args[0] if args else Any
    return UNSET


def is_open(annotation: Any) -> bool:
    """Whether keys may be added freely here (a dict type)."""
    kinds = [get_origin(part) or part for part in alternatives(annotation)]
    return any(isinstance(kind, type) and issubclass(kind, Mapping) for kind in kinds)


def _weaker(left: str, right: str) -> Effect:
    return left if _STRENGTH[left] <= _STRENGTH[right] else right  # type: ignore[return-value]


def _effect(info: FieldInfo) -> Effect:
    return told_by(info).get("effect", "numerics")


def step(spot: Spot, key: str, value: Any) -> Spot | None:
    """The place of `key` inside `spot`, whose value is `value`; None where the schema knows no such key."""
    for cls in classes_at(spot.annotation, value):
        info = fields_of(cls).get(key)
        if info is not None:
            return Spot(info.annotation, info, _weaker(spot.effect, _effect(info)))
        if key == "_target_" and issubclass(cls, Component):
            return Spot(str, None, spot.effect)
    inside = inside_of(spot.annotation)
    return None if inside is UNSET else Spot(inside, None, spot.effect)


def pick(tree: Any, key: str) -> Any:
    """The value at a full path in a plain tree; UNSET where there is none."""
    for part in key.split(".") if key else ():
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return UNSET
    return tree


def spot_of(schema: type[Config], key: str, tree: Any = None) -> Spot | None:
    """The place of a full path; `tree` says which classes the polymorphic nodes have."""
    spot: Spot | None = Spot(schema, None, "numerics")
    value = tree
    for part in key.split("."):
        if spot is None:
            return None
        spot = step(spot, part, value)
        value = pick(value, part)
    return spot


def effect_of(schema: type[Config], key: str, tree: Any = None) -> Effect:
    """`numerics`, `throughput` or `bookkeeping`: the weakest effect along the path; KeyError for an unknown key."""
    spot = spot_of(schema, key, tree)
    if spot is None:
        raise KeyError(key)
    return spot.effect


def told(spot: Spot | None, name: str) -> Any:
    """What the field says of itself under `unit`, `example`, `off` or `before`; None where it says nothing."""
    return told_by(spot.field).get(name) if spot is not None else None


def told_by(info: FieldInfo | None) -> dict[str, Any]:
    """All that a field says of itself beyond its type and meaning."""
    extra = info.json_schema_extra if info is not None else None
    return extra if isinstance(extra, dict) else {}


def description_of(schema: type[Config], key: str, tree: Any = None) -> str:
    """What a key means, with its unit; empty where nothing says so."""
    spot = spot_of(schema, key, tree)
    if spot is None or spot.field is None:
        return ""
    unit = told(spot, "unit")
    return (spot.field.description or "") + (f" ({unit})" if unit else "")


def known_keys(schema: type[Config], tree: Any) -> list[str]:
    """Every full path that exists: the schema's fields along `tree`, and the entries of its dicts."""
    found: list[str] = []

    def visit(annotation: Any, value: Any, prefix: str) -> None:
        names: dict[str, Any] = {}
        for cls in classes_at(annotation, value):
            names.update({key: info.annotation for key, info in fields_of(cls).items()})
        if isinstance(value, Mapping) and is_open(annotation):
            names.update({str(key): inside_of(annotation) for key in value})
        for key, inner in names.items():
            found.append(prefix + key)
            inside = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(inside, Mapping) or (
                inside is None and not is_optional(inner) and prefix.count(".") < 3
            ):
                visit(inner, inside, f"{prefix}{key}.")

    visit(schema, tree, "")
    return found


def keys_beside(schema: type[Config], key: str, tree: Any) -> list[str]:
    """Names of the keys that may stand where the last part of `key` stands."""
    parent, _, _ = key.rpartition(".")
    spot = spot_of(schema, parent, tree) if parent else Spot(schema, None, "numerics")
    if spot is None:
        return []
    value = pick(tree, parent)
    names = [name for cls in classes_at(spot.annotation, value) for name in fields_of(cls)]
    if isinstance(value, Mapping) and is_open(spot.annotation):
        names += [str(name) for name in value]
    return list(dict.fromkeys(names))


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Full path -> value, for every leaf; lists and empty mappings count as leaves."""
    if not (isinstance(tree, Mapping) and tree):
        return {prefix: tree} if prefix else {}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


class Difference(NamedTuple):
    """A key whose value differs between two trees; UNSET where one of them lacks it."""

    key: str
    old: Any
    new: Any
    effect: Effect


def differences(old: Any, new: Any, schema: type[Config]) -> list[Difference]:
    """Every leaf that differs, in the order of `old`, then of `new`, with what the difference affects."""
    before, after = flatten(old), flatten(new)
    found = []
    for key in dict.fromkeys([*before, *after]):
        left, right = before.get(key, UNSET), after.get(key, UNSET)
        if type(left) is type(right) and left == right:
            continue
        numbers = all(isinstance(side, int | float) and not isinstance(side, bool) for side in (left, right))
        if numbers and left == right:
            continue
        spot = spot_of(schema, key, old if key in before else new)
        found.append(Difference(key, left, right, spot.effect if spot else "numerics"))
    return found
