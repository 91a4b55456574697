"""Models: a tree of `Param`s and pure functions over it."""

from lmx.models.config import (
    Decoder,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    Model,
    RopeScaling,
    YarnScaling,
)

__all__ = [
    "Decoder",
    "DynamicScaling",
    "LinearScaling",
    "Llama3Scaling",
    "Model",
    "RopeScaling",
    "YarnScaling",
]
