from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lmx.config.errors import RequestError
from lmx.io import arrays
from lmx.io.checkpoints import Checkpoints
from lmx.io.stored import Stored
from tests.io.states import abstract, config, make_state, save_steps


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of depth 2, width 8."""
    path = tmp_path_factory.mktemp("fit")
    save_steps(path, [10])
    return path


def refusal(directory: Path, wanted, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the message, each stripped; nothing may be loaded before it."""
    monkeypatch.setattr(arrays, "load", lambda *a, **k: pytest.fail("arrays were read before the check"))
    with pytest.raises(RequestError) as error:
        Checkpoints(directory, config()).restore(abstract(wanted))
    return str(error.value).splitlines()


def test_deeper(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(directory, make_state(depth=3), monkeypatch) == [
        f"{directory / '10'} does not fit this configuration",
        "  only in the configuration (4):",
        "    params.layers.2.query  float32[8,8]",
        "    params.layers.2.scale  bfloat16[8]",
        "    opt_state.0.mu.layers.2.query  float32[8,8]",
        "    opt_state.0.mu.layers.2.scale  bfloat16[8]",
    ]


def test_shallower(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(directory, make_state(depth=1), monkeypatch) == [
        f"{directory / '10'} does not fit this configuration",
        "  only in the checkpoint (4):",
        "    params.layers.1.query  float32[8,8]",
        "    params.layers.1.scale  bfloat16[8]",
        "    opt_state.0.mu.layers.1.query  float32[8,8]",
        "    opt_state.0.mu.layers.1.scale  bfloat16[8]",
    ]


def test_wider(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = refusal(directory, make_state(width=16), monkeypatch)
    assert lines[1] == "  of another shape or dtype (10):"
    assert "    params.embed  float32[32,8] in the checkpoint, float32[32,16] in the configuration" in lines
    assert lines[-1] == "    and 2 more"
    assert len(lines) == 11


def test_another_dtype(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state()
    params = state.params | {"embed": state.params["embed"].astype(jnp.bfloat16)}
    assert refusal(directory, state._replace(params=params), monkeypatch)[1:] == [
        "  of another shape or dtype (1):",
        "    params.embed  float32[32,8] in the checkpoint, bfloat16[32,8] in the configuration",
    ]


def test_missing_and_extra(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state()
    params = {"layers": state.params["layers"], "head": state.params["embed"]}
    assert refusal(directory, state._replace(params=params), monkeypatch)[1:] == [
        "  only in the checkpoint (1):",
        "    params.embed  float32[32,8]",
        "  only in the configuration (1):",
        "    params.head  float32[32,8]",
    ]


def test_a_misfit_is_no_damage(tmp_path: Path) -> None:
    """The newest of another depth is refused; no older one that happens to fit is taken instead."""
    checkpoints, said = save_steps(tmp_path, [10])
    checkpoints.save(20, make_state(20, depth=3), meta={})
    checkpoints.wait()
    with pytest.raises(RequestError, match=r"20 does not fit this configuration"):
        checkpoints.restore(abstract(make_state()))
    assert said == []


def test_parameters_of_another_depth(directory: Path) -> None:
    with pytest.raises(RequestError, match=r"only in the checkpoint \(2\):\n    params\.layers\.1\.query"):
        Stored(directory).restore_params(abstract(make_state(depth=1).params))


def test_no_average_of_the_weights(directory: Path) -> None:
    with pytest.raises(RequestError, match="it holds no average of the weights"):
        Stored(directory).restore_params(abstract(make_state().params), weights="ema")


def test_two_leaves_of_one_name(tmp_path: Path) -> None:
    state = make_state()._replace(params={"a.b": jnp.ones(2), "a": {"b": jnp.ones(2)}})
    with pytest.raises(ValueError, match=r"several leaves named params\.a\.b"):
        Checkpoints(tmp_path, config()).save(1, state, meta={})


def test_leaves_without_shardings_are_a_mistake(directory: Path) -> None:
    bare = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state())
    with pytest.raises(ValueError, match="sharding"):
        Checkpoints(directory, config()).restore(bare)
