"""`precision`: which products are computed in 8 bits."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Text


class Products(Config):
    """The products with some weights."""

    path: Text | list[Text] = field(
        "pattern of the weights' paths, or several: layers.*.mlp.*, a star crosses dots"
    )
    format: Literal["int8", "fp8"] = field(
        "8-bit integers, or floats (e4m3, gradients e5m2), each row scaled by its largest element"
    )


class Precision(Config):
    """Products in 8 bits, forward and backward; all others are computed in `trainer.compute_dtype`."""

    products: dict[str, Products] = field(
        "by a name of one's own: which weights, and the format; where two fit a weight, the first counts"
    )
