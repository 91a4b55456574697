"""Which weights of a model have their products in 8 bits: patterns of paths, looked up in the `Param`s."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

import jax

from lmx.layers.precision_config import Precision
from lmx.layers.quantised import Coarse, Format
from lmx.params import named_params, path_name
from lmx.types import Tree

Formats = dict[str, Format]
"""Path -> format, of the weights whose products are in 8 bits."""


def formats_of(precision: Precision | None, specs: Tree) -> Formats:
    """ValueError where a pattern fits no weight of a product with activations."""
    if precision is None:
        return {}
    # Products of experts, of routers and with the vocabulary are computed elsewhere.
    weights = [
        path
        for path, param in named_params(specs).items()
        if param.is_matrix and path.startswith("layers.") and not {"experts", "router"} & set(param.axes)
    ]
    found: Formats = {}
    for name, products in precision.products.items():
        patterns = [products.path] if isinstance(products.path, str) else products.path
        for pattern in patterns:
            fitting = [path for path in weights if fnmatchcase(path, pattern)]
            if not fitting:
                near = difflib.get_close_matches(pattern, weights, n=3, cutoff=0.3) or weights[:3]
                raise ValueError(
                    f"precision.products.{name}.path={pattern} fits no weight whose products can be in 8 bits; there "
                    f"are {', '.join(near)}"
                )
            found |= {path: products.format for path in fitting if path not in found}
    return found


def marked(formats: Formats, place: int, layers: Tree) -> Tree:
    """The parameters of the layers of a place, those in `formats` as `Coarse`."""
    if not formats:
        return layers

    def one(path: tuple, x: jax.Array) -> jax.Array | Coarse:
        form = formats.get(f"layers.{place}.{path_name(path)}")
        return x if form is None else Coarse(x, form)

    return jax.tree_util.tree_map_with_path(one, layers)
