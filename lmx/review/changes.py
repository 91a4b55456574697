"""What differs between two configurations, leaf by leaf, each with where it was set and what it affects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lmx.config.component import Config
from lmx.config.errors import UNSET
from lmx.config.origins import origin_of
from lmx.config.schema import differences

EFFECTS = ("numerics", "throughput", "bookkeeping")


class Side(NamedTuple):
    """One of two configurations.

    label    what it is called in tables
    tree     plain and resolved, as `config.yaml` keeps it
    origins  full path -> where it was set
    """

    label: str
    tree: Mapping[str, Any]
    origins: Mapping[str, str]


class Change(NamedTuple):
    """A key; `old` and `new` are UNSET where one side lacks it."""

    key: str
    old: Any
    new: Any
    effect: str
    old_origin: str | None
    new_origin: str | None


def changes(old: Side, new: Side, schema: type[Config]) -> dict[str, list[Change]]:
    """Effect -> changes, numerics first; a key that the schema does not know counts as numerics."""
    found: dict[str, list[Change]] = {effect: [] for effect in EFFECTS}
    for d in differences(old.tree, new.tree, schema):
        found[d.effect].append(
            Change(
                d.key, d.old, d.new, d.effect, origin_of(old.origins, d.key), origin_of(new.origins, d.key)
            )
        )
    return found


def changes_json(found: Mapping[str, list[Change]]) -> dict[str, list[dict[str, Any]]]:
    """Plain values; a side that lacks the key lacks `old` or `new`."""
    told: dict[str, list[dict[str, Any]]] = {}
    for effect, ones in found.items():
        told[effect] = [
            {name: value for name, value in one._asdict().items() if value is not UNSET} for one in ones
        ]
    return told
