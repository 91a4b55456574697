"""`lmx review`: what it says of a configuration, beside another, without building anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmx.config.compose import Composer
from lmx.config.errors import RequestError
from lmx.config.schema import differences
from lmx.params import count
from lmx.review.gates import Gate, judge_again
from lmx.review.page_html import html
from lmx.review.page_text import markdown
from lmx.run.compiled_tier import put
from lmx.run.config import TrainConfig
from lmx.run.consequences import consequences
from lmx.run.goldens import golden_side
from lmx.run.outline import outline
from lmx.run.review import Asked, document
from lmx.run.review_config import Review
from lmx.run.sides import composed_side, composer, side, train_tree
from lmx.run.sweep_review import preflight
from lmx.run.target import target_of

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
BIG = [
    *(
        "model=llama3_70b",
        "optimizer=adamw",
        "trainer.sequence_length=8192",
        "trainer.compute_dtype=bfloat16",
    ),
    *("trainer.global_batch_size=1024", "trainer.eval_batch_size=1024", "data=tokens", "tokenizer=llama3"),
]


@pytest.fixture(scope="module")
def made():
    return Composer("review", Review, elsewhere=True)


def composed(made, *words):
    found, problems = made.check(list(words))
    assert found is not None, problems
    return found


def asked_of(config, **more):
    asked = Asked(config.topology, config.slices, config.price, config.gates, (), 0, 3, ("trainer.steps",))
    return asked._replace(**more)


def reviewed(made, *words, against=(), **more):
    found = composed(made, *words)
    new = composed_side(composer(), [w for w in words if not w.startswith(("topology=", "slices="))], "new")
    old = composed_side(composer(), list(against), "old")
    return document(old, new, found.config, asked_of(found.config, **more))


def test_changes_are_grouped_by_what_they_affect_and_say_where_they_were_set(made):
    doc = reviewed(made, "optimizer.learning_rate=0.01", "model.remat=full", "trainer.log_every=5")
    changed = doc["changes"]
    assert [c["key"] for c in changed["numerics"]] == ["optimizer.learning_rate"]
    assert [c["key"] for c in changed["throughput"]] == ["model.remat"]
    assert [c["key"] for c in changed["bookkeeping"]] == ["trainer.log_every"]
    one = changed["numerics"][0]
    assert one["old_origin"].startswith("conf/optimizer/muon.yaml:")
    assert one["new_origin"] == "command line: optimizer.learning_rate=0.01"
    assert doc["compatibility"]["prevents"][0]["key"] == "optimizer.learning_rate"


def test_derived_changes_follow(made):
    doc = reviewed(made, "trainer.global_batch_size=16")
    derived = {d["name"]: (d["old"], d["new"]) for d in doc["changes"]["derived"]}
    assert derived["tokens_per_step"] == (2048, 4096)
    assert derived["tokens_per_parameter"][1] == pytest.approx(2 * derived["tokens_per_parameter"][0])
    assert doc["differences"]["tokens"] == 300 * 2048


def test_what_may_change_in_a_resumed_run_keeps_it_resumable(made):
    assert reviewed(made, "trainer.steps=600", "trainer.log_every=5")["compatibility"]["resumable"]


@pytest.mark.parametrize(("topology", "slices"), [("v5p:8x8x16", None), ("v6e:16x16", 4)])
def test_a_thousand_chips(made, topology, slices):
    mesh = "mesh=fsdp" if slices is None else "mesh=multislice"
    words = [*BIG, mesh, f"topology={topology}", f"slices={slices or 1}"]
    values = reviewed(made, *words)["consequences"]
    assert values["devices"] == 1024
    assert values["params_total"] == 70_553_706_496
    assert values["optimizer_state_bytes"] == pytest.approx(8 * values["params_total"], rel=1e-6)
    assert values["checkpoint_bytes"] == pytest.approx(12 * values["params_total"], rel=1e-6)
    assert values["step_time_low"] < values["step_time"] < values["step_time_high"]
    assert values["cost"] > 0
    over = [key for key in values if key.startswith("collective_bytes.")]
    assert len(over) == (1 if slices is None else 2)


def test_parameters_of_the_experts_that_a_token_meets(made):
    values = reviewed(made, "model=moe_tiny")["consequences"]
    assert values["params_active"] < values["params_total"]


def test_gates_fail_are_waived_in_writing_and_know_their_names(made):
    limit = {"rows": Gate(value="batch_remainder", at_least=1.0, at_most=None, reason="a test of gates")}
    assert reviewed(made, gates=limit)["gates"][0]["status"] == "fail"
    waived = reviewed(made, "+waive.rows='nobody minds in this test'", gates=limit)["gates"][0]
    assert (waived["status"], waived["justification"]) == ("waived", "nobody minds in this test")
    with pytest.raises(ValueError, match=r"there is no such gate; meant: waive\.rows;"):
        reviewed(made, "+waive.rowz='nobody minds in this test'", gates=limit)
    with pytest.raises(ValueError, match="say why"):
        reviewed(made, "+waive.rows=ok", gates=limit)
    assert reviewed(made, "+waive.rows='nobody minds in this test'", gates={})["gates"] == []  # lmx diff


def test_gates_have_the_units_of_their_numbers(made):
    text = markdown(reviewed(made, *BIG, "mesh=fsdp", "topology=v5p:8x8x16"))
    rows = {row[1]: row[2:4] for line in text.splitlines() if len(row := line.split(" | ")) == 5}
    assert rows["headroom"][0].endswith("%")
    assert rows["headroom"][1] == "at least 8.0%"
    assert rows["checkpoint_interval"][1] == "at most 3h00m"
    assert rows["checkpoint_interval"][0].endswith("s")


def test_gates_go_by_the_compilers_figures_where_they_are_known(made):
    words = ["topology=v5p:2x2x1", "mesh=fsdp"]
    config, doc = composed(made, *words).config, reviewed(made, *words)
    status = lambda gates, name: next(gate["status"] for gate in gates if gate["name"] == name)
    assert status(doc["gates"], "headroom") == "pass"
    sent = [{"axes": "fsdp", "bytes": 5}, {"axes": "fsdp", "bytes": 7}]
    put(doc, {"peak_bytes": 103 * 10**9, "headroom": -0.08, "collectives": sent})
    again = judge_again(doc["gates"], config.gates, doc["consequences"], {}, {})
    assert status([gate._asdict() for gate in again], "headroom") == "fail"
    assert [gate.name for gate in again if gate.status != "fail"] != []
    over = {k: v for k, v in doc["consequences"].items() if k.startswith("collective_bytes")}
    assert over == {"collective_bytes_per_step": 12, "collective_bytes.fsdp": 12}


def test_a_run_that_never_saves_is_as_long_as_what_it_can_lose(made):
    of = lambda doc, name: next(gate["value"] for gate in doc["gates"] if gate["name"] == name)
    words = [*BIG, "mesh=fsdp", "topology=v5p:8x8x16", "trainer.steps=100k"]
    never = reviewed(made, *words, "checkpoint=none", "trainer.eval_every=null")
    assert of(never, "checkpoint_interval") == of(never, "evaluation_interval")
    assert of(never, "checkpoint_interval") == never["consequences"]["wall_hours"]
    timed = reviewed(made, *words, "checkpoint.every=null", "checkpoint.every_minutes=30")
    assert of(timed, "checkpoint_interval") == 0.5


def test_step_time_and_memory_of_past_runs_are_shown_beside_what_is_predicted_of_them(made, tmp_path):
    words = ["topology=v5p:2x2x1", "mesh=fsdp"]
    predicted = reviewed(made, *words)["consequences"]
    for name, peak in (("told", 3 * 10**8), ("untold", None)):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(json.dumps(composed_side(composer(), ["mesh=fsdp"], name).tree))
        summary = {"status": "done", "steps": 300, "step_time": 0.5, "devices": 4, "device_kind": "TPU v5p"}
        (run / "summary.json").write_text(json.dumps({**summary, "peak_memory": peak}))
    doc = reviewed(made, *words, roots=(str(tmp_path / "runs"),), most_runs=10)
    beside = {Path(one["path"]).name: one for one in doc["history"]["predictions"]}
    assert beside["told"]["predicted_memory"] == predicted["peak_bytes_per_device"]
    assert (beside["told"]["measured_memory"], beside["untold"]["measured_memory"]) == (3 * 10**8, None)
    assert "| memory predicted | measured |" in markdown(doc)
    assert doc["step_time_basis"] != reviewed(made, *words)["step_time_basis"]


def test_every_page_has_every_section(made):
    doc = reviewed(made, "model.n_layers=2", "topology=v5p:2x2x1", "mesh=fsdp")
    text, page = markdown(doc), html(doc)
    for title in ("What changed", "What follows", "Sharding", "Optimizer", "Gates", "Checkpoints", "History"):
        assert f"## {title}\n" in text
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 2
    assert "http" not in page.replace("https://", "")
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_state_of_a_device_is_that_of_the_run(made):
    """On one CPU the outline's shapes are the state that a run makes."""
    from lmx.run.build import build

    config = composed(made, "model.d_model=64", "model.n_heads=2").config
    out = outline(config, target_of("cpu:1", None, config.mesh))
    parts = build(config, total_steps=300)
    import jax

    shapes = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    assert shapes(out.state) == shapes(parts.abstract_state)
    assert count(out.model.specs) == count(parts.model.specs)
    assert out.model.flops(256) == parts.model.flops(256)


