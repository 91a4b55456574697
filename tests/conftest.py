"""All tests share compiled programs, with their subprocesses and with earlier runs."""

from __future__ import annotations

import logging
import os
import sys

import absl.logging
import jax
import pytest
from hypothesis import HealthCheck, settings

from tests.support import ROOT

CACHE = ROOT / ".pytest_cache" / "programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# Programs of a test's own process are compiled in half the time, and run as long as no time matters. Those of the
# processes that tests start are what a user's are.
jax.config.update("jax_disable_most_optimizations", True)

# Files that take longest begin first: the last to end is then a short one, and no worker waits for another.
LONG = """
    models/test_decoder run/test_train models/hf/test_parity run/test_generate_commands infer/test_engine
    run/test_compile run/test_mesh run/test_verify layers/test_experts train/test_settle train/test_step
    layers/test_cache layers/test_splash run/test_hosts launch/test_recover launch/test_drive
    sweep/test_driver sweep/test_chaos faults/test_faults run/test_verify_resume cli/test_job
    layers/test_quantised models/test_pipeline run/test_sampling run/test_init_from layers/test_context
    layers/test_moe run/test_options run/test_harness models/test_narrow config/test_bad_requests
    layers/test_kernels optim/test_layout run/test_pace run/test_golden run/test_chat
"""


def pytest_collection_modifyitems(items):
    """The order in which workers are given files."""
    rank = {ROOT / "tests" / f"{name}.py": number for number, name in enumerate(LONG.split())}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(autouse=True)
def logging_is_given_back():
    """A run in this process, Hydra and Optuna change levels and switch loggers off: the next test hears all again."""
    root, ours = logging.getLogger(), logging.getLogger("lmx")
    levels, propagates = (root.level, ours.level), ours.propagate
    yield
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    ours.propagate = propagates
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("lmx")]:
        logging.getLogger(name).disabled = False


# A busy machine is no fault of a test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Hydra closes every logging handler when it starts, and absl's then closes the stream it was made with: pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
