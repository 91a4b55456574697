"""lmx: experiments with language models. Hydra configuration, pure JAX, from a laptop to TPU pods."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmx.run.load import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imports jax: only when it is asked for
        from lmx.run.load import load

        return load
    raise AttributeError(f"module 'lmx' has no attribute {name!r}")
