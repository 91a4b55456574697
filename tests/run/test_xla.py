"""Options of the compiler: for the platform of the mesh, known to the compiler that is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from omegaconf import OmegaConf

from lmx.config.errors import RequestError
from lmx.run.programs import check_options
from lmx.run.xla_config import Xla
from tests.support import ROOT, read_option, train_config


def options(name, platform):
    return Xla.model_validate(OmegaConf.to_container(OmegaConf.create(read_option("xla", name)))).options(
        platform
    )


def lowered():
    return jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((4,), jnp.float32))


def test_each_platform_has_its_own():
    assert options("none", "tpu") is None
    assert options("auto", "cpu") is None
    assert options("auto", "tpu") == options("tpu", "tpu") != options("auto", "gpu") == options("gpu", "gpu")
    assert options("tpu", "gpu") is None
    assert all(name.startswith("xla_") for name in options("auto", "tpu"))


def test_jaxlib_knows_the_options_for_gpu():
    """They are fields of XLA's own options, which are looked up by name whatever the platform."""
    lowered().compile(compiler_options=options("auto", "gpu"))
    with pytest.raises(Exception, match="No such compile option: 'xla_gpu_misspelt'"):
        lowered().compile(compiler_options={"xla_gpu_misspelt": True})


def test_an_option_that_is_not_known_is_refused_before_anything_large_is_compiled():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    config = train_config({}).model_copy(update={"xla": Xla(cpu={"xla_misspelt": True}, gpu={}, tpu={})})
    with pytest.raises(RequestError, match=r"xla\.cpu\.xla_misspelt: this compiler has no such option"):
        check_options(config, mesh)
    check_options(train_config({}), mesh)


TPU_PROGRAM = r"""
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding
from tests.run.test_xla import options

for topology in ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = jax.sharding.Mesh(np.array(devices).reshape(-1), ("x",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((64, 128), jnp.bfloat16, sharding=NamedSharding(mesh, jax.P("x")))
    jax.jit(lambda x: jnp.tanh(x @ x.T)).lower(x).compile(compiler_options=options("auto", "tpu"))
print("done")
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_libtpu_knows_the_options_for_tpu():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    command = [sys.executable, "-c", TPU_PROGRAM]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "done"
