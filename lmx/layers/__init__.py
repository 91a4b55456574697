"""Layers as functions, and the kernels under them."""

from lmx.layers.config import Kernels
from lmx.layers.precision_config import Precision

__all__ = ["Kernels", "Precision"]
