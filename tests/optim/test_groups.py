"""Groups: by path, axes and kind; the first counts; what matches nothing is an error."""

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from lmx.optim.groups import assign, kind
from lmx.params import count, map_named, named_params
from tests.optim.toy import gradients_like, optimizer_config, options, run, toy_params, toy_specs


def group(match, factor=1.0, decay=None):
    return {"match": match, "learning_rate_multiplier": factor, "weight_decay": decay}


def test_kinds_come_from_the_logical_axes():
    kinds = {path: kind(p) for path, p in named_params(toy_specs()).items()}
    assert kinds == {
        "embedding": "embedding",
        "head": "head",
        "layers.0.attention.out": "matrix",
        "layers.0.attention.query": "matrix",
        "layers.0.mlp.bias": "vector",
        "layers.0.mlp.down": "matrix",
        "layers.0.mlp.up": "matrix",
        "layers.0.norm": "vector",
    }


@pytest.mark.parametrize("name", options("optimizer"))
def test_by_default_only_scales_and_biases_are_without_decay(name):
    optimizer = optimizer_config(name, weight_decay=0.1)
    specs = toy_specs()
    for path, assigned in assign(optimizer, specs).items():
        param = named_params(specs)[path]
        if name == "prodigy":
            assert assigned.weight_decay == 0.1
        elif name == "muon":
            assert assigned.weight_decay == (0.1 if param.is_matrix else 0.0)
        else:
            assert assigned.weight_decay == (0.0 if kind(param) == "vector" else 0.1)


def test_the_first_group_counts_and_the_steps_follow():
    groups = {
        "attention": group({"path": ["layers.*.attention.*"]}, 0.5),
        "frozen": group({"path": "layers.*.mlp.*"}, 0.0),
        "vocabulary": group({"axes": ["vocab", "embed"]}, 2.0, 0.0),
        "matrices": group({"kind": "matrix"}, 7.0),
        "vectors": group({"kind": "vector"}, 3.0),
    }
    specs, params = toy_specs(), toy_params()
    changes = {"momentum": None, "clip_norm": None, "learning_rate": 0.1, "weight_decay": 0.2}
    optimizer = optimizer_config("sgd", groups=groups, **changes)
    gradients = gradients_like(params)
    after, _ = run(optimizer, specs, params, [gradients])
    factors = {"attention": 0.5, "mlp": 0.0, "embedding": 2.0, "head": 2.0, "norm": 3.0}
    expected = map_named(lambda path, _: next(f for part, f in factors.items() if part in path), specs)
    decays = map_named(lambda path, _: 0.0 if path in ("embedding", "head") else 0.2, specs)
    for p, g, q, f, w in zip(
        *map(jax.tree.leaves, (params, gradients, after, expected, decays)), strict=True
    ):
        np.testing.assert_allclose(q, p - 0.1 * f * (g + w * p), atol=1e-6)


def test_the_table_covers_all_parameters_once():
    specs = toy_specs()
    groups = {"vectors": group({"kind": "vector"}, 2.0, 0.0), "down": group({"path": "*.down"}, 0.5)}
    rows = optimizer_config("muon", groups=groups).table(specs)
    assert sum(row.parameters for row in rows) == count(specs)
    assert sum(row.tensors for row in rows) == len(named_params(specs))
    assert [(r.group, r.rule, r.patterns, round(r.multiplier, 3)) for r in rows] == [
        ("vectors", "AdamW", "kind vector", 0.3),
        ("down", "Muon", "*.down", 0.5),
        ("all others", "AdamW", "kind embedding, head", 0.15),
        ("all others", "Muon", "kind matrix", 1.0),
    ]
    assert rows[1].learning_rate == pytest.approx(0.01)
    assert rows[1].weight_decay == 0.01


@pytest.mark.parametrize(
    ("match", "message"),
    [
        (
            {"path": "layers.*.attn.*"},
            r"optimizer.groups.mine.match.path=layers.\*.attn.\* matches no parameter; there are layers.0.attention",
        ),
        ({"path": ["*.norm", "lm_head"]}, "path=lm_head matches no parameter; there are head"),
        (
            {"axes": ["vocabulary"]},
            r"axes=\[vocabulary\] matches no parameter; their axes are embed, ffn, head",
        ),
        (
            {"path": "*.bias"},
            r"groups.mine has no effect: .* before it \(vectors\) take all .*~optimizer.groups.vectors",
        ),
    ],
)
def test_a_group_without_effect_is_an_error(match, message):
    groups = {"vectors": group({"kind": "vector"}), "mine": group(match)}
    optimizer = optimizer_config("adamw", groups=groups)
    for use in (lambda: optimizer.build(toy_specs(), lambda step: 1.0), lambda: optimizer.table(toy_specs())):
        with pytest.raises(ValueError, match=message):
            use()


def test_a_model_without_scales_and_biases_takes_the_default_groups():
    specs = {"up": toy_specs()["layers"][0]["mlp"]["up"]}
    assert [row.group for row in optimizer_config("adamw").table(specs)] == ["all others"]


WRONG = [{}, {"path": "a", "kind": "matrix"}, {"pattern": "a"}, "layers.*", {"kind": "bias"}]


@pytest.mark.parametrize("match", WRONG)
def test_a_match_is_one_of_path_axes_and_kind(match):
    with pytest.raises(ValidationError) as error:
        optimizer_config("adamw", groups={"mine": group(match)})
    assert error.value.errors()[0]["loc"][:3] == ("groups", "mine", "match")
