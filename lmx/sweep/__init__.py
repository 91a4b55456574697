"""Sweeps: many runs over many pods, frozen before the first starts, rebuilt from disk whatever happens."""

from lmx.sweep.config import LocalPool, Pool, Retries
from lmx.sweep.grammar import Grammar
from lmx.sweep.stopping import Asha, Median, Stopping
from lmx.sweep.target_pool import SshPool, TargetPool

__all__ = ["Asha", "Grammar", "LocalPool", "Median", "Pool", "Retries", "SshPool", "Stopping", "TargetPool"]
