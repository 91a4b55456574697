from __future__ import annotations

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.io.checkpoints import Checkpoints
from lmx.io.retention import kept
from lmx.io.stored import Stored
from tests.io.states import abstract, assert_same, bits, config, make_state, save_steps


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_restored_state_has_every_bit_of_the_saved_one(tmp_path: Path, ema: bool, compression: str) -> None:
    state = make_state(3, ema=ema)
    meta = {"seed": 1, "position": {"epoch": 0, "row": [1, 2.5, None, True, "ü"]}, "config": {"a": {}}}
    with_config = config(compression=compression)
    checkpoints = Checkpoints(tmp_path, with_config)
    checkpoints.save(3, state, meta=meta, metrics={"eval/loss": 2.0})
    checkpoints.wait()
    restored = Checkpoints(tmp_path, with_config).restore(abstract(state))
    assert_same(restored.state, state)
    assert (restored.step, restored.meta) == (3, meta)


def test_not_a_number_survives_with_its_bits(tmp_path: Path) -> None:
    odd = jax.lax.bitcast_convert_type(
        jnp.array([0x7FC00123, 0xFF800000, 0x80000000], jnp.uint32), jnp.float32
    )
    state = make_state(1)._replace(params={"odd": odd})
    checkpoints = Checkpoints(tmp_path, config())
    checkpoints.save(1, state, meta={"loss": float("nan")})
    checkpoints.wait()
    restored = checkpoints.restore(abstract(state))
    assert bits(restored.state) == bits(state)
    assert restored.meta == {"loss": "NaN"}


def test_the_state_may_be_donated_as_soon_as_save_returns(tmp_path: Path) -> None:
    """The step that follows overwrites the very buffers that the save reads in the background."""
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, config(keep_last=4))
    sizes = (1 << 20, 3)
    values = lambda step: {"w": jnp.arange(sizes[0] * sizes[1], dtype=jnp.float32).reshape(sizes) + step}
    for step in range(1, 5):
        state = jax.block_until_ready(values(step))
        checkpoints.save(step, state, meta={})
        for _ in range(3):
            state = spoil(state)
        jax.block_until_ready(state)
    checkpoints.close()
    for step in range(1, 5):
        assert_same(checkpoints.restore(abstract(values(step)), step).state, values(step))


def test_a_save_that_comes_early_waits_and_none_is_dropped(tmp_path: Path) -> None:
    checkpoints, said = save_steps(tmp_path, [1, 2, 3, 4, 5], keep_last=10)
    assert checkpoints.steps() == [1, 2, 3, 4, 5]
    assert said == []


def test_when_a_save_is_due(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, config(every=10))
    assert [step for step in range(1, 31) if checkpoints.due(step)] == [10, 20, 30]
    assert checkpoints.due(7, last=True)
    checkpoints.save(10, make_state(10), meta={})
    checkpoints.wait()
    assert not checkpoints.due(10)
    assert not checkpoints.due(10, last=True)
    never = Checkpoints(tmp_path, config(every=None, final=False))
    assert not any(never.due(step, last=True) for step in range(1, 1001))


def test_a_state_just_restored_is_not_due_again(tmp_path: Path) -> None:
    save_steps(tmp_path, [10])
    resumed = Checkpoints(tmp_path, config(every=10))
    resumed.restore(abstract(make_state()))
    assert not resumed.due(10, last=True)


def test_what_is_kept_on_disk(tmp_path: Path) -> None:
    losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: float("nan"), 50: 2.5, 60: None, 70: 2.2}
    checkpoints = Checkpoints(tmp_path, config(keep_last=2, keep_best=1, keep_every=30))
    for step, loss in losses.items():
        checkpoints.save(step, make_state(step), meta={}, metrics={} if loss is None else {"eval/loss": loss})
    checkpoints.close()
    assert checkpoints.steps() == [20, 30, 60, 70]
    assert checkpoints.best() == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20", "30", "60", "70"]
    assert_same(checkpoints.restore(abstract(make_state()), "best").state, make_state(20))


def test_the_old_one_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """With keep_last=1, there is a whole checkpoint at every moment."""
    checkpoints, _ = save_steps(tmp_path, [1], keep_last=1, keep_best=0)
    for step in range(2, 6):
        checkpoints.save(step, make_state(step), meta={})
        while checkpoints._pending is not None and checkpoints._pending.is_alive():
            assert any((p / "lmx.json").exists() for p in tmp_path.glob("[0-9]*"))
            time.sleep(0.001)
        checkpoints.wait()
        assert checkpoints.steps() == [step]