def test_memory_grows_and_shrinks_as_it_must(made):
    base = [*BIG, "mesh=fsdp", "topology=v5p:4x4x4"]
    peak = lambda *more: reviewed(made, *base, *more)["consequences"]["peak_bytes_per_device"]
    none, attention, full = (peak(f"model.remat={r}") for r in ("none", "attention", "full"))
    assert none > attention > full
    assert peak("model.remat=full", "trainer.accumulation=4") < full


def test_a_run_directory_a_file_and_an_experiment_are_sides(made, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(composed_side_yaml())
    assert side(str(run), key="against").tree["trainer"]["steps"] == 300
    own = tmp_path / "own.yaml"
    own.write_text("# @package _global_\nname: own\ntrainer:\n  steps: 7\n")
    found = side(str(own), key="against")
    assert found.tree["trainer"]["steps"] == 7
    assert found.origins["trainer.steps"].endswith("own.yaml:4")
    assert side("quickstart", key="against").tree["name"] == "quickstart"
    with pytest.raises(RequestError, match="did you mean quickstart"):
        side("quickstar", key="against")


def composed_side_yaml():
    made = composer()
    found, _ = made.check([])
    assert found is not None
    return found.yaml()


def test_a_sweep_is_looked_through_before_it_runs(made):
    config = composed(made, "topology=v5e:2x2").config
    words = [
        *("model=llama3p2_1b", "optimizer=adamw", "mesh=fsdp", "trainer.sequence_length=2048"),
        *("trainer.compute_dtype=bfloat16", "trainer.eval_batch_size=32", "data=tokens", "tokenizer=llama3"),
        *("trainer.global_batch_size=4,64", "trainer.seed=0,1,1"),
    ]
    doc = preflight(words, asked_of(config), compiled=None, say=lambda text: None)
    assert (doc["points"], doc["duplicates"], doc["programs"]) == (6, 2, 2)
    small, large = (j for j in doc["jobs"] if "trainer.seed=0" in j["overrides"])
    assert small["fits"]
    assert not large["fits"]
    assert large["offending"]["bytes"] > 2**30
    fixed = [w for w in words if "global_batch" not in w and "seed" not in w]
    fixed = [*fixed, "trainer.global_batch_size=64", *large["fix"]]
    again = composed(made, *fixed, "topology=v5e:2x2").config
    then = consequences(outline(again, target_of("v5e:2x2", None, again.mesh)), prices=None, past=None)
    assert then.values["peak_bytes_per_device"] <= then.values["hbm_bytes"]


def test_presets_name_their_devices_and_gpus_count():
    config = Composer("review", Review, elsewhere=True).check(["mesh=v6e_256_4"])[0]
    assert config is not None
    target = target_of(None, None, config.config.mesh)
    assert (str(target), target.devices, target.slices) == ("v6e:16x16 x 4", 1024, 4)
    assert target_of("h100:64", None, config.config.mesh).slices == 8
    for wrong in ("h100:12", "h900:8", "v5p:3x3x3"):
        with pytest.raises(RequestError, match="topology="):
            target_of(wrong, None, config.config.mesh)


def test_the_document_is_json(made):
    from lmx.io.files import to_json

    doc = json.loads(to_json(reviewed(made, "mesh=fsdp", "topology=v5e:2x2")))
    wanted = {"changes", "consequences", "sharding", "optimizer", "gates", "compatibility", "history"}
    assert wanted <= set(doc)
    keys = ("params_total", "params_active", "flops_per_token", "tokens", "peak_bytes_per_device")
    assert all(doc["consequences"][key] > 0 for key in keys)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXPERIMENTS.glob("*/plan.json")))
def test_a_golden_is_the_configuration_that_it_was_written_of(name):
    old = golden_side(EXPERIMENTS, [f"experiment={name}"], composer())
    new = composed_side(composer(), [f"experiment={name}"], name)
    assert differences(old.tree, train_tree(new.tree), TrainConfig) == []
    assert old.label.endswith("plan.json")


def test_a_golden_needs_an_experiment_that_has_one(tmp_path):
    with pytest.raises(RequestError, match="experiment=NAME"):
        golden_side(tmp_path, ["trainer.steps=3"], composer())
    with pytest.raises(RequestError, match="--write"):
        golden_side(tmp_path, ["experiment=quickstart"], composer())
