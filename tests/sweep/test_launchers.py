"""Hydra's own suite for launchers, on both of ours."""

import tomllib
from importlib.metadata import EntryPoint

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import LauncherTestSuite

from hydra_plugins.lmx_launchers.launchers import LocalPoolLauncher, PodsLauncher
from tests.support import ROOT


def test_both_are_discovered():
    found = {cls.__name__ for cls in Plugins.instance().discover()}
    assert {LocalPoolLauncher.__name__, PodsLauncher.__name__} <= found


def test_each_is_an_entry_point_for_hydra_1_4():
    """One a class, in a module that registers its configuration when it is imported."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
        "hydra.plugins"
    ]
    found = [EntryPoint(name, value, "hydra.plugins").load() for name, value in declared.items()]
    assert all(issubclass(cls, Launcher) for cls in found)
    assert {cls.__name__ for cls in found} == {LocalPoolLauncher.__name__, PodsLauncher.__name__}
    launchers = ConfigStore.instance().list("hydra/launcher")
    assert {"local_pool.yaml", "pods.yaml"} <= set(launchers)


@pytest.mark.slow
@pytest.mark.parametrize("launcher_name", ["local_pool", "pods"])
@pytest.mark.parametrize("overrides", [[]])
class TestSuite(LauncherTestSuite):
    pass
