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
    matrices = {
        path: set(param.axes)
        for path, param in named_params(specs).items()
        if param.is_matrix and path.startswith("layers.")
    }
    weights = [path for path, axes in matrices.items() if not {"experts", "router"} & axes]
    experts = [path for path, axes in matrices.items() if "experts" in axes]
    found: Formats = {}
    for name, products in precision.products.items():
        patterns = [products.path] if isinstance(products.path, str) else products.path
        for pattern in patterns:
            fitting = [path for path in weights if fnmatchcase(path, pattern)]
            grouped = [path for path in experts if fnmatchcase(path, pattern)]
            if grouped or (experts and not fitting):
                raise ValueError(_of_experts(name, pattern, grouped or experts, weights))
            if not fitting:
                near = difflib.get_close_matches(pattern, weights, n=3, cutoff=0.3) or weights[:3]
                raise ValueError(
                    f"precision.products.{name}.path={pattern} fits no weight whose products can be in 8 bits; there "
                    f"are {', '.join(near)}"
                )
            found |= {path: products.format for path in fitting if path not in found}
    return found


def _of_experts(name: str, pattern: str, grouped: list[str], weights: list[str]) -> str:
    return (
        f"precision.products.{name}.path={pattern}: products with experts ({grouped[0]}), which are grouped by what "
        f"each token chose, are not computed in 8 bits but in trainer.compute_dtype; leave it out "
        f"(~precision.products.{name}), or name others: {', '.join(weights[:3])}"
    )


def marked(formats: Formats, place: int, layers: Tree) -> Tree:
    """The parameters of the layers of a place, those in `formats` as `Coarse`."""
    if not formats:
        return layers

    def one(path: tuple, x: jax.Array) -> jax.Array | Coarse:
        form = formats.get(f"layers.{place}.{path_name(path)}")
        return x if form is None else Coarse(x, form)

    return jax.tree_util.tree_map_with_path(one, layers)
