"""Sweeps: many runs over many pods, frozen before the first starts, rebuilt from disk whatever happens."""

from lmx.sweep.config import LocalPool, Pool, Retries

__all__ = ["LocalPool", "Pool", "Retries"]
