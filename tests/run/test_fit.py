"""What a mesh cannot split is found before anything is built, each with a size that fits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lmx.config.errors import ConfigError
from lmx.models.specs import decoder_specs
from lmx.run.fit import check_fit, fit_problems
from tests.support import model_config, train_config


def problems(mesh, sizes, **changes):
    config = train_config({"mesh": mesh, **changes})
    return fit_problems(config, decoder_specs(config.model), sizes)


def test_what_fits_has_no_problem():
    assert problems("fsdp_tp", {"fsdp": 4, "tensor": 2}) == []


def test_heads_that_do_not_divide_propose_other_sizes():
    found = problems("fsdp_tp", {"fsdp": 2, "tensor": 4})
    assert {p.key for p in found} == {"mesh.rules.kv_heads"}  # act_kv_heads lie as these do
    assert all(p.fix == "mesh.axes.fsdp=4 mesh.axes.tensor=2" for p in found)
    assert "kv_heads = 2" in found[0].message
    assert "layers.0.attention.key" in found[0].message
    assert "4 ways (tensor 4)" in found[0].message


def test_all_problems_come_at_once():
    found = problems(
        "context_ring",
        {"fsdp": 2, "context": 6},
        trainer={"global_batch_size": 7, "eval_batch_size": 3, "sequence_length": 32},
    )
    fixes = {p.key: p.fix for p in found}
    assert fixes["trainer.global_batch_size"] == "trainer.global_batch_size=8"
    assert fixes["trainer.eval_batch_size"] == "trainer.eval_batch_size=4"
    assert fixes["trainer.sequence_length"] == "trainer.sequence_length=36"
    assert fixes["mesh.rules.embed"] is None  # 64 is no multiple of 12


def test_micro_batches_are_what_is_split():
    found = problems("fsdp", {"fsdp": 8}, trainer={"global_batch_size": 8, "accumulation": 2})
    assert [p.fix for p in found] == ["trainer.global_batch_size=16"]
    assert "in 2 micro-batches" in found[0].message


def test_copies_are_proposed_where_a_width_has_too_few_parts():
    found = problems("fsdp", {"fsdp": 24}, trainer={"global_batch_size": 24, "eval_batch_size": 24})
    assert "8 ways it can: mesh=hsdp mesh.axes.replica=3 holds 3 copies" in found[0].message
    copies = {"replica": 3, "fsdp": 8}
    assert not problems("hsdp", copies, trainer={"global_batch_size": 24, "eval_batch_size": 24})


def test_nothing_is_proposed_where_nothing_fits():
    found = problems("fsdp", {"fsdp": 7}, trainer={"global_batch_size": 7, "eval_batch_size": 7})
    assert [(p.key, p.fix) for p in found] == [("mesh.rules.embed", None)]


def test_the_error_is_of_the_request():
    config = train_config({"mesh": "fsdp", "trainer": {"global_batch_size": 3}})
    with pytest.raises(ConfigError) as error:
        check_fit(config, decoder_specs(config.model), SimpleNamespace(shape={"fsdp": 4}))
    assert error.value.exit_code == 2


def test_micro_batches_of_a_pipeline_are_split_too():
    found = problems(
        "pipeline", {"stage": 2, "fsdp": 4}, trainer={"global_batch_size": 16, "eval_batch_size": 32}
    )
    assert [(p.key, p.fix) for p in found] == [
        ("trainer.global_batch_size", "trainer.global_batch_size=32"),
    ]
    assert problems("pipeline", {"stage": 1, "fsdp": 1}) == []


def test_experts_half_along_axes_of_the_tokens_are_refused():
    config = train_config({"mesh": "expert_tp"})
    rules = config.mesh.rules | {"experts": ["expert", "tensor"], "expert_ffn": None, "expert_embed": None}
    config = config.model_copy(update={"mesh": config.mesh.model_copy(update={"rules": rules})})
    experts, dense = decoder_specs(model_config("moe_tiny")), decoder_specs(config.model)

    def of_experts(specs, **sizes):
        return [p for p in fit_problems(config, specs, sizes) if p.key == "mesh.rules.experts"]

    [problem] = of_experts(experts, fsdp=1, expert=2, tensor=2)
    assert problem.fix == "mesh.rules.experts=expert"
    assert "split over expert, but not over tensor" in problem.message
    assert of_experts(experts, fsdp=2, expert=2, tensor=1) == []
    assert of_experts(dense, fsdp=1, expert=2, tensor=2) == []
