"""All tests share compiled programs, with their subprocesses and with earlier runs."""

from __future__ import annotations

import os
import sys

import absl.logging
import jax
from hypothesis import HealthCheck, settings

from tests.support import ROOT

CACHE = ROOT / ".pytest_cache" / "programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# Programs of a test's own process are compiled in half the time, and run as long as no time matters. Those of the
# processes that tests start are what a user's are.
jax.config.update("jax_disable_most_optimizations", True)

# A busy machine is no fault of a test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Hydra closes every logging handler when it starts, and absl's then closes the stream it was made with: pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
