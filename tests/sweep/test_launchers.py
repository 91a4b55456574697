"""Hydra's own suite for launchers, on both of ours."""

import pytest
from hydra.core.plugins import Plugins
from hydra.test_utils.launcher_common_tests import LauncherTestSuite

from hydra_plugins.lmx_launchers.launchers import LocalPoolLauncher, PodsLauncher


def test_both_are_discovered():
    found = {cls.__name__ for cls in Plugins.instance().discover()}
    assert {LocalPoolLauncher.__name__, PodsLauncher.__name__} <= found


@pytest.mark.slow
@pytest.mark.parametrize("launcher_name", ["local_pool", "pods"])
@pytest.mark.parametrize("overrides", [[]])
class TestSuite(LauncherTestSuite):
    pass
