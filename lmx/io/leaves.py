"""The arrays of a state by name, and the refusal of a checkpoint that does not fit, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from lmx.io.manifest import Leaf
from lmx.params import path_name
from lmx.types import Tree

_SHOWN = 8


def named_leaves(tree: Tree) -> dict[str, Any]:
    """`params.layers.attention.query` -> array, in tree order; ValueError where two leaves have one name."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {path_name(path): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        names = [path_name(path) for path, _ in leaves]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the state has several leaves named {', '.join(twice)}")
    return named


def describe(named: dict[str, Any]) -> dict[str, Leaf]:
    """Name -> shape and dtype."""
    return {name: Leaf(tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named.items()}


def n_bytes(leaves: Iterable[Leaf]) -> int:
    """Size of arrays; typed random keys, which numpy does not know, count as 16 bytes an element."""
    return sum(int(np.prod(leaf.shape)) * _item_size(leaf.dtype) for leaf in leaves)


def _item_size(dtype: str) -> int:
    try:
        return jax.numpy.dtype(dtype).itemsize
    except TypeError:
        return 16


def nest(named: dict[str, Any]) -> dict[str, Any]:
    """Names as nested dicts, the form on disk: it does not depend on the classes of the optimizer's state."""
    root: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split(".")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return root


def pick(nested: dict[str, Any], name: str) -> Any:
    """The leaf of that name."""
    node: Any = nested
    for part in name.split("."):
        node = node[part]
    return node


def _list(names: list[str]) -> str:
    shown = [f"    {name}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        shown.append(f"    and {len(names) - _SHOWN} more")
    return "\n".join(shown)


def misfits(saved: dict[str, Leaf], wanted: dict[str, Leaf], *, dtypes: bool = True) -> str | None:
    """How a checkpoint's leaves differ from those of a configuration, in lines; None where they do not."""
    parts = []
    only_saved = [f"{name}  {leaf}" for name, leaf in saved.items() if name not in wanted]
    only_wanted = [f"{name}  {leaf}" for name, leaf in wanted.items() if name not in saved]
    differ = [
        f"{name}  {leaf} in the checkpoint, {wanted[name]} in the configuration"
        for name, leaf in saved.items()
        if name in wanted
        and (leaf.shape != wanted[name].shape or (dtypes and leaf.dtype != wanted[name].dtype))
    ]
    if only_saved:
        parts.append(f"  only in the checkpoint ({len(only_saved)}):\n{_list(only_saved)}")
    if only_wanted:
        parts.append(f"  only in the configuration ({len(only_wanted)}):\n{_list(only_wanted)}")
    if differ:
        parts.append(f"  of another shape or dtype ({len(differ)}):\n{_list(differ)}")
    return "\n".join(parts) or None