@given(
    st.dictionaries(st.integers(1, 50), st.none() | st.floats(), min_size=1),
    st.integers(1, 4),
    st.integers(0, 4),
    st.none() | st.integers(1, 9),
    st.sampled_from(["lowest", "highest"]),
)
def test_retention(
    losses: dict, keep_last: int, keep_best: int, keep_every: int | None, best_is: str
) -> None:
    knobs = config(keep_last=keep_last, keep_best=keep_best, keep_every=keep_every, best_is=best_is)
    stay = kept({step: {"eval/loss": loss} for step, loss in losses.items()}, knobs, ("eval/loss", best_is))
    assert stay <= set(losses)
    assert set(sorted(losses)[-keep_last:]) <= stay
    assert keep_every is None or {s for s in losses if s % keep_every == 0} <= stay
    known = {s: x for s, x in losses.items() if x is not None and x - x == 0}
    if keep_best and known:
        assert {"lowest": min, "highest": max}[best_is](known, key=lambda s: known[s]) in {
            s for s in known if known[s] in {known[t] for t in stay if t in known}
        }
    others = len([s for s in stay if keep_every is None or s % keep_every])
    assert others <= keep_last + keep_best


def test_parameters_alone_need_no_optimizer(tmp_path: Path) -> None:
    state = make_state(5, ema=True)
    checkpoints = Checkpoints(tmp_path, config())
    checkpoints.save(5, state, meta={"seed": 3})
    checkpoints.wait()
    reader = Stored(tmp_path)
    assert_same(reader.restore_params(abstract(state.params)).state, state.params)
    assert_same(reader.restore_params(abstract(state.params), weights="ema").state, state.ema)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params)
    assert_same(reader.restore_params(abstract(half)).state, half)


def test_what_is_no_checkpoint_does_not_count(tmp_path: Path) -> None:
    checkpoints, said = save_steps(tmp_path, [10])
    (tmp_path / "11").mkdir()
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "state").mkdir()
    (tmp_path / "13").write_text("a file")
    (tmp_path / "notes").mkdir()
    (tmp_path / "007").mkdir()
    (tmp_path / "14.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.steps() == [10]
    assert checkpoints.latest() == 10
    assert checkpoints.restore(abstract(make_state())).step == 10
    assert [m for m in said if "lmx.json is missing" in m and (str(tmp_path / "12") in m)]


def test_a_renamed_checkpoint_is_not_taken_for_that_step(tmp_path: Path) -> None:
    checkpoints, said = save_steps(tmp_path, [10, 20])
    (tmp_path / "20").rename(tmp_path / "30")
    assert checkpoints.steps() == [10]
    assert checkpoints.restore(abstract(make_state())).step == 10
    assert "step 20" in said[0]


def test_going_back_sets_later_ones_aside(tmp_path: Path) -> None:
    checkpoints, _ = save_steps(tmp_path, [10, 20])
    next((tmp_path / "20").rglob("_METADATA")).write_text("{}")
    assert checkpoints.restore(abstract(make_state())).step == 10
    checkpoints.rewind(10)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["10", "set-aside-20"]
    checkpoints.save(20, make_state(20), meta={})
    checkpoints.wait()
    assert_same(checkpoints.restore(abstract(make_state())).state, make_state(20))


def test_a_save_before_later_ones_sets_them_aside(tmp_path: Path) -> None:
    """Whatever lies after the newest save is of a past that the run went back on; it must not be the newest."""
    checkpoints, said = save_steps(tmp_path, [10, 20])
    checkpoints.save(15, make_state(15), meta={})
    checkpoints.wait()
    assert checkpoints.steps() == [10, 15]
    assert checkpoints.latest() == 15
    assert "set-aside-20" in said[0]


def test_what_is_no_fault_of_the_disk_is_raised(tmp_path: Path) -> None:
    checkpoints, said = save_steps(tmp_path, [10])
    checkpoints.save(20, make_state(20), meta={"cycle": (loop := [])} | {"again": loop.append(loop)})
    with pytest.raises(RecursionError):
        checkpoints.wait()
    checkpoints.wait()  # once is enough
    assert said == []
    assert [p.name for p in tmp_path.iterdir()] == ["10"]
