"""Layers as functions, and the kernels under them."""

from lmx.layers.config import Kernels

__all__ = ["Kernels"]
