import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmx.config.compose import load
from lmx.config.errors import UNSET
from lmx.config.schema import Difference, description_of, differences, effect_of, flatten, known_keys, pick
from lmx.config.sources import load_yaml
from tests.config.example.schema import Run
from tests.config.json_check import complaints

ROOT = Path(__file__).parents[2]
CONF = Path(__file__).parent / "example" / "conf"


def tree(*overrides: str):
    return load("run", list(overrides), schema=Run, conf=CONF).tree


def test_the_weakest_effect_along_the_path_counts():
    assert effect_of(Run, "steps") == "numerics"
    assert effect_of(Run, "data.workers") == "throughput"
    assert effect_of(Run, "logging.sinks") == "bookkeeping"
    assert effect_of(Run, "model.n_layers", tree()) == "numerics"
    assert effect_of(Run, "data.weights.web") == "numerics"
    with pytest.raises(KeyError):
        effect_of(Run, "model.n_layer", tree())


def test_differences_name_old_new_and_effect():
    found = differences(tree(), tree("steps=50", "data.workers=1", "~data.weights.web", "name=x"), Run)
    assert set(found) == {
        Difference("steps", 100, 50, "numerics"),
        Difference("data.workers", 0, 1, "throughput"),
        Difference("data.weights.web", 1.0, UNSET, "numerics"),
        Difference("name", "small", "x", "bookkeeping"),
    }
    assert not differences(tree(), tree(), Run)
    assert not differences({"steps": 100}, {"steps": 100.0}, Run)
    assert differences({"steps": 1}, {"steps": True}, Run)


def test_known_keys_are_the_keys_of_the_tree_and_more():
    keys = known_keys(Run, tree())
    assert {key for key in flatten(tree()) if not key.endswith("_target_")} <= set(keys)
    assert len(set(keys)) == len(keys)


def test_descriptions_carry_their_unit():
    assert description_of(Run, "logging.every") == "steps between lines (steps)"
    assert description_of(Run, "nothing") == ""


def test_pick():
    assert pick({"a": [{"b": 1}]}, "a.0.b") == 1
    assert pick({"a": None}, "a") is None
    assert pick({"a": None}, "a.b") is UNSET


@pytest.fixture(scope="module")
def schemas():
    """Of a process of its own: components that other tests made are not in them."""
    code = (
        "import json\nfrom pathlib import Path\nfrom lmx.config.json_schema import all_schemas\n"
        "from lmx.run.config import TrainConfig\n"
        "print(json.dumps(all_schemas({'train': TrainConfig}, Path('conf'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def options():
    return sorted(p for p in (ROOT / "conf").glob("*/*.yaml") if p.parent.name != "hydra")


@pytest.mark.parametrize("path", options(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_packaged_option_fits_its_json_schema(path, schemas):
    if path.parent.name not in schemas:
        pytest.skip("a group of another command")
    schema = schemas[path.parent.name]
    assert not complaints(load_yaml(path), schema, schema)


def test_the_primary_configuration_fits_its_json_schema(schemas):
    assert not complaints(load_yaml(ROOT / "conf" / "train.yaml"), schemas["train"], schemas["train"])


@pytest.mark.parametrize(
    ("group", "value"),
    [
        ("model", {"_target_": "lmx.models.Decoder", "n_layer": 3}),
        ("model", {"_target_": "lmx.models.Decoder", "mlp": {"kind": "gate"}}),
        ("model", {"_target_": "lmx.models.Decodr"}),
        ("optimizer", {"_target_": "lmx.optim.AdamW", "learning_rate": "fast"}),
        ("trainer", {"steps": True}),
        ("trainer", {"steps": -3}),
        ("schedule", {"_target_": "lmx.optim.Cosine", "final_factor": 2}),
        ("schedule", {"_target_": "lmx.optim.Cosine", "warmup": "soon"}),
        ("train", {"trainer": {"z_loss": -1}}),
        ("train", {"modle": {}}),
        # presets and experiments, which set keys of the whole configuration
        ("mesh", {"mesh": {"preset": "mine", "axis": {"fsdp": 8}}}),
        ("mesh", {"mesh": {"axes": {"fsdp": -8}}}),
        ("mesh", {"trainer": {"compute_dtype": "bf16"}}),
        ("experiment", {"trainer": {"step": 3}}),
    ],
)
def test_the_json_schema_refuses(group, value, schemas):
    assert complaints(value, schemas[group], schemas[group])


@pytest.mark.parametrize("span", [100, 0.02, "2%", "20M tokens", "1e3 steps", "${trainer.steps}"])
def test_the_json_schema_takes_every_way_to_write_a_length(span, schemas):
    value = {"_target_": "lmx.optim.Cosine", "warmup": span}
    assert not complaints(value, schemas["schedule"], schemas["schedule"])


def test_the_json_schema_takes_a_preset(schemas):
    preset = {"defaults": ["_preset", "fsdp@mesh", "_self_"], "mesh": {"preset": "mine", "axes": {"fsdp": 8}}}
    assert not complaints(preset | {"model": {"remat": "full"}}, schemas["mesh"], schemas["mesh"])


def test_the_schemas_are_json_with_meanings(schemas):
    assert json.loads(json.dumps(schemas)) == schemas
    trainer = schemas["trainer"]["definitions"]["lmx.train.Trainer"]
    assert "description" in trainer["properties"]["steps"]
