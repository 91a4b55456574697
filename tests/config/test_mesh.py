"""Rules are checked before there are devices: names, collisions, and that every option of the folder is sound."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from lmx.config.compose import Composer
from lmx.config.mesh import LOGICAL_AXES, TOGETHER, Mesh
from lmx.run.config import TrainConfig
from tests.support import CONF, model_config, read_option

OPTIONS = sorted(p.stem for p in (CONF / "mesh").glob("[a-z]*.yaml") if "_global_" not in p.read_text())


def mesh(option="fsdp_tp", rules=None, axes=None):
    tree = OmegaConf.to_container(OmegaConf.create(read_option("mesh", option)), resolve=True)
    return Mesh.model_validate(
        tree | {"rules": tree["rules"] | (rules or {}), "axes": tree["axes"] | (axes or {})}
    )


@pytest.mark.parametrize("option", OPTIONS)
def test_options_are_sound(option):
    assert mesh(option).problems() == []


@pytest.mark.parametrize(
    ("rules", "key", "said", "fix"),
    [
        (
            {"embd": "fsdp"},
            "mesh.rules.embd",
            "no logical axis 'embd'",
            "'~mesh.rules.embd' mesh.rules.embed=fsdp",
        ),
        ({"ffn": "tensr"}, "mesh.rules.ffn", "the mesh has the axes fsdp, tensor", "mesh.rules.ffn=tensor"),
        ({"ffn": "fsdp"}, "mesh.rules.ffn", "'embed' and 'ffn' of one array", "mesh.rules.ffn=null"),
        ({"batch": ["fsdp", "fsdp"]}, "mesh.rules.batch", "'fsdp' twice", "mesh.rules.batch=fsdp"),
        (
            {"length": ["fsdp", "tensor"]},
            "mesh.rules.length",
            "'batch' and 'length'",
            "mesh.rules.length=tensor",
        ),
    ],
)
def test_wrong_rules_are_named_with_a_fix(rules, key, said, fix):
    found = mesh(rules=rules).problems()
    assert (key, fix) in [(k, f) for k, _, f in found]
    assert any(said in message for _, message, _ in found)


def test_a_rule_that_is_missing_is_named():
    whole = mesh()
    lacking = whole.model_copy(update={"rules": {k: v for k, v in whole.rules.items() if k != "vocab"}})
    [(key, message, fix)] = lacking.problems()
    assert (key, fix) == ("mesh.rules", "")
    assert message.startswith("no rule for vocab; ")
    assert "defaults: [_rules, _self_]" in message


def on_the_command_line(*overrides):
    words = ["mesh=fsdp", *overrides]
    return Composer("train", TrainConfig, overrides=words).check(words)[1]


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize(
    ("override", "fix"),
    [("mesh.rules.embd=fsdp", "mesh.rules.embed=fsdp"), ("mesh.rules.nothing_like_it=fsdp", None)],
)
def test_a_rule_that_cannot_be_is_not_to_be_added(plus, override, fix):
    [problem] = on_the_command_line(plus + override)
    assert "there is no logical axis" in problem.message
    assert problem.fix == fix


def test_a_way_to_split_sequences_wants_sequences_that_are_split():
    [(key, message, fix)] = mesh("context_ring", rules={"length": None}).problems()
    assert (key, fix) == ("mesh.context_attention", "mesh.context_attention=null")
    assert "mesh.rules.length" in message


def test_two_free_axes_are_one_too_many():
    [(key, message, fix)] = mesh(axes={"tensor": "auto"}).problems()
    assert key == "mesh.axes"
    assert "fsdp and tensor" in message
    assert fix == "mesh.axes.tensor=1"


def test_a_model_may_have_axes_of_its_own():
    whole = mesh(rules={"memory": "tensor"})
    assert "memory" in whole.problems()[0][1]
    assert whole.problems(["memory"]) == []


@pytest.mark.parametrize(
    "option", ["tiny", "moe_tiny", "gpt2", "deepseek_v3", "gpt_oss_20b", "gemma2_2b", "qwen2p5_0p5b"]
)
def test_every_array_of_a_model_is_among_those_checked(option):
    """`TOGETHER` has all that the parameters of a model have, so that no collision is found only later."""
    from lmx.models.specs import decoder_specs
    from lmx.params import named_params

    known = [set(axes) for axes in TOGETHER]
    for path, param in named_params(decoder_specs(model_config(option))).items():
        assert set(param.axes) <= set(LOGICAL_AXES), path
        pairs = set(param.axes)
        assert len(pairs) == 1 or any(pairs <= axes for axes in known), (path, param.axes)
