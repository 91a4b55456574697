"""What counts as noise, and what is named where more than noise is found. Recorded runs are written by hand."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from lmx.run.verify_compare import Recorded, Traced, compare, compare_traces, worst

LAYERS = {"0": [0, 2], "1": [1, 3]}
WEIGHT = "layers.1.mlp.up"


def arrays(seed):
    random = np.random.default_rng(seed)
    return {"head": random.normal(size=(5, 3)), WEIGHT: random.normal(size=(2, 4, 3))}


def record(folder, noise=0.0, change=None, loss=3.0, initial=None):
    """A run of two steps whose numbers are off by `noise`, then changed by `change(name, arrays)`."""
    folder.mkdir()
    random = np.random.default_rng(zlib.crc32(folder.name.encode()))
    saved = {"initial": initial or arrays(0)}
    for step in range(2):
        for kind in ("gradients", "updates"):
            found = {k: v * (1 + noise * random.normal(size=v.shape)) for k, v in arrays(step + 1).items()}
            saved[f"{kind}_{step}"] = change(f"{kind}_{step}", found) if change else found
    for name, tree in saved.items():
        np.savez(folder / f"{name}.npz", **{k: v.astype(np.float32) for k, v in tree.items()})
    meta = {"losses": [loss, loss / 2], "layers": LAYERS, "mesh": {"data": 1}, "traced": None}
    (folder / "meta.json").write_text(json.dumps(meta))
    return Recorded(folder)


@pytest.fixture
def reference(tmp_path):
    return record(tmp_path / "reference"), record(tmp_path / "twin", noise=1e-6)


def test_noise_agrees(reference, tmp_path):
    found = compare(*reference, record(tmp_path / "run", noise=3e-6), tolerance=10)
    assert found.agrees
    assert found.first_bad_step() is None
    assert worst(found.gradients).error > 1e-6


def test_a_wrong_layer_is_named(reference, tmp_path):
    def change(name, tree):
        if name == "gradients_1":
            tree[WEIGHT][1] *= 1.001
        return tree

    found = compare(*reference, record(tmp_path / "run", 1e-6, change), tolerance=10)
    assert not found.agrees
    assert found.first_bad_step() == 1
    wrong = [d for d in found.all if d.ratio > 1]
    assert [(d.step, d.tensor, d.layer) for d in wrong] == [(1, WEIGHT, 3)]
    assert wrong[0].error == pytest.approx(1e-3, rel=0.1)
    assert wrong[0].where() == f"{WEIGHT} of layer 3"


def test_initial_parameters_are_equal_bit_for_bit(reference, tmp_path):
    one = arrays(0)
    one["head"] = np.nextafter(one["head"].astype(np.float32), np.inf)
    found = compare(*reference, record(tmp_path / "run", initial=one), tolerance=10)
    assert found.initial == ["head"]
    assert not found.agrees


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_differs(reference, tmp_path, value):
    def change(name, tree):
        tree["head"][0, 0] = value
        return tree

    assert not compare(*reference, record(tmp_path / "run", 0.0, change), tolerance=10).agrees


def test_a_loss_that_is_off_differs(reference, tmp_path):
    found = compare(*reference, record(tmp_path / "run", loss=3.001), tolerance=10)
    assert [d.tensor for d in found.all if d.ratio > 1] == ["loss", "loss"]


def test_a_tensor_that_is_missing_or_of_another_shape_differs(reference, tmp_path):
    def change(name, tree):
        return (
            {"head": tree["head"].T, WEIGHT: tree[WEIGHT]} if name == "updates_0" else {"head": tree["head"]}
        )

    found = compare(*reference, record(tmp_path / "run", 0.0, change), tolerance=10)
    assert {(d.step, d.tensor) for d in found.updates if d.ratio > 1} >= {(0, "head"), (1, WEIGHT)}


def test_gradients_that_are_nothing_but_noise_do_not_count(tmp_path):
    def tiny(scale):
        def change(name, tree):
            tree["head"] = scale * np.random.default_rng(int(scale * 1e12)).normal(size=(5, 3))
            return tree

        return change

    runs = [record(tmp_path / str(i), 1e-6, tiny(scale)) for i, scale in enumerate((0.0, 1e-12, 2e-12))]
    assert compare(*runs, tolerance=10).agrees


def test_traces_name_the_first_tensor_in_each_direction(tmp_path):
    names = [f"{i}|{i // 2}|{name}" for i, name in enumerate(["query", "mlp_out"] * 6)]

    def trace(folder, off_forward=None, off_backward=None, noise=0.0):
        run = record(folder)
        random = np.random.default_rng(1)
        for way, off in (("forward", off_forward), ("backward", off_backward)):
            tree = {n: np.ones(4) + noise * random.normal(size=4) for n in names}
            for name in tree:
                if off is not None and (int(name.split("|")[0]) >= off) == (way == "forward"):
                    tree[name] = tree[name] * 1.01
            np.savez(folder / f"trace_{way}.npz", **tree)
        run.meta["traced"] = 4
        return run

    three = trace(tmp_path / "a"), trace(tmp_path / "b", noise=1e-7), trace(tmp_path / "c", 5, 11)
    found = compare_traces(*three, tolerance=10)
    assert (found.forward.tensor, found.forward.layer, found.forward.step) == ("mlp_out", 2, 4)
    assert (found.backward.tensor, found.backward.layer) == ("query", 5)
    assert compare_traces(three[0], three[1], three[0], tolerance=10) == Traced(None, None, 12)


def test_what_a_mesh_hides_does_not_hide_what_comes_after_it(tmp_path):
    """Names are not counted through: a run without some of them is compared in all others."""

    def trace(folder, names, off=()):
        run = record(folder)
        tree = {f"{i}|{name}": np.full(4, 1.01 if name in off else 1.0) for i, name in enumerate(names)}
        for way in ("forward", "backward"):
            np.savez(folder / f"trace_{way}.npz", **tree)
        run.meta["traced"] = 0
        return run

    names = ["0|query|4.0", "0|attention_context|4.0", "0|mlp_out|4.0", "1|query|4.0", "1|mlp_out|4.0"]
    whole = [trace(tmp_path / name, names) for name in "ab"]
    less = trace(tmp_path / "c", [n for n in names if "context" not in n], off=["1|query|4.0"])
    found = compare_traces(*whole, less, tolerance=10)
    assert found.seen == 4
    assert (found.forward.tensor, found.forward.layer) == ("query", 1)
    other = trace(tmp_path / "d", ["0|query|8.0"])
    assert compare_traces(*whole, other, tolerance=10) == Traced(None, None, 0)
